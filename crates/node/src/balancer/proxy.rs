//! A request's way through the balancer: which target, there and back. Everything happens in the
//! task of the client's connection.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use percent_encoding::percent_decode_str;
use serverledge_api::PrewarmRequest;
use serverledge_core::balancer::{NoTarget, Outcome, TargetId};
use tokio::time::timeout;
use tracing::debug;

use super::Shared;
use super::body::{AnswerBody, BodyError, RequestBody};
use super::error::Refusal;
use super::headers;
use super::link::{Link, SendError};
use super::reply::{ReplyBody, Wish};
use super::router::{About, Pick};

/// Targets that are tried for one request before it is given up.
const TRIES_MAX: usize = 8;

/// Largest wish for warm sandboxes, bytes.
const PREWARM_MAX: u64 = 64 << 10;

/// What only the node knows that runs it, in a fleet too.
const EXECUTIONS: &str = "/v1/executions/";

/// What a request is, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// A call of a function.
    Invoke(Cow<'a, str>),
    /// A call of a workflow. Its name on the ring has a slash, which no function's begins with.
    Workflow(Cow<'a, str>),
    /// A question for a call's result.
    Poll(Cow<'a, str>),
    /// A wish for warm sandboxes, which says in its body of which function.
    Prewarm,
    /// A change of what there is to call.
    Change,
    /// Anything else.
    Other,
}

/// What changes what there is to call.
const CHANGES: [&str; 6] = [
    "/create",
    "/update",
    "/delete",
    "/workflow/create",
    "/workflow/import",
    "/workflow/delete",
];

impl<'a> Kind<'a> {
    fn of(method: &Method, path: &'a str) -> Self {
        let rest = |prefix| {
            path.strip_prefix(prefix)
                .filter(|rest: &&str| !rest.is_empty())
        };
        let name = |raw: &'a str| percent_decode_str(raw).decode_utf8_lossy();
        if let Some(raw) = rest("/invoke/") {
            Self::Invoke(name(raw))
        } else if rest("/workflow/invoke/").is_some() {
            Self::Workflow(name(path))
        } else if let Some(raw) = rest("/poll/") {
            Self::Poll(name(raw))
        } else if *method == Method::POST && CHANGES.contains(&path) {
            Self::Change
        } else if *method == Method::POST && path == "/prewarm" {
            Self::Prewarm
        } else {
            Self::Other
        }
    }

    fn about(&self) -> About<'_> {
        let (name, call) = match self {
            Self::Invoke(name) | Self::Workflow(name) => (Some(&**name), None),
            Self::Poll(id) => (None, Some(&**id)),
            Self::Change | Self::Prewarm | Self::Other => (None, None),
        };
        About { name, call }
    }

    /// Whether an answer may say who has accepted a call.
    fn is_call(&self) -> bool {
        matches!(self, Self::Invoke(_) | Self::Workflow(_))
    }
}

/// A place among the requests under way.
pub(super) struct Admitted(Arc<Shared>);

impl Admitted {
    fn new(shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let most = shared.config.inflight_max;
        let before = shared.inflight.fetch_add(1, Ordering::Relaxed);
        // Gives its place back if it is one too many.
        let admitted = Self(Arc::clone(shared));
        match before < most {
            true => Ok(admitted),
            false => Err(Refusal::Overloaded(most)),
        }
    }

    /// How many there are.
    pub(super) fn count(inflight: &AtomicUsize) -> usize {
        inflight.load(Ordering::Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers a request.
pub(super) async fn handle(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let must_close = headers::must_close(request.headers());
    let mut answer = route(shared, request).await.unwrap_or_else(|refusal| {
        shared.router.metrics.refused(refusal.name());
        refusal.into_answer()
    });
    if must_close {
        const CLOSE: HeaderValue = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, CLOSE);
    }
    answer
}

async fn route(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Refusal> {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/metrics" => return Ok(super::pages::metrics(shared)),
        "/v1/balancer/targets" => return Ok(super::pages::targets(shared)),
        _ => {}
    }
    if head.method == Method::CONNECT {
        return Err(Refusal::Method);
    }
    if headers::has_been_at(&head.headers, &shared.name) {
        return Err(Refusal::Loop);
    }
    let admitted = Admitted::new(shared)?;
    // The head goes on changed, and what it is about must outlive that.
    let uri = head.uri.clone();
    let kind = Kind::of(&head.method, uri.path());
    if kind == Kind::Change && shared.is_alone {
        return super::change::on_all(shared, head, body).await;
    }
    let max = match kind.is_call() {
        true => shared.body_max,
        false => shared.create_body_max,
    };
    if kind == Kind::Prewarm {
        let bytes = super::change::whole(body, PREWARM_MAX).await?;
        let body = RequestBody::Whole(Full::new(bytes.clone()));
        // Where its calls will go. What makes no sense is a node's to say.
        let wish: PrewarmRequest = serverledge_api::decode(&bytes).unwrap_or_default();
        let kind = Kind::Invoke(wish.function.into());
        return pass(shared, head, body, &kind, admitted).await;
    }
    let body = RequestBody::of(body, max, shared.config.stall_timeout)?;
    pass(shared, head, body, &kind, admitted).await
}

async fn pass(
    shared: &Arc<Shared>,
    mut head: Parts,
    body: RequestBody,
    kind: &Kind<'_>,
    admitted: Admitted,
) -> Result<Response<AnswerBody>, Refusal> {
    prepare(shared, &mut head);
    let is_somewhere = shared.is_alone || head.uri.path().starts_with(EXECUTIONS);
    if is_somewhere && head.method == Method::GET {
        return search(shared, &head, kind, admitted).await;
    }
    let request = Request::from_parts(head, body);
    send(shared, request, kind, &mut Vec::new(), admitted).await
}

/// Makes a request's head fit to be passed on.
pub(super) fn prepare(shared: &Shared, head: &mut Parts) {
    headers::pass_on(&mut head.headers, &shared.via);
    head.version = Version::HTTP_11;
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        // Said as to a proxy: who is asked is this balancer's choice.
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or(Uri::from_static("/"), Uri::from);
    }
}

/// What nodes know nothing of from each other: asks one after the other until one knows it.
async fn search(
    shared: &Arc<Shared>,
    head: &Parts,
    kind: &Kind<'_>,
    admitted: Admitted,
) -> Result<Response<AnswerBody>, Refusal> {
    let mut tried = Vec::new();
    let mut unknown = None;
    let mut admitted = Some(admitted);
    loop {
        let request = Request::from_parts(head.clone(), RequestBody::empty());
        let place = admitted.take().map_or_else(|| Admitted::new(shared), Ok)?;
        let answer = match send(shared, request, kind, &mut tried, place).await {
            Err(Refusal::NoTarget(_) | Refusal::Overloaded(_)) if unknown.is_some() => None,
            answer => Some(answer?),
        };
        match (answer, unknown) {
            (Some(answer), _) if answer.status() != StatusCode::NOT_FOUND => return Ok(answer),
            (Some(answer), _) => unknown = Some(answer),
            (None, Some(unknown)) => return Ok(unknown),
            (None, None) => return Err(NoTarget::Tried.into()),
        }
    }
}

/// Sends a request to a target that isn't among `tried`, which those are added to that it is tried
/// at. Again elsewhere only if it has provably not begun.
async fn send(
    shared: &Arc<Shared>,
    mut request: Request<RequestBody>,
    kind: &Kind<'_>,
    tried: &mut Vec<TargetId>,
    admitted: Admitted,
) -> Result<Response<AnswerBody>, Refusal> {
    let about = kind.about();
    let mut must_be_new = false;
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            shared.router.metrics.retries.inc();
        }
        let mut pick = shared.router.pick(about, tried)?;
        let Some(mut link) = link(shared, &pick, must_be_new).await else {
            pick.end(Outcome::Unreachable);
            tried.push(pick.target.id);
            continue;
        };
        let authority = pick.target.authority.clone();
        request.headers_mut().insert(HOST, authority);
        let limit = shared.config.response_timeout;
        match timeout(limit, link.exchange(request)).await {
            Ok(Ok(answer)) if answer.status() != StatusCode::SWITCHING_PROTOCOLS => {
                tried.push(pick.target.id);
                let stall = shared.config.stall_timeout;
                return Ok(pass_back(answer, link, pick, kind, stall, admitted));
            }
            Ok(Ok(_)) => return Err(broken(pick, "it speaks another protocol".into())),
            Ok(Err(SendError::Unsent(unsent))) => {
                request = *unsent;
                match must_be_new {
                    // The connection had ended without our notice.
                    false => pick.withdraw(),
                    true => {
                        pick.end(Outcome::Broken);
                        tried.push(pick.target.id);
                    }
                }
                must_be_new = !must_be_new;
            }
            Ok(Err(SendError::Failed(error))) => match body_error(&error) {
                Some(theirs) => return Err(theirs.into()),
                None => return Err(broken(pick, error.into())),
            },
            Err(_) => {
                pick.end(Outcome::Broken);
                let node = pick.target.key.clone();
                return Err(Refusal::TimedOut { node, limit });
            }
        }
    }
    Err(NoTarget::Tried.into())
}

/// A connection to the target, `None` if there is none to be had.
async fn link(shared: &Shared, pick: &Pick, must_be_new: bool) -> Option<Link> {
    if !must_be_new && let Some(kept) = pick.target.pool.take() {
        return Some(kept);
    }
    let made = Link::connect(&pick.target.host, shared.config.connect_timeout).await;
    made.inspect_err(|error| debug!(target = pick.target.key, %error, "not connected"))
        .ok()
}

fn broken(mut pick: Pick, source: Box<dyn std::error::Error + Send + Sync>) -> Refusal {
    pick.end(Outcome::Broken);
    let node = pick.target.key.clone();
    Refusal::Broken { node, source }
}

/// Whether sending failed for want of the client's body.
fn body_error(error: &hyper::Error) -> Option<BodyError> {
    let source = std::error::Error::source(error)?;
    Some(match source.downcast_ref::<BodyError>()? {
        BodyError::TooLarge(max) => BodyError::TooLarge(*max),
        BodyError::Stalled(length) => BodyError::Stalled(*length),
        BodyError::Broken(text) => BodyError::Broken(text.clone()),
    })
}

fn pass_back(
    answer: Response<Incoming>,
    link: Link,
    mut pick: Pick,
    kind: &Kind<'_>,
    stall: Duration,
    admitted: Admitted,
) -> Response<AnswerBody> {
    let (mut head, body) = answer.into_parts();
    pick.answered(headers::pass_back(&mut head.headers));
    head.version = Version::HTTP_11;
    let wish = match () {
        () if head.status != StatusCode::OK || !kind.is_call() => Wish::Nothing,
        () if pick.is_lesson() => Wish::Report(Vec::new()),
        () => Wish::Acceptance,
    };
    let wish = (head.status.as_u16(), wish);
    let body = ReplyBody::new(body, link, pick, wish, stall, admitted);
    Response::from_parts(head, AnswerBody::Streamed(Box::new(body)))
}

/// 200 with this.
pub(super) fn page(content_type: &'static str, text: String) -> Response<AnswerBody> {
    let mut answer = Response::new(AnswerBody::of(text));
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let post = |path| Kind::of(&Method::POST, path);
        assert_eq!(post("/invoke/f"), Kind::Invoke("f".into()));
        assert_eq!(post("/invoke/a%20b/c"), Kind::Invoke("a b/c".into()));
        assert_eq!(post("/invoke/"), Kind::Other);
        let workflow = Kind::Workflow("/workflow/invoke/w".into());
        assert_eq!(post("/workflow/invoke/w"), workflow);
        assert_eq!(post("/poll/f-1"), Kind::Poll("f-1".into()));
        assert_eq!(post("/create"), Kind::Change);
        assert_eq!(Kind::of(&Method::GET, "/create"), Kind::Other);
        assert_eq!(post("/prewarm"), Kind::Prewarm);
        assert_eq!(post("/status"), Kind::Other);
    }
}
