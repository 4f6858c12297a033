//! `/invoke`, `/poll`, `/prewarm`, `/status`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serverledge_api::{AsyncReply, InvokeReply, InvokeRequest, PrewarmReply, PrewarmRequest};
use serverledge_core::Snapshot;
use serverledge_core::policy::Policy;

use super::error::ApiError;
use super::{Body, JSON, Reply, json, path, reply};
use crate::catalog::Function;
use crate::detached::Detached;
use crate::federation::copies::Meant;
use crate::federation::offload::{Along, HOPS, IDEMPOTENCY_KEY, REQUEST_ID};
use crate::federation::route::{header, route};
use crate::invoke::{Invocation, InvokeError, invoke as run, unix_now};
use crate::node::Node;

pub(crate) const NODE_NAME: HeaderName = HeaderName::from_static("serverledge-node-name");
const FREE_MEM: HeaderName = HeaderName::from_static("serverledge-free-mem");
const FREE_CPU: HeaderName = HeaderName::from_static("serverledge-free-cpu");
const TIMESTAMP: HeaderName = HeaderName::from_static("serverledge-timestamp");
const NODE_ARCH: HeaderName = HeaderName::from_static("serverledge-node-arch");
/// Why the call ran where it ran: what the policy rejected. Ours.
const DECISION: HeaderName = HeaderName::from_static("serverledge-decision");
const MAB_REQUEST_ID: HeaderName = HeaderName::from_static("serverledge-mab-request-id");

/// Runs a function, or accepts the call to run it later.
pub(super) async fn invoke(
    node: &Arc<Node>,
    raw_name: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Reply, ApiError> {
    let arrival = Instant::now();
    let (known, meant) = named(node, raw_name, headers).await?;
    let body = body.read().await?;
    let request: InvokeRequest = serverledge_api::decode(&body)?;
    let params = request.params.as_ref();
    let params = params.map_or("null", |params| params.get()).as_bytes();
    let has_hopped = has_hopped(node, raw_name, headers, &body);
    let function = chosen(node, raw_name, known, meant.filter(|_| has_hopped)).await?;
    let given_id = given_id(headers).filter(|_| has_hopped);
    let request_id = given_id.unwrap_or_else(|| node.request_id(&function.record.name));
    let can_offload = request.can_do_offloading && !has_hopped;
    let along = Along {
        trace: Along::trace_of(headers),
        idempotency_key: headers.get(IDEMPOTENCY_KEY).cloned(),
        ..along(node, &request, has_hopped)?
    };
    let mut trail = None;

    let (mut answer, snapshot) = if request.is_async {
        let name = &function.record.name;
        let calls = &node.async_calls;
        calls
            .accept(
                &request_id,
                name,
                params,
                request.return_output,
                (can_offload, &along),
            )
            .await?;
        (
            json(&AsyncReply { req_id: request_id }),
            node.pool.snapshot(),
        )
    } else {
        let invocation = Invocation {
            request_id: request_id.clone(),
            params: params.into(),
            return_output: request.return_output,
            patient: false,
            arrival,
        };
        let (ran, why) = ran(node, function, invocation, (can_offload, along)).await;
        trail = why;
        match ran {
            Ok((reply, snapshot)) => (json(&reply), snapshot),
            Err(error) => {
                let reply = ApiError::Invoke { request_id, error }.into_reply();
                (reply, node.pool.snapshot())
            }
        }
    };
    node_headers(node, snapshot, answer.headers_mut());
    if let Some(trail) = trail {
        answer.headers_mut().insert(DECISION, trail);
    }
    if let Some(id) = headers.get(MAB_REQUEST_ID) {
        answer.headers_mut().insert(MAB_REQUEST_ID, id.clone());
    }
    Ok(answer)
}

/// What goes along with a call wherever it runs.
fn along(node: &Node, request: &InvokeRequest, is_sent_on: bool) -> Result<Along, ApiError> {
    let (class, response_time_max) = (&request.qos_class, request.qos_max_response_time);
    let along = node.qos.along(class, response_time_max, is_sent_on);
    along.map_err(|unknown| ApiError::Invalid {
        what: unknown.to_string(),
        hint: "classes are configured: qos.class.<name>.*",
    })
}

/// The server drops a handler whose client went away, and a call that has begun must still give its
/// sandbox back.
async fn detached(
    node: &Arc<Node>,
    function: Arc<Function>,
    invocation: Invocation,
) -> Result<(InvokeReply, Snapshot), InvokeError> {
    let this = Arc::clone(node);
    let work = async move { run(&this, &function, invocation, async {}).await };
    let report = Detached::new(work).await?;
    let snapshot = report.snapshot;
    Ok((node.reply(report), snapshot))
}

/// Runs a call, here or where the policy wants it, and says why there if that was a choice.
async fn ran(
    node: &Arc<Node>,
    function: Arc<Function>,
    invocation: Invocation,
    sending: (bool, Along),
) -> (
    Result<(InvokeReply, Snapshot), InvokeError>,
    Option<HeaderValue>,
) {
    match node.federation.as_ref().and_then(|it| it.policy()) {
        None => (detached(node, function, invocation).await, None),
        Some(policy) => routed(node, policy, function, invocation, sending).await,
    }
}

/// As [`detached`], wherever the policy wants it; and why it ran there.
async fn routed(
    node: &Arc<Node>,
    policy: &'static dyn Policy,
    function: Arc<Function>,
    invocation: Invocation,
    sending: (bool, Along),
) -> (
    Result<(InvokeReply, Snapshot), InvokeError>,
    Option<HeaderValue>,
) {
    let node = Arc::clone(node);
    let work = async move {
        let federation = node.federation.as_ref()?;
        Some(route(&node, federation, policy, &function, invocation, sending).await)
    };
    match Detached::new(work).await {
        None => (Err(InvokeError::ShuttingDown), None),
        Some(Ok(routed)) => (Ok((routed.reply, routed.snapshot)), header(&routed.trail)),
        Some(Err(unrouted)) => (Err(unrouted.error), header(&unrouted.trail)),
    }
}

/// Whether another node has sent the call. If the nodes share a secret, only they can say so.
fn has_hopped(node: &Node, raw_name: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let says_so = headers.contains_key(HOPS);
    let Some(federation) = node.federation.as_ref().filter(|_| says_so) else {
        return says_so;
    };
    let path = format!("/invoke/{raw_name}");
    federation.is_trusted((&Method::POST, &path), headers, body)
}

/// The identity that a call has had since it arrived at another node.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= REQUEST_ID_MAX).then(|| id.to_owned())
}

/// Longest identity that is taken over from another node, bytes: a name and a number.
const REQUEST_ID_MAX: usize = 600;

/// The result of an asynchronous call, byte for byte as it was stored.
pub(super) async fn poll(node: &Node, raw_id: &str) -> Result<Reply, ApiError> {
    let mut pending = false;
    for id in path::names(raw_id) {
        // In this order: a call that ends in between has a result.
        pending |= node.async_calls.is_pending(&id)?;
        if let Some(result) = node.async_calls.result(&id)? {
            return Ok(reply(StatusCode::OK, JSON, result));
        }
    }
    let id = path::names(raw_id).last().unwrap_or_default().into_owned();
    if let Some(federation) = node.federation.as_ref().filter(|_| !pending)
        && let Some(result) = federation.find_result(&id).await?
    {
        return Ok(reply(StatusCode::OK, JSON, result));
    }
    Err(ApiError::NoResult { id, pending })
}

/// Starts sandboxes ahead of calls.
pub(super) async fn prewarm(node: &Arc<Node>, body: Body) -> Result<Reply, ApiError> {
    let request: PrewarmRequest = serverledge_api::decode(&body.read().await?)?;
    let function = node
        .catalog
        .function(&request.function)
        .ok_or(ApiError::UnknownFunction)?;
    let count = usize::try_from(request.instances).unwrap_or(0);
    let prewarmed = node.pool.prewarm(&function, count).await;
    Ok(json(&PrewarmReply {
        prewarmed: prewarmed as i64,
    }))
}

/// What the node has and uses.
pub(super) fn status(node: &Node) -> Reply {
    json(&crate::status::now(node))
}

fn function(node: &Node, raw_name: &str) -> Option<Arc<Function>> {
    path::names(raw_name).find_map(|name| node.catalog.function(&name))
}

/// What this node means by a name.
async fn current(node: &Arc<Node>, raw_name: &str) -> Result<Arc<Function>, ApiError> {
    match function(node, raw_name) {
        Some(function) => Ok(function),
        None => fleet_function(node, raw_name).await,
    }
}

/// What a call's name means here, or what the call says that it means: which it is depends on whether
/// to believe it.
async fn named(
    node: &Arc<Node>,
    raw_name: &str,
    headers: &HeaderMap,
) -> Result<(Option<Arc<Function>>, Option<Meant>), ApiError> {
    match node.federation.as_ref().and_then(|it| it.meant(headers)) {
        None => Ok((Some(current(node, raw_name).await?), None)),
        meant => Ok((None, meant)),
    }
}

/// What is run, of what [`named`] gives.
async fn chosen(
    node: &Arc<Node>,
    raw_name: &str,
    known: Option<Arc<Function>>,
    meant: Option<Meant>,
) -> Result<Arc<Function>, ApiError> {
    match (known, &node.federation, meant) {
        (Some(function), _, _) => Ok(function),
        (None, Some(federation), Some(meant)) => {
            let names = path::names(raw_name).map(Cow::into_owned).collect();
            let found = federation.function_meant(node, &meant, names).await;
            found.map_err(ApiError::NotCopied)
        }
        _ => current(node, raw_name).await,
    }
}

/// A function that another node may have registered a moment ago.
async fn fleet_function(node: &Arc<Node>, raw_name: &str) -> Result<Arc<Function>, ApiError> {
    if let Some(federation) = &node.federation {
        for name in path::names(raw_name) {
            federation.fetch_function(node, &name).await;
        }
    }
    function(node, raw_name).ok_or(ApiError::UnknownFunction)
}

/// What the original's load balancer reads from every reply to an invocation.
fn node_headers(node: &Node, snapshot: Snapshot, headers: &mut HeaderMap) {
    let free_memory = snapshot.memory_total.saturating_sub(snapshot.memory_busy);
    headers.insert(NODE_NAME, node.identity.header.clone());
    headers.insert(FREE_MEM, HeaderValue::from(free_memory));
    if let Ok(free_cpu) =
        HeaderValue::try_from(six_decimals(snapshot.cpu_total - snapshot.cpu_used))
    {
        headers.insert(FREE_CPU, free_cpu);
    }
    headers.insert(TIMESTAMP, HeaderValue::from(unix_now() as u64));
    headers.insert(
        NODE_ARCH,
        HeaderValue::from_static(node.identity.architecture),
    );
}

/// `{:.6}`, for numbers of cores: formatting an exact fraction is slow, and this is on the warm path.
fn six_decimals(number: f64) -> String {
    let millionths = (number.max(0.0) * 1e6).round() as u64;
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}
