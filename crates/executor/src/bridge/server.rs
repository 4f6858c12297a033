//! A program that stays and serves the original's protocol: `POST /invoke` on port 8080. Go
//! functions are such programs, and what users write for the original's custom images.

use std::ffi::OsString;
use std::io::{BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use super::http::{Message, Unmeasured};
use super::json::{self, Value};
use super::{Call, Failure, Function, Reply, TEXT_MAX, end, program, start};

const PORT: u16 = 8080;
/// Pauses between attempts to connect to a server that is starting: doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
const PAUSE_LAST: Duration = Duration::from_millis(50);
/// How long after a broken connection the end of the program is waited for: the kernel closes the
/// connections of a dying process before its parent hears of it.
const END_AFTER_CLOSE: Duration = Duration::from_millis(500);
/// Bytes shown of an answer that isn't the protocol's.
const SHOWN: usize = 200;

pub(super) struct Server {
    handler: String,
    directory: String,
}

impl Server {
    /// Starts the program and waits until it accepts connections. How long is the node's to say: it
    /// ends the sandbox.
    pub(super) fn start(function: &Function, argv: &[OsString]) -> Result<Self, Failure> {
        let mut command = program::command(argv, &function.directory);
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
            handler: function.handler.clone(),
            directory: function.directory.to_string_lossy().into_owned(),
        })
    }

    /// Each call has a connection of its own: a server may close them or not as it likes, and none
    /// is found closed when a call is half sent.
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

    fn exchange(&self, call: &Call<'_>) -> std::io::Result<Message> {
        let stream = connect()?;
        let (handler, directory) = (json::quote(&self.handler), json::quote(&self.directory));
        let output = call.wants_output;
        let before = br#"{"Command":null,"Params":"#;
        let after =
            format!(r#","Handler":{handler},"HandlerDir":{directory},"ReturnOutput":{output}}}"#);
        let length = before.len() + call.params.len() + after.len();
        let head = format!(
            "POST /invoke HTTP/1.1\r\nHost: localhost:{PORT}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let request = [head.as_bytes(), before, call.params, after.as_bytes()].concat();
        (&stream).write_all(&request)?;
        let mut reader = BufReader::new(stream);
        let message = Message::read(&mut reader, Unmeasured::Close, || Ok(()))?;
        message.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }
}

fn connect() -> std::io::Result<TcpStream> {
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
    let output = text("Output").to_owned();
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
