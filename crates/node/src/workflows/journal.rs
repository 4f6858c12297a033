//! The journal of an execution: what it was stepped with, before any effect of it.
//!
//! Stepping a fresh [`Execution`] with what the journal says gives the state, the tasks under way
//! and the history again. One record of the store holds what was written together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serverledge_asl::{
    Effect, Event, Execution, Invocation, Machine, Outcome, Record, Start, TaskId,
};

use super::error::RunError;
use super::live::NEVER;
use super::takeover::{Copy, CopyError};
use crate::store::executions::{Append, Id, Standing};
use crate::store::{Store, StoreError};

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// What it began with.
    Begun(Box<Start>),
    /// The interpreter was stepped.
    Step {
        /// In milliseconds since 1970.
        at: i64,
        event: Event,
    },
    /// A task is about to be sent to its function.
    Sent(TaskId),
    /// It was cut short by an orderly stop, and doesn't count as sent.
    Withdrawn(TaskId),
    /// What a task had to do is done: it waits for its callback.
    Submitted(TaskId),
    /// A node took it up after another, or the same, had died.
    Recovered { at: i64, node: String, epoch: u64 },
    /// It ended like this.
    Ended { at: i64, outcome: Outcome },
}

/// Writes an execution's journal.
pub(crate) struct Journal {
    id: Id,
    store: Arc<Store>,
    next: AtomicU64,
    /// For other nodes, if they may go on with it.
    copy: Option<Copy>,
}

/// The place of entries in a journal, once they have one: however often they are written, they are
/// there once.
pub(crate) type Place = Option<u64>;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// The disk.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The copy for other nodes.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl Journal {
    pub(crate) fn new(id: Id, store: Arc<Store>, next: u64, copy: Option<Copy>) -> Self {
        Self {
            id,
            store,
            next: AtomicU64::new(next),
            copy,
        }
    }

    /// What other nodes have of it.
    pub(crate) fn copy(&self) -> Option<&Copy> {
        self.copy.as_ref()
    }

    /// Adds entries at a place, which they get at the first try, and the standing if it has changed.
    /// They are on disk when this returns, and where other nodes find them.
    pub(crate) async fn append(
        &self,
        place: &mut Place,
        entries: &[Entry],
        standing: Option<Standing>,
    ) -> Result<(), AppendError> {
        let next = || self.next.fetch_add(1, Ordering::Relaxed);
        let sequence = *place.get_or_insert_with(next);
        let record = encode(entries)?;
        let ends = standing.as_ref().is_some_and(|it| it.wake.is_none());
        let append = |record| Append {
            id: self.id,
            sequence,
            record,
            standing,
        };
        super::fault::before_write();
        match &self.copy {
            None => self.store.append_journal(append(record)).await?,
            // First where others see it: one that had ended here only could end otherwise elsewhere.
            Some(copy) if ends => {
                copy.append(sequence, &record).await?;
                self.store.append_journal(append(record)).await?;
            }
            Some(copy) => {
                let local = self.store.append_journal(append(record.clone()));
                let (local, there) = tokio::join!(local, copy.append(sequence, &record));
                there?;
                local?;
            }
        }
        super::fault::after_write();
        Ok(())
    }
}

/// Entries as one record.
pub(crate) fn encode(entries: &[Entry]) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entries).map_err(|error| StoreError::encoding(&error))
}

/// The entries of a record.
pub(crate) fn decode(record: &[u8]) -> Result<Vec<Entry>, RunError> {
    serde_json::from_slice(record).map_err(|error| RunError::Journal(error.to_string()))
}

/// A task whose end is awaited.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) invocation: Invocation,
    /// How often it is known to have been sent.
    pub(crate) sent: u32,
    /// Whether only its callback is awaited.
    pub(crate) submitted: bool,
}

/// An execution, as far as its journal goes.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) execution: Execution,
    pub(crate) pending: BTreeMap<TaskId, Pending>,
    /// Time of the last step.
    pub(crate) last: i64,
    /// Number of the next record.
    pub(crate) next: u64,
}

impl Replayed {
    /// When it is to be woken, if it has not ended: 0 while it has something to do itself.
    pub(crate) fn wake(&self) -> i64 {
        let is_busy = self.pending.values().any(|task| !task.submitted);
        match is_busy {
            true => 0,
            false => self.execution.wake_at().unwrap_or(NEVER),
        }
    }
}

/// Reads a journal and goes through it.
///
/// Takes as long as the execution has computed: not for the threads that serve requests.
pub(crate) fn replay(store: &Store, machine: &Machine, id: Id) -> Result<Replayed, RunError> {
    let mut replay = Replay::default();
    store.visit_journal(id, |sequence, record| {
        replay.read(machine, sequence, record);
    })?;
    replay.end()
}

/// As [`replay`], of records that are in memory, in order.
pub(crate) fn replay_records<'a>(
    machine: &Machine,
    records: impl Iterator<Item = (u64, &'a [u8])>,
) -> Result<Replayed, RunError> {
    let mut replay = Replay::default();
    for (sequence, record) in records {
        replay.read(machine, sequence, record);
    }
    replay.end()
}

/// An execution on its way through its journal.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    execution: Option<Execution>,
    pending: BTreeMap<TaskId, Pending>,
    /// Time of the last step.
    last: i64,
    /// Number of the last record.
    sequence: Option<u64>,
    failed: Option<RunError>,
}

impl Replay {
    fn read(&mut self, machine: &Machine, sequence: u64, record: &[u8]) {
        // Shown again after an error of the disk: what is known already is passed over.
        if self.failed.is_some() || self.sequence.is_some_and(|last| sequence <= last) {
            return;
        }
        self.sequence = Some(sequence);
        let taken = decode(record).and_then(|entries| {
            let mut entries = entries.into_iter();
            entries.try_for_each(|entry| self.take(machine, entry))
        });
        self.failed = taken.err();
    }

    fn end(self) -> Result<Replayed, RunError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let broken = || RunError::Journal("it has no beginning".to_owned());
        Ok(Replayed {
            execution: self.execution.ok_or_else(broken)?,
            pending: self.pending,
            last: self.last,
            next: self.sequence.map_or(0, |last| last + 1),
        })
    }

    fn take(&mut self, machine: &Machine, entry: Entry) -> Result<(), RunError> {
        let taken = self.take_some(machine, entry, usize::MAX, &mut |_| {});
        taken.map(drop)
    }

    /// Goes through an entry, or enters so many states of it; `true` if there is more, for which
    /// [`Replay::go_on`] is to be called.
    pub(crate) fn take_some(
        &mut self,
        machine: &Machine,
        entry: Entry,
        states: usize,
        see: &mut impl FnMut(Record),
    ) -> Result<bool, RunError> {
        match entry {
            Entry::Begun(start) => self.execution = Some(Execution::new(*start)),
            Entry::Step { at, event } => {
                if self.execution.is_none() {
                    let why = "a step comes before its beginning";
                    return Err(RunError::Journal(why.to_owned()));
                }
                forget(&mut self.pending, &event);
                self.last = at;
                return Ok(self.step(machine, Some(event), states, see));
            }
            Entry::Sent(task) => self.mark(task, |task| task.sent = task.sent.saturating_add(1)),
            Entry::Withdrawn(task) => {
                self.mark(task, |task| task.sent = task.sent.saturating_sub(1));
            }
            Entry::Submitted(task) => self.mark(task, |task| task.submitted = true),
            Entry::Recovered { .. } | Entry::Ended { .. } => {}
        }
        Ok(false)
    }

    /// Goes on with the entry taken last.
    pub(crate) fn go_on(
        &mut self,
        machine: &Machine,
        states: usize,
        see: &mut impl FnMut(Record),
    ) -> bool {
        self.step(machine, None, states, see)
    }

    fn step(
        &mut self,
        machine: &Machine,
        event: Option<Event>,
        states: usize,
        see: &mut impl FnMut(Record),
    ) -> bool {
        let Some(execution) = &mut self.execution else {
            return false;
        };
        let (effects, more) = execution.step_some(machine, event, self.last, states);
        for effect in effects {
            match effect {
                Effect::Invoke(invocation) => await_task(&mut self.pending, invocation),
                Effect::Cancel(task) => drop(self.pending.remove(&task)),
                Effect::Record(record) => see(record),
                Effect::Finished(_) => {}
            }
        }
        more
    }

    fn mark(&mut self, task: TaskId, mark: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.pending.get_mut(&task) {
            mark(pending);
        }
    }
}

/// A task begins to be awaited.
pub(crate) fn await_task(pending: &mut BTreeMap<TaskId, Pending>, invocation: Invocation) {
    let task = Pending {
        sent: 0,
        submitted: false,
        invocation,
    };
    pending.insert(task.invocation.task, task);
}

/// A task that has ended is no longer awaited.
pub(crate) fn forget(pending: &mut BTreeMap<TaskId, Pending>, event: &Event) {
    if let Event::TaskSucceeded { task, .. } | Event::TaskFailed { task, .. } = event {
        pending.remove(task);
    }
}
