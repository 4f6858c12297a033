//! Workflows of the whole fleet: `/workflow/<name>` in the original's form, with the definition that
//! was registered here beside it.
//!
//! As with functions, a change goes to etcd first and everything else follows from what etcd says.
//! What another implementation has put there has no definition: its tasks become one. What the
//! original can't express has a stand-in for its nodes that says so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serverledge_api::SerializedWorkflow;
use tracing::warn;

use super::etcd::Entry;
use super::mirror::{self, Kind, ShareError};
use crate::node::Node;
use crate::workflows::definition::{self, Options, Record, Workflow};
use crate::workflows::error::RegisterError;
use crate::workflows::original;

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

impl Kind for Workflow {
    const PREFIX: &'static str = "/workflow/";
    const NOUN: &'static str = "workflow";

    type Error = RegisterError;

    fn names(node: &Node) -> Vec<Arc<str>> {
        node.workflows.catalog.names()
    }

    fn find(node: &Node, name: &str) -> Option<Arc<Self>> {
        node.workflows.catalog.workflow(name)
    }

    fn shared(&self) -> Option<u64> {
        self.record.shared
    }

    async fn value(&self, node: &Arc<Node>) -> Result<Vec<u8>, ShareError> {
        Ok(value(node, &self.record))
    }

    async fn adopt(node: &Arc<Node>, entry: Entry) -> bool {
        adopt(node, entry).await
    }

    async fn forget(node: &Arc<Node>, name: &str, revision: u64) -> Result<(), RegisterError> {
        definition::forget(node, name, revision).await
    }

    async fn mark(self: &Arc<Self>, node: &Arc<Node>, revision: u64) -> Result<(), RegisterError> {
        definition::mark_shared(node, self, revision).await
    }
}

/// The original's JSON of a workflow, with ours beside it.
pub(super) fn value(node: &Node, record: &Record) -> Vec<u8> {
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

/// Takes over a workflow as etcd has it; `false` if it is none.
async fn adopt(node: &Arc<Node>, entry: Entry) -> bool {
    let Some(name) = entry.key.strip_prefix(Workflow::PREFIX) else {
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
            mirror::forget::<Workflow>(node, name, entry.revision).await;
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
            mirror::forget::<Workflow>(node, name, entry.revision).await;
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
