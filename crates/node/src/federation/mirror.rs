//! A catalog of this node that is the same in the whole fleet: it follows what etcd has below a
//! prefix, and puts there what etcd never had or has lost.
//!
//! Each record remembers the revision of etcd under which it is there. That tells an old event from
//! news, and what was deleted elsewhere from what etcd doesn't know yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::etcd::{Entry, Etcd, EtcdError, Event, VALUE_MAX};
use super::follow::Change;
use crate::code::CodeError;
use crate::node::Node;

/// Why something was not put into etcd.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It is there already.
    #[error("etcd has one of that name already")]
    Exists,
    /// What describes it is too large.
    #[error("it is larger than the {VALUE_MAX} bytes that etcd takes, even without code")]
    TooLarge,
    /// Its code could not be read.
    #[error("the code could not be read")]
    Code(#[source] CodeError),
    /// etcd was of no help.
    #[error("it could not be put into etcd")]
    Etcd(#[from] EtcdError),
}

/// What the fleet shares: functions, workflows.
pub(super) trait Kind: Sized + Send + Sync + 'static {
    /// What begins the keys.
    const PREFIX: &'static str;

    /// What one is called in messages.
    const NOUN: &'static str;

    /// Why one could not be stored or removed.
    type Error: std::error::Error + Send;

    /// The names of all that this node knows.
    fn names(node: &Node) -> Vec<Arc<str>>;

    /// The one of that name.
    fn find(node: &Node, name: &str) -> Option<Arc<Self>>;

    /// Under which revision etcd has it, as far as this node knows.
    fn shared(&self) -> Option<u64>;

    /// The value in etcd.
    fn value(&self, node: &Arc<Node>) -> impl Future<Output = Result<Vec<u8>, ShareError>> + Send;

    /// Takes over what etcd has, unless this node has a newer one; `false` if it can't be had here,
    /// about which it has said so.
    fn adopt(node: &Arc<Node>, entry: Entry) -> impl Future<Output = bool> + Send;

    /// The same of one among others, which shall not wait for what may take long.
    fn adopt_soon(node: &Arc<Node>, entry: Entry) -> impl Future<Output = bool> + Send {
        Self::adopt(node, entry)
    }

    /// Removes the one of that name, if etcd had it at a revision not after this one.
    fn forget(
        node: &Arc<Node>,
        name: &str,
        revision: u64,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Remembers that etcd has it since `revision`.
    fn mark(
        self: &Arc<Self>,
        node: &Arc<Node>,
        revision: u64,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// The key of one in etcd.
pub(super) fn key<K: Kind>(name: &str) -> String {
    format!("{}{name}", K::PREFIX)
}

/// Puts one into etcd, `new` ones only if the name is free. etcd's revision since.
pub(super) async fn put<K: Kind>(
    etcd: &Etcd,
    name: &str,
    value: Vec<u8>,
    new: bool,
) -> Result<u64, ShareError> {
    if value.len() > VALUE_MAX {
        return Err(ShareError::TooLarge);
    }
    let key = key::<K>(name);
    match new {
        true => etcd.create(&key, &value).await?.ok_or(ShareError::Exists),
        false => Ok(etcd.put(&key, &value, None).await?),
    }
}

/// Removes one from etcd.
pub(super) async fn delete<K: Kind>(etcd: &Etcd, name: &str) -> Result<(), EtcdError> {
    etcd.delete(&key::<K>(name)).await.map(drop)
}

/// Takes over one that may have been registered a moment ago.
pub(super) async fn fetch<K: Kind>(
    etcd: &Etcd,
    node: &Arc<Node>,
    name: &str,
) -> Result<(), EtcdError> {
    if let Some(entry) = etcd.get(&key::<K>(name)).await? {
        K::adopt(node, entry).await;
    }
    Ok(())
}

/// Lets the catalog follow what etcd says. `read` is told when everything has been taken over once.
pub(super) async fn mirror<K: Kind>(
    node: Arc<Node>,
    etcd: Arc<Etcd>,
    mut changes: mpsc::Receiver<Change>,
    read: watch::Sender<bool>,
) {
    // What this node can't have, so that it is said once.
    let mut left_out = BTreeMap::new();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Listed(entries, revision) => {
                reconcile::<K>(&node, &etcd, entries, revision, &mut left_out).await;
                read.send_replace(true);
            }
            Change::Event(Event::Put(entry)) => take::<K>(&node, entry, &mut left_out).await,
            Change::Event(Event::Deleted(key, revision)) => {
                if let Some(name) = key.strip_prefix(K::PREFIX) {
                    forget::<K>(&node, name, revision).await;
                }
            }
            Change::Away => {}
        }
    }
}

/// Makes the catalog what etcd lists, which has no values, at this revision.
async fn reconcile<K: Kind>(
    node: &Arc<Node>,
    etcd: &Etcd,
    entries: Vec<Entry>,
    revision: u64,
    left_out: &mut BTreeMap<String, u64>,
) {
    let shared = |name: &str| K::find(node, name)?.shared();
    let names = entries
        .iter()
        .filter_map(|entry| entry.key.strip_prefix(K::PREFIX));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    for entry in &entries {
        let Some(name) = entry.key.strip_prefix(K::PREFIX) else {
            continue;
        };
        let known = shared(name) == Some(entry.revision);
        if known || left_out.get(name) == Some(&entry.revision) {
            continue;
        }
        match etcd.get(&entry.key).await {
            Ok(Some(entry)) => take::<K>(node, entry, left_out).await,
            // Deleted since: the watch will say so.
            Ok(None) => {}
            // Away: everything is listed again when it is back.
            Err(_) => return,
        }
    }
    for name in K::names(node) {
        if names.contains(&*name) {
            continue;
        }
        match shared(&name) {
            Some(then) if then <= revision => forget::<K>(node, &name, revision).await,
            _ => publish::<K>(node, etcd, &name).await,
        }
    }
}

async fn take<K: Kind>(node: &Arc<Node>, entry: Entry, left_out: &mut BTreeMap<String, u64>) {
    let revision = entry.revision;
    let name = entry.key.strip_prefix(K::PREFIX).map(str::to_owned);
    let taken = K::adopt_soon(node, entry).await;
    if let (false, Some(name)) = (taken, name) {
        left_out.insert(name, revision);
    }
}

/// Removes what etcd doesn't have at this revision.
pub(super) async fn forget<K: Kind>(node: &Arc<Node>, name: &str, revision: u64) {
    if let Err(error) = K::forget(node, name, revision).await {
        let error = crate::chain(&error);
        warn!(name, error, "a deleted {} could not be removed", K::NOUN);
    }
}

/// Puts one into etcd that it hasn't: from before there was an etcd, or lost there.
async fn publish<K: Kind>(node: &Arc<Node>, etcd: &Etcd, name: &str) {
    let Some(one) = K::find(node, name) else {
        return;
    };
    let put = match one.value(node).await {
        Ok(value) => put::<K>(etcd, name, value, true).await,
        Err(error) => Err(error),
    };
    match put {
        Ok(revision) => {
            info!(name, "put a {} into etcd", K::NOUN);
            if let Err(error) = one.mark(node, revision).await {
                let error = crate::chain(&error);
                warn!(
                    name,
                    error,
                    "that a {} is in etcd could not be stored",
                    K::NOUN
                );
            }
        }
        // Registered elsewhere since: the watch will say so.
        Err(ShareError::Exists) => {}
        Err(error) => {
            let error = crate::chain(&error);
            warn!(name, error, "only this node has the {}", K::NOUN);
        }
    }
}
