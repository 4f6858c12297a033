//! A program that stays and serves the original's protocol: `POST /invoke` on port 8080. Go
//! functions are such programs, and what users write for the original's custom images.

use std::ffi::OsString;
use std::io::{self, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Message, Unmeasured};
use super::json::{self, Value};
use super::output::{Text, lock};
use super::{Call, Failure, Reply, TEXT_MAX, end, program, start};

const PORT: u16 = 8080;
/// Pauses between attempts to connect to a server that is starting: doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_LAST: Duration = Duration::from_millis(50);
/// How long after a broken connection the end of the program is waited for: the kernel closes the
/// connections of a dying process before its parent hears of it, which on a busy machine is later.
const END_AFTER_CLOSE: Duration = Duration::from_secs(2);
/// How long a connection may have been idle to be used again. Servers close idle ones, the hastiest
/// known after two seconds, and a call that meets the closing can't be sent twice.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Bytes shown of an answer that isn't the protocol's.
const SHOWN: usize = 200;

pub(super) struct Server {
    handler: String,
    directory: String,
    /// Connections without a call, the one used last at the end.
    idle: Mutex<Vec<(BufReader<TcpStream>, Instant)>>,
}

impl Server {
    /// Starts the program and waits until it accepts connections. How long is the node's to say: it
    /// ends the sandbox.
    ///
    /// `code` is what calls say of the function: its handler and where its code is.
    pub(super) fn start(
        code: (&str, &str),
        argv: &[OsString],
        directory: &Path,
    ) -> Result<Self, Failure> {
        // Only where a sandbox is just a process of the machine.
        if connect().is_ok() {
            let message = format!("port {PORT}, on which it is to serve, is taken on this machine");
            return Err(Failure::new("LoadError", message));
        }
        let mut command = program::command(argv, directory);
        let child = command
            .spawn()
            .map_err(|error| program::not_started(argv, &error))?;
        program::end_with(child, || {});
        let mut pause = PAUSE_FIRST;
        while connect().is_err() {
            thread::sleep(pause);
            pause = PAUSE_LAST.min(pause * 2);
        }
        Ok(Server {
            handler: code.0.to_owned(),
            directory: code.1.to_owned(),
            idle: Mutex::default(),
        })
    }

    pub(super) fn call(&self, call: &Call<'_>) -> Reply {
        match self.exchange(call) {
            Ok(message) => reply(&message),
            Err(error) => {
                // If it is dying, this process ends meanwhile and the node hears the true reason.
                thread::sleep(END_AFTER_CLOSE);
                broken(&format!("its server did not answer: {error}"))
            }
        }
    }

    fn exchange(&self, call: &Call<'_>) -> io::Result<Message> {
        let mut reader = self.connection()?;
        let (handler, directory) = (json::quote(&self.handler), json::quote(&self.directory));
        let output = call.wants_output;
        let before = br#"{"Command":null,"Params":"#;
        let after =
            format!(r#","Handler":{handler},"HandlerDir":{directory},"ReturnOutput":{output}}}"#);
        let length = before.len() + call.params.len() + after.len();
        let head = format!(
            "POST /invoke HTTP/1.1\r\nHost: localhost:{PORT}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let request = [head.as_bytes(), before, call.params, after.as_bytes()].concat();
        reader.get_ref().write_all(&request)?;
        let message = Message::read(&mut reader, Unmeasured::Close, || Ok(()))?;
        let message = message.ok_or(ErrorKind::UnexpectedEof)?;
        // What is left over belongs to no answer, so the next one couldn't be told from it.
        if message.is_kept_alive() && reader.buffer().is_empty() {
            lock(&self.idle).push((reader, Instant::now()));
        }
        Ok(message)
    }

    /// A connection that was used a moment ago and that the server hasn't closed, or a new one.
    fn connection(&self) -> io::Result<BufReader<TcpStream>> {
        let mut idle = lock(&self.idle);
        while let Some((reader, since)) = idle.pop() {
            if since.elapsed() < IDLE_MAX && is_silent(reader.get_ref()).unwrap_or(false) {
                return Ok(reader);
            }
        }
        drop(idle);
        connect().map(BufReader::new)
    }
}

/// Whether nothing has come on a connection that should be idle, not even its end.
fn is_silent(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
}

fn connect() -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads an answer: `{"Success":bool,"Result":text,"Output":text}`. What is missing counts as false
/// or empty.
fn reply(message: &Message) -> Reply {
    let status = message.words().nth(1).unwrap_or_default();
    let answer = json::parse(&message.body).filter(|value| matches!(value, Value::Object(_)));
    let Some(answer) = answer else {
        let body = String::from_utf8_lossy(&message.body);
        let shown = start(&body, SHOWN);
        return broken(&format!(
            "its server answered with status {status}: {shown}"
        ));
    };
    let text = |name: &str| answer.get(name).and_then(Value::text).unwrap_or_default();
    let output = Text::of(text("Output"));
    if status == "200" && answer.get("Success") == Some(&Value::Bool(true)) {
        return Reply {
            outcome: Ok(text("Result").as_bytes().to_vec()),
            output,
        };
    }
    let message = match (text("Error"), output.trim()) {
        (error, _) if !error.is_empty() => error.to_owned(),
        (_, "") => "the function reported that it failed, and no more".to_owned(),
        (_, output) => format!(
            "the function failed; its last output: {}",
            end(output, TEXT_MAX / 4)
        ),
    };
    Reply {
        outcome: Err(Failure::new("Failure", message)),
        output,
    }
}

fn broken(how: &str) -> Reply {
    Reply {
        outcome: Err(Failure::new("ProtocolError", how.to_owned())),
        output: String::new(),
    }
}
