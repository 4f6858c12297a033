//! What the node tells the executor: the command to run, its environment and its system calls.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Exit, Shim};

/// Environment of each function; more would be taken from the node, which isn't its business.
pub(crate) const ENVIRONMENT: [&str; 4] = [
    "HOME=/tmp",
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "LANG=C.UTF-8",
    "USER=function",
];

/// The program that becomes pid 1 of each sandbox, and the bridge to programs without a shim.
pub(crate) const EXECUTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/executor"));

/// The command that runs a shim.
pub(crate) fn command<'a>(interpreter: &'a Path, shim: Shim, path: &'a Path) -> Vec<&'a OsStr> {
    if shim == Shim::Bridge {
        return vec![path.as_os_str(), OsStr::new("bridge")];
    }
    let flags = shim.flags().iter().map(|flag| OsStr::new(*flag));
    let mut argv = vec![interpreter.as_os_str()];
    argv.extend(flags);
    argv.push(path.as_os_str());
    argv
}

/// What a shim is told by its environment: where to connect, and what to import first.
pub(crate) fn variables(socket: &str, preload: &[String]) -> Vec<String> {
    let mut variables = vec![format!("SERVERLEDGE_SOCKET={socket}")];
    if !preload.is_empty() {
        variables.push(format!("SERVERLEDGE_PRELOAD={}", preload.join(",")));
    }
    variables
}

/// What tells the bridge to run an image's own command; `None` if the image has none.
pub(crate) fn image_command(
    entrypoint: &[String],
    command: &[String],
    working_dir: &str,
) -> Option<[String; 2]> {
    let words: Vec<&String> = entrypoint.iter().chain(command).collect();
    let words = (!words.is_empty()).then(|| serde_json::json!(words))?;
    Some([
        format!("SERVERLEDGE_COMMAND={words}"),
        format!("SERVERLEDGE_WORKING_DIR={working_dir}"),
    ])
}

/// The executor's configuration, as it reads it from its descriptor 3. `task` is one of
/// [`serverledge_executor::task`] that starts an interpreter.
pub(crate) fn config(task: u8, argv: &[&OsStr], environment: &[&str], seccomp: &[u8]) -> Vec<u8> {
    let mut config = Vec::with_capacity(seccomp.len() + 1024);
    config.push(task);
    // None of these comes near 4 GiB.
    let length = |config: &mut Vec<u8>, length: usize| {
        config.extend_from_slice(&(length as u32).to_be_bytes());
    };
    let arguments: Vec<&[u8]> = argv.iter().map(|text| text.as_bytes()).collect();
    let environment: Vec<&[u8]> = environment.iter().map(|text| text.as_bytes()).collect();
    for list in [arguments, environment] {
        length(&mut config, list.len());
        for text in list {
            length(&mut config, text.len());
            config.extend_from_slice(text);
        }
    }
    length(&mut config, seccomp.len());
    config.extend_from_slice(seccomp);
    config
}

/// What the executor wrote to the status pipe: how the interpreter ended, or that it couldn't be
/// started. `None` when it was killed before it could tell.
pub(crate) fn status(bytes: &[u8]) -> Result<Option<Exit>, String> {
    let [kind, value @ ..] = bytes else {
        return Ok(None);
    };
    let Some(value) = value.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)) else {
        return Ok(None);
    };
    match kind {
        1 => Ok(Some(Exit::Code(value))),
        2 => Ok(Some(Exit::Signal(value))),
        3 => {
            let error = std::io::Error::from_raw_os_error(value);
            Err(format!("starting the interpreter: {error}"))
        }
        _ => Ok(None),
    }
}
