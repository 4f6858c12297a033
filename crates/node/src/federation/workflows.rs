//! Workflows of the whole fleet: `/workflow/<name>` in the original's form, with the definition that
//! was registered here beside it.
//!
//! As with functions, a change goes to etcd first and everything else follows from what etcd says.
//! What another implementation has put there has no definition: its tasks become one. What the
//! original can't express has a stand-in for its nodes that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serverledge_api::SerializedWorkflow;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::etcd::{Entry, Etcd, EtcdError, Event, VALUE_MAX};
use super::follow::Change;
use super::functions::ShareError;
use crate::node::Node;
use crate::workflows::definition::{self, Options, Record};
use crate::workflows::original;

/// What begins the keys of workflows.
pub(super) const PREFIX: &str = "/workflow/";

/// A workflow as etcd has it.
#[derive(Debug, Serialize)]
struct Shared<'a> {
    #[serde(flatten)]
    serialized: &'a SerializedWorkflow,
    #[serde(rename = "Definition", skip_serializing_if = "Option::is_none")]
    definition: Option<Definition>,
}

/// The part that only nodes like this one read.
#[derive(Debug, Default, Deserialize)]
struct Ours {
    #[serde(rename = "Definition", default)]
    definition: Option<Definition>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    /// In the Amazon States Language.
    text: String,
    #[serde(default)]
    options: Options,
    /// Whether its data flow by the signatures of functions.
    #[serde(default)]
    is_plain: bool,
    /// When it was registered, in milliseconds since 1970.
    #[serde(default)]
    registered: i64,
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Puts a workflow into etcd, `new` ones only if it isn't there. etcd's revision since.
pub(super) async fn put(
    etcd: &Etcd,
    node: &Node,
    record: &Record,
    new: bool,
) -> Result<u64, ShareError> {
    let value = value(node, record);
    if value.len() > VALUE_MAX {
        return Err(ShareError::TooLarge);
    }
    let key = key(&record.name);
    match new {
        true => etcd.create(&key, &value).await?.ok_or(ShareError::Exists),
        false => Ok(etcd.put(&key, &value, None).await?),
    }
}

fn value(node: &Node, record: &Record) -> Vec<u8> {
    let serialized = original::serialized(node, record);
    let stub = || original::export::stub(&record.name, &record.definition());
    let definition = record.original.is_none().then(|| Definition {
        text: record.text.clone(),
        options: record.options.clone(),
        is_plain: record.is_plain,
        registered: record.registered,
    });
    serverledge_api::encode(&Shared {
        serialized: &serialized.unwrap_or_else(stub),
        definition,
    })
}

/// Removes a workflow from etcd.
pub(super) async fn delete(etcd: &Etcd, name: &str) -> Result<(), EtcdError> {
    etcd.delete(&key(name)).await.map(drop)
}

/// Takes over a workflow that may have been registered a moment ago.
pub(super) async fn fetch(etcd: &Etcd, node: &Node, name: &str) -> Result<(), EtcdError> {
    if let Some(entry) = etcd.get(&key(name)).await? {
        adopt(node, entry).await;
    }
    Ok(())
}

/// Lets the catalog follow what etcd says.
pub(super) async fn mirror(node: Arc<Node>, etcd: Arc<Etcd>, mut changes: mpsc::Receiver<Change>) {
    // What is no workflow, so that it is said once.
    let mut left_out = BTreeMap::new();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Listed(entries, revision) => {
                reconcile(&node, &etcd, entries, revision, &mut left_out).await;
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
    node: &Node,
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
    for name in node.workflows.catalog.names() {
        if names.contains(&*name) {
            continue;
        }
        match shared(node, &name) {
            Some(then) if then <= revision => forget(node, &name, revision).await,
            _ => publish(node, etcd, &name).await,
        }
    }
}

/// The revision under which etcd has the workflow, as far as this node knows.
fn shared(node: &Node, name: &str) -> Option<u64> {
    node.workflows.catalog.workflow(name)?.record.shared
}

async fn take(node: &Node, entry: Entry, left_out: &mut BTreeMap<String, u64>) {
    let revision = entry.revision;
    let name = entry.key.strip_prefix(PREFIX).map(str::to_owned);
    let taken = adopt(node, entry).await;
    if let (false, Some(name)) = (taken, name) {
        left_out.insert(name, revision);
    }
}

/// Takes over a workflow as etcd has it; `false` if it is none.
async fn adopt(node: &Node, entry: Entry) -> bool {
    let Some(name) = entry.key.strip_prefix(PREFIX) else {
        return false;
    };
    let record = match read(name, &entry) {
        Ok(record) => record,
        Err(error) => {
            warn!(
                workflow = name,
                error, "what etcd has is no workflow; left out"
            );
            // An older one is not what callers mean any more.
            forget(node, name, entry.revision).await;
            return false;
        }
    };
    match definition::adopt(node, record).await {
        Ok(()) => true,
        Err(error) => {
            let error = crate::chain(&error);
            warn!(
                workflow = name,
                error, "a workflow of the fleet can't run here; left out"
            );
            forget(node, name, entry.revision).await;
            false
        }
    }
}

fn read(name: &str, entry: &Entry) -> Result<Record, String> {
    let text = |error: &dyn std::error::Error| crate::chain(error);
    let serialized: SerializedWorkflow =
        serverledge_api::decode(&entry.value).map_err(|error| text(&error))?;
    if serialized.name != name {
        return Err(format!("it calls itself '{}'", serialized.name));
    }
    let ours: Ours = serverledge_api::decode(&entry.value).map_err(|error| text(&error))?;
    let shared = Some(entry.revision);
    if let Some(Definition {
        text,
        options,
        is_plain,
        registered,
    }) = ours.definition
    {
        return Ok(Record {
            name: name.to_owned(),
            text,
            options,
            is_plain,
            registered,
            shared,
            ..Record::default()
        });
    }
    let definition = original::definition(&serialized).map_err(|error| text(&error))?;
    Ok(Record {
        name: name.to_owned(),
        text: format!("{definition:#}"),
        original: serde_json::to_value(&serialized).ok(),
        registered: crate::workflows::clock(),
        shared,
        ..Record::default()
    })
}

/// Removes a workflow that etcd doesn't have at this revision.
async fn forget(node: &Node, name: &str, revision: u64) {
    if let Err(error) = definition::forget(node, name, revision).await {
        let error = crate::chain(&error);
        warn!(
            workflow = name,
            error, "a deleted workflow could not be removed"
        );
    }
}

/// Puts a workflow into etcd that it hasn't: one from before there was an etcd, or that it lost.
async fn publish(node: &Node, etcd: &Etcd, name: &str) {
    let Some(workflow) = node.workflows.catalog.workflow(name) else {
        return;
    };
    match put(etcd, node, &workflow.record, true).await {
        Ok(revision) => {
            info!(workflow = name, "put into etcd");
            if let Err(error) = definition::mark_shared(node, &workflow, revision).await {
                let error = crate::chain(&error);
                warn!(
                    workflow = name,
                    error, "that it is in etcd could not be stored"
                );
            }
        }
        // Registered elsewhere since: the watch will say so.
        Err(ShareError::Exists) => {}
        Err(error) => {
            let error = crate::chain(&error);
            warn!(workflow = name, error, "only this node has the workflow");
        }
    }
}
