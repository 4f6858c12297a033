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
}

impl Journal {
    pub(crate) fn new(id: Id, store: Arc<Store>, next: u64) -> Self {
        let next = AtomicU64::new(next);
        Self { id, store, next }
    }

    /// Adds entries, and the standing if it has changed; they are on disk when this returns.
    pub(crate) async fn append(
        &self,
        entries: &[Entry],
        standing: Option<Standing>,
    ) -> Result<(), StoreError> {
        let append = Append {
            id: self.id,
            sequence: self.next.fetch_add(1, Ordering::Relaxed),
            record: encode(entries)?,
            standing,
        };
        super::fault::before_write();
        self.store.append_journal(append).await?;
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

/// Reads a journal and goes through it.
///
/// Takes as long as the execution has computed: not for the threads that serve requests.
pub(crate) fn replay(store: &Store, machine: &Machine, id: Id) -> Result<Replayed, RunError> {
    let mut replay = Replay::default();
    let mut failed = None;
    let mut last = None;
    store.visit_journal(id, |sequence, record| {
        // Shown again after an error of the disk: what is known already is passed over.
        if failed.is_some() || last.is_some_and(|last| sequence <= last) {
            return;
        }
        last = Some(sequence);
        let entries = decode(record);
        failed = entries
            .and_then(|entries| {
                entries
                    .into_iter()
                    .try_for_each(|entry| replay.take(machine, entry, &mut |_| {}))
            })
            .err();
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let broken = || RunError::Journal("it has no beginning".to_owned());
    Ok(Replayed {
        execution: replay.execution.ok_or_else(broken)?,
        pending: replay.pending,
        last: replay.last,
        next: last.map_or(0, |last| last + 1),
    })
}

/// An execution on its way through its journal.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    execution: Option<Execution>,
    pending: BTreeMap<TaskId, Pending>,
    last: i64,
}

impl Replay {
    fn take(
        &mut self,
        machine: &Machine,
        entry: Entry,
        see: &mut impl FnMut(Record),
    ) -> Result<(), RunError> {
        self.take_some(machine, entry, usize::MAX, see).map(drop)
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
