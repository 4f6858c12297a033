//! Sandboxes that are started ahead of their function: how many, and who pays for their memory.

use std::time::Duration;

use super::Scheduler;
use super::types::{Action, SandboxId};
use crate::time::Timestamp;

impl Scheduler {
    /// Makes room for a sandbox without a function, if memory is free: nothing is evicted for one.
    /// Returns its identity. Its memory goes back with [`Scheduler::release_spare`] or by an
    /// [`Action::Yield`].
    pub fn reserve_spare(&mut self) -> Option<SandboxId> {
        if self.ledger.memory_free() < self.config.spare_mb {
            return None;
        }
        self.ledger.take_spare(self.config.spare_mb);
        self.last_sandbox += 1;
        Some(SandboxId(self.last_sandbox))
    }

    /// What each of them counts, MiB.
    pub fn spare_mb(&self) -> u64 {
        self.config.spare_mb
    }

    /// One of them is gone, or a function has moved in, which pays for itself.
    pub fn release_spare(&mut self) {
        let memory = self.config.spare_mb.min(self.ledger.memory_spare());
        self.ledger.drop_spare(memory);
    }

    /// Takes the memory of one of them; `false` if there is none.
    pub(super) fn yield_spare(&mut self, actions: &mut Vec<Action>) -> bool {
        if self.ledger.memory_spare() == 0 {
            return false;
        }
        self.release_spare();
        actions.push(Action::Yield);
        true
    }
}

/// How long after the last miss a raised number is kept.
const COOL_DOWN: Duration = Duration::from_secs(60);

/// How many sandboxes of one kind should be ready: doubled whenever one was wanted and there was
/// none, and back to the least when that has not happened for a minute.
#[derive(Debug, Clone)]
pub struct Demand {
    least: usize,
    most: usize,
    target: usize,
    missed: Timestamp,
}

impl Demand {
    /// Between `least` and `most`.
    pub fn new(least: usize, most: usize) -> Self {
        Self {
            least,
            most: most.max(least),
            target: least,
            missed: Timestamp::default(),
        }
    }

    /// A function wanted one and found none.
    pub fn missed(&mut self, now: Timestamp) {
        self.target = (self.target * 2).clamp(self.least, self.most);
        self.missed = now;
    }

    /// How many there should be.
    pub fn target(&mut self, now: Timestamp) -> usize {
        if now.since(self.missed) >= COOL_DOWN {
            self.target = self.least;
        }
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_grows_with_misses_and_cools_down() {
        let mut demand = Demand::new(2, 9);
        let at = |seconds| Timestamp(Duration::from_secs(seconds));
        assert_eq!(demand.target(at(100)), 2);
        for expected in [4, 8, 9, 9] {
            demand.missed(at(100));
            assert_eq!(demand.target(at(101)), expected);
        }
        assert_eq!(demand.target(at(159)), 9);
        assert_eq!(demand.target(at(160)), 2);
        // Switched off, it stays off.
        let mut off = Demand::new(0, 9);
        off.missed(at(1));
        assert_eq!(off.target(at(1)), 0);
    }
}
