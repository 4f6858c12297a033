//! Sandboxes whose image speaks the original's protocol: `POST /invoke` on port 8080.
//!
//! What the image's server sends is not trusted, nor is anything known of it besides the protocol:
//! each call has a connection of its own, so that a server may close them or not as it likes.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serverledge_executor::FRAME_MAX;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::life::Started;
use crate::body::{EndReceiver, Guard, end_of};
use crate::instance::{END_AFTER_CLOSE, Failed, Limit, guarded};
use crate::types::{Call, FunctionError, Reply, SandboxSpec};
use crate::wire::Text;
use crate::{BoxFuture, CallError, CreateError, ExitCause, Sandbox, lock};

const PORT: u16 = 8080;
/// Pauses between attempts to connect to a server that is starting: doubled up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_LAST: Duration = Duration::from_millis(100);
/// How much of an answer that is none is shown.
const SHOWN: usize = 200;

/// Waits until the server of a container that is being started accepts connections.
pub(super) async fn ready(
    spec: &SandboxSpec,
    handler_dir: &'static str,
    body: Guard,
    end: EndReceiver,
    started: oneshot::Receiver<Result<Started, CreateError>>,
    limit: Limit,
) -> Result<Arc<dyn Sandbox>, CreateError> {
    let connecting = async {
        let address = match started.await {
            Ok(started) => started?.address.ok_or_else(no_address)?,
            // The runtime is shutting down.
            Err(_) => std::future::pending::<IpAddr>().await,
        };
        let address = SocketAddr::new(address, PORT);
        let mut pause = PAUSE_FIRST;
        // The limit of the start ends this.
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(pause).await;
            pause = PAUSE_LAST.min(pause * 2);
        }
        Ok::<_, Failed>(address)
    };
    let address = guarded(limit, &end, connecting).await?;
    Ok(Arc::new(HttpSandbox {
        address,
        handler: spec.handler.clone(),
        handler_dir,
        free: Mutex::new(spec.slots.max(1)),
        body,
        end,
    }))
}

fn no_address() -> CreateError {
    CreateError::Isolation("the Docker engine gave the container no address".to_owned())
}

/// A container with a server that is ready for calls.
struct HttpSandbox {
    address: SocketAddr,
    handler: String,
    /// Where the code is; empty if it is the image's own affair.
    handler_dir: &'static str,
    /// Calls that may still begin. One that is given up doesn't come back.
    free: Mutex<u32>,
    body: Guard,
    end: EndReceiver,
}

/// What the server gets. Command is what the original's base image runs; here, its
/// `CUSTOM_CMD` says so.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Asked<'a> {
    command: Option<&'a [String]>,
    params: &'a RawValue,
    handler: &'a str,
    handler_dir: &'a str,
    return_output: bool,
}

/// What it answers. Whatever is missing counts as false or empty.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Answered {
    success: bool,
    result: Option<Text>,
    output: Option<Text>,
    error: Option<Text>,
}

/// Why there is no answer.
enum Unanswered {
    /// The call was not sent.
    Unsent(String),
    /// Nobody knows whether it ran.
    Broken,
    /// There is one, but it isn't the protocol's.
    Wrong(String),
}

impl HttpSandbox {
    async fn call(&self, call: Call) -> Result<Reply, CallError> {
        if self.end.borrow().is_some() {
            return Err(CallError::Stale("its container has ended".to_owned()));
        }
        {
            let mut free = lock(&self.free);
            *free = free.checked_sub(1).ok_or_else(|| {
                CallError::Protocol("more calls at once than it has slots".to_owned())
            })?;
        }
        match self.exchange(&call).await {
            Ok(reply) => {
                *lock(&self.free) += 1;
                Ok(reply)
            }
            Err(Unanswered::Unsent(how)) => Err(CallError::Stale(how)),
            Err(Unanswered::Wrong(how)) => Err(CallError::Protocol(how)),
            Err(Unanswered::Broken) => {
                match tokio::time::timeout(END_AFTER_CLOSE, end_of(self.end.clone())).await {
                    Ok(end) => Err(CallError::Died(end.cause)),
                    Err(_) => Err(CallError::Protocol("it closed its connection".to_owned())),
                }
            }
        }
    }

    async fn exchange(&self, call: &Call) -> Result<Reply, Unanswered> {
        let unsent = |error: &dyn std::error::Error| Unanswered::Unsent(error.to_string());
        let params = serde_json::from_slice(&call.params).map_err(|error| unsent(&error))?;
        let asked = Asked {
            command: None,
            params,
            handler: if self.handler_dir.is_empty() {
                ""
            } else {
                &self.handler
            },
            handler_dir: self.handler_dir,
            return_output: call.output,
        };
        let body = serde_json::to_vec(&asked).map_err(|error| unsent(&error))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri("/invoke")
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unsent(&error))?;
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|error| unsent(&error))?;
        // Small messages both ways.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unsent(&error))?;
        // Ends with the sender and the answer.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|_| Unanswered::Broken)?.into_parts();
        let body = Limited::new(body, FRAME_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(_) => Unanswered::Broken,
            Err(_) => Unanswered::Wrong(format!("its answer is longer than {FRAME_MAX} bytes")),
        })?;
        reply(head.status, &body.to_bytes())
    }
}

/// Reads the answer to a call.
fn reply(status: StatusCode, body: &[u8]) -> Result<Reply, Unanswered> {
    let answered = match serde_json::from_slice::<Answered>(body) {
        Ok(answered) => answered,
        Err(_) if status != StatusCode::OK => Answered {
            error: Some(Text(format!(
                "its server answered with status {status}: {}",
                shown(body)
            ))),
            ..Answered::default()
        },
        Err(error) => {
            let what = format!("its answer is not the protocol's: {error}: {}", shown(body));
            return Err(Unanswered::Wrong(what));
        }
    };
    let text = |text: Option<Text>| text.unwrap_or_default().0;
    let output = text(answered.output);
    let outcome = match answered.success && status == StatusCode::OK {
        true => Ok(text(answered.result).into_bytes().into()),
        false => Err(FunctionError {
            kind: "Failure".to_owned(),
            message: match (text(answered.error), output.trim()) {
                (error, _) if !error.is_empty() => error,
                (_, "") => "the function reported that it failed, and no more".to_owned(),
                (_, output) => format!("the function failed; its last output: {}", tail(output)),
            },
            stack: String::new(),
        }),
    };
    Ok(Reply {
        outcome,
        output,
        left_running: 0,
    })
}

fn shown(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&body[..body.len().min(SHOWN)])
}

fn tail(output: &str) -> &str {
    let from = output.len().saturating_sub(SHOWN);
    let from = (from..=output.len()).find(|at| output.is_char_boundary(*at));
    &output[from.unwrap_or_default()..]
}

impl Sandbox for HttpSandbox {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(self.call(call))
    }

    fn ended(&self) -> BoxFuture<'_, ExitCause> {
        let end = self.end.clone();
        Box::pin(async { end_of(end).await.cause })
    }

    fn destroy(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.body.0.kill();
            end_of(self.end.clone()).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_original_reads_them() {
        let check = |status: u16, body: &str, expected: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let got = match reply(status, body.as_bytes()) {
                Ok(Reply {
                    outcome: Ok(json),
                    output,
                    ..
                }) => {
                    format!("{} | {output}", String::from_utf8_lossy(&json))
                }
                Ok(Reply {
                    outcome: Err(error),
                    ..
                }) => error.to_string(),
                Err(Unanswered::Wrong(how)) => how,
                Err(_) => "no answer".to_owned(),
            };
            assert!(got.contains(expected), "{got} has no {expected}");
        };
        check(
            200,
            r#"{"Success":true,"Result":"7","Output":"hi"}"#,
            "7 | hi",
        );
        check(200, r#"{"Success":true,"Result":null}"#, " | ");
        check(200, "{}", "Failure: the function reported that it failed");
        check(
            200,
            r#"{"Success":false,"Output":"bad\n"}"#,
            "its last output: bad",
        );
        check(
            200,
            r#"{"Success":false,"Error":"no such thing"}"#,
            "Failure: no such thing",
        );
        check(
            500,
            r#"{"Success":true,"Result":"7"}"#,
            "Failure: the function reported",
        );
        check(
            502,
            "<html>",
            "answered with status 502 Bad Gateway: <html>",
        );
        check(200, "<html>", "its answer is not the protocol's");
    }

    #[test]
    fn tails_are_cut_between_characters() {
        let text = "é".repeat(SHOWN);
        assert_eq!(tail(&text).chars().count(), SHOWN / 2);
        assert_eq!(tail(&format!("{text}x")).chars().count(), SHOWN / 2);
    }
}
