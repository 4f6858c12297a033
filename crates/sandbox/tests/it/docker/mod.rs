//! Containers of a real engine.

mod ends;
mod engine;
mod hello;
pub(crate) mod image;
mod own;
