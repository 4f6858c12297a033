//! Sending calls to other nodes: `POST /invoke/<function>` as the original does it, on connections
//! that are kept.
//!
//! `CanDoOffloading` is false in what is sent, so that a call makes one hop; a header says so to
//! nodes of ours besides. A call that may have begun elsewhere is never begun again here: only one
//! that found no connection, no room or no function has provably not.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serverledge_api::{InvokeReply, Problem, QosClass};
use serverledge_core::policy::Reason;

use super::copies::{FUNCTION, Meant};
use super::seal::Secret;
use super::{Member, question, signature, unix_micros};
use crate::catalog::Function;
use crate::invoke::{Invocation, InvokeError};
use crate::node::Node;

/// How often a call has been sent on. Ours: the original sends nothing like it.
pub(crate) const HOPS: HeaderName = HeaderName::from_static("serverledge-hops");

/// The call's identity where it arrived first.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("serverledge-request-id");

/// What of the caller's headers goes along: the trace that the call belongs to.
const TRACE: [HeaderName; 2] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Marks a call that may run twice: as the draft of that name has it, with a key of the caller's.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// How long a member's machine may say nothing, not even that what was sent has arrived, before a
/// call there is given up: the way to it is cut, and the call's own limit may be far.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// What an answer may take beside the function's own time: the way, waiting, a cold start.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// How long a member that couldn't be connected to is left alone.
const BREAK: Duration = Duration::from_secs(3);

/// Largest answer: a result has 64 MiB at most, and escaping may inflate it.
const ANSWER_MAX: usize = 256 << 20;

/// Characters of a name that stand for themselves in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// What goes along with a call that is sent on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Along {
    /// Quality-of-service class, by its index here; 0 is that of calls that name none.
    pub(crate) class: usize,
    /// The same, as others are told.
    pub(crate) qos_class: QosClass,
    /// Wanted response time, seconds; 0 or less: none.
    pub(crate) response_time_max: f64,
    /// Headers of the trace.
    pub(crate) trace: HeaderMap,
    /// What says that the call may run twice, if it may.
    pub(crate) idempotency_key: Option<HeaderValue>,
}

impl Along {
    /// What of a caller's headers goes along.
    pub(crate) fn trace_of(headers: &HeaderMap) -> HeaderMap {
        let known = TRACE.into_iter().filter_map(|name| {
            let value = headers.get(&name)?.clone();
            Some((name, value))
        });
        known.collect()
    }

    /// What goes along after so many seconds: less time is left.
    pub(crate) fn after(&self, seconds: f64) -> Self {
        Self {
            response_time_max: left(self.response_time_max, seconds),
            ..self.clone()
        }
    }

    /// The trace as text, for a call that waits on disk.
    pub(crate) fn kept_trace(&self) -> BTreeMap<String, String> {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.to_string(), value.to_str().ok()?.to_owned()))
        };
        self.trace.iter().filter_map(text).collect()
    }

    /// The trace that was kept as text.
    pub(crate) fn trace_from(kept: &BTreeMap<String, String>) -> HeaderMap {
        let known = TRACE.into_iter().filter_map(|name| {
            let value = kept.get(name.as_str())?.parse().ok()?;
            Some((name, value))
        });
        known.collect()
    }
}

/// What is left of a wanted response time, seconds; 0 or less stays: nothing was wanted.
pub(crate) fn left(wanted: f64, seconds: f64) -> f64 {
    match wanted > 0.0 {
        true => (wanted - seconds.max(0.0)).max(RESPONSE_TIME_MIN),
        false => wanted,
    }
}

/// What is left of a response time that has passed, seconds: 0 would be none.
const RESPONSE_TIME_MIN: f64 = 0.001;

/// How sending a call ended.
pub(super) enum Sent {
    /// It ran there.
    Ran(InvokeReply),
    /// It has not begun, for this reason.
    NotBegun(Reason),
    /// It may have begun, and has no result.
    Failed(InvokeError),
}

/// What sends requests to other nodes. It keeps connections, and gives up a machine that has gone
/// silent.
pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIME_MAX));
    connector.set_nodelay(true);
    connector.set_tcp_user_timeout(Some(SILENCE_MAX));
    connector.set_keepalive(Some(SILENCE_MAX / 2));
    connector.set_keepalive_interval(Some(SILENCE_MAX / 6));
    connector.set_keepalive_retries(Some(3));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .build(connector)
}

/// Sends calls. Cheap calls: it keeps connections.
pub(super) struct Offloader {
    client: Client<HttpConnector, Full<Bytes>>,
    secret: Option<Secret>,
    /// This node, as it is told where functions have to be got from it.
    origin: OnceLock<String>,
    /// Members that couldn't be connected to, and until when they are left alone.
    broken: Mutex<BTreeMap<String, Instant>>,
}

impl Offloader {
    /// With a secret, calls are signed with it.
    pub(super) fn new(secret: Option<Secret>) -> Self {
        Self {
            client: client(),
            secret,
            origin: OnceLock::new(),
            broken: Mutex::default(),
        }
    }

    /// From now on, calls say which function they mean, and that this node has it, whose path is
    /// given: there is no registry that would know.
    pub(super) fn tell_functions_of(&self, path: &str) {
        let _ = self.origin.set(hex::encode(question::id(path)));
    }

    /// Which of these members are left alone for now.
    pub(super) fn broken<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Vec<bool> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.is_empty() {
            return keys.map(|_| false).collect();
        }
        let now = Instant::now();
        let is_broken = |key: &str| broken.get(key).is_some_and(|until| now < *until);
        keys.map(is_broken).collect()
    }

    /// Runs a call of `function` on `member`.
    pub(super) async fn send(
        &self,
        node: &Node,
        member: &Member,
        function: &Function,
        invocation: &Invocation,
        along: &Along,
    ) -> Sent {
        let mut request = match request(member, &function.record.name, invocation, along) {
            Ok(request) => request,
            // Nothing was sent.
            Err(_) => {
                let answered = Err::<(), _>(Sent::NotBegun(Reason::Unreachable));
                self.note(&member.key, &answered);
                return Sent::NotBegun(Reason::Unreachable);
            }
        };
        if let Some(origin) = self.origin.get()
            && let Some(meant) = Meant::header(node, function, origin)
        {
            request.headers_mut().insert(FUNCTION, meant);
        }
        let request = self.signed(request);
        let sent = Instant::now();
        let exchange = async {
            let response =
                self.client
                    .request(request)
                    .await
                    .map_err(|source| match source.is_connect() {
                        true => Sent::NotBegun(Reason::Unreachable),
                        false => failed(member, source.into()),
                    })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX);
            let body = body
                .collect()
                .await
                .map_err(|source| failed(member, source))?;
            Ok((status, body.to_bytes()))
        };
        let limit = function.timeout.saturating_add(ALLOWANCE);
        let answered = match tokio::time::timeout(limit, exchange).await {
            Err(_) => Err(Sent::Failed(InvokeError::TimedOut(limit))),
            Ok(answered) => answered,
        };
        self.note(&member.key, &answered);
        match answered {
            Ok((status, body)) => judge(member, status, &body, sent.elapsed(), invocation),
            Err(sent) => sent,
        }
    }

    /// Sends a request that is no call.
    pub(super) async fn request(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        self.client.request(request).await
    }

    fn signed(&self, request: Request<Bytes>) -> Request<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let mut request = Request::from_parts(head, Full::new(body.clone()));
        if let Some(secret) = &self.secret {
            signature::sign(secret, &mut request, &body, unix_micros());
        }
        request
    }

    fn note<T>(&self, key: &str, answered: &Result<T, Sent>) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        match answered {
            Err(Sent::NotBegun(_)) => drop(broken.insert(key.to_owned(), Instant::now() + BREAK)),
            _ if broken.is_empty() => {}
            _ => drop(broken.remove(key)),
        }
    }
}

fn failed(member: &Member, source: Box<dyn std::error::Error + Send + Sync>) -> Sent {
    Sent::Failed(InvokeError::Lost {
        node: member.key.clone(),
        source,
    })
}

/// The original's request, field by field.
fn request(
    member: &Member,
    function: &str,
    invocation: &Invocation,
    along: &Along,
) -> Result<Request<Bytes>, hyper::http::Error> {
    let waited = invocation.arrival.elapsed().as_secs_f64();
    let remaining = left(along.response_time_max, waited);
    // Parameters are JSON already.
    let mut body = b"{\"Params\":".to_vec();
    body.extend_from_slice(&invocation.params);
    body.extend_from_slice(b",\"QoSClass\":");
    body.extend_from_slice(&serverledge_api::encode(&along.qos_class));
    let rest = format!(
        ",\"QoSMaxRespT\":{remaining},\"CanDoOffloading\":false,\
         \"Async\":false,\"ReturnOutput\":{}}}",
        invocation.return_output
    );
    body.extend_from_slice(rest.as_bytes());
    let name = utf8_percent_encode(function, PLAIN);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/invoke/{name}", member.authority()))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(HOPS, HeaderValue::from_static("1"))
        .header(REQUEST_ID, &invocation.request_id)
        .body(Bytes::from(body))?;
    request.headers_mut().extend(along.trace.clone());
    if let Some(key) = &along.idempotency_key {
        request.headers_mut().insert(IDEMPOTENCY_KEY, key.clone());
    }
    Ok(request)
}

fn judge(
    member: &Member,
    status: StatusCode,
    body: &[u8],
    took: Duration,
    invocation: &Invocation,
) -> Sent {
    match status {
        StatusCode::OK => match serde_json::from_slice::<InvokeReply>(body) {
            Ok(mut reply) => {
                reply.response_time = invocation.arrival.elapsed().as_secs_f64();
                reply.offload_latency = took.as_secs_f64() - reply.duration - reply.init_time;
                Sent::Ran(reply)
            }
            Err(source) => failed(member, source.into()),
        },
        StatusCode::TOO_MANY_REQUESTS => Sent::NotBegun(Reason::Full),
        StatusCode::NOT_FOUND => Sent::NotBegun(Reason::Unknown),
        status => {
            // The original's nodes answer with plain text.
            let problem = serde_json::from_slice(body).unwrap_or_else(|_| {
                let text = String::from_utf8_lossy(body).into_owned();
                Problem::new(status.as_u16(), "failed elsewhere", text)
            });
            Sent::Failed(InvokeError::Elsewhere {
                node: member.key.clone(),
                problem: Box::new(problem),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// What the Go original was recorded to send and to answer.
    const RECORDED: &str = include_str!("../../tests/it/data/node-to-node.jsonl");

    fn member() -> Member {
        Member {
            key: "peer".into(),
            area: "CLOUD".into(),
            is_balancer: false,
            host: "127.0.0.1".into(),
            api_port: 1996,
            udp_port: 9996,
            architecture: "amd64".into(),
        }
    }

    fn recorded(note: &str) -> Value {
        let lines = RECORDED.lines();
        let mut entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.find(|entry| entry["note"] == note).unwrap()
    }

    fn invocation(return_output: bool) -> Invocation {
        Invocation {
            request_id: "off-1".into(),
            params: br#"{"n":1}"#.as_slice().into(),
            return_output,
            patient: false,
            arrival: Instant::now(),
        }
    }

    #[test]
    fn the_request_is_the_originals() {
        let recorded = recorded("edgeonly, offloadable, one neighbour");
        let recorded = &recorded["peer_received"][0];
        let request = request(&member(), "off", &invocation(false), &Along::default()).unwrap();
        assert_eq!(request.uri(), "http://127.0.0.1:1996/invoke/off");
        let body = request.into_body();
        assert_eq!(body, recorded["body"].as_str().unwrap());
    }

    #[test]
    fn the_wanted_time_is_what_remains_of_it() {
        let along = Along {
            response_time_max: 1.5,
            ..Along::default()
        };
        let mut late = invocation(true);
        late.arrival -= Duration::from_secs(1);
        let request = request(&member(), "a b/c", &late, &along).unwrap();
        assert_eq!(request.uri().path(), "/invoke/a%20b%2Fc");
        let body = request.into_body();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let remaining = body["QoSMaxRespT"].as_f64().unwrap();
        assert!(remaining > 0.0 && remaining <= 0.5, "{body}");
    }

    #[test]
    fn the_report_is_the_peers_with_times_seen_from_here() {
        let recorded = recorded("cloudonly, sync, offloadable");
        let body = recorded["peer_answered"].as_str().unwrap();
        let took = Duration::from_millis(10);
        let ok = StatusCode::OK;
        let mut early = invocation(true);
        early.arrival -= Duration::from_secs(1);
        let Sent::Ran(reply) = judge(&member(), ok, body.as_bytes(), took, &early) else {
            panic!("it ran");
        };
        assert_eq!(
            (reply.execution_node.as_str(), reply.result.as_str()),
            ("peer", "42")
        );
        // 10 ms, less 5 of running and 1 of starting.
        assert!((reply.offload_latency - 0.004).abs() < 1e-9, "{reply:?}");
        // Since the arrival here.
        assert!(reply.response_time >= 1.0, "{reply:?}");
    }

    #[test]
    fn what_has_not_begun_is_told_from_what_may_have() {
        let judge = |status, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(
                &member(),
                status,
                body.as_bytes(),
                Duration::ZERO,
                &invocation(true),
            )
        };
        assert!(matches!(judge(429, ""), Sent::NotBegun(Reason::Full)));
        assert!(matches!(judge(404, ""), Sent::NotBegun(Reason::Unknown)));
        assert!(matches!(judge(500, "boom"), Sent::Failed(_)));
        assert!(matches!(judge(200, "boom"), Sent::Failed(_)));
    }
}
