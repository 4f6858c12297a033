//! The calls that wait, and which of them need a sandbox that can't be started yet.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{CallId, FunctionId};
use crate::time::Timestamp;

/// A call that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) function: FunctionId,
    pub(super) since: Timestamp,
    pub(super) patient: bool,
}

/// All calls that wait, of all functions.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    calls: BTreeMap<CallId, Waiting>,
    /// Those that wait for room or for their turn to start a sandbox.
    wanting: BTreeSet<CallId>,
    /// Those in `wanting` that are not patient.
    crowd: usize,
}

impl WaitingRoom {
    pub(super) fn add(&mut self, call: CallId, waiting: Waiting) {
        self.calls.insert(call, waiting);
    }

    pub(super) fn get(&self, call: CallId) -> Option<Waiting> {
        self.calls.get(&call).copied()
    }

    pub(super) fn remove(&mut self, call: CallId) -> Option<Waiting> {
        self.unwant(call);
        self.calls.remove(&call)
    }

    /// The call needs another sandbox than there are.
    pub(super) fn want(&mut self, call: CallId) {
        if let Some(waiting) = self.calls.get(&call)
            && self.wanting.insert(call)
        {
            self.crowd += usize::from(!waiting.patient);
        }
    }

    /// One is on its way.
    pub(super) fn unwant(&mut self, call: CallId) {
        if self.wanting.remove(&call)
            && let Some(waiting) = self.calls.get(&call)
        {
            self.crowd -= usize::from(!waiting.patient);
        }
    }

    /// The oldest call that needs another sandbox: the next to get one.
    pub(super) fn first_wanting(&self) -> Option<(CallId, Waiting)> {
        let call = *self.wanting.first()?;
        Some((call, *self.calls.get(&call)?))
    }

    /// What the queue's capacity bounds: patient calls don't count.
    pub(super) fn crowd(&self) -> usize {
        self.crowd
    }
}
