//! Amazon States Language: parse, validate, interpret.
//!
//! A definition becomes a [`Machine`], in which everything is compiled and resolved, or a list of
//! [`Diagnostic`]s. An [`Execution`] is a value that holds the progress of one run; it is stepped
//! with events and answers with effects. There is no I/O here, no clock and no randomness: `now`
//! and a seed are arguments, so that a test and a node run the same code.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod choice;
mod context;
pub mod diagnostic;
mod execution;
mod failure;
mod intrinsic;
mod json;
pub mod jsonata;
mod machine;
mod number;
mod parse;
mod path;
mod random;
pub mod rehearsal;
pub mod resource;
mod template;
mod timestamp;

pub use context::About;
pub use diagnostic::{Diagnostic, Severity};
pub use execution::{
    Detail, Effect, Event, Execution, Invocation, Limits, Outcome, Purpose, Record, Start, TaskId,
};
pub use failure::Dialect;
pub use machine::Machine;
pub use parse::{Checked, check_text, check_value};
pub use random::Random;
pub use timestamp::text as timestamp;
