//! Amazon States Language: parse, validate, interpret.
//!
//! Pure: no I/O, no clock, an allow-list of dependencies. So far, its query language.

#![forbid(unsafe_code)]

pub mod jsonata;
