//! This node's own executions: gone on with after a restart, or after etcd was away, if they still are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, warn};

use super::copy::{Copy, Published, Sharing, State};
use super::keys::{self, Head};
use super::{Takeover, claim};
use crate::federation::etcd::transaction::{OPERATIONS_MAX, Transaction};
use crate::federation::etcd::{Entry, EtcdError, VALUE_MAX, Values};
use crate::node::Node;
use crate::store::executions::{Append, Id, Stored};
use crate::workflows::error::RunError;
use crate::workflows::summary::{Status, Summary};
use crate::workflows::text_of;

/// How often executions that wait for etcd are looked after.
const LOOK: Duration = Duration::from_secs(5);

/// Keys that are read at once.
const PAGE: usize = 500;

/// Records that go to etcd together.
const RECORDS_AT_ONCE: usize = 50;

/// Whose an execution is that is taken up from disk.
pub(crate) enum Whose {
    /// This node's; with its copy, if it has one.
    Mine(Option<Copy>),
    /// Another's.
    Lost,
}

/// Looks whose an execution is, and makes both journals the same if it is this node's. Called before
/// its journal is read. Waits for nothing: an execution that has to is roused later.
pub(crate) async fn hold(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    stored: &Stored,
) -> Result<Whose, RunError> {
    let (id, summary) = (stored.id, Summary::decode(&stored.summary));
    if summary.status != Status::Running {
        return Ok(Whose::Mine(None));
    }
    if let Some(held) = takeover.held_as(id) {
        if held.lost.is_cancelled() {
            return Ok(Whose::Lost);
        }
        let takeover = Arc::clone(takeover);
        return Ok(Whose::Mine(Some(Copy { takeover, id, held })));
    }
    if !summary.is_shared && !takeover.is_sharing() {
        return Ok(Whose::Mine(None));
    }
    if !takeover.etcd.is_reachable() {
        // Many that are due at the same time don't all ask.
        return Err(RunError::Away);
    }
    match settle(node, takeover, stored, summary).await {
        Ok(whose) => Ok(whose),
        Err(Unsettled::Run(error)) => Err(error),
        Err(Unsettled::Etcd(error)) => {
            // As it is by now: sharing it may have begun.
            let stored = node.store.execution(id)?;
            if stored.is_some_and(|it| !Summary::decode(&it.summary).is_shared) {
                return Ok(Whose::Mine(None));
            }
            let error = crate::chain(&*error);
            debug!(execution = text_of(id), error, "an execution stands still");
            Err(RunError::Away)
        }
    }
}

/// Why it isn't known whose an execution is.
pub(super) enum Unsettled {
    Run(RunError),
    Etcd(Arc<EtcdError>),
}

impl From<RunError> for Unsettled {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

impl From<crate::store::StoreError> for Unsettled {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Run(error.into())
    }
}

impl From<EtcdError> for Unsettled {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(Arc::new(error))
    }
}

async fn settle(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    stored: &Stored,
    mut summary: Summary,
) -> Result<Whose, Unsettled> {
    loop {
        let entry = takeover.etcd.get(&keys::head(stored.id)).await?;
        let Some(entry) = entry else {
            // It never got there, or etcd has lost it.
            match share(node, takeover, stored, &mut summary).await? {
                Some(copy) => return Ok(Whose::Mine(Some(copy))),
                None => continue,
            }
        };
        let Some(head) = Head::decode(&entry.value) else {
            // Of another version, maybe: what can't be read is no reason to forget anything.
            let execution = text_of(stored.id);
            warn!(
                execution,
                "what etcd has of an execution can't be read; it stands still"
            );
            return Err(RunError::Away.into());
        };
        if head.node != takeover.node {
            return Ok(Whose::Lost);
        }
        if head.is_over {
            // What it says is for others; the execution goes on after its end.
            let state = State {
                revision: 0,
                epoch: summary.epoch,
                generation: 0,
                bytes: 0,
                sharing: Sharing::Alone("it had ended after it had moved".to_owned()),
                has_moved: true,
                group: summary.group(stored.id),
            };
            return Ok(Whose::Mine(Some(Copy::hold(takeover, stored.id, state))));
        }
        if let Some(copy) = take_back(node, takeover, stored, (entry.revision, head)).await? {
            return Ok(Whose::Mine(Some(copy)));
        }
    }
}

/// Writes all of an execution to etcd, where it isn't. `None` if it is there after all.
async fn share(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    stored: &Stored,
    summary: &mut Summary,
) -> Result<Option<Copy>, Unsettled> {
    let id = stored.id;
    let (records, bytes) = records_of(node, id)?;
    let mut state = State {
        revision: 0,
        epoch: summary.epoch,
        generation: takeover.tenure_now().unwrap_or(0),
        bytes,
        sharing: Sharing::Shared,
        has_moved: summary.has_moved,
        group: summary.group(id),
    };
    let largest = records.values().map(Vec::len).max().unwrap_or(0);
    if bytes > takeover.bytes_max || largest > VALUE_MAX - (1 << 10) {
        state.sharing = Sharing::Alone(format!("its journal of {bytes} bytes is too large"));
        return Ok(Some(Copy::hold(takeover, id, state)));
    }
    let definition = node.store.definition(&stored.digest)?;
    let definition = definition.ok_or(RunError::Definition)?;
    if !summary.is_shared {
        // Before others can know of it, this node has to know that they can.
        summary.is_shared = true;
        node.store.mark_execution(id, summary.encode()).await?;
    }
    send(takeover, id, &records, 0).await?;
    let what = Published {
        workflow: &stored.workflow,
        name: &stored.name,
        is_named: stored.name != text_of(id),
        digest: &stored.digest,
        definition: &definition,
        summary,
    };
    let created = takeover.create(id, &what, |write| write).await;
    match created.map_err(Unsettled::Etcd)? {
        Some(revision) => state.revision = revision,
        None => return Ok(None),
    }
    Ok(Some(Copy::hold(takeover, id, state)))
}

/// Makes an execution this node's again that was so before: what an earlier life of the node still
/// has on its way can change nothing after that. `None` if the head has changed.
async fn take_back(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    stored: &Stored,
    (revision, mut head): (u64, Head),
) -> Result<Option<Copy>, Unsettled> {
    let id = stored.id;
    head.epoch = head.epoch.saturating_add(1);
    let member = (head.summary.group(id), id);
    let prefix = keys::journal(id);
    let write = Transaction::default()
        .if_at(&keys::head(id), revision)
        .put(&keys::head(id), &head.encode(), None)
        .put(&keys::owned(&takeover.node, member), b"", None)
        .get_last(&prefix);
    let generation = takeover.tenure_now().unwrap_or(0);
    let done = takeover.etcd.transact(&write).await?;
    if !done.succeeded {
        return Ok(None);
    }
    let there = done.found.first();
    let last = there.and_then(|it| keys::sequence_of(&it.kvs.first()?.key));
    let count = there.map_or(0, |it| it.count);
    let (records, bytes) = records_of(node, id)?;
    let is_same = records.keys().last().copied() == last && records.len() as u64 == count;
    if !is_same {
        let (entries, _) = takeover.etcd.list(&prefix, Values::Included).await?;
        let there: BTreeMap<u64, Entry> = entries
            .into_iter()
            .filter_map(|entry| Some((keys::sequence_of(&entry.key)?, entry)))
            .collect();
        let mut missing = records;
        missing.retain(|sequence, _| !there.contains_key(sequence));
        send(takeover, id, &missing, done.revision).await?;
        for (sequence, entry) in there {
            let append = Append {
                id,
                sequence,
                record: entry.value,
                standing: None,
            };
            node.store.append_journal(append).await?;
        }
        node.workflows.histories.forget(id);
    }
    let state = State {
        revision: done.revision,
        epoch: head.epoch,
        generation,
        bytes,
        sharing: Sharing::Shared,
        has_moved: head.summary.has_moved,
        group: member.0,
    };
    Ok(Some(Copy::hold(takeover, id, state)))
}

/// Writes records to etcd, as long as the head is as it was at `revision`.
async fn send(
    takeover: &Takeover,
    id: Id,
    records: &BTreeMap<u64, Vec<u8>>,
    revision: u64,
) -> Result<(), Unsettled> {
    let begun = || Transaction::default().if_at(&keys::head(id), revision);
    let mut whole = begun();
    for (count, (sequence, record)) in records.iter().enumerate() {
        let one = begun().put(&keys::record(id, *sequence), record, None);
        if count % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 || !whole.has_room_for(&one, VALUE_MAX) {
            takeover.etcd.transact(&whole).await?;
            whole = begun();
        }
        whole = whole.and(&one);
    }
    takeover.etcd.transact(&whole).await?;
    Ok(())
}

fn records_of(node: &Node, id: Id) -> Result<(BTreeMap<u64, Vec<u8>>, usize), RunError> {
    let mut records = BTreeMap::new();
    node.store.visit_journal(id, |sequence, record| {
        records.insert(sequence, record.to_vec());
    })?;
    let bytes = records.values().map(Vec::len).sum();
    Ok((records, bytes))
}

/// Forgets an execution that another node goes on with. Who waits for it is told that it isn't here.
pub(crate) async fn forget(node: &Arc<Node>, id: Id) -> Result<(), RunError> {
    if let Some(stored) = node.store.execution(id)? {
        // Nobody begins another one of that name in between.
        let _guard = node
            .workflows
            .name_lock(&stored.workflow, &stored.name)
            .await;
        let summary = Summary::decode(&stored.summary);
        if let Some(call) = &summary.call {
            // First: a call that is left without its execution would begin another one.
            node.async_calls.forget(call).await?;
        }
        node.store.forget_execution(id).await?;
        node.workflows.histories.forget(id);
    }
    if let Some(takeover) = &node.workflows.takeover {
        takeover.held().remove(&id);
    }
    node.workflows.live.drop_unknown(id);
    Ok(())
}

/// Looks after this node's executions whenever it may have lost some without noticing.
pub(super) async fn look_after(node: Arc<Node>) {
    let Some(takeover) = &node.workflows.takeover else {
        return;
    };
    let mut looked_at = 0;
    loop {
        if let Some(tenure) = takeover.tenure_now() {
            for id in takeover.take_paused() {
                node.workflows.live.rouse(id);
            }
            let has_strays = takeover.has_strays.swap(false, Ordering::Relaxed);
            if tenure != looked_at || has_strays {
                let done = async {
                    compare(&node, takeover).await?;
                    adopt_strays(&node, takeover).await
                };
                let done = done.await;
                if done.is_err() {
                    takeover.has_strays.store(true, Ordering::Relaxed);
                }
                match done {
                    Ok(()) => looked_at = tenure,
                    Err(Unsettled::Etcd(error)) => {
                        let error = crate::chain(&*error);
                        debug!(error, "own executions can't be compared with etcd's");
                    }
                    Err(Unsettled::Run(error)) => {
                        let error = crate::chain(&error);
                        warn!(error, "own executions can't be compared with etcd's");
                    }
                }
            }
        }
        let mut tenure = takeover.tenure.subscribe();
        let _ = tokio::time::timeout(LOOK, tenure.changed()).await;
    }
}

/// Finds which executions others have by now, and which aren't shared; those are taken up, which drops
/// or shares them.
async fn compare(node: &Arc<Node>, takeover: &Arc<Takeover>) -> Result<(), Unsettled> {
    let mut ids = Vec::new();
    node.store.visit_unfinished(|id, _| ids.push(id))?;
    for some in ids.chunks(OPERATIONS_MAX) {
        let mut asked = Vec::new();
        let mut read = Transaction::default();
        for id in some {
            let held = takeover.held_as(*id);
            if held.is_none() {
                let stored = node.store.execution(*id)?;
                let summary = stored.map(|stored| Summary::decode(&stored.summary));
                let summary = summary.filter(|it| it.status == Status::Running);
                if !summary.as_ref().is_some_and(|it| it.is_shared) {
                    // It began while etcd was away: whoever reads it from disk shares it.
                    if summary.is_some() {
                        node.workflows.live.rouse(*id);
                    }
                    continue;
                }
            }
            read = read.get(&keys::head(*id));
            asked.push((*id, held));
        }
        if asked.is_empty() {
            continue;
        }
        let generation = takeover.tenure_now();
        let done = takeover.etcd.transact(&read).await?;
        for ((id, held), found) in asked.into_iter().zip(done.found) {
            let entry = found.kvs.first();
            let is_lost = match held {
                Some(held) => {
                    // What isn't known yet is looked at by who writes.
                    let is_known = held.state().revision > 0;
                    let takeover = Arc::clone(takeover);
                    let copy = Copy { takeover, id, held };
                    if is_known && entry.is_some() {
                        copy.judge(entry, generation);
                    }
                    copy.held.lost.is_cancelled()
                }
                None => entry
                    .and_then(|entry| Head::decode(&entry.value))
                    .is_some_and(|head| head.node != takeover.node),
            };
            if is_lost {
                node.workflows.live.rouse(id);
            }
        }
    }
    Ok(())
}

/// Finds what etcd has of this node's and the node hasn't: taken over, or begun, when the node died.
async fn adopt_strays(node: &Arc<Node>, takeover: &Arc<Takeover>) -> Result<(), Unsettled> {
    let prefix = keys::owned_by(&takeover.node);
    let mut from = None;
    loop {
        let page = takeover
            .etcd
            .page(&prefix, from.as_deref(), PAGE, Values::Left)
            .await?;
        for entry in &page {
            let Some((_, (_, id))) = keys::owned_of(&entry.key) else {
                continue;
            };
            if takeover.held_as(id).is_some() {
                continue;
            }
            match node.store.execution(id)? {
                None => claim::claim(node, takeover, id, claim::From::Myself).await,
                Some(stored) => settle_ended(node, takeover, &stored).await?,
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = Some(format!("{}0", last.key)),
            _ => return Ok(()),
        }
    }
}

/// Removes what is left in etcd of an execution that has ended here.
async fn settle_ended(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    stored: &Stored,
) -> Result<(), Unsettled> {
    let summary = Summary::decode(&stored.summary);
    if summary.status == Status::Running {
        return Ok(());
    }
    let Some(entry) = takeover.etcd.get(&keys::head(stored.id)).await? else {
        return Ok(());
    };
    let Some(head) = Head::decode(&entry.value).filter(|head| head.node == takeover.node) else {
        return Ok(());
    };
    super::super::wake::answer_call(node, stored.id, &summary).await;
    let state = State {
        revision: entry.revision,
        epoch: head.epoch,
        generation: 0,
        bytes: 0,
        sharing: Sharing::Shared,
        has_moved: summary.has_moved,
        group: summary.group(stored.id),
    };
    Copy::hold(takeover, stored.id, state).release();
    Ok(())
}
