//! Executions that outlive their node: what is in a standard execution's journal is in etcd as well,
//! and when the node's lease ends, another node goes on.
//!
//! Whose an execution is says its head (`keys`). Every record is written to etcd on the condition that
//! the head is as this node has left it, so that of two nodes only one gets on, whatever they believe.
//! What has effects without being written first, the calls of functions, is begun only while the
//! node's own lease runs by its own clock, or after a look at the head (`core::takeover`).
//!
//! An execution that is shared stands still while etcd doesn't answer: others could not know what it
//! does. One that began while etcd was away isn't shared until it is next read from disk.
//!
//! `session` keeps the lease, `batch` writes, `copy` is what a journal needs, `own` goes on with what
//! this node had before, `claim` with what others had, `locate` finds where an execution is, `tidy` removes
//! definitions that nobody needs.

mod batch;
mod claim;
mod copy;
mod keys;
mod locate;
mod own;
mod session;
mod tidy;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serverledge_core::Timestamp;
use serverledge_core::takeover::Tenure;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::copy::{Copy, CopyError, Published};
use self::copy::{Held, Sharing};
pub(crate) use self::keys::NODES;
pub(crate) use self::locate::{CHANCE_BITS, locate, mark};
pub(crate) use self::own::{Whose, forget, hold};
use self::session::Clock;
use super::summary::{Status, Summary};
use crate::config::Config;
use crate::federation::Change;
use crate::federation::etcd::transaction::{Done, Transaction};
use crate::federation::etcd::{Etcd, EtcdError};
use crate::node::{Identity, Node};
use crate::store::executions::Id;

/// Between two tries while etcd is away.
const PAUSE: Duration = Duration::from_millis(500);

/// How long it is known where an execution has ended that had changed hands: a node that comes back
/// later than that may take what it has for new.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is to be remembered within this time shares a lease.
const REMEMBERED_SHARED: Duration = Duration::from_secs(3600);

/// A node's part in it.
pub(crate) struct Takeover {
    node: String,
    area: String,
    lease: Duration,
    bytes_max: usize,
    etcd: Arc<Etcd>,
    clock: Clock,
    tenure: watch::Sender<Tenure>,
    /// Executions that are shared, and this node's as far as it knows.
    held: Mutex<HashMap<Id, Arc<Held>>>,
    /// Executions that wait for etcd to tell whose they are.
    paused: Mutex<BTreeSet<Id>>,
    /// Executions that are being made this node's.
    claiming: Mutex<BTreeSet<Id>>,
    /// Definitions that etcd has, by digest.
    defined: Mutex<HashSet<String>>,
    /// A lease that is shared by what is asked to be remembered about the same time.
    remembered: tokio::sync::Mutex<Option<(u64, Instant)>>,
    /// Whether something in etcd that is this node's could not be written to its disk, or something
    /// is on its disk that isn't in etcd.
    has_strays: AtomicBool,
    writes: mpsc::Sender<batch::Write>,
    /// Until [`start`].
    queue: Mutex<Option<mpsc::Receiver<batch::Write>>>,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}

impl Takeover {
    /// Asks etcd for nothing yet.
    pub(crate) fn new(
        etcd: Arc<Etcd>,
        identity: &Identity,
        config: &Config,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        let (writes, queue) = mpsc::channel(batch::WAITING_MAX);
        Arc::new(Self {
            node: identity.key.clone(),
            area: identity.area.clone(),
            lease: config.workflow.takeover_lease,
            bytes_max: config.workflow.takeover_bytes_max,
            etcd,
            clock: Clock::new(),
            tenure: watch::Sender::new(Tenure::default()),
            held: Mutex::default(),
            paused: Mutex::default(),
            claiming: Mutex::default(),
            defined: Mutex::default(),
            remembered: tokio::sync::Mutex::default(),
            has_strays: AtomicBool::new(false),
            writes,
            queue: Mutex::new(Some(queue)),
            stopping,
        })
    }

    /// Whether an execution that begins now is shared: if etcd answers. (Whether the node's lease runs
    /// at the moment is of no importance: others can have it at once then.)
    pub(crate) fn is_sharing(&self) -> bool {
        let is_sharing = self.tenure.borrow().generation() > 0 && self.etcd.is_reachable();
        if !is_sharing {
            self.has_strays.store(true, Ordering::Relaxed);
        }
        is_sharing
    }

    /// Which tenure it is, if the node may act for its executions.
    fn tenure_now(&self) -> Option<u64> {
        let tenure = *self.tenure.borrow();
        tenure.holds(self.clock.now()).then(|| tenure.generation())
    }

    fn change_tenure(&self, change: impl FnOnce(&mut Tenure, Timestamp)) {
        let now = self.clock.now();
        self.tenure.send_modify(|tenure| change(tenure, now));
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Id, Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_as(&self, id: Id) -> Option<Arc<Held>> {
        self.held().get(&id).cloned()
    }

    /// An execution has ended of which nothing but its end is known.
    pub(crate) fn release(self: &Arc<Self>, id: Id) {
        if let Some(held) = self.held_as(id) {
            let takeover = Arc::clone(self);
            Copy { takeover, id, held }.release();
        }
    }

    /// What people are told of how an execution stands.
    pub(crate) fn note(&self, id: Id, summary: &Summary) -> Option<String> {
        if summary.status != Status::Running {
            return None;
        }
        let sharing = self.held_as(id).map(|held| held.sharing());
        match sharing {
            Some(Sharing::Alone(why)) => Some(format!("it stays with its node: {why}")),
            _ if summary.is_shared && self.tenure_now().is_none() => Some(
                "it stands still: etcd doesn't tell whether another node goes on with it"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Has a transaction carried out, with others.
    async fn write(&self, transaction: Transaction) -> Result<Done, Arc<EtcdError>> {
        let (answer, answered) = oneshot::channel();
        let write = batch::Write {
            transaction,
            answer,
        };
        if self.writes.send(write).await.is_ok()
            && let Ok(done) = answered.await
        {
            return done;
        }
        // The node has stopped.
        Err(Arc::new(EtcdError::Timeout(Duration::ZERO)))
    }

    /// Waits a while before something is tried again. `false` if the node stops.
    async fn pause(&self) -> bool {
        let pause = tokio::time::sleep(PAUSE);
        self.stopping.run_until_cancelled(pause).await.is_some()
    }

    /// Has an execution taken up again when etcd answers. It must be asleep.
    pub(crate) fn set_paused(&self, id: Id) {
        let paused = self.paused.lock();
        paused.unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    fn take_paused(&self) -> BTreeSet<Id> {
        let paused = self.paused.lock();
        std::mem::take(&mut *paused.unwrap_or_else(PoisonError::into_inner))
    }
}

/// Begins to share executions, and to take over those of nodes that are gone, as `nodes` tells of them.
pub(crate) fn start(node: &Arc<Node>, nodes: mpsc::Receiver<Change>, tasks: &mut JoinSet<()>) {
    let Some(takeover) = &node.workflows.takeover else {
        return;
    };
    let queue = takeover.queue.lock();
    let queue = queue.unwrap_or_else(PoisonError::into_inner).take();
    if let Some(queue) = queue {
        tasks.spawn(batch::run(Arc::clone(&takeover.etcd), queue));
    }
    tasks.spawn(session::keep(Arc::clone(takeover)));
    tasks.spawn(own::look_after(Arc::clone(node)));
    tasks.spawn(claim::run(Arc::clone(node), nodes));
}
