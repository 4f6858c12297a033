//! What can go wrong with a sandbox, and how a sandbox can end.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::types::FunctionError;

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The function's own code failed while it was loaded.
    #[error("the function could not be loaded: {0}")]
    Load(FunctionError),
    /// The sandbox ended before the function was loaded.
    #[error("the function ended while it was loaded: {0}")]
    Died(ExitCause),
    /// The function wasn't loaded in time.
    #[error("the function was not loaded within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// This machine refused a step of the isolation; says which step and how.
    #[error("the sandbox could not be isolated: {0}")]
    Isolation(String),
    /// The image that the sandbox was to be made from can't serve.
    #[error("the image {image} {problem}")]
    Image {
        /// Its name.
        image: String,
        /// What is wrong and what to do, as the rest of a sentence.
        problem: String,
    },
    /// Something else on this machine failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// How it failed.
        source: io::Error,
    },
}

impl CreateError {
    /// WebAssembly has a backend of its own.
    pub(crate) fn needs_shim() -> Self {
        CreateError::Isolation("this backend runs no WebAssembly".to_owned())
    }

    pub(crate) fn no_command(image: &str) -> Self {
        CreateError::Image {
            image: image.to_owned(),
            problem: "has neither an entry point nor a command".to_owned(),
        }
    }

    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        CreateError::Io {
            doing: doing.into(),
            source,
        }
    }
}

/// Why a call got no reply. Either way the sandbox is of no more use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The sandbox ended during the call.
    #[error("{0}")]
    Died(ExitCause),
    /// The sandbox turned out to be unusable before the call was sent: it is safe to try another.
    #[error("the sandbox was of no more use: {0}")]
    Stale(String),
    /// The sandbox sent something that isn't the protocol.
    #[error("the function's process broke the protocol: {0}")]
    Protocol(String),
}

/// How the main process of a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It wanted more memory than its limit.
    OutOfMemory {
        /// The limit in MiB.
        memory_mb: u64,
    },
    /// The node destroyed it.
    Destroyed,
    /// Nobody was there to see it.
    Unknown,
}

/// How and in what circumstances a sandbox ended. `Display` is a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitCause {
    /// How it ended.
    pub exit: Exit,
    /// Whether the sandbox ran into its limit of processes, as a fork bomb does.
    pub process_limit_hit: bool,
    /// The end of what the function wrote to its standard output and error outside of calls.
    pub last_output: String,
}

impl ExitCause {
    /// An end without circumstances.
    pub fn new(exit: Exit) -> Self {
        ExitCause {
            exit,
            process_limit_hit: false,
            last_output: String::new(),
        }
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            Exit::Code(code) => write!(f, "the function's process exited with status {code}")?,
            Exit::Signal(signal) => {
                write!(f, "the function's process was killed by signal {signal}")?;
                if let Some(name) = signal_name(signal) {
                    write!(f, " ({name})")?;
                }
            }
            Exit::OutOfMemory { memory_mb } => {
                write!(f, "the function ran out of its {memory_mb} MB of memory")?;
            }
            Exit::Destroyed => f.write_str("the function's sandbox was destroyed")?,
            Exit::Unknown => f.write_str("the function's process ended")?,
        }
        if self.process_limit_hit {
            f.write_str(" after reaching its limit of processes and threads")?;
        }
        let output = self.last_output.trim();
        if !output.is_empty() {
            write!(f, "; its last output: {output}")?;
        }
        Ok(())
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGINT => "SIGINT",
        libc::SIGHUP => "SIGHUP",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGABRT => "SIGABRT",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGSYS => "SIGSYS",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGXFSZ => "SIGXFSZ, a file grew too large",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_as_sentences() {
        let check = |exit, limit, output: &str, expected: &str| {
            let cause = ExitCause {
                exit,
                process_limit_hit: limit,
                last_output: output.to_owned(),
            };
            assert_eq!(cause.to_string(), expected);
        };
        check(
            Exit::Code(3),
            false,
            " bye\n",
            "the function's process exited with status 3; its last output: bye",
        );
        check(
            Exit::OutOfMemory { memory_mb: 128 },
            false,
            "",
            "the function ran out of its 128 MB of memory",
        );
        check(
            Exit::Signal(9),
            true,
            "",
            "the function's process was killed by signal 9 (SIGKILL) after reaching its limit of \
             processes and threads",
        );
    }
}
