//! The bridge: runs programs that know nothing of our protocol, in place of an interpreter with a
//! shim.
//!
//! To the node it is a shim (`PROTOCOL.md`). To the program it is what the program expects: a new
//! process for each call ([`command`]), a client of its HTTP server ([`server`]), or AWS Lambda's
//! runtime interface ([`lambda`]). Which, is seen from the function's code and handler when it is
//! loaded. The program is the user's: nothing that it sends is trusted.

mod command;
mod frame;
mod http;
mod image;
mod json;
mod lambda;
mod output;
mod program;
mod server;

use std::path::{Path, PathBuf};
use std::process::exit;

use frame::{Connection, Frame, INVOKE, LOAD, LOADED, RESULT};
use json::Value;

/// Exit status for a node that doesn't keep to the protocol.
const STATUS_PROTOCOL: i32 = 70;
/// Bytes of what a program printed, or of an error's text, that are passed on.
const TEXT_MAX: usize = 16 << 10;

/// A function, as it is loaded.
struct Function {
    name: String,
    handler: String,
    directory: PathBuf,
    memory_mb: u64,
}

/// One call of it.
struct Call<'a> {
    /// The request's id.
    id: &'a str,
    /// When its time is up, milliseconds since the Unix epoch.
    deadline_ms: u64,
    wants_output: bool,
    /// JSON text.
    params: &'a [u8],
}

/// What came of a call.
struct Reply {
    outcome: Result<Vec<u8>, Failure>,
    output: String,
}

/// An error of the user's, as the protocol has it.
#[derive(Debug)]
struct Failure {
    kind: String,
    message: String,
    stack: String,
}

impl Failure {
    fn new(kind: &str, message: String) -> Self {
        Failure {
            kind: kind.to_owned(),
            message,
            stack: String::new(),
        }
    }

    fn json(&self) -> String {
        let [kind, message, stack] =
            [&self.kind, &self.message, &self.stack].map(|text| json::quote(start(text, TEXT_MAX)));
        format!(r#"{{"type":{kind},"message":{message},"stack":{stack}}}"#)
    }
}

/// A loaded function.
enum Loaded {
    Command(command::Command),
    Server(server::Server),
    Lambda(lambda::Lambda),
}

impl Loaded {
    fn call(&self, call: &Call<'_>) -> Reply {
        match self {
            Loaded::Command(command) => command.call(call),
            Loaded::Server(server) => server.call(call),
            Loaded::Lambda(lambda) => lambda.call(call),
        }
    }
}

/// Serves until the node closes its connections.
pub(crate) fn main() -> ! {
    let Ok(mut first) = Connection::open(0) else {
        exit(STATUS_PROTOCOL)
    };
    let Ok(Some(frame)) = first.receive() else {
        exit(0)
    };
    let Some((function, slots)) = function(&frame) else {
        exit(STATUS_PROTOCOL)
    };
    let mut others = Vec::new();
    for slot in 1..slots {
        others.extend(Connection::open(slot));
    }
    let loaded = match load(&function) {
        Ok(loaded) => loaded,
        Err(failure) => {
            let head = format!(r#"{{"ok":false,"error":{}}}"#, failure.json());
            // The node closes the connection; there is nothing to serve.
            let _ = first.send(LOADED, &head, &[]);
            let _ = first.receive();
            exit(0)
        }
    };
    // Shared by all slots, for as long as the process lives.
    let loaded: &'static Loaded = Box::leak(Box::new(loaded));
    for other in others {
        program::start_thread(move || serve(other, loaded));
    }
    if first.send(LOADED, r#"{"ok":true}"#, &[]).is_err() {
        exit(0)
    }
    serve(first, loaded)
}

fn function(frame: &Frame) -> Option<(Function, u32)> {
    if frame.kind != LOAD {
        return None;
    }
    let head = json::parse(&frame.head)?;
    let text = |name: &str| head.get(name)?.text().map(str::to_owned);
    let number = |name: &str| head.get(name)?.number();
    let function = Function {
        name: text("function")?,
        handler: text("handler")?,
        directory: text("handler_dir")?.into(),
        memory_mb: number("memory_mb")? as u64,
    };
    Some((function, number("slots")? as u32))
}

/// Finds out what kind of program it is, and starts it if it is one that stays.
fn load(function: &Function) -> Result<Loaded, Failure> {
    let directory = &function.directory;
    let code = (&*function.handler, &*directory.to_string_lossy());
    if let Some(image) = image::Image::of_environment()? {
        return match image.is_lambda() {
            true => {
                lambda::Lambda::start(function, &image.argv, &image.directory).map(Loaded::Lambda)
            }
            false => {
                // Without code, it is the image's own affair, as with the original.
                let code = if code.1.is_empty() { ("", "") } else { code };
                server::Server::start(code, &image.argv, &image.directory).map(Loaded::Server)
            }
        };
    }
    if let Some(bootstrap) = file(&directory.join("bootstrap")) {
        let argv = [program::runnable(&bootstrap)?.into_os_string()];
        return lambda::Lambda::start(function, &argv, directory).map(Loaded::Lambda);
    }
    if let Some(program) = file(&directory.join(GO_HANDLER)) {
        let argv = [program::runnable(&program)?.into_os_string()];
        return server::Server::start(code, &argv, directory).map(Loaded::Server);
    }
    match function.handler.strip_prefix(SERVER_PREFIX) {
        Some(command) => {
            let argv = program::resolve(command, directory)?;
            server::Server::start(code, &argv, directory).map(Loaded::Server)
        }
        None => command::Command::new(function).map(Loaded::Command),
    }
}

/// Before the command of a handler that is a server on port 8080.
const SERVER_PREFIX: &str = "server:";

/// How the original's Go packages name the program.
const GO_HANDLER: &str = if cfg!(target_arch = "aarch64") {
    "handler_arm64"
} else {
    "handler_amd64"
};

fn file(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_owned())
}

fn serve(mut connection: Connection, loaded: &Loaded) -> ! {
    loop {
        let Ok(Some(frame)) = connection.receive() else {
            exit(0)
        };
        let Some((id, reply)) = answer(&frame, loaded) else {
            exit(STATUS_PROTOCOL)
        };
        let output = json::quote(&reply.output);
        let sent = match &reply.outcome {
            Ok(result) => {
                let head = format!(r#"{{"ok":true,"id":{id},"output":{output}}}"#);
                connection.send(RESULT, &head, result)
            }
            Err(failure) => {
                let error = failure.json();
                let head = format!(r#"{{"ok":false,"id":{id},"error":{error},"output":{output}}}"#);
                connection.send(RESULT, &head, &[])
            }
        };
        if sent.is_err() {
            exit(0)
        }
        if let Loaded::Lambda(lambda) = loaded {
            lambda.answered();
        }
    }
}

fn answer(frame: &Frame, loaded: &Loaded) -> Option<(String, Reply)> {
    if frame.kind != INVOKE {
        return None;
    }
    let head = json::parse(&frame.head)?;
    let id = head.get("id")?.text()?;
    let deadline = head.get("deadline").and_then(Value::number).unwrap_or(0.0);
    let reply = loaded.call(&Call {
        id,
        deadline_ms: (deadline * 1000.0) as u64,
        wants_output: head
            .get("output")
            .is_some_and(|value| *value == Value::Bool(true)),
        params: &frame.body,
    });
    Some((json::quote(id), reply))
}

/// The first bytes of a text, cut at a character.
fn start(text: &str, bytes_max: usize) -> &str {
    let mut cuts = (0..=text.len().min(bytes_max)).rev();
    let cut = cuts.find(|at| text.is_char_boundary(*at));
    &text[..cut.unwrap_or(0)]
}

/// The last bytes of a text, cut at a character.
fn end(text: &str, bytes_max: usize) -> &str {
    let mut cuts = text.len().saturating_sub(bytes_max)..=text.len();
    let cut = cuts.find(|at| text.is_char_boundary(*at));
    &text[cut.unwrap_or(text.len())..]
}
