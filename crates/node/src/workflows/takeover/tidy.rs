//! Definitions in etcd that no execution there has any more are removed.
//!
//! Whoever publishes an execution touches the mark of its definition in the same transaction, on the
//! condition that the definition is there. A definition is removed if its mark is as it was before the
//! executions were looked through, so that none comes in between.

use std::collections::{BTreeMap, BTreeSet};

use super::Takeover;
use super::keys::{self, Head};
use super::own::Unsettled;
use crate::federation::etcd::Values;
use crate::federation::etcd::transaction::Transaction;

/// Executions that are read at once.
const PAGE: usize = 500;

pub(super) async fn tidy(takeover: &Takeover) -> Result<(), Unsettled> {
    let etcd = &takeover.etcd;
    let (marks, _) = etcd.list(&keys::uses(""), Values::Left).await?;
    let marks: BTreeMap<String, u64> = marks
        .into_iter()
        .map(|entry| (entry.key, entry.revision))
        .collect();
    let (definitions, _) = etcd.list(keys::DEFINITIONS, Values::Left).await?;
    if definitions.is_empty() {
        return Ok(());
    }
    let wanted = wanted(takeover).await?;
    for definition in definitions {
        let digest = definition.key.strip_prefix(keys::DEFINITIONS);
        let Some(digest) = digest.filter(|digest| !wanted.contains(*digest)) else {
            continue;
        };
        let mark = keys::uses(digest);
        let remove = Transaction::default()
            .if_at(&mark, marks.get(&mark).copied().unwrap_or(0))
            .delete(&mark)
            .delete(&definition.key);
        etcd.transact(&remove).await?;
        takeover.undefine(digest);
    }
    Ok(())
}

/// Digests of definitions that executions have.
async fn wanted(takeover: &Takeover) -> Result<BTreeSet<String>, Unsettled> {
    let mut wanted = BTreeSet::new();
    let mut from: Option<String> = None;
    loop {
        let (etcd, from_here) = (&takeover.etcd, from.as_deref());
        let page = etcd
            .page(keys::HEADS, from_here, PAGE, Values::Included)
            .await?;
        let heads = page.iter().filter_map(|entry| Head::decode(&entry.value));
        wanted.extend(heads.map(|head| head.digest));
        match page.last() {
            Some(last) if page.len() == PAGE => from = Some(format!("{}0", last.key)),
            _ => return Ok(wanted),
        }
    }
}
