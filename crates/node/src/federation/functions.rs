//! Functions of the whole fleet: `/function/<name>` in the original's JSON, with the code inside.
//!
//! A node that has etcd changes a function there first: what is acknowledged is known to the fleet.
//! Everything else follows from what etcd says. Each record remembers the revision of etcd under
//! which it is there (`FunctionRecord::shared`): that tells an old event from news, and a function
//! that was deleted elsewhere from one that etcd never had or has lost, which is put there (again).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serverledge_api::FunctionSpec;
use serverledge_core::Language;
use tracing::warn;

use super::etcd::{Entry, VALUE_MAX};
use super::mirror::{self, Kind, ShareError};
use crate::catalog::{Function, FunctionRecord};
use crate::code::Digest;
use crate::http::error::ApiError;
use crate::http::functions;
use crate::node::Node;
use crate::objects::codes;

/// What a function's value may hold beside its code, bytes.
const REST_MAX: usize = 32 << 10;

/// Largest archive that goes through etcd; as base64 it is a third larger. Others are pulled.
pub(super) const ARCHIVE_MAX: usize = (VALUE_MAX - REST_MAX) / 4 * 3;

impl Kind for Function {
    const PREFIX: &'static str = "/function/";
    const NOUN: &'static str = "function";

    type Error = ApiError;

    fn names(node: &Node) -> Vec<Arc<str>> {
        node.catalog.names()
    }

    fn find(node: &Node, name: &str) -> Option<Arc<Self>> {
        node.catalog.function(name)
    }

    fn shared(&self) -> Option<u64> {
        self.record.shared
    }

    async fn value(&self, node: &Arc<Node>) -> Result<Vec<u8>, ShareError> {
        value(node, &self.record).await
    }

    async fn adopt(node: &Arc<Node>, entry: Entry) -> bool {
        match read(&entry) {
            Some(spec) => adopt(node, spec, entry.revision).await,
            None => false,
        }
    }

    async fn adopt_soon(node: &Arc<Node>, entry: Entry) -> bool {
        let revision = entry.revision;
        let Some(spec) = read(&entry) else {
            return false;
        };
        if spec.code_digest.is_empty() {
            return adopt(node, spec, revision).await;
        }
        // Its code comes from another node. Should that fail, it is tried again when the function is
        // called, or when everything is read again.
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let transfers = node.federation.as_ref().map(|it| &it.transfers);
            if let Some(_claim) = transfers.and_then(|it| it.claim(&spec.name, revision)) {
                adopt(&node, spec, revision).await;
            }
        });
        true
    }

    async fn forget(node: &Arc<Node>, name: &str, revision: u64) -> Result<(), ApiError> {
        functions::forget(node, name, revision).await
    }

    async fn mark(self: &Arc<Self>, node: &Arc<Node>, revision: u64) -> Result<(), ApiError> {
        functions::mark_shared(node, self, revision).await
    }
}

/// The original's JSON of a function.
pub(super) async fn value(
    node: &Arc<Node>,
    record: &FunctionRecord,
) -> Result<Vec<u8>, ShareError> {
    let digest = record.code.clone().unwrap_or_default();
    let archive = match Digest::parse(&digest) {
        Ok(digest) => {
            let node = Arc::clone(node);
            let read = move || node.code.archive(&digest, ARCHIVE_MAX);
            let read = tokio::task::spawn_blocking(read).await;
            read.unwrap_or(Ok(None)).map_err(ShareError::Code)?
        }
        Err(_) => Some(Vec::new()),
    };
    let (code, code_digest, code_holder) = match archive {
        Some(archive) => (STANDARD.encode(archive), String::new(), String::new()),
        None => {
            // So that whoever hears of the function finds it there.
            if let Ok(digest) = Digest::parse(&digest) {
                codes::keep(node, &digest).await;
            }
            (String::new(), digest, node.identity.key.clone())
        }
    };
    let value = serverledge_api::encode(&FunctionSpec {
        code,
        code_digest,
        code_holder,
        ..spec(node, record)
    });
    if value.len() > VALUE_MAX {
        return Err(ShareError::TooLarge);
    }
    Ok(value)
}

/// As others are told of a function, without anything of its code.
pub(super) fn spec(node: &Node, record: &FunctionRecord) -> FunctionSpec {
    FunctionSpec {
        name: record.name.clone(),
        runtime: record.runtime.clone(),
        memory_mb: i64::try_from(record.memory_mb).unwrap_or(i64::MAX),
        cpu_demand: record.cpu,
        max_concurrency: i16::try_from(record.max_concurrency).unwrap_or(i16::MAX),
        handler: record.handler.clone(),
        custom_image: record.custom_image.clone(),
        supported_archs: Some(architectures(node, record)),
        signature: record.signature.clone(),
        timeout_seconds: record.timeout_seconds,
        preload: record.preload.clone(),
        network: record.network.clone(),
        ..FunctionSpec::default()
    }
}

/// Of whose nodes can run it: those that somebody said, else any for the usual runtimes, and for an
/// image that of the node it was registered on.
fn architectures(node: &Node, record: &FunctionRecord) -> Vec<String> {
    let language = node
        .runtime(&record.runtime)
        .map(|runtime| runtime.language);
    let names: &[&str] = match language {
        _ if !record.architectures.is_empty() => return record.architectures.clone(),
        Some(Language::Custom) | None => &[node.identity.architecture],
        Some(_) => &["amd64", "arm64"],
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The function in an entry, if there is one.
fn read(entry: &Entry) -> Option<FunctionSpec> {
    let key = &entry.key;
    let spec: FunctionSpec = match serverledge_api::decode(&entry.value) {
        Ok(spec) => spec,
        Err(error) => {
            warn!(key, %error, "what etcd has is no function; left out");
            return None;
        }
    };
    let name = &spec.name;
    if key.strip_prefix(Function::PREFIX) != Some(name.as_str()) {
        warn!(
            key,
            name, "a function has another name in etcd than it says; left out"
        );
        return None;
    }
    Some(spec)
}

/// Takes over a function as etcd has it; `false` if this node can't run it.
async fn adopt(node: &Arc<Node>, spec: FunctionSpec, revision: u64) -> bool {
    let name = spec.name.clone();
    match functions::adopt(node, spec, revision).await {
        Ok(()) => true,
        Err(error) => {
            let error = crate::chain(&error);
            warn!(
                function = name,
                error, "a function of the fleet can't run here; left out"
            );
            // An older one is not what callers mean any more.
            mirror::forget::<Function>(node, &name, revision).await;
            false
        }
    }
}
