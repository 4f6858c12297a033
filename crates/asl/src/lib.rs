//! Amazon States Language: parse, validate, interpret.
//!
//! Empty until workflows come; here already, so that the rules of a pure crate (no I/O, no clock,
//! an allow-list of dependencies) are in force from its first line.

#![forbid(unsafe_code)]
