//! The program's commands: each reads its arguments, calls the library and talks to a person.

pub(crate) mod asl;
pub(crate) mod backend;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod lb;
pub(crate) mod serve;
