//! The node, as a command sees it: one request at a time, its reply printed or its refusal explained.

use std::io::Write as _;

use serde::Serialize;
use serverledge_api::{Client, ClientError, Problem, Response};

use crate::arguments::Arguments;
use crate::indent::indent;
use crate::{Failure, target};

/// The node, for a program that does one thing at a time.
pub(crate) struct Node {
    pub(crate) client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    pub(crate) fn of(arguments: &Arguments) -> Result<Self, Failure> {
        let client = target::client(arguments)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Failure::node(format!("starting: {error}")))?;
        Ok(Self { client, runtime })
    }

    pub(crate) fn post<T: Serialize>(
        &self,
        what: &str,
        path: &str,
        body: &T,
    ) -> Result<(), Failure> {
        let body = serverledge_api::encode(body);
        self.finish(what, self.client.request("POST", path, body))
    }

    /// `end` is printed after the reply.
    pub(crate) fn get(&self, what: &str, path: &str, end: &str) -> Result<(), Failure> {
        let response = self.request(what, self.client.request("GET", path, Vec::new()))?;
        show(what, &response, end)
    }

    /// Makes a request and shows the reply.
    pub(crate) fn finish(
        &self,
        what: &str,
        request: impl Future<Output = Result<Response, ClientError>>,
    ) -> Result<(), Failure> {
        show(what, &self.request(what, request)?, "")
    }

    /// Makes a request.
    pub(crate) fn request(
        &self,
        what: &str,
        request: impl Future<Output = Result<Response, ClientError>>,
    ) -> Result<Response, Failure> {
        self.runtime.block_on(request).map_err(|error| {
            let hint = match &error {
                ClientError::Connect { .. } => {
                    "\nhint: is a node running there? --host and --port choose another"
                }
                _ => "",
            };
            let mut text = format!("{what}: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            Failure::node(format!("{text}{hint}"))
        })
    }
}

/// Prints a reply, with `end` after it, or says why it is a refusal.
pub(crate) fn show(what: &str, response: &Response, end: &str) -> Result<(), Failure> {
    let body = accepted(what, response)?;
    print(&format!("{}{end}", indent(&body)))
}

/// The body of a reply that is no refusal.
pub(crate) fn accepted(what: &str, response: &Response) -> Result<String, Failure> {
    let body = String::from_utf8_lossy(&response.body);
    if (200..300).contains(&response.status) {
        return Ok(body.into_owned());
    }
    let Response { status, reason, .. } = response;
    let text = format!("{what}: Server response: {status} {reason}");
    Err(Failure::node(format!("{text}{}", explain(&body))))
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    // A reader that has seen enough is no failure.
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::node(format!("writing the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// What the node says about a refusal, for people.
fn explain(body: &str) -> String {
    let Ok(problem) = serde_json::from_str::<Problem>(body) else {
        let text = body.trim().trim_matches(['"', '{', '}']);
        return if text.is_empty() {
            String::new()
        } else {
            format!("\n{text}")
        };
    };
    format!("\n{problem}")
}
