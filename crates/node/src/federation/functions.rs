//! Functions of the whole fleet: `/function/<name>` in the original's JSON, with the code inside.
//!
//! A node that has etcd changes a function there first: what is acknowledged is known to the fleet.
//! Everything else follows from what etcd says. Each record remembers the revision of etcd under
//! which it is there (`FunctionRecord::shared`): that tells an old event from news, and a function
//! that was deleted elsewhere from one that etcd never had or has lost, which is put there (again).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serverledge_api::FunctionSpec;
use serverledge_core::Language;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::etcd::{Entry, Etcd, EtcdError, Event, VALUE_MAX};
use super::follow::Change;
use crate::catalog::FunctionRecord;
use crate::code::{CodeError, Digest};
use crate::http::functions;
use crate::node::Node;

/// What begins the keys of functions.
pub(super) const PREFIX: &str = "/function/";

/// What a function's value may hold beside its code, bytes.
const REST_MAX: usize = 32 << 10;

/// Largest archive that goes through etcd; as base64 it is a third larger. Others are pulled.
const ARCHIVE_MAX: usize = (VALUE_MAX - REST_MAX) / 4 * 3;

/// Why a function was not put into etcd.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It is there already.
    #[error("the function exists already")]
    Exists,
    /// What describes it is too large.
    #[error("the function is larger than the {VALUE_MAX} bytes that etcd takes, even without code")]
    TooLarge,
    /// Its code could not be read.
    #[error("the code could not be read")]
    Code(#[source] CodeError),
    /// etcd was of no help.
    #[error("the function could not be put into etcd")]
    Etcd(#[from] EtcdError),
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Puts a function into etcd, `new` ones only if it isn't there. etcd's revision since.
pub(super) async fn put(
    etcd: &Etcd,
    node: &Arc<Node>,
    record: &FunctionRecord,
    new: bool,
) -> Result<u64, ShareError> {
    let value = value(node, record).await?;
    let key = key(&record.name);
    match new {
        true => etcd.create(&key, &value).await?.ok_or(ShareError::Exists),
        false => Ok(etcd.put(&key, &value, None).await?),
    }
}

/// Removes a function from etcd.
pub(super) async fn delete(etcd: &Etcd, name: &str) -> Result<(), EtcdError> {
    etcd.delete(&key(name)).await.map(drop)
}

/// Takes over a function that may have been registered a moment ago.
pub(super) async fn fetch(etcd: &Etcd, node: &Arc<Node>, name: &str) -> Result<(), EtcdError> {
    if let Some(entry) = etcd.get(&key(name)).await?
        && let Some(spec) = read(&entry)
    {
        adopt(node, spec, entry.revision).await;
    }
    Ok(())
}

/// The original's JSON of a function.
async fn value(node: &Arc<Node>, record: &FunctionRecord) -> Result<Vec<u8>, ShareError> {
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
        None => (String::new(), digest, node.identity.key.clone()),
    };
    let spec = FunctionSpec {
        name: record.name.clone(),
        runtime: record.runtime.clone(),
        memory_mb: i64::try_from(record.memory_mb).unwrap_or(i64::MAX),
        cpu_demand: record.cpu,
        max_concurrency: i16::try_from(record.max_concurrency).unwrap_or(i16::MAX),
        handler: record.handler.clone(),
        code,
        code_digest,
        code_holder,
        custom_image: record.custom_image.clone(),
        supported_archs: Some(architectures(node, record)),
        signature: record.signature.clone(),
        timeout_seconds: record.timeout_seconds,
        preload: record.preload.clone(),
        network: record.network.clone(),
    };
    let value = serverledge_api::encode(&spec);
    if value.len() > VALUE_MAX {
        return Err(ShareError::TooLarge);
    }
    Ok(value)
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

/// Lets the catalog follow what etcd says. `read` is told when everything has been taken over once.
pub(super) async fn mirror(
    node: Arc<Node>,
    etcd: Arc<Etcd>,
    mut changes: mpsc::Receiver<Change>,
    read: watch::Sender<bool>,
) {
    // What this node can't run, so that it is said once.
    let mut left_out = BTreeMap::new();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Listed(entries, revision) => {
                reconcile(&node, &etcd, entries, revision, &mut left_out).await;
                read.send_replace(true);
            }
            Change::Event(Event::Put(entry)) => take(&node, entry, &mut left_out).await,
            Change::Event(Event::Deleted(key, revision)) => {
                if let Some(name) = key.strip_prefix(PREFIX) {
                    forget(&node, name, revision).await;
                }
            }
            Change::Away => {}
        }
    }
}

/// Makes the catalog what etcd lists, which has no values, at this revision.
async fn reconcile(
    node: &Arc<Node>,
    etcd: &Etcd,
    entries: Vec<Entry>,
    revision: u64,
    left_out: &mut BTreeMap<String, u64>,
) {
    let names = entries.iter().filter_map(|e| e.key.strip_prefix(PREFIX));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    for entry in &entries {
        let Some(name) = entry.key.strip_prefix(PREFIX) else {
            continue;
        };
        let known = shared(node, name) == Some(entry.revision);
        if known || left_out.get(name) == Some(&entry.revision) {
            continue;
        }
        match etcd.get(&entry.key).await {
            Ok(Some(entry)) => take(node, entry, left_out).await,
            // Deleted since: the watch will say so.
            Ok(None) => {}
            // Away: everything is listed again when it is back.
            Err(_) => return,
        }
    }
    for name in node.catalog.names() {
        if names.contains(&*name) {
            continue;
        }
        match shared(node, &name) {
            Some(then) if then <= revision => forget(node, &name, revision).await,
            _ => publish(node, etcd, &name).await,
        }
    }
}

/// The revision under which etcd has the function, as far as this node knows.
fn shared(node: &Node, name: &str) -> Option<u64> {
    node.catalog.function(name)?.record.shared
}

async fn take(node: &Arc<Node>, entry: Entry, left_out: &mut BTreeMap<String, u64>) {
    let revision = entry.revision;
    let name = entry.key.strip_prefix(PREFIX).map(str::to_owned);
    let Some(spec) = read(&entry) else {
        left_out.extend(name.map(|name| (name, revision)));
        return;
    };
    if !spec.code_digest.is_empty() {
        // Getting the code may take long, and others shall not wait for it. Should it fail, it is
        // tried again when the function is called, or when everything is read again.
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let transfers = node.federation.as_ref().map(|it| &it.transfers);
            if let Some(_claim) = transfers.and_then(|it| it.claim(&spec.name, revision)) {
                adopt(&node, spec, revision).await;
            }
        });
        return;
    }
    let taken = adopt(node, spec, revision).await;
    if let (false, Some(name)) = (taken, name) {
        left_out.insert(name, revision);
    }
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
    if key.strip_prefix(PREFIX) != Some(name.as_str()) {
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
            forget(node, &name, revision).await;
            false
        }
    }
}

/// Removes a function that etcd doesn't have at this revision.
async fn forget(node: &Arc<Node>, name: &str, revision: u64) {
    if let Err(error) = functions::forget(node, name, revision).await {
        let error = crate::chain(&error);
        warn!(
            function = name,
            error, "a deleted function could not be removed"
        );
    }
}

/// Puts a function into etcd that it hasn't: one from before there was an etcd, or that it lost.
async fn publish(node: &Arc<Node>, etcd: &Etcd, name: &str) {
    let Some(function) = node.catalog.function(name) else {
        return;
    };
    match put(etcd, node, &function.record, true).await {
        Ok(revision) => {
            info!(function = name, "put into etcd");
            if let Err(error) = functions::mark_shared(node, &function, revision).await {
                let error = crate::chain(&error);
                warn!(
                    function = name,
                    error, "that it is in etcd could not be stored"
                );
            }
        }
        // Registered elsewhere since: the watch will say so.
        Err(ShareError::Exists) => {}
        Err(error) => {
            let error = crate::chain(&error);
            warn!(function = name, error, "only this node has the function");
        }
    }
}
