//! Executions of nodes that are gone: whose turn it is takes them, reads their journals from etcd, and
//! goes on with them as with its own after a restart.
//!
//! Turns are the same for all nodes (`core::takeover::turn`): the first is at once, and who comes later
//! takes what is still left then. Two that claim at the same time meet in etcd, where one of them
//! fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serverledge_asl::resource;
use serverledge_core::takeover::turn;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::copy::{Copy, Sharing, State};
use super::keys::{self, Head, Member};
use super::own::Unsettled;
use super::session::Candidate;
use super::{Takeover, tidy};
use crate::federation::Change;
use crate::federation::etcd::transaction::Transaction;
use crate::federation::etcd::{Entry, Event, Values};
use crate::node::Node;
use crate::store::executions::{Begin, Id, Standing};
use crate::workflows::error::RunError;
use crate::workflows::journal::{self, Replayed};
use crate::workflows::summary::Status;
use crate::workflows::text_of;

/// How long others may take before the next one's turn.
const TURN: Duration = Duration::from_secs(2);

/// Turns after everybody's in which a node takes even what it lacks functions for.
const LAST_TURNS: usize = 3;

/// Groups of executions that are claimed at once.
const CLAIMS_MAX: usize = 8;

/// Keys that are read at once.
const PAGE: usize = 1000;

/// How often one of the nodes removes definitions that nobody needs.
const TIDY: Duration = Duration::from_secs(3600);

/// Who can own executions, by key.
type Candidates = BTreeMap<String, Candidate>;

/// Follows who can own executions, and takes over those of others; never returns.
pub(super) async fn run(node: Arc<Node>, mut changes: mpsc::Receiver<Change>) {
    let Some(takeover) = node.workflows.takeover.clone() else {
        return;
    };
    let candidates = watch::Sender::new(Candidates::new());
    let under_way: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut takes = JoinSet::new();
    let mut tidied: Option<Instant> = None;
    while let Some(change) = changes.recv().await {
        while takes.try_join_next().is_some() {}
        let gone = match change {
            Change::Listed(entries, _) => {
                candidates.send_replace(entries.iter().filter_map(read).collect());
                let is_first = candidates.borrow().keys().all(|key| *key >= takeover.node);
                if is_first && tidied.is_none_or(|at| at.elapsed() > TIDY) {
                    tidied = tidy::tidy(&takeover).await.ok().map(|()| Instant::now());
                }
                match owners(&takeover).await {
                    Ok(owners) => owners,
                    // Away: everything is listed again when it is back.
                    Err(_) => continue,
                }
            }
            Change::Event(Event::Put(entry)) => {
                candidates.send_modify(|all| all.extend(read(&entry)));
                continue;
            }
            Change::Event(Event::Deleted(key, _)) => {
                let gone = keys::node_of(&key);
                candidates.send_modify(|all| {
                    gone.as_ref().map(|gone| all.remove(gone));
                });
                gone.into_iter().collect()
            }
            Change::Away => continue,
        };
        for owner in gone {
            let is_there = candidates.borrow().contains_key(&owner);
            if is_there || owner == takeover.node || !begin(&under_way, &owner) {
                continue;
            }
            let (node, takeover) = (Arc::clone(&node), Arc::clone(&takeover));
            let (candidates, under_way) = (candidates.subscribe(), Arc::clone(&under_way));
            takes.spawn(async move {
                if let Err(Unsettled::Etcd(error)) =
                    take_all(&node, &takeover, &owner, &candidates).await
                {
                    let error = crate::chain(&*error);
                    debug!(owner, error, "executions can't be taken over now");
                }
                let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
                under_way.remove(&owner);
            });
        }
    }
}

/// `false` if the executions of `owner` are being taken already.
fn begin(under_way: &Mutex<BTreeSet<String>>, owner: &str) -> bool {
    let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
    under_way.insert(owner.to_owned())
}

fn read(entry: &Entry) -> Option<(String, Candidate)> {
    let candidate = serde_json::from_slice(&entry.value).unwrap_or_default();
    Some((keys::node_of(&entry.key)?, candidate))
}

/// Everybody who has executions in etcd: one question for each.
async fn owners(takeover: &Takeover) -> Result<Vec<String>, Unsettled> {
    let mut owners = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let (etcd, from_here) = (&takeover.etcd, from.as_deref());
        let page = etcd.page(keys::OWNED, from_here, 1, Values::Left).await?;
        let Some(entry) = page.first() else {
            return Ok(owners);
        };
        if let Some((owner, _)) = keys::owned_of(&entry.key) {
            owners.push(owner);
        }
        // By what is there, whatever it means: the same page again would never end.
        let next = keys::after_owned_like(&entry.key);
        if from.as_ref().is_some_and(|from| *from >= next) {
            return Ok(owners);
        }
        from = Some(next);
    }
}

/// Takes the executions of a node that is gone, as its turns come.
async fn take_all(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    owner: &str,
    candidates: &watch::Receiver<Candidates>,
) -> Result<(), Unsettled> {
    let mut area = None;
    for round in 0.. {
        let all = candidates.borrow().clone();
        let left = owned(takeover, owner).await?;
        // Beyond the last turn, the next listing tries again.
        let is_over = round > all.len() + LAST_TURNS;
        if left.is_empty() || is_over || all.contains_key(owner) {
            return Ok(());
        }
        if area.is_none() {
            let first = left.values().flatten().next();
            area = area_of(takeover, first.copied().unwrap_or(0)).await?;
        }
        let is_near = |candidate: &Candidate| Some(&candidate.area) == area.as_ref();
        let mine = left.into_iter().filter(|(group, _)| {
            let nodes = all.iter().map(|(key, it)| (key.as_str(), is_near(it)));
            turn(*group, &takeover.node, nodes) <= round
        });
        let from = From::Gone {
            owner: owner.into(),
            is_last: round > all.len(),
        };
        claim_all(node, takeover, mine, &from).await;
        tokio::time::sleep(TURN).await;
    }
    Ok(())
}

/// The executions of a node, by group, those that were begun last first: what others wait for is there
/// before them.
async fn owned(takeover: &Takeover, owner: &str) -> Result<BTreeMap<Id, Vec<Id>>, Unsettled> {
    let prefix = keys::owned_by(owner);
    let mut groups: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    let mut from: Option<String> = None;
    loop {
        let (etcd, from_here) = (&takeover.etcd, from.as_deref());
        let page = etcd.page(&prefix, from_here, PAGE, Values::Left).await?;
        let members = page.iter().filter_map(|entry| keys::owned_of(&entry.key));
        for (_, (group, id)) in members {
            groups.entry(group).or_default().insert(0, id);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = Some(format!("{}0", last.key)),
            _ => return Ok(groups),
        }
    }
}

async fn area_of(takeover: &Takeover, id: Id) -> Result<Option<String>, Unsettled> {
    let entry = takeover.etcd.get(&keys::head(id)).await?;
    let head = entry.and_then(|entry| Head::decode(&entry.value));
    Ok(head.map(|head| head.area))
}

async fn claim_all(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    groups: impl Iterator<Item = (Id, Vec<Id>)>,
    from: &From,
) {
    let permits = Arc::new(Semaphore::new(CLAIMS_MAX));
    let mut claims = JoinSet::new();
    for (_, members) in groups {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let (node, takeover, from) = (Arc::clone(node), Arc::clone(takeover), from.clone());
        claims.spawn(async move {
            for id in members {
                claim(&node, &takeover, id, from.clone()).await;
            }
            drop(permit);
        });
        while claims.try_join_next().is_some() {}
    }
    while claims.join_next().await.is_some() {}
}

/// From whom an execution is taken.
#[derive(Debug, Clone)]
pub(super) enum From {
    /// An earlier life of this node.
    Myself,
    /// A node that is gone.
    Gone {
        owner: Arc<str>,
        /// Whether everybody has had their turn.
        is_last: bool,
    },
}

/// Makes an execution this node's, if it is nobody's, and goes on with it.
pub(super) async fn claim(node: &Arc<Node>, takeover: &Arc<Takeover>, id: Id, from: From) {
    let execution = text_of(id);
    let Some(_claiming) = Claiming::new(takeover, id) else {
        return;
    };
    match try_claim(node, takeover, id, &from).await {
        Ok(()) => {}
        Err(Unsettled::Etcd(error)) => {
            // It may be this node's now.
            takeover.has_strays.store(true, Ordering::Relaxed);
            let error = crate::chain(&*error);
            debug!(execution, error, "an execution could not be claimed");
        }
        Err(Unsettled::Run(error)) => {
            takeover.has_strays.store(true, Ordering::Relaxed);
            let error = crate::chain(&error);
            warn!(execution, error, "an execution could not be taken over");
        }
    }
}

/// Keeps others from doing the same.
struct Claiming<'a> {
    takeover: &'a Takeover,
    id: Id,
}

impl<'a> Claiming<'a> {
    /// `None` if it is being claimed, or held, already.
    fn new(takeover: &'a Takeover, id: Id) -> Option<Self> {
        let claiming = takeover.claiming.lock();
        let mut claiming = claiming.unwrap_or_else(PoisonError::into_inner);
        let is_new = takeover.held_as(id).is_none() && claiming.insert(id);
        // Only if it is: dropping one takes the lock.
        is_new.then(|| Self { takeover, id })
    }
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        let claiming = self.takeover.claiming.lock();
        let mut claiming = claiming.unwrap_or_else(PoisonError::into_inner);
        claiming.remove(&self.id);
    }
}

/// The definition of an execution; `None`, and said so, if there is none that this node understands.
async fn legible(
    node: &Arc<Node>,
    takeover: &Takeover,
    id: Id,
    digest: &str,
) -> Result<Option<Vec<u8>>, Unsettled> {
    let execution = text_of(id);
    let Some(definition) = definition(node, takeover, digest).await? else {
        warn!(
            execution,
            "the definition of an execution is missing in etcd"
        );
        return Ok(None);
    };
    if let Err(error) = node.workflows.catalog.machine_of(digest, &definition) {
        let error = crate::chain(&error);
        warn!(
            execution,
            error, "the definition of an execution can't be read here"
        );
        return Ok(None);
    }
    Ok(Some(definition))
}

async fn try_claim(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    id: Id,
    from: &From,
) -> Result<(), Unsettled> {
    let executions_max = node.config.workflow.executions_max;
    // One's own is looked for again: nobody else can take it.
    let put_off = || {
        if matches!(from, From::Myself) {
            takeover.has_strays.store(true, Ordering::Relaxed);
        }
        Ok(())
    };
    if node.workflows.live.count() >= executions_max || takeover.tenure_now().is_none() {
        return put_off();
    }
    if let Some(stored) = node.store.execution(id)?
        && stored.status == Status::Running.number()
    {
        // Left from when it was this node's: it has to be forgotten first.
        node.workflows.live.rouse(id);
        return Ok(());
    }
    let Some(entry) = takeover.etcd.get(&keys::head(id)).await? else {
        return Ok(());
    };
    let owner = match from {
        From::Myself => &takeover.node,
        From::Gone { owner, .. } => &**owner,
    };
    let head = Head::decode(&entry.value).filter(|head| head.node == owner && !head.is_over);
    let Some(head) = head else {
        return Ok(());
    };
    let Some(definition) = legible(node, takeover, id, &head.digest).await? else {
        return put_off();
    };
    if let From::Gone { is_last: false, .. } = from
        && lacks_functions(node, &definition)
    {
        return Ok(());
    }
    let is_from_me = matches!(from, From::Myself);
    let Some(claimed) = change_head(takeover, id, (entry.revision, head), is_from_me).await? else {
        return Ok(());
    };
    let is_moved = claimed.head.summary.has_moved;
    adopt(node, takeover, id, claimed, definition).await?;
    if is_moved {
        let execution = text_of(id);
        info!(
            execution,
            from = owner,
            "goes on with an execution of a node that is gone"
        );
    }
    Ok(())
}

/// The definition with this digest: most executions of a workflow have the same one.
async fn definition(
    node: &Node,
    takeover: &Takeover,
    digest: &str,
) -> Result<Option<Vec<u8>>, Unsettled> {
    if let Some(known) = node.store.definition(digest)? {
        return Ok(Some(known));
    }
    let entry = takeover.etcd.get(&keys::definition(digest)).await?;
    Ok(entry.map(|entry| entry.value))
}

/// Whether something that the definition calls isn't known here.
fn lacks_functions(node: &Node, definition: &[u8]) -> bool {
    let definition = serde_json::from_slice(definition).unwrap_or_default();
    let exists = |name: &str| node.catalog.function(name).is_some();
    !resource::missing(&definition, exists, &node.catalog.names()).is_empty()
}

/// An execution that has become this node's.
struct Claimed {
    head: Head,
    revision: u64,
    generation: u64,
    records: Vec<(u64, Vec<u8>)>,
}

/// Writes this node into the head. `None` if somebody else has been sooner, or the owner is back.
async fn change_head(
    takeover: &Takeover,
    id: Id,
    (revision, mut head): (u64, Head),
    is_from_me: bool,
) -> Result<Option<Claimed>, Unsettled> {
    let key = keys::head(id);
    let member: Member = (head.summary.group(id), id);
    let former = std::mem::replace(&mut head.node, takeover.node.clone());
    head.area.clone_from(&takeover.area);
    head.epoch = head.epoch.saturating_add(1);
    head.summary.epoch = head.epoch;
    head.summary.node.clone_from(&takeover.node);
    head.summary.is_shared = true;
    let mut write = Transaction::default()
        .if_at(&key, revision)
        .if_there(&keys::node(&takeover.node));
    if !is_from_me {
        head.summary.has_moved = true;
        write = write
            .if_at(&keys::node(&former), 0)
            .delete(&keys::owned(&former, member));
    }
    let write = write
        .put(&key, &head.encode(), None)
        .put(&keys::owned(&takeover.node, member), b"", None)
        .get_all(&keys::journal(id));
    let generation = takeover.tenure_now().unwrap_or(0);
    let mut done = takeover.etcd.transact(&write).await?;
    if !done.succeeded {
        return Ok(None);
    }
    let records = match done.found.is_empty() {
        true => Vec::new(),
        false => done.found.swap_remove(0).kvs,
    };
    let records = records
        .into_iter()
        .filter_map(|entry| Some((keys::sequence_of(&entry.key)?, entry.value)));
    Ok(Some(Claimed {
        head,
        revision: done.revision,
        generation,
        records: records.collect(),
    }))
}

/// Makes an execution one of this node's own, on its disk.
async fn adopt(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    id: Id,
    claimed: Claimed,
    definition: Vec<u8>,
) -> Result<(), Unsettled> {
    let Claimed {
        head,
        revision,
        generation,
        mut records,
    } = claimed;
    let mut summary = head.summary;
    let catalog = &node.workflows.catalog;
    let machine = catalog.machine_of(&head.digest, &definition)?;
    let bytes = records.iter().map(|(_, record)| record.len()).sum();
    let _permit = node.workflows.reads.acquire().await;
    let replayed = tokio::task::spawn_blocking(move || {
        let shown = records.iter().map(|(at, record)| (*at, record.as_slice()));
        let replayed = journal::replay_records(&machine, shown);
        (replayed, records)
    });
    let broken = |_| RunError::Journal("reading it failed".to_owned());
    let (replayed, some) = replayed.await.map_err(broken)?;
    records = some;
    let ended = replayed.as_ref().ok().and_then(|replayed| {
        let outcome = replayed.execution.outcome()?;
        summary.ended(outcome, replayed.last);
        Some(replayed.last)
    });
    // What can't be read is given up by who reads it next.
    let wake = replayed.as_ref().map_or(0, Replayed::wake);
    let retention = node.config.workflow.retention.as_secs();
    let begin = Begin {
        id,
        workflow: head.workflow,
        name: head.name,
        is_named: head.is_named,
        digest: head.digest,
        standing: Standing {
            status: summary.status.number(),
            summary: summary.encode(),
            wake: ended.is_none().then_some(wake),
            expires_unix: ended.map_or(0, |at| (at / 1_000).unsigned_abs() + retention),
        },
        record: Vec::new(),
    };
    node.store
        .adopt_execution(begin, records, definition)
        .await?;
    node.workflows.histories.forget(id);
    let state = State {
        revision,
        epoch: head.epoch,
        generation,
        bytes,
        sharing: Sharing::Shared,
        has_moved: summary.has_moved,
        group: summary.group(id),
    };
    let copy = Copy::hold(takeover, id, state);
    if ended.is_some() {
        super::super::wake::answer_call(node, id, &summary).await;
        copy.release();
    } else {
        node.workflows.live.put_to_sleep(id, wake);
    }
    Ok(())
}
