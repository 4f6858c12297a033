//! One function's part of the scheduler, and the choice between waiting and starting.

use std::collections::VecDeque;
use std::time::Duration;

use super::types::{CallId, Limits, SandboxId};
use crate::estimate::Estimate;
use crate::ledger::micros;

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

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
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
        // Idle ones that were not taken lack CPU: nothing here will free it.
        if self.working() == 0 {
            return false;
        }
        if self.starting as u64 * u64::from(self.limits.max_concurrency) > ahead as u64 {
            return true;
        }
        let Some(service) = self.estimate.service() else {
            // Nothing is known: no more starts at once than cores, which they share.
            return self.starting >= cores;
        };
        let slots = (self.up + self.starting) as f64 * f64::from(self.limits.max_concurrency);
        let mut wait = service.mul_f64((ahead + 1) as f64 / slots);
        let cold_start = self.estimate.cold_start();
        if self.up == 0 {
            // On average half of the start is over.
            wait += cold_start / 2;
        }
        wait < cold_start
    }

    /// Sandboxes that will take a waiting call by themselves, sooner or later.
    pub(super) fn working(&self) -> usize {
        self.up - self.idle.len() + self.starting
    }

    pub(super) fn is_unused(&self) -> bool {
        self.up == 0 && self.starting == 0 && self.queue.is_empty()
    }
}
