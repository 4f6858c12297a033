//! Sandboxes that were started ahead of their function, kept by kind until one needs them.
//!
//! Only the keeping: how many there should be and whether there is memory for them is decided by
//! `core`, and the pool, under whose lock this is, carries it out.

use std::collections::HashMap;

use serverledge_core::{Demand, Timestamp};
use serverledge_sandbox::{Kind, Prestarted};

/// Kinds of which sandboxes are kept. Functions choose what to preload, so there is no end to kinds;
/// those of a further one start from nothing.
const KINDS_MAX: usize = 16;

/// The sandboxes without a function.
pub(crate) struct Prestarts {
    least: usize,
    most: usize,
    shelves: HashMap<Kind, Shelf>,
    /// How many of those that are starting are to be given up when they are up.
    owed: usize,
}

struct Shelf {
    demand: Demand,
    ready: Vec<Box<dyn Prestarted>>,
    starting: bool,
}

/// What became of the memory that was reserved for a sandbox.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reserved {
    /// The sandbox holds it.
    Held,
    /// It is free: to be told to the scheduler.
    Free,
    /// The scheduler has taken it back before.
    Taken,
}

impl Prestarts {
    /// Between `least` and `most` of each kind that was expected.
    pub(crate) fn new(least: usize, most: usize) -> Self {
        Self {
            least,
            most,
            shelves: HashMap::new(),
            owed: 0,
        }
    }

    /// Functions of this kind will come. Returns whether that is news.
    pub(crate) fn expect(&mut self, kind: &Kind) -> bool {
        if self.shelves.contains_key(kind) || self.shelves.len() >= KINDS_MAX {
            return false;
        }
        let shelf = Shelf {
            demand: Demand::new(self.least, self.most),
            ready: Vec::new(),
            starting: false,
        };
        self.shelves.insert(kind.clone(), shelf);
        true
    }

    /// One for a function that starts. Also returns how many are gone: that one, and those that
    /// have died on the shelf.
    pub(crate) fn take(
        &mut self,
        kind: &Kind,
        now: Timestamp,
    ) -> (Option<Box<dyn Prestarted>>, usize) {
        let Some(shelf) = self.shelves.get_mut(kind) else {
            return (None, 0);
        };
        let mut gone = 0;
        while let Some(sandbox) = shelf.ready.pop() {
            gone += 1;
            if sandbox.is_alive() {
                return (Some(sandbox), gone);
            }
        }
        shelf.demand.missed(now);
        (None, gone)
    }

    /// Whether one more is to be started; counted as starting from here on.
    pub(crate) fn begin(&mut self, kind: &Kind, now: Timestamp) -> bool {
        let Some(shelf) = self.shelves.get_mut(kind) else {
            return false;
        };
        let wanted = !shelf.starting && shelf.ready.len() < shelf.demand.target(now);
        shelf.starting |= wanted;
        wanted
    }

    /// A start that was begun has ended; `None` if without a sandbox.
    pub(crate) fn end(&mut self, kind: &Kind, sandbox: Option<Box<dyn Prestarted>>) -> Reserved {
        let mut shelf = self.shelves.get_mut(kind);
        if let Some(shelf) = &mut shelf {
            shelf.starting = false;
        }
        if self.owed > 0 {
            self.owed -= 1;
            return Reserved::Taken;
        }
        match (shelf, sandbox) {
            (Some(shelf), Some(sandbox)) => {
                shelf.ready.push(sandbox);
                Reserved::Held
            }
            _ => Reserved::Free,
        }
    }

    /// Gives one up, of the kind that has most, or else the next that is up.
    pub(crate) fn give_up(&mut self) {
        let largest = self.shelves.values_mut().max_by_key(|s| s.ready.len());
        if largest.and_then(|shelf| shelf.ready.pop()).is_none() {
            self.owed += 1;
        }
    }

    /// Gives up those that are dead, and those above what is wanted. Returns how many.
    pub(crate) fn sweep(&mut self, now: Timestamp) -> usize {
        let mut gone = 0;
        for shelf in self.shelves.values_mut() {
            let before = shelf.ready.len();
            shelf.ready.retain(|sandbox| sandbox.is_alive());
            shelf.ready.truncate(shelf.demand.target(now));
            gone += before - shelf.ready.len();
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use serverledge_sandbox::{BoxFuture, CreateError, Sandbox, SandboxSpec, Shim};

    use super::*;

    struct Fake(Arc<AtomicBool>);

    impl Prestarted for Fake {
        fn is_alive(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn load(
            self: Box<Self>,
            _spec: SandboxSpec,
        ) -> BoxFuture<'static, Result<Arc<dyn Sandbox>, CreateError>> {
            Box::pin(std::future::pending())
        }
    }

    fn kind() -> Kind {
        Kind {
            interpreter: "/usr/bin/python3".into(),
            shim: Shim::Python,
            image: None,
            preload: Vec::new(),
        }
    }

    fn fill(prestarts: &mut Prestarts, alive: &Arc<AtomicBool>) -> usize {
        let mut started = 0;
        while prestarts.begin(&kind(), Timestamp::default()) {
            assert!(
                !prestarts.begin(&kind(), Timestamp::default()),
                "one by one"
            );
            let sandbox = Box::new(Fake(Arc::clone(alive)));
            assert_eq!(prestarts.end(&kind(), Some(sandbox)), Reserved::Held);
            started += 1;
        }
        started
    }

    #[test]
    fn as_many_as_wanted_are_kept_and_more_after_a_miss() {
        let (mut prestarts, alive) = (Prestarts::new(2, 3), Arc::new(AtomicBool::new(true)));
        assert_eq!(fill(&mut prestarts, &alive), 0, "nothing is expected yet");
        prestarts.expect(&kind());
        assert_eq!(fill(&mut prestarts, &alive), 2);
        let now = Timestamp::default();
        for (found, gone) in [(true, 1), (true, 1), (false, 0)] {
            let (sandbox, lost) = prestarts.take(&kind(), now);
            assert_eq!((sandbox.is_some(), lost), (found, gone));
        }
        assert_eq!(fill(&mut prestarts, &alive), 3);
        alive.store(false, Ordering::Relaxed);
        let (sandbox, lost) = prestarts.take(&kind(), now);
        assert!(sandbox.is_none() && lost == 3, "the dead are of no use");
    }

    #[test]
    fn memory_that_is_wanted_back_comes_back_once() {
        let (mut prestarts, alive) = (Prestarts::new(1, 1), Arc::new(AtomicBool::new(true)));
        prestarts.expect(&kind());
        assert!(prestarts.begin(&kind(), Timestamp::default()));
        prestarts.give_up();
        let sandbox = Box::new(Fake(Arc::clone(&alive)));
        assert_eq!(prestarts.end(&kind(), Some(sandbox)), Reserved::Taken);
        assert!(prestarts.begin(&kind(), Timestamp::default()));
        assert_eq!(prestarts.end(&kind(), None), Reserved::Free);
        assert_eq!(fill(&mut prestarts, &alive), 1);
        prestarts.give_up();
        assert_eq!(prestarts.sweep(Timestamp::default()), 0);
        assert_eq!(fill(&mut prestarts, &alive), 1);
    }
}
