//! Changes where nodes know nothing of each other: a function that is created through the balancer
//! is created on every target. With etcd one node does, and the fleet follows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::body::{AnswerBody, BodyError, RequestBody};
use super::error::Refusal;
use super::headers;
use super::link::{Link, SendError};
use super::proxy::prepare;
use super::router::Target;

/// Changes at once, each of them in memory.
pub(super) const AT_ONCE: usize = 2;

/// How long a body may take to arrive.
const READ_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a node may take to make a change: it may fetch code or an image.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(600);

/// Largest answer, bytes.
const ANSWER_MAX: usize = 1 << 20;

type Answer = Response<Bytes>;

/// Makes a change on every target. The answer is the first that says no, or else any.
pub(super) async fn on_all(
    shared: &Arc<Shared>,
    mut head: Parts,
    body: Incoming,
) -> Result<Response<AnswerBody>, Refusal> {
    // It is never closed; one at a time would do as well.
    let _place = shared.changes.acquire().await;
    let body = whole(body, shared.create_body_max).await?;
    prepare(shared, &mut head);
    let targets = shared.router.targets();
    if targets.is_empty() {
        return Err(serverledge_core::balancer::NoTarget::Nobody.into());
    }
    let mut changes = JoinSet::new();
    for target in targets {
        let (head, body) = (head.clone(), body.clone());
        let connect = shared.config.connect_timeout;
        changes.spawn(async move {
            let made = timeout(CHANGE_TIME_MAX, on_one(&target, head, body, connect)).await;
            let made = made.unwrap_or_else(|_| Err("it takes too long".into()));
            (target.key.clone(), made)
        });
    }
    let mut answers = changes.join_all().await;
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    sum_up(answers)
}

/// All of a client's body, of so many bytes at most.
pub(super) async fn whole(body: Incoming, max: u64) -> Result<Bytes, BodyError> {
    let body = Limited::new(body, usize::try_from(max).unwrap_or(usize::MAX)).collect();
    match timeout(READ_TIME_MAX, body).await {
        Err(_) => Err(BodyError::Stalled(READ_TIME_MAX)),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(BodyError::TooLarge(max))
        }
        Ok(Err(error)) => Err(BodyError::Broken(error.to_string())),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

type Made = Result<Answer, Box<dyn std::error::Error + Send + Sync>>;

fn sum_up(answers: Vec<(String, Made)>) -> Result<Response<AnswerBody>, Refusal> {
    let (mut missed, mut refused, mut made) = (Vec::new(), None, None);
    for (key, answer) in answers {
        match answer {
            Err(error) => missed.push(format!("{key} ({error})")),
            Ok(answer) if answer.status().is_success() => made = made.or(Some(answer)),
            Ok(answer) => refused = refused.or(Some(answer)),
        }
    }
    let missed = missed.join(", ");
    let is_missed = !missed.is_empty();
    match (refused, made) {
        (Some(refused), _) => Ok(refused.map(AnswerBody::of)),
        (None, None) => Err(Refusal::Nowhere { missed }),
        (None, Some(_)) if is_missed => Err(Refusal::Partly { missed }),
        (None, Some(made)) => Ok(made.map(AnswerBody::of)),
    }
}

async fn on_one(target: &Target, head: Parts, body: Bytes, connect: Duration) -> Made {
    let mut request = Request::from_parts(head, RequestBody::Whole(Full::new(body)));
    let authority = target.authority.clone();
    request.headers_mut().insert(HOST, authority);
    // One that surely hasn't been closed meanwhile.
    let mut link = Link::connect(&target.host, connect).await?;
    let answer = match link.exchange(request).await {
        Ok(answer) => answer,
        Err(SendError::Unsent(_)) => return Err("it closes connections".into()),
        Err(SendError::Failed(error)) => return Err(error.into()),
    };
    let (mut head, body) = answer.into_parts();
    headers::pass_back(&mut head.headers);
    let body = link.collect(body, ANSWER_MAX).await?;
    target.pool.give(link);
    Ok(Response::from_parts(head, body))
}
