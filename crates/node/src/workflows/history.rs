//! Histories: nobody stores them, so they are computed from the journal when somebody asks.
//!
//! Who reads one page by page, or asks again and again what is new, would have the node go through
//! the whole journal each time. So a `Cursor` is kept for the next request: the execution as it was
//! behind the page before. A page costs what happened in it, and only the first request for a page
//! from the midst costs more.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use serverledge_asl::{Detail, Machine, Record};

use super::error::RunError;
use super::executions::PAGE_MAX;
use super::id_of;
use super::journal::{self, Entry, Replay};
use crate::node::Node;
use crate::store::Store;
use crate::store::executions::Id;

/// Cursors kept at most.
const CURSORS_MAX: usize = 64;
/// What they weigh together at most, bytes. One that weighs more alone is not kept. An execution's
/// data come from its journal, so a cursor weighs what it has read of that, and the page behind it.
const WEIGHT_MAX: usize = 32 << 20;
/// Bytes of the journal that are read at once, about.
const READ_BYTES: usize = 64 << 10;
/// States entered before it is looked whether the page is full.
const STATES_AT_ONCE: usize = 100;

/// Cursors for requests to come.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    /// The one used last comes last.
    kept: Mutex<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    id: Id,
    cursor: Cursor,
    weight: usize,
}

impl Histories {
    /// The cursor of `id` that is the least before `after`, which is the caller's now.
    fn take(&self, id: Id, after: u64) -> Option<Cursor> {
        let mut kept = self.lock();
        let fitting = kept.iter().enumerate();
        let fitting = fitting.filter(|(_, it)| it.id == id && it.cursor.start() <= after);
        let (at, _) = fitting.max_by_key(|(_, it)| it.cursor.start())?;
        kept.remove(at).map(|it| it.cursor)
    }

    fn keep(&self, id: Id, cursor: Cursor) {
        // A record that is missing may be on its way to the disk.
        if cursor.misses_records {
            return;
        }
        let weight = cursor.weight();
        let mut kept = self.lock();
        // One at the same place is one too many.
        kept.retain(|it| it.id != id || it.cursor.start() != cursor.start());
        kept.push_back(Kept { id, cursor, weight });
        let mut total: usize = kept.iter().map(|it| it.weight).sum();
        while (kept.len() > CURSORS_MAX || total > WEIGHT_MAX)
            && let Some(dropped) = kept.pop_front()
        {
            total -= dropped.weight;
        }
    }

    /// Its journal has become another one.
    pub(crate) fn forget(&self, id: Id) {
        self.lock().retain(|it| it.id != id);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // Each change is one step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An execution on its way through its journal.
#[derive(Debug, Default)]
struct Cursor {
    replay: Replay,
    /// Number of the journal's next record.
    next: u64,
    /// What is left of those before.
    entries: VecDeque<Entry>,
    /// Whether a step has more to do.
    is_stepping: bool,
    /// Whether the journal has gaps.
    misses_records: bool,
    /// Events seen last: the page before, which may be asked for again, and what follows it.
    tail: VecDeque<Record>,
    /// Events seen.
    seen: u64,
    /// Bytes of the journal that were read.
    read: usize,
}

impl Cursor {
    /// The next page may begin after this event, and after any later one.
    fn start(&self) -> u64 {
        self.seen - self.tail.len() as u64
    }

    fn weight(&self) -> usize {
        let tail: usize = self.tail.iter().map(weight_of).sum();
        size_of::<Self>() + self.read + tail
    }

    /// The events after `after`, and whether there are more.
    fn page(
        &mut self,
        store: &Store,
        machine: &Machine,
        (id, after, limit): (Id, u64, usize),
    ) -> Result<(Vec<Record>, bool), RunError> {
        let last = after.saturating_add(limit as u64);
        loop {
            while self.tail.front().is_some_and(|first| first.id <= after) {
                self.tail.pop_front();
            }
            if self.seen > last || !self.advance(store, machine, id)? {
                break;
            }
        }
        let more = self.tail.len() > limit;
        let page = self.tail.iter().take(limit).cloned().collect();
        Ok((page, more))
    }

    /// Goes on a little; `false` at the end of what there is.
    fn advance(&mut self, store: &Store, machine: &Machine, id: Id) -> Result<bool, RunError> {
        let Self {
            replay, tail, seen, ..
        } = self;
        let mut see = |record: Record| {
            *seen = record.id;
            tail.push_back(record);
        };
        if self.is_stepping {
            self.is_stepping = replay.go_on(machine, STATES_AT_ONCE, &mut see);
        } else if let Some(entry) = self.entries.pop_front() {
            self.is_stepping = replay.take_some(machine, entry, STATES_AT_ONCE, &mut see)?;
        } else {
            return self.fetch(store, id);
        }
        Ok(true)
    }

    /// Reads what comes next in the journal.
    fn fetch(&mut self, store: &Store, id: Id) -> Result<bool, RunError> {
        let records = store.journal_from(id, self.next, READ_BYTES)?;
        for (sequence, record) in &records {
            self.misses_records |= *sequence != self.next;
            self.next = sequence.saturating_add(1);
            self.read += record.len();
            self.entries.extend(journal::decode(record)?);
        }
        Ok(!records.is_empty())
    }
}

/// Bytes of an event in memory, about.
fn weight_of(record: &Record) -> usize {
    let state = record.state.as_ref().map_or(0, String::len);
    let detail = match &record.detail {
        Detail::None | Detail::Index(_) => 0,
        Detail::Input(data) | Detail::Output(data) => weight_of_value(data),
        Detail::Task {
            resource,
            arguments,
        } => resource.len() + weight_of_value(arguments),
        Detail::Failure { error, cause } => {
            [error, cause].into_iter().flatten().map(String::len).sum()
        }
    };
    size_of::<Record>() + state + detail
}

/// No value is nested deeper than the parser allows.
fn weight_of_value(value: &Value) -> usize {
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight_of_value).sum(),
        Value::Object(fields) => {
            let weights = fields
                .iter()
                .map(|(key, it)| key.len() + weight_of_value(it));
            weights.sum()
        }
    };
    size_of::<Value>() + inner
}

/// A page of an execution's history: the events after one, and whether there are more.
pub async fn page(
    node: &Arc<Node>,
    id: &str,
    after: u64,
    limit: usize,
) -> Result<(Vec<Record>, bool), RunError> {
    let id = id_of(id).ok_or(RunError::Unknown)?;
    let limit = limit.clamp(1, PAGE_MAX);
    let _permit = node.workflows.reads.acquire().await;
    let node = Arc::clone(node);
    let read = move || {
        let stored = node.store.execution(id)?.ok_or(RunError::Unknown)?;
        let machine = node
            .workflows
            .catalog
            .machine(&node.store, &stored.digest)?;
        let histories = &node.workflows.histories;
        let mut cursor = histories.take(id, after).unwrap_or_default();
        let page = cursor.page(&node.store, &machine, (id, after, limit))?;
        histories.keep(id, cursor);
        Ok(page)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| RunError::Journal("reading it failed".to_owned()))?
}
