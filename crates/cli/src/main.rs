//! `serverledge-cli`: the client, with the original's commands, flags and output.
//!
//! Data goes to standard output and everything else to standard error. Exit status: 0 done, 1 wrong
//! arguments, 2 the node did not answer or refused, 3 the source could not be read, 4 the signature
//! is wrong, 5 an execution that was waited for did not succeed.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arguments;
mod commands;
mod executions;
mod indent;
mod node;
mod params;
mod source;
mod target;
mod tree;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;

/// Why a command failed, and with which status the program ends.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    pub(crate) fn arguments(message: impl Into<String>) -> Self {
        Self {
            status: 1,
            message: message.into(),
        }
    }

    pub(crate) fn node(message: impl Into<String>) -> Self {
        Self {
            status: 2,
            message: message.into(),
        }
    }

    pub(crate) fn source(message: impl Into<String>) -> Self {
        Self {
            status: 3,
            message: message.into(),
        }
    }

    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self {
            status: 5,
            message: message.into(),
        }
    }

    pub(crate) fn signature(message: impl Into<String>) -> Self {
        Self {
            status: 4,
            message: message.into(),
        }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for and go to standard output; the rest is a mistake.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody may be listening there; the status still tells.
            let _ = writeln!(std::io::stderr(), "{}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}
