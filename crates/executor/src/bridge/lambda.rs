//! AWS Lambda's runtime interface (version 2018-06-01), as its documentation tells: the program
//! `bootstrap` is a client that asks for the next event and posts what came of it. One event at a
//! time, as there.

use std::ffi::OsString;
use std::io::{self, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::http::{Message, Unmeasured};
use super::json::{self, Value};
use super::output::{Stream, lock};
use super::{Call, Failure, Function, Reply, program};

const PREFIX: &str = "/2018-06-01/runtime/";
/// Connections at once: a client needs one, and some open another for errors.
const CONNECTIONS_MAX: usize = 16;

pub(super) struct Lambda {
    exchange: Arc<Exchange>,
    stream: Stream,
}

/// Where calls and the program meet.
#[derive(Default)]
struct Exchange {
    /// The function's, fit for a header.
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The program has asked for its first event, so it is ready.
    is_ready: bool,
    not_ready: Option<Failure>,
    /// To be fetched.
    event: Option<Event>,
    /// The id of the event that was fetched and not answered.
    running: Option<String>,
    answer: Option<Result<Vec<u8>, Failure>>,
    /// An answer that isn't on its way to the node yet.
    is_answering: bool,
}

struct Event {
    id: String,
    deadline_ms: u64,
    params: Vec<u8>,
}

impl Exchange {
    /// Waits until there is something to take from the state.
    fn wait<T>(&self, mut take: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(taken) = take(&mut state) {
                return taken;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Lambda {
    /// Starts the program and waits until it asks for an event.
    pub(super) fn start(
        function: &Function,
        argv: &[OsString],
        directory: &Path,
    ) -> Result<Self, Failure> {
        let opening = |error: io::Error| {
            Failure::new(
                "LoadError",
                format!("opening the runtime interface: {error}"),
            )
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(opening)?;
        let address = listener.local_addr().map_err(opening)?;
        let stream = Stream::open().map_err(opening)?;
        let exchange = Arc::new(Exchange {
            name: url_safe(&function.name),
            ..Exchange::default()
        });
        let of_server = Arc::clone(&exchange);
        program::start_thread(move || listen(&listener, &of_server));

        let mut command = program::command(argv, directory);
        for name in ["LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR"] {
            // Images know better.
            if std::env::var_os(name).is_none() {
                command.env(name, directory);
            }
        }
        command
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("_HANDLER", handler(function, argv))
            .env("AWS_LAMBDA_FUNCTION_NAME", &function.name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env(
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
                function.memory_mb.to_string(),
            )
            .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
            .env(
                "AWS_LAMBDA_LOG_GROUP_NAME",
                format!("/aws/lambda/{}", function.name),
            )
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "sandbox")
            // Clients of Amazon's services refuse to start without one.
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("TZ", ":UTC")
            .stdout(stream.writer().map_err(opening)?)
            .stderr(stream.writer().map_err(opening)?);
        let child = command
            .spawn()
            .map_err(|error| program::not_started(argv, &error))?;
        let of_end = Arc::clone(&exchange);
        // A program may answer and leave: its last answer goes first.
        program::end_with(child, move || {
            of_end.wait(|state| (!state.is_answering).then_some(()));
        });
        exchange.wait(|state| match state.not_ready.take() {
            Some(failure) => Some(Err(failure)),
            None => state.is_ready.then_some(Ok(())),
        })?;
        // What it printed at its start belongs to no call.
        stream.take();
        Ok(Lambda { exchange, stream })
    }

    pub(super) fn call(&self, call: &Call<'_>) -> Reply {
        let event = Event {
            id: url_safe(call.id),
            deadline_ms: call.deadline_ms,
            params: call.params.to_vec(),
        };
        self.exchange.change(|state| state.event = Some(event));
        let outcome = self.exchange.wait(|state| state.answer.take());
        let output = self.stream.take();
        Reply {
            outcome,
            output: if call.wants_output {
                output
            } else {
                String::new()
            },
        }
    }

    /// The last answer has been sent.
    pub(super) fn answered(&self) {
        self.exchange.change(|state| state.is_answering = false);
    }
}

/// What a client is told to load: what was registered, or else, as Lambda does with images, the last word
/// of the command.
fn handler(function: &Function, argv: &[OsString]) -> OsString {
    match argv {
        [_, .., last] if function.handler.is_empty() => last.clone(),
        _ => OsString::from(&function.handler),
    }
}

/// Clients put the id into paths as it is.
fn url_safe(id: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    id.chars()
        .map(|c| if is_safe(c) { c } else { '-' })
        .collect()
}

fn listen(listener: &TcpListener, exchange: &Arc<Exchange>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (closing, exchange) = (Arc::clone(&open), Arc::clone(exchange));
        let started = thread::Builder::new().spawn(move || {
            // The client closes its connection, or breaks the protocol: either way it's over.
            let _ = converse(stream, &exchange);
            closing.fetch_sub(1, Ordering::SeqCst);
        });
        // The program has all threads that it may have: it gets no answer.
        if started.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn converse(stream: TcpStream, exchange: &Exchange) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let proceed = || (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        let request = match Message::read(&mut reader, Unmeasured::Empty, proceed) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                let body = problem("InvalidRequest", &error.to_string());
                return respond(&stream, "400 Bad Request", "", body.as_bytes());
            }
        };
        let mut words = request.words();
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let path = path.strip_prefix(PREFIX).unwrap_or_default();
        match (method, path.split('/').collect::<Vec<_>>().as_slice()) {
            ("GET", ["invocation", "next"]) => next(&stream, exchange)?,
            ("POST", ["invocation", id, "response"]) => {
                let answer = response(&request);
                accept(&stream, exchange, id, answer)?;
            }
            ("POST", ["invocation", id, "error"]) => {
                let failure = failure(&request.body, request.header(ERROR_TYPE));
                accept(&stream, exchange, id, Err(failure))?;
            }
            ("POST", ["init", "error"]) => {
                let failure = failure(&request.body, request.header(ERROR_TYPE));
                exchange.change(|state| state.not_ready = Some(failure));
                respond(&stream, "202 Accepted", "", OK)?;
            }
            _ => {
                let body = problem("NotFound", "no such path in this runtime interface");
                respond(&stream, "404 Not Found", "", body.as_bytes())?;
            }
        }
        let close = request.header("connection");
        if close.is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

const OK: &[u8] = br#"{"status":"OK"}"#;
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

/// Answers a poll with an event, whenever there is one.
fn next(stream: &TcpStream, exchange: &Exchange) -> io::Result<()> {
    exchange.change(|state| state.is_ready = true);
    let event = exchange.wait(|state| {
        let event = state.event.take()?;
        state.running = Some(event.id.clone());
        Some(event)
    });
    let headers = format!(
        "Lambda-Runtime-Aws-Request-Id: {}\r\nLambda-Runtime-Deadline-Ms: {}\r\n\
         Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:{}\r\n\
         Lambda-Runtime-Trace-Id: Root=1-00000000-000000000000000000000000;Sampled=0\r\n",
        event.id, event.deadline_ms, exchange.name
    );
    respond(stream, "200 OK", &headers, &event.params)
}

/// Takes the answer to the event that runs; another's is refused.
fn accept(
    stream: &TcpStream,
    exchange: &Exchange,
    id: &str,
    answer: Result<Vec<u8>, Failure>,
) -> io::Result<()> {
    let is_taken = exchange.change(|state| {
        let is_running = state.running.as_deref() == Some(id);
        if is_running {
            state.running = None;
            state.answer = Some(answer);
            state.is_answering = true;
        }
        is_running
    });
    if is_taken {
        return respond(stream, "202 Accepted", "", OK);
    }
    let body = problem("InvalidRequestID", "no event with this id is running");
    respond(stream, "400 Bad Request", "", body.as_bytes())
}

/// The answer in a response: a streamed one may end in an error, told by its trailers.
fn response(request: &Message) -> Result<Vec<u8>, Failure> {
    let Some(kind) = request.header(ERROR_TYPE) else {
        return Ok(request.body.clone());
    };
    let body = request
        .header(ERROR_BODY)
        .and_then(base64)
        .unwrap_or_default();
    Err(failure(&body, Some(kind)))
}

fn failure(body: &[u8], kind: Option<&str>) -> Failure {
    let error = json::parse(body).unwrap_or(Value::Null);
    let text = |name: &str| error.get(name).and_then(Value::text).map(str::to_owned);
    let stack = match error.get("stackTrace") {
        Some(Value::List(lines)) => {
            let lines: Vec<String> = lines.iter().filter_map(frame).collect();
            lines.join("\n")
        }
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let shown = || String::from_utf8_lossy(body).into_owned();
    Failure {
        kind: text("errorType")
            .or(kind.map(str::to_owned))
            .unwrap_or_else(|| "Error".to_owned()),
        message: text("errorMessage").unwrap_or_else(shown),
        stack,
    }
}

/// A line of a stack trace: text, or, as Go's client sends it, an object.
fn frame(value: &Value) -> Option<String> {
    if let Some(text) = value.text() {
        return Some(text.to_owned());
    }
    let text = |name: &str| value.get(name).and_then(Value::text).unwrap_or_default();
    let line = value.get("line").and_then(Value::number)?;
    Some(format!("{} ({}:{line})", text("label"), text("path")))
}

fn respond(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())
}

fn problem(kind: &str, message: &str) -> String {
    let (kind, message) = (json::quote(kind), json::quote(message));
    format!(r#"{{"errorType":{kind},"errorMessage":{message}}}"#)
}

/// Decodes standard base64.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_every_form() {
        let body = br#"{"errorMessage":"m","errorType":"T","stackTrace":["a","b"]}"#;
        let read = failure(body, Some("Other"));
        assert_eq!(
            (&*read.kind, &*read.message, &*read.stack),
            ("T", "m", "a\nb")
        );
        let body = br#"{"stackTrace":[{"path":"main.go","line":7,"label":"main"},{"a":1},2]}"#;
        assert_eq!(failure(body, None).stack, "main (main.go:7)");
        let read = failure(b"no JSON", Some("Function.Broken"));
        assert_eq!(
            (&*read.kind, &*read.message),
            ("Function.Broken", "no JSON")
        );
        assert_eq!(failure(b"", None).kind, "Error");
    }

    #[test]
    fn base64_is_read() {
        for (text, expected) in [
            ("", &b""[..]),
            ("YQ==", b"a"),
            ("YWI=", b"ab"),
            ("/+8x", b"\xff\xef1"),
        ] {
            assert_eq!(base64(text).as_deref(), Some(expected));
        }
        assert_eq!(base64("a b"), None);
    }

    #[test]
    fn ids_are_fit_for_paths() {
        assert_eq!(url_safe("a/b c-é\"1"), "a-b-c---1");
    }
}
