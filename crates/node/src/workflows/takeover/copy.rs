//! The copy of one execution in etcd, as its journal and its tasks know it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serverledge_core::takeover::{Owner, Verdict, judge};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::keys::{self, Head};
use super::{REMEMBERED, Takeover};
use crate::federation::etcd::transaction::Transaction;
use crate::federation::etcd::{Entry, EtcdError, VALUE_MAX};
use crate::store::executions::Id;
use crate::workflows::summary::Summary;
use crate::workflows::text_of;

/// What a record's key and conditions may take beside it, bytes.
const BESIDES: usize = 1 << 10;

/// Whether an execution is in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sharing {
    Shared,
    /// It isn't, for this reason, and goes on at this node only.
    Alone(String),
}

/// What this node knows of an execution of its own in etcd.
#[derive(Debug)]
pub(super) struct Held {
    state: Mutex<State>,
    /// Another node has it.
    pub(super) lost: CancellationToken,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    /// Of its head; 0: it isn't known whether that has got there.
    pub(super) revision: u64,
    pub(super) epoch: u64,
    /// The tenure in which it was seen to be this node's.
    pub(super) generation: u64,
    /// Of its records.
    pub(super) bytes: usize,
    pub(super) sharing: Sharing,
    /// Whether another node had it before.
    pub(super) has_moved: bool,
    /// The execution that it descends from.
    pub(super) group: Id,
}

impl Held {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            lost: CancellationToken::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.state().sharing.clone()
    }
}

/// Why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CopyError {
    /// Another node goes on with the execution.
    #[error("another node goes on with the execution")]
    Lost,
    /// This one stops.
    #[error("the node is shutting down")]
    Stopping,
}

/// An execution's copy.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(super) takeover: Arc<Takeover>,
    pub(super) id: Id,
    pub(super) held: Arc<Held>,
}

impl Copy {
    /// Makes the execution one that this node holds.
    pub(super) fn hold(takeover: &Arc<Takeover>, id: Id, state: State) -> Self {
        let held = Arc::new(Held::new(state));
        takeover.held().insert(id, Arc::clone(&held));
        Self {
            takeover: Arc::clone(takeover),
            id,
            held,
        }
    }

    /// How often the execution was taken up by a node; `None` if it isn't shared.
    pub(crate) fn epoch(&self) -> Option<u64> {
        let state = self.held.state();
        (state.sharing == Sharing::Shared).then_some(state.epoch)
    }

    /// Completes when another node has the execution.
    pub(crate) async fn lost(&self) {
        self.held.lost.cancelled().await;
    }

    /// Writes a record; it is in etcd when this returns, or the execution isn't shared any more. Waits
    /// for etcd for as long as that takes.
    pub(crate) async fn append(&self, sequence: u64, record: &[u8]) -> Result<(), CopyError> {
        let head = keys::head(self.id);
        let key = keys::record(self.id, sequence);
        loop {
            if self.held.lost.is_cancelled() {
                return Err(CopyError::Lost);
            }
            let State {
                revision,
                bytes,
                sharing,
                ..
            } = self.held.state().clone();
            if sharing != Sharing::Shared {
                return Ok(());
            }
            if let Some(why) = self.too_large(bytes, record.len()) {
                self.withdraw(&why).await?;
                continue;
            }
            if revision == 0 {
                self.look().await?;
                continue;
            }
            let generation = self.takeover.tenure_now();
            let write = Transaction::default()
                .if_at(&head, revision)
                .put(&key, record, None)
                .else_get(&head);
            match self.takeover.write(write).await {
                Ok(done) if done.succeeded => {
                    let mut state = self.held.state();
                    state.bytes += record.len();
                    state.generation = generation.unwrap_or(state.generation);
                    return Ok(());
                }
                Ok(done) => self.judge(done.found.first().and_then(|it| it.kvs.first()), None),
                Err(error) if error.is_final() => self.withdraw(&refused(&error)).await?,
                Err(_) => self.pause().await?,
            }
        }
    }

    fn too_large(&self, bytes: usize, more: usize) -> Option<String> {
        let bytes_max = self.takeover.bytes_max;
        if more > VALUE_MAX - BESIDES {
            return Some(format!("a step of {more} bytes is more than etcd takes"));
        }
        (bytes + more > bytes_max).then(|| {
            format!("its journal has more than {bytes_max} bytes (workflow.takeover.bytes_max)")
        })
    }

    /// Waits until this node may call functions for the execution.
    pub(crate) async fn may_act(&self) -> Result<(), CopyError> {
        let mut tenure = self.takeover.tenure.subscribe();
        loop {
            if self.held.lost.is_cancelled() {
                return Err(CopyError::Lost);
            }
            let state = self.held.state().clone();
            if state.sharing != Sharing::Shared {
                return Ok(());
            }
            match self.takeover.tenure_now() {
                Some(now) if now == state.generation && state.revision > 0 => return Ok(()),
                Some(_) => self.look().await?,
                None => tokio::select! {
                    _ = tenure.wait_for(|tenure| tenure.holds(self.takeover.clock.now())) => {}
                    () = self.held.lost.cancelled() => {}
                    () = self.takeover.stopping.cancelled() => return Err(CopyError::Stopping),
                },
            }
        }
    }

    /// Looks whose the execution is, for as long as that takes.
    async fn look(&self) -> Result<(), CopyError> {
        loop {
            let generation = self.takeover.tenure_now();
            match self.takeover.etcd.get(&keys::head(self.id)).await {
                Ok(entry) => {
                    self.judge(entry.as_ref(), generation);
                    return Ok(());
                }
                Err(_) => self.pause().await?,
            }
        }
    }

    /// Takes in what etcd says of the head, asked in the tenure `generation`.
    pub(super) fn judge(&self, entry: Option<&Entry>, generation: Option<u64>) {
        let head = entry.and_then(|entry| Head::decode(&entry.value));
        let mut state = self.held.state();
        let held = Owner {
            node: &self.takeover.node,
            epoch: state.epoch,
        };
        let id = text_of(self.id);
        match judge(head.as_ref().map(Head::owner), held) {
            Verdict::Mine => {
                state.revision = entry.map_or(0, |entry| entry.revision);
                state.generation = generation.unwrap_or(state.generation);
            }
            Verdict::Lost => {
                let node = head.map_or_else(String::new, |head| head.node);
                info!(
                    execution = id,
                    node, "another node goes on with an execution"
                );
                self.held.lost.cancel();
            }
            Verdict::Unknown => {
                let why = "etcd has it no more".to_owned();
                warn!(execution = id, why, "an execution stays with its node");
                state.sharing = Sharing::Alone(why);
            }
        }
    }

    /// Takes the execution out of etcd: from then on it goes on here only.
    async fn withdraw(&self, why: &str) -> Result<(), CopyError> {
        self.remove().await?;
        let mut state = self.held.state();
        if state.sharing == Sharing::Shared {
            let id = text_of(self.id);
            warn!(execution = id, why, "an execution stays with its node");
            state.sharing = Sharing::Alone(why.to_owned());
        }
        Ok(())
    }

    /// Removes the execution from etcd, if it is this node's; for one that others have had, leaves
    /// word of that: they would take it for one that never got there, and run it again.
    async fn remove(&self) -> Result<(), CopyError> {
        let key = keys::head(self.id);
        loop {
            let state = self.held.state().clone();
            if self.held.lost.is_cancelled() {
                return Err(CopyError::Lost);
            }
            if state.sharing != Sharing::Shared {
                return Ok(());
            }
            if state.revision == 0 {
                self.look().await?;
                continue;
            }
            let mut write = Transaction::default()
                .if_at(&key, state.revision)
                .delete(&keys::owned(&self.takeover.node, (state.group, self.id)))
                .delete_all(&keys::journal(self.id))
                .else_get(&key);
            write = match state.has_moved {
                false => write.delete(&key),
                true => match self.takeover.remembered().await {
                    Ok(lease) => write.put(&key, &self.last_word(state.epoch), Some(lease)),
                    Err(_) => {
                        self.pause().await?;
                        continue;
                    }
                },
            };
            match self.takeover.write(write).await {
                Ok(done) if done.succeeded => return Ok(()),
                Ok(done) => self.judge(done.found.first().and_then(|it| it.kvs.first()), None),
                Err(_) => self.pause().await?,
            }
        }
    }

    fn last_word(&self, epoch: u64) -> Vec<u8> {
        let head = Head {
            node: self.takeover.node.clone(),
            area: self.takeover.area.clone(),
            epoch,
            workflow: String::new(),
            name: String::new(),
            is_named: false,
            digest: String::new(),
            summary: Summary::default(),
            is_over: true,
        };
        head.encode()
    }

    /// Removes an execution that has ended, or has not begun, from etcd; soon. What a stop cuts short
    /// the next start does.
    pub(crate) fn release(self) {
        tokio::spawn(async move {
            let _ = self.remove().await;
            self.takeover.held().remove(&self.id);
        });
    }

    async fn pause(&self) -> Result<(), CopyError> {
        match self.takeover.pause().await {
            true => Ok(()),
            false => Err(CopyError::Stopping),
        }
    }
}

fn refused(error: &EtcdError) -> String {
    format!("etcd refuses a step: {}", crate::chain(error))
}

/// What an execution is, for its head.
#[derive(Debug)]
pub(crate) struct Published<'a> {
    pub(crate) workflow: &'a str,
    pub(crate) name: &'a str,
    pub(crate) is_named: bool,
    pub(crate) digest: &'a str,
    /// The definition's text.
    pub(crate) definition: &'a [u8],
    pub(crate) summary: &'a Summary,
}

impl Takeover {
    /// Lets others have an execution that begins with `record`. Whatever comes of that, the execution
    /// can go on: one that doesn't get there is this node's alone.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        id: Id,
        what: Published<'_>,
        record: &[u8],
    ) -> Copy {
        let too_large = record.len() > VALUE_MAX - BESIDES || record.len() > self.bytes_max;
        let alone = |why| Sharing::Alone(why);
        let state = State {
            revision: 0,
            epoch: what.summary.epoch,
            generation: self.tenure_now().unwrap_or(0),
            bytes: record.len(),
            sharing: match too_large {
                true => alone(format!("its first step has {} bytes", record.len())),
                false => Sharing::Shared,
            },
            has_moved: what.summary.has_moved,
            group: what.summary.group(id),
        };
        // At once, so that it is not taken for one that was left behind.
        let copy = Copy::hold(self, id, state);
        if too_large {
            return copy;
        }
        let key = keys::record(id, 0);
        let create = || self.create(id, &what, |write| write.put(&key, record, None));
        let mut done = create().await;
        for _ in 1..CREATIONS_MAX {
            // It may be done yet: whichever is done first is the only one.
            match &done {
                Err(error) if !is_undone(error) => done = create().await,
                _ => break,
            }
        }
        match done {
            Ok(Some(revision)) => copy.held.state().revision = revision,
            // It was there before: of an earlier try of which nothing was heard.
            Ok(None) => {}
            Err(error) if is_undone(&error) => {
                let why = format!("it could not be written to etcd: {}", crate::chain(&*error));
                copy.held.state().sharing = alone(why);
            }
            // Whether it is there is looked at before anything follows from it.
            Err(_) => {}
        }
        copy
    }

    /// Makes an execution's head, and what `add` adds, if there is none; its revision.
    pub(super) async fn create(
        &self,
        id: Id,
        what: &Published<'_>,
        add: impl Fn(Transaction) -> Transaction,
    ) -> Result<Option<u64>, Arc<EtcdError>> {
        let key = keys::head(id);
        let head = Head {
            node: self.node.clone(),
            area: self.area.clone(),
            epoch: what.summary.epoch,
            workflow: what.workflow.to_owned(),
            name: what.name.to_owned(),
            is_named: what.is_named,
            digest: what.digest.to_owned(),
            summary: what.summary.clone(),
            is_over: false,
        };
        loop {
            self.define(what.digest, what.definition).await?;
            let write = Transaction::default()
                .if_at(&key, 0)
                .if_there(&keys::definition(what.digest))
                .put(&key, &head.encode(), None)
                .put(
                    &keys::owned(&self.node, (what.summary.group(id), id)),
                    b"",
                    None,
                )
                .put(&keys::uses(what.digest), b"", None)
                .else_get(&key);
            let done = self.write(add(write)).await?;
            if done.succeeded {
                return Ok(Some(done.revision));
            }
            if done.found.first().is_some_and(|it| !it.kvs.is_empty()) {
                return Ok(None);
            }
            // The definition has been removed since it was there.
            self.undefine(what.digest);
        }
    }

    async fn define(&self, digest: &str, text: &[u8]) -> Result<(), Arc<EtcdError>> {
        let is_known = self.defined().contains(digest);
        if !is_known {
            // Whether it was there before doesn't matter.
            let created = self.etcd.create(&keys::definition(digest), text).await;
            created.map_err(Arc::new)?;
            self.defined().insert(digest.to_owned());
        }
        Ok(())
    }

    pub(super) fn undefine(&self, digest: &str) {
        self.defined().remove(digest);
    }

    fn defined(&self) -> MutexGuard<'_, std::collections::HashSet<String>> {
        self.defined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease for what is to be remembered for a while.
    async fn remembered(&self) -> Result<u64, EtcdError> {
        let mut shared = self.remembered.lock().await;
        if let Some((lease, since)) = *shared
            && since.elapsed() < super::REMEMBERED_SHARED
        {
            return Ok(lease);
        }
        let lease = self.etcd.grant(REMEMBERED).await?;
        *shared = Some((lease, std::time::Instant::now()));
        Ok(lease)
    }
}

/// How often an execution is written to etcd whose answers are late.
const CREATIONS_MAX: usize = 3;

/// Whether etcd has certainly not done what it was asked.
fn is_undone(error: &EtcdError) -> bool {
    matches!(error, EtcdError::Connect { .. } | EtcdError::Login(_)) || error.is_final()
}
