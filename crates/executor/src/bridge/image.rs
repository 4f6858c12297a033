//! An image whose own command is the program: what the node says of it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::json::{self, Value};
use super::{Failure, program};

/// The command, as a JSON array. Not for the program.
pub(super) const COMMAND: &str = "SERVERLEDGE_COMMAND";
/// Where it is to run. Not for the program either.
pub(super) const WORKING_DIR: &str = "SERVERLEDGE_WORKING_DIR";

pub(super) struct Image {
    pub(super) argv: Vec<OsString>,
    pub(super) directory: PathBuf,
}

impl Image {
    /// `None` where the program is in the function's code.
    pub(super) fn of_environment() -> Result<Option<Self>, Failure> {
        let Ok(command) = env::var(COMMAND) else {
            return Ok(None);
        };
        let Some(Value::List(words)) = json::parse(command.as_bytes()) else {
            let message = "the image's command can't be read".to_owned();
            return Err(Failure::new("LoadError", message));
        };
        let words: Vec<&str> = words.iter().filter_map(Value::text).collect();
        let directory = env::var_os(WORKING_DIR).filter(|dir| !dir.is_empty());
        let directory = directory.map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let argv = program::resolve_words(&words, &directory)?;
        Ok(Some(Image { argv, directory }))
    }

    /// Whether it is made for AWS Lambda: the base images there set the one and have the other.
    pub(super) fn is_lambda(&self) -> bool {
        env::var_os("LAMBDA_TASK_ROOT").is_some() || Path::new("/var/runtime/bootstrap").is_file()
    }
}
