//! A new process for each call, as the original's base image runs them: parameters in the file
//! `PARAMS_FILE`, the result in the file `RESULT_FILE`, success told by the exit status.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::frame::RESULT_MAX;
use super::output::Text;
use super::{Call, Failure, Function, Reply, TEXT_MAX, end, program};

/// How long after the end of a process its last output is waited for. Usually it is there at once;
/// a child that it left behind may hold the pipe for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

pub(super) struct Command {
    argv: Vec<OsString>,
    handler: String,
    directory: PathBuf,
    /// Where the files of calls go.
    scratch: PathBuf,
    /// Calls so far: part of the names of files.
    calls: AtomicU64,
}

impl Command {
    /// The command is the handler.
    pub(super) fn new(function: &Function) -> Result<Self, Failure> {
        Ok(Command {
            argv: program::resolve(&function.handler, &function.directory)?,
            handler: function.handler.clone(),
            directory: function.directory.clone(),
            scratch: program::scratch()?,
            calls: AtomicU64::new(0),
        })
    }

    pub(super) fn call(&self, call: &Call<'_>) -> Reply {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let files = Files::new(&self.scratch, number);
        let mut output = String::new();
        let outcome = self.run(call, &files, &mut output);
        if !call.wants_output {
            output.clear();
        }
        Reply { outcome, output }
    }

    fn run(&self, call: &Call<'_>, files: &Files, output: &mut String) -> Result<Vec<u8>, Failure> {
        let params = match call.params {
            b"null" => PathBuf::new(),
            params => {
                fs::write(&files.params, params)
                    .map_err(failed("its parameters can't be written"))?;
                files.params.clone()
            }
        };
        let (reader, writer) = io::pipe().map_err(failed("its output can't be read"))?;
        let mut command = program::command(&self.argv, &self.directory);
        command
            .env("PARAMS_FILE", params)
            .env("RESULT_FILE", &files.result)
            .env("HANDLER", &self.handler)
            .env("HANDLER_DIR", &self.directory)
            .env("REQUEST_ID", call.id)
            .stdout(
                writer
                    .try_clone()
                    .map_err(failed("its output can't be read"))?,
            )
            .stderr(writer);
        // Before the process: where no more threads can be had, nothing has run.
        let text = collect(reader).map_err(failed("its output can't be read"))?;
        let mut child = command
            .spawn()
            .map_err(|error| program::not_started(&self.argv, &error))?;
        // Holds the other ends of the pipe.
        drop(command);
        let status = child.wait().map_err(failed("it can't be waited for"))?;
        // What comes later is nobody's.
        *output = text.recv_timeout(LAST_OUTPUT).unwrap_or_default();
        if !status.success() {
            let mut message = format!("the command ended with {}", program::shown(status));
            match output.trim() {
                "" => {}
                text => {
                    message.push_str(&format!("; its last output: {}", end(text, TEXT_MAX / 4)))
                }
            }
            return Err(Failure::new("CommandFailed", message));
        }
        files.read_result()
    }
}

/// Reads it all, and sends what is to be kept when it ends.
fn collect(mut reader: PipeReader) -> io::Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let mut text = Text::default();
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            text.push(&buffer[..count]);
        }
        // The call may have gone without it.
        let _ = sender.send(text.take());
    })?;
    Ok(receiver)
}

/// The files of one call, removed at its end.
struct Files {
    params: PathBuf,
    result: PathBuf,
}

impl Files {
    fn new(scratch: &Path, number: u64) -> Self {
        let path = |what: &str| scratch.join(format!("call-{number}.{what}"));
        Files {
            params: path("params"),
            result: path("result"),
        }
    }

    /// A command that has nothing to say may leave the file out.
    fn read_result(&self) -> Result<Vec<u8>, Failure> {
        let mut result = Vec::new();
        match File::open(&self.result) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(result),
            file => {
                let file = file.map_err(failed("its result can't be read"))?;
                let mut file = file.take(RESULT_MAX as u64 + 1);
                file.read_to_end(&mut result)
                    .map_err(failed("its result can't be read"))?;
            }
        }
        if result.len() > RESULT_MAX {
            let message = format!("the function's result is larger than {RESULT_MAX} bytes");
            return Err(Failure::new("ResultTooLarge", message));
        }
        Ok(result)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.params, &self.result] {
            // Either may not be there.
            let _ = fs::remove_file(path);
        }
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::new("CommandFailed", format!("{what}: {error}"))
}
