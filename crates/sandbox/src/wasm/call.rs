//! One call: an instance made, run to its end and thrown away.

use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use serde::de::IgnoredAny;
use tokio::sync::oneshot;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::handler;
use super::host::{Budget, Capture, Host, Surplus};
use super::network::{Network, Reach};
use super::program::{Form, Program};
use crate::types::FunctionError;
use crate::{Call, CallError, Reply, lock};

/// Longest result, bytes: as long as one from another runtime may be.
pub(super) const RESULT_BYTES_MAX: usize = 56 << 20;
/// What is kept of a function's output; the rest is dropped.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// How much of the output, or of an answer that is a failure, is put into an error.
const SHOWN_BYTES_MAX: usize = 2 << 10;

/// What is true of all calls in one sandbox.
pub(super) struct Limits {
    pub(super) function: String,
    pub(super) handler: String,
    pub(super) memory_mb: u64,
    pub(super) memory: Arc<Budget>,
    pub(super) reach: Arc<Reach>,
}

/// Runs one call. Dropping this ends it.
pub(super) async fn run(
    program: &Arc<Program>,
    limits: &Arc<Limits>,
    call: Call,
) -> Result<Reply, CallError> {
    let long = Arc::new(AtomicBool::new(false));
    let machine = &program.machine;
    let running = Running {
        program: Arc::clone(program),
        limits: Arc::clone(limits),
        result: Capture::new(RESULT_BYTES_MAX, Surplus::Refuse),
        output: Capture::new(OUTPUT_BYTES_MAX, Surplus::Drop),
    };
    let call = Box::pin(running.call(call, Arc::clone(&long)));
    machine.run(call, &long).await?
}

struct Running {
    program: Arc<Program>,
    limits: Arc<Limits>,
    result: Capture,
    output: Capture,
}

impl Running {
    async fn call(self, call: Call, long: Arc<AtomicBool>) -> Result<Reply, CallError> {
        let machine = Arc::clone(&self.program.machine);
        let permit = machine.instances.acquire().await;
        let _permit = permit.map_err(|_| CallError::Stale("the node stops".to_owned()))?;
        let network = Network::new(&self.limits.reach);
        let host = Host::new(self.wasi(&call), network, &self.limits.memory);
        let mut store = Store::new(&machine.engine, host);
        store.limiter(|host| &mut host.memory);
        machine.interrupt(&mut store, &long);
        let ended = match &self.program.form {
            Form::Module { .. } | Form::Command(_) => self.command(&mut store).await,
            Form::Http(_) => self.http(&mut store, &call).await,
            Form::Handler(pre) => {
                let Limits {
                    function,
                    memory_mb,
                    ..
                } = &*self.limits;
                handler::run(pre, &mut store, &call, function, *memory_mb).await
            }
        };
        let outcome = match ended {
            Ok(Ended::Result(result)) => Ok(encoded(result)),
            Ok(Ended::Failure(error)) => Err(error),
            Err(error) if error.is::<PoolConcurrencyLimitError>() => {
                return Err(CallError::Stale(format!("{error:#}")));
            }
            Err(error) => Err(self.failure(&error, store.data())),
        };
        // Before the reply: the caller may be quick with its next call.
        drop(store);
        let output = match call.output {
            true => String::from_utf8_lossy(&self.output.take()).into_owned(),
            false => String::new(),
        };
        Ok(Reply {
            outcome,
            output,
            left_running: 0,
        })
    }

    fn wasi(&self, call: &Call) -> WasiCtxBuilder {
        let mut wasi = WasiCtxBuilder::new();
        let function = &self.limits.function;
        wasi.arg(function)
            .env("FUNCTION_NAME", function)
            .env("HANDLER", &self.limits.handler)
            .env("REQUEST_ID", &call.id)
            .env("DEADLINE", call.deadline_unix.to_string())
            .env("MEMORY_MB", self.limits.memory_mb.to_string())
            .stderr(self.output.clone());
        match self.program.form {
            Form::Http(_) | Form::Handler(_) => wasi.stdout(self.output.clone()),
            Form::Module { .. } | Form::Command(_) => wasi
                .stdin(MemoryInputPipe::new(Bytes::from_owner(Arc::clone(
                    &call.params,
                ))))
                .stdout(self.result.clone()),
        };
        wasi
    }

    async fn command(&self, store: &mut Store<Host>) -> wasmtime::Result<Ended> {
        let ended = match &self.program.form {
            Form::Module { pre, start } => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_module_export(&mut *store, start);
                let start = start.and_then(wasmtime::Extern::into_func);
                let start = start.ok_or_else(|| wasmtime::Error::msg("`_start` is no function"))?;
                let start = start.typed::<(), ()>(&*store)?;
                start.call_async(&mut *store, ()).await.map(Ok)
            }
            Form::Command(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(&mut *store).await
            }
            Form::Http(_) | Form::Handler(_) => Ok(Err(())),
        };
        match ended {
            Ok(Ok(())) => Ok(Ended::Result(self.result.take())),
            Ok(Err(())) => Ok(Ended::Failure(self.exit(1))),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(0)) => Ok(Ended::Result(self.result.take())),
                Some(I32Exit(status)) if !store.data().memory.refused => {
                    Ok(Ended::Failure(self.exit(*status)))
                }
                _ => Err(error),
            },
        }
    }

    async fn http(&self, store: &mut Store<Host>, call: &Call) -> wasmtime::Result<Ended> {
        let Form::Http(pre) = &self.program.form else {
            return Ok(Ended::Result(Vec::new()));
        };
        let request = request(call)?;
        let (sender, answer) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        let answering = Arc::clone(&sender);
        let http = |store: &mut Store<Host>| -> wasmtime::Result<_> {
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(Scheme::Http, request)?;
            let answer_to = http.new_response_outparam_from_callback(move |answer| {
                if let Some(sender) = lock(&answering).take() {
                    let _ = sender.send(answer.map_err(|code| format!("{code:?}")));
                }
            })?;
            Ok((request, answer_to))
        };
        let (request, answer_to) = http(store)?;
        let proxy = pre.instantiate_async(&mut *store).await?;
        let handler = proxy.wasi_http_incoming_handler();
        let mut handled = pin!(handler.call_handle(&mut *store, request, answer_to));
        let mut answered = pin!(collect(answer));
        // The body comes while the function runs, and must be taken from it then.
        let mut running = true;
        let answered = loop {
            tokio::select! {
                biased;
                ended = &mut handled, if running => {
                    ended?;
                    running = false;
                    // The function may have kept what it should have answered with.
                    lock(&sender).take();
                }
                answered = &mut answered => break answered,
            }
        };
        // What it does after its answer is part of the call.
        if running && answered.is_ok() {
            handled.await?;
        }
        Ok(answered.map_or_else(Ended::Failure, Ended::Result))
    }

    fn exit(&self, status: i32) -> FunctionError {
        let mut message = format!("the function exited with status {status}");
        self.append_output(&mut message);
        error("ExitStatus", message)
    }

    /// What to tell of an end that the function didn't choose.
    fn failure(&self, error: &wasmtime::Error, host: &Host) -> FunctionError {
        let (kind, mut message) = if host.memory.refused {
            let limit = self.limits.memory_mb;
            let message = format!("the function ran out of its {limit} MB of memory");
            ("OutOfMemory", message)
        } else if self.result.is_too_much() {
            ("ResultTooLarge", too_large())
        } else if let Some(trap) = error.downcast_ref::<Trap>() {
            let text = trap.to_string();
            let text = text.strip_prefix("wasm trap: ").unwrap_or(&text);
            ("Trap", format!("the function was stopped: {text}"))
        } else {
            ("Error", format!("{error:#}"))
        };
        self.append_output(&mut message);
        let stack = error.downcast_ref::<WasmBacktrace>();
        FunctionError {
            kind: kind.to_owned(),
            message,
            stack: stack.map(ToString::to_string).unwrap_or_default(),
        }
    }

    fn append_output(&self, message: &mut String) {
        let output = self.output.peek_end(SHOWN_BYTES_MAX);
        let output = String::from_utf8_lossy(&output);
        if !output.trim().is_empty() {
            message.push_str("; its last output: ");
            message.push_str(output.trim());
        }
    }
}

/// How a call ended without being stopped.
pub(super) enum Ended {
    Result(Vec<u8>),
    Failure(FunctionError),
}

/// A response, or the name of an error.
type Answer = Result<Response<HyperOutgoingBody>, String>;

fn request(call: &Call) -> wasmtime::Result<Request<RequestBody>> {
    let body = Full::new(Bytes::from_owner(Arc::clone(&call.params)));
    let request = Request::post("http://localhost/")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("content-length", call.params.len())
        .header("x-request-id", &call.id)
        .header("x-deadline", call.deadline_unix.to_string())
        .body(body.map_err(never as fn(_) -> _))?;
    Ok(request)
}

type RequestBody = http_body_util::combinators::MapErr<
    Full<Bytes>,
    fn(std::convert::Infallible) -> wasmtime_wasi_http::Error,
>;

fn never(never: std::convert::Infallible) -> wasmtime_wasi_http::Error {
    match never {}
}

/// The body of the answer, or why there is none.
async fn collect(answer: oneshot::Receiver<Answer>) -> Result<Vec<u8>, FunctionError> {
    let response = match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(code)) => {
            return Err(error("HttpError", format!("the function answered {code}")));
        }
        Err(_) => {
            return Err(error(
                "HttpError",
                "the function gave no response".to_owned(),
            ));
        }
    };
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let bytes_max = if failed {
        SHOWN_BYTES_MAX
    } else {
        RESULT_BYTES_MAX
    };
    let collected = Limited::new(response.into_body(), bytes_max)
        .collect()
        .await;
    if failed {
        let text = collected.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut message = format!("the function answered {status}");
        if !text.trim().is_empty() {
            message.push_str(": ");
            message.push_str(text.trim());
        }
        return Err(error("HttpStatus", message));
    }
    match collected {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(too_much) if too_much.is::<http_body_util::LengthLimitError>() => {
            Err(error("ResultTooLarge", too_large()))
        }
        Err(broken) => {
            let message = format!("the function's response broke off: {broken}");
            Err(error("HttpError", message))
        }
    }
}

pub(super) fn too_large() -> String {
    format!("the result is larger than {RESULT_BYTES_MAX} bytes")
}

pub(super) fn error(kind: &str, message: String) -> FunctionError {
    FunctionError {
        kind: kind.to_owned(),
        message,
        stack: String::new(),
    }
}

/// A result as JSON: JSON is taken as it is, other text becomes a string, and nothing null.
fn encoded(mut written: Vec<u8>) -> Box<[u8]> {
    if written.is_empty() {
        return Box::from(*b"null");
    }
    let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    if std::str::from_utf8(&written).is_ok_and(is_json) {
        let end = written.trim_ascii_end().len();
        written.truncate(end);
        let start = written.len() - written.trim_ascii_start().len();
        written.drain(..start);
        return written.into();
    }
    let text = String::from_utf8_lossy(&written);
    // The end of the line belongs to the terminal.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    serde_json::Value::from(text)
        .to_string()
        .into_bytes()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_json() {
        let check = |written: &str, expected: &str| {
            let result = encoded(written.as_bytes().to_vec());
            assert_eq!(String::from_utf8_lossy(&result), expected);
        };
        check("", "null");
        check(" {\"a\": [1]}\n", "{\"a\": [1]}");
        check("4\n", "4");
        check("hello\n", "\"hello\"");
        check("two\nlines\n\n", "\"two\\nlines\\n\"");
        check("{} {}", "\"{} {}\"");
        assert_eq!(
            *encoded(vec![b'"', 0xff, b'"']),
            *"\"\\\"\u{fffd}\\\"\"".as_bytes()
        );
    }
}
