//! One function's share of the node: its sandboxes, the calls that wait for it, and whether the
//! next one should.

use std::collections::VecDeque;
use std::time::Duration;

use super::types::{CallId, FunctionId, Limits, SandboxId};
use crate::estimate::Estimate;
use crate::ledger::micros;
use crate::time::Timestamp;

/// One function's sandboxes and waiting calls.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) limits: Limits,
    pub(super) cpu: u64,
    /// Idle, newest last.
    pub(super) idle: Vec<SandboxId>,
    /// Busy, with room for another call.
    pub(super) open: Vec<SandboxId>,
    pub(super) starting: usize,
    /// Up and not draining: idle or busy.
    pub(super) up: usize,
    pub(super) queue: VecDeque<CallId>,
    pub(super) estimate: Estimate,
    /// Time that calls have waited although a sandbox could have been started.
    pub(super) regret: Duration,
    pub(super) retired: bool,
}

#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) function: FunctionId,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Its memory is charged as busy, or as warm when it starts for nobody.
    Starting {
        began: Timestamp,
        prewarm: bool,
    },
    Idle {
        since: Timestamp,
    },
    Busy {
        calls: u32,
    },
    /// Takes no more calls and ends with those it has.
    Draining {
        calls: u32,
    },
}

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        let max_concurrency = limits.max_concurrency.max(1);
        Self {
            limits: Limits {
                max_concurrency,
                ..*limits
            },
            cpu: micros(limits.cpu),
            idle: Vec::new(),
            open: Vec::new(),
            starting: 0,
            up: 0,
            queue: VecDeque::new(),
            estimate: Estimate::default(),
            regret: Duration::ZERO,
            retired: false,
        }
    }

    /// Whether the next call should wait for a sandbox that is there or on its way.
    pub(super) fn should_wait(&self, cores: usize) -> bool {
        let ahead = self.queue.len();
        let working = self.working();
        // Idle ones that were not taken lack CPU: nothing here will free it.
        if working == 0 {
            return false;
        }
        if self.slots(self.starting) > ahead as u64 {
            return true;
        }
        let Some(service) = self.estimate.service() else {
            // Nothing is known: no more starts at once than cores, which they share.
            return self.starting >= cores;
        };
        let share = (ahead + 1) as f64 / self.slots(working) as f64;
        let mut wait = service.as_secs_f64() * share;
        let cold_start = self.estimate.cold_start().as_secs_f64();
        if working == self.starting {
            // On average half of the start is over.
            wait += cold_start / 2.0;
        }
        wait < cold_start
    }

    /// Whether the sandboxes on their way have a slot for every call that waits.
    pub(super) fn provided(&self) -> bool {
        self.slots(self.starting) >= self.queue.len() as u64
    }

    /// Sandboxes that will take a waiting call by themselves, sooner or later.
    pub(super) fn working(&self) -> usize {
        self.up - self.idle.len() + self.starting
    }

    pub(super) fn is_unused(&self) -> bool {
        self.up == 0 && self.starting == 0 && self.queue.is_empty()
    }

    /// Calls that so many sandboxes serve at once.
    fn slots(&self, sandboxes: usize) -> u64 {
        sandboxes as u64 * u64::from(self.limits.max_concurrency)
    }
}
