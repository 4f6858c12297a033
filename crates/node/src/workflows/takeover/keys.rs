//! Executions in etcd: where they are, and what a head says.
//!
//! | key, below `serverledge/executions/` | value |
//! |---|---|
//! | `nodes/<node>` | who can own executions: there for as long as the node's lease |
//! | `heads/<id>` | a [`Head`]: whose the execution is, and what it is. What comes to its journal is written only as long as this is unchanged |
//! | `journals/<id>/<number>` | a record, as in the node's own journal |
//! | `of/<node>/<group>/<id>` | nothing: the executions of a node; a group is an execution with those that it has started |
//! | `definitions/<digest>`, `uses/<digest>` | a definition, and when it was wanted last |
//!
//! The original's nodes read none of these, and what scans etcd for functions or members doesn't take
//! them for either.

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serverledge_core::takeover::Owner;

use super::super::summary::Summary;
use super::super::{id_of, text_of};
use crate::store::executions::Id;

/// What begins the keys of nodes that can own executions.
pub(crate) const NODES: &str = "serverledge/executions/nodes/";

/// What begins the keys of the executions of nodes.
pub(super) const OWNED: &str = "serverledge/executions/of/";

/// What begins the keys of definitions.
pub(super) const DEFINITIONS: &str = "serverledge/executions/definitions/";

/// What begins the keys of executions.
pub(super) const HEADS: &str = "serverledge/executions/heads/";

pub(super) fn node(key: &str) -> String {
    format!("{NODES}{}", encoded(key))
}

/// The node of a key that begins with [`NODES`].
pub(super) fn node_of(key: &str) -> Option<String> {
    decoded(key.strip_prefix(NODES)?)
}

pub(super) fn head(id: Id) -> String {
    format!("{HEADS}{}", text_of(id))
}

/// What begins the keys of an execution's records.
pub(super) fn journal(id: Id) -> String {
    format!("serverledge/executions/journals/{}/", text_of(id))
}

pub(super) fn record(id: Id, sequence: u64) -> String {
    format!("{}{sequence:020}", journal(id))
}

/// The number of a record.
pub(super) fn sequence_of(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.parse().ok()
}

/// What begins the keys of a node's executions.
pub(super) fn owned_by(node: &str) -> String {
    format!("{OWNED}{}/", encoded(node))
}

pub(super) fn owned(node: &str, (group, id): Member) -> String {
    format!("{}{}/{}", owned_by(node), text_of(group), text_of(id))
}

/// An execution, after the one that all of its group descend from.
pub(super) type Member = (Id, Id);

/// Node and execution of a key that begins with [`OWNED`].
pub(super) fn owned_of(key: &str) -> Option<(String, Member)> {
    let (node, member) = key.strip_prefix(OWNED)?.split_once('/')?;
    let (group, id) = member.split_once('/')?;
    Some((decoded(node)?, (id_of(group)?, id_of(id)?)))
}

/// The first key after those of the same node as this one, which begins with [`OWNED`], whatever else
/// it is.
pub(super) fn after_owned_like(key: &str) -> String {
    let rest = key.strip_prefix(OWNED).unwrap_or_default();
    let node = rest.split('/').next().unwrap_or_default();
    // The character after '/'.
    format!("{OWNED}{node}0")
}

pub(super) fn definition(digest: &str) -> String {
    format!("{DEFINITIONS}{digest}")
}

pub(super) fn uses(digest: &str) -> String {
    format!("serverledge/executions/uses/{digest}")
}

/// A name as one part of a key.
fn encoded(name: &str) -> String {
    serverledge_api::escape(name).replace('/', "%2F")
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// What says whose an execution is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Head {
    /// The node that runs it, or has ended it.
    pub(super) node: String,
    /// Where that is.
    pub(super) area: String,
    /// How often it was taken up by a node.
    pub(super) epoch: u64,
    pub(super) workflow: String,
    pub(super) name: String,
    pub(super) is_named: bool,
    /// Digest of its definition.
    pub(super) digest: String,
    /// As it was when it became this node's.
    pub(super) summary: Summary,
    /// Whether it has ended, on a node where it didn't begin: for those who had it before.
    #[serde(default)]
    pub(super) is_over: bool,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        serverledge_api::encode(self)
    }

    /// `None` for what can't be read: then it is nobody's.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn owner(&self) -> Owner<'_> {
        Owner {
            node: &self.node,
            epoch: self.epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_of() {
        let id = 7 << 80;
        let member = (5, id);
        for key in ["a", "a/b", "ä ö"] {
            assert_eq!(node_of(&node(key)).as_deref(), Some(key));
            let read = owned_of(&owned(key, member));
            assert_eq!(read, Some((key.to_owned(), member)));
            let last = owned(key, (u128::MAX, u128::MAX));
            assert!(last < after_owned_like(&owned(key, member)));
        }
        assert!(after_owned_like(&owned("a", member)) <= owned("a0", (0, 0)));
        // What no node has written.
        for key in ["a:b/x", "a:b", "", "/"] {
            let key = format!("{OWNED}{key}");
            assert!(after_owned_like(&key) > key);
        }
        assert_eq!(sequence_of(&record(id, 12)), Some(12));
        // Numbers are in order where keys are.
        assert!(record(id, 9) < record(id, 10));
        assert!(record(id, u64::MAX).starts_with(&journal(id)));
        for odd in ["serverledge/executions/of/a", "of/a/x", "x"] {
            assert_eq!(owned_of(odd), None);
        }
    }
}
