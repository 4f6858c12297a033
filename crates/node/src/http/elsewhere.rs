//! Requests for executions, and for tasks of executions, that another node has: whichever node of the
//! fleet is asked, the one that has it answers.
//!
//! A request is sent on once: who gets one from another node answers for itself. It may do no more
//! than its sender could have asked for there, so that nobody needs to be believed.

use std::sync::Arc;

use hyper::Method;
use hyper::http::request::Parts;

use super::error::ApiError;
use super::{Body, JSON, Reply, executions, reply};
use crate::federation::forward::{Answered, Forwarded};
use crate::federation::offload::HOPS;
use crate::node::Node;
use crate::store::executions::Id;
use crate::workflows::error::RunError;
use crate::workflows::{id_of, takeover};

/// What a request is about.
struct Subject {
    id: Id,
    is_task: bool,
}

impl Subject {
    /// The execution in a path, if other nodes may be asked about it.
    fn of(node: &Node, head: &Parts) -> Option<Self> {
        if node.federation.is_none() || head.headers.contains_key(HOPS) {
            return None;
        }
        let rest = head.uri.path().strip_prefix("/v1/")?;
        let (resource, rest) = rest.split_once('/')?;
        let is_task = match resource {
            "executions" => false,
            "tasks" => true,
            _ => return None,
        };
        let (name, _) = rest.split_once('/').unwrap_or((rest, ""));
        // Tokens begin with the execution.
        let id = match is_task {
            true => id_of(name.get(..32)?)?,
            false => id_of(name)?,
        };
        Some(Self { id, is_task })
    }

    fn unknown(&self) -> RunError {
        match self.is_task {
            true => RunError::UnknownToken,
            false => RunError::Unknown,
        }
    }
}

/// Answers a request for what is no path of the node's other parts, here or elsewhere.
pub(super) async fn route(node: &Arc<Node>, head: &Parts, body: Body) -> Result<Reply, ApiError> {
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let subject = Subject::of(node, head);
    if let Some(subject) = &subject
        && node.store.execution(subject.id)?.is_none()
    {
        let body = body.read().await?;
        return ask(node, subject, head, &body).await;
    }
    let routed = executions::route(node, (&head.method, &head.headers), path, query, body).await;
    let answer = routed.unwrap_or(Err(ApiError::NotFound));
    match (&answer, subject) {
        // It has gone to another node meanwhile.
        (Err(ApiError::Run(RunError::Unknown)), Some(subject)) if head.method == Method::GET => {
            ask(node, &subject, head, b"").await
        }
        _ => answer,
    }
}

/// Has a node answer that has the execution.
async fn ask(
    node: &Arc<Node>,
    subject: &Subject,
    head: &Parts,
    body: &[u8],
) -> Result<Reply, ApiError> {
    let Some(federation) = &node.federation else {
        return Err(subject.unknown().into());
    };
    let path = head.uri.path_and_query();
    let request = Forwarded {
        method: &head.method,
        path: path.map_or("/", |path| path.as_str()),
        body,
    };
    // What the likeliest one says counts.
    let mut first = None;
    for key in takeover::locate(node, subject.id).await {
        let error = match federation.forward(&key, &request).await {
            Ok(answered) if answered.status == 404 => subject.unknown(),
            Ok(Answered { status, kind, body }) => {
                return Ok(reply(status, kind.unwrap_or(JSON), body));
            }
            Err(reason) => RunError::Elsewhere { node: key, reason },
        };
        first.get_or_insert(error);
    }
    Err(first.unwrap_or_else(|| subject.unknown()).into())
}
