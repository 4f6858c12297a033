//! `/v1/nodes`: who is in the fleet and how they are, as this node sees it. `/v1/code`: code for
//! other nodes. `/v1/function`, `/v1/copies`: where there is no registry, functions for other nodes, and
//! of others.

use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;
use serverledge_core::Timestamp;
use serverledge_core::fleet::{Health, Known};

use super::error::ApiError;
use super::{JSON, Reply, allow, json, reply};
use crate::code::Digest;
use crate::federation::code::PATH;
use crate::federation::{Federation, Member, copies};
use crate::node::Node;

/// Answers what is about the fleet; `None` for other paths.
pub(super) async fn route(
    node: &Arc<Node>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Option<Result<Reply, ApiError>> {
    let (asked, digest) = [PATH, copies::PATH]
        .into_iter()
        .find_map(|prefix| Some((prefix, path.strip_prefix(prefix)?)))
        .unwrap_or((path, ""));
    if !["/v1/nodes", "/v1/copies", PATH, copies::PATH].contains(&asked) {
        return None;
    }
    if let Err(error) = allow(method, Method::GET) {
        return Some(Err(error));
    }
    Some(match asked {
        PATH => code(node, digest, headers).await,
        copies::PATH => function(node, digest, headers),
        "/v1/copies" => Ok(copies_of(node)),
        _ => Ok(nodes(node)),
    })
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "Key")]
    key: &'a str,
    #[serde(rename = "Area")]
    area: &'a str,
    #[serde(rename = "Architecture")]
    architecture: &'a str,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "StatusPort")]
    status_port: u16,
    #[serde(rename = "IsBalancer")]
    is_balancer: bool,
    #[serde(flatten)]
    health: Option<Shape>,
}

/// What a node has told, and whether it lives.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shape {
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Told>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    /// How long ago, seconds.
    age: f64,
    total_memory: u64,
    available_memory: u64,
    free_memory: u64,
    #[serde(rename = "TotalCPU")]
    total_cpu: f64,
    #[serde(rename = "UsedCPU")]
    used_cpu: f64,
    /// Estimated round trip, seconds.
    distance: f64,
}

impl<'a> Shown<'a> {
    fn of(path: &str, member: &'a Member, federation: &Federation) -> Self {
        let peers = federation.peers();
        Self {
            key: &member.key,
            area: &member.area,
            architecture: &member.architecture,
            address: format!("{}:{}", member.host, member.api_port),
            status_port: member.udp_port,
            is_balancer: member.is_balancer,
            health: peers.known(path).map(|known| shape(&known, peers.now())),
        }
    }
}

fn shape(known: &Known, now: Timestamp) -> Shape {
    let told = || {
        let status = known.status.as_ref()?;
        Some(Told {
            age: now.since(known.heard?).as_secs_f64(),
            total_memory: status.memory_total,
            available_memory: status.memory_available,
            free_memory: status.memory_free,
            total_cpu: status.cpu_total,
            used_cpu: status.cpu_used,
            distance: known.distance?,
        })
    };
    Shape {
        health: match known.health(now) {
            Health::Alive => "alive",
            Health::Unknown => "unknown",
            Health::Dead => "dead",
        },
        status: told(),
    }
}

/// The code with this digest, as it was sent to whoever had it first.
async fn code(node: &Arc<Node>, raw_digest: &str, headers: &HeaderMap) -> Result<Reply, ApiError> {
    let none = || ApiError::NoCode(raw_digest.chars().take(64).collect());
    let federation = node.federation.as_ref().ok_or_else(none)?;
    if !federation.may_have_code(&format!("{PATH}{raw_digest}"), headers) {
        return Err(ApiError::Unsigned);
    }
    let digest = Digest::parse(raw_digest).map_err(|_| none())?;
    let _turn = federation.transfers.hand_out().await;
    let reader = Arc::clone(node);
    let bytes_max = node.config.api.create_body_max;
    let read = move || reader.code.as_sent(&digest, bytes_max);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(Some(archive))) => Ok(reply(StatusCode::OK, BYTES, archive)),
        _ => Err(none()),
    }
}

/// The definition with this digest, of a function of this node's own.
fn function(node: &Node, raw_digest: &str, headers: &HeaderMap) -> Result<Reply, ApiError> {
    let federation = node.federation.as_ref();
    let federation = federation.ok_or(ApiError::UnknownFunction)?;
    if !federation.may_have_code(&format!("{}{raw_digest}", copies::PATH), headers) {
        return Err(ApiError::Unsigned);
    }
    let digest = Digest::parse(raw_digest).map_err(|_| ApiError::UnknownFunction)?;
    let definition = federation.definition(node, &digest);
    let definition = definition.ok_or(ApiError::UnknownFunction)?;
    Ok(reply(StatusCode::OK, JSON, definition))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Copy {
    name: String,
    /// Digest of the definition.
    revision: String,
    /// Key of the node it is from.
    origin: String,
    /// Since its last call, seconds.
    idle: f64,
}

/// Functions of others that this node has.
fn copies_of(node: &Node) -> Reply {
    let copies = node.federation.as_ref().map(|it| it.copies.shown());
    let copies = copies.unwrap_or_default().into_iter().map(|it| Copy {
        name: it.name,
        revision: it.revision.to_string(),
        origin: it.origin,
        idle: it.idle.as_secs_f64(),
    });
    json(&copies.collect::<Vec<_>>())
}

const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// All members; none if the node is in no fleet.
fn nodes(node: &Node) -> Reply {
    let Some(federation) = &node.federation else {
        return json(&[(); 0]);
    };
    let members = federation.members().all();
    let shown = members
        .iter()
        .map(|(path, it)| Shown::of(path, it, federation));
    json(&shown.collect::<Vec<_>>())
}
