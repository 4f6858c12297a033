//! Sandboxes that were started ahead of their function, kept by kind until one needs them.
//!
//! Beside them, where there is one, the zygote of their kind, from which they and others are made.
//!
//! Only the keeping: how many there should be and whether there is memory for them is decided by
//! `core`, and the pool, under whose lock this is, carries it out.

use std::collections::HashMap;

use std::time::Duration;

use serverledge_core::{Demand, Timestamp};
use serverledge_sandbox::oci::Zygote;
use serverledge_sandbox::{Kind, Prestarted};

/// Kinds of which sandboxes are kept. Functions choose what to preload, so there is no end to kinds;
/// those of a further one start from nothing.
const KINDS_MAX: usize = 16;

/// How long no zygote is started of a kind of which one could not be had.
const NO_ZYGOTE_FOR: Duration = Duration::from_secs(60);

/// How long after the start of one the next zygote of a kind may be started: where none is of any use,
/// that is what trying costs.
const ZYGOTE_EVERY: Duration = Duration::from_secs(5);

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
    zygote: Place,
    /// When the next zygote may be started.
    zygote_after: Timestamp,
}

/// What a kind has of a zygote.
enum Place {
    Empty,
    Starting,
    /// With as many times a sandbox's memory as it takes.
    Taken(Zygote, usize),
}

impl Place {
    /// Gives the zygote up. Returns what it took.
    fn clear(&mut self) -> usize {
        match self {
            Place::Taken(_, units) => {
                let units = *units;
                *self = Place::Empty;
                units
            }
            _ => 0,
        }
    }
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
            zygote: Place::Empty,
            zygote_after: Timestamp::default(),
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

    /// Whether a zygote is to be started, as there is none or no good one; counted as starting from
    /// here on. Also returns how many times a sandbox's memory one held that is given up.
    pub(crate) fn begin_zygote(&mut self, kind: &Kind, now: Timestamp) -> (bool, usize) {
        let Some(shelf) = self.shelves.get_mut(kind) else {
            return (false, 0);
        };
        let gone = match &shelf.zygote {
            Place::Starting => return (false, 0),
            Place::Taken(zygote, _) if zygote.is_fit() => return (false, 0),
            _ => shelf.zygote.clear(),
        };
        if now < shelf.zygote_after {
            return (false, gone);
        }
        shelf.zygote_after = later(now, ZYGOTE_EVERY);
        shelf.zygote = Place::Starting;
        (true, gone)
    }

    /// A start of a zygote that was begun has ended; `None` if without one. It takes so many times a
    /// sandbox's memory, and one of them may be owed. Returns how many of them are free.
    pub(crate) fn end_zygote(
        &mut self,
        kind: &Kind,
        zygote: Option<Zygote>,
        units: usize,
        now: Timestamp,
    ) -> usize {
        let Some(shelf) = self.shelves.get_mut(kind) else {
            return units;
        };
        shelf.zygote = Place::Empty;
        if zygote.is_none() {
            shelf.zygote_after = later(now, NO_ZYGOTE_FOR);
        }
        if self.owed > 0 && units > 0 {
            self.owed -= 1;
            return units - 1;
        }
        match zygote {
            Some(zygote) if units > 0 => {
                shelf.zygote = Place::Taken(zygote, units);
                0
            }
            _ => units,
        }
    }

    /// Gives one up, of the kind that has most, or else a zygote, or else the next that is up. Returns
    /// how many times a sandbox's memory is free by it, beside the one that was wanted.
    pub(crate) fn give_up(&mut self) -> usize {
        let largest = self.shelves.values_mut().max_by_key(|s| s.ready.len());
        if largest.and_then(|shelf| shelf.ready.pop()).is_some() {
            return 0;
        }
        let mut zygotes = self.shelves.values_mut().map(|shelf| shelf.zygote.clear());
        match zygotes.find(|units| *units > 0) {
            Some(units) => units - 1,
            None => {
                self.owed += 1;
                0
            }
        }
    }

    /// Gives up those that are dead, and those above what is wanted, and zygotes that are of no more
    /// use. Returns how many times a sandbox's memory they held.
    pub(crate) fn sweep(&mut self, now: Timestamp) -> usize {
        let mut gone = 0;
        for shelf in self.shelves.values_mut() {
            if matches!(&shelf.zygote, Place::Taken(zygote, _) if !zygote.is_fit()) {
                gone += shelf.zygote.clear();
            }
            let before = shelf.ready.len();
            shelf.ready.retain(|sandbox| sandbox.is_alive());
            shelf.ready.truncate(shelf.demand.target(now));
            gone += before - shelf.ready.len();
        }
        gone
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(by))
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
        assert_eq!(prestarts.give_up(), 0);
        let sandbox = Box::new(Fake(Arc::clone(&alive)));
        assert_eq!(prestarts.end(&kind(), Some(sandbox)), Reserved::Taken);
        assert!(prestarts.begin(&kind(), Timestamp::default()));
        assert_eq!(prestarts.end(&kind(), None), Reserved::Free);
        assert_eq!(fill(&mut prestarts, &alive), 1);
        assert_eq!(prestarts.give_up(), 0);
        assert_eq!(prestarts.sweep(Timestamp::default()), 0);
        assert_eq!(fill(&mut prestarts, &alive), 1);
    }

    #[test]
    fn a_zygote_that_cannot_be_had_is_not_tried_at_once_again() {
        let mut prestarts = Prestarts::new(1, 1);
        let at = |seconds| Timestamp(Duration::from_secs(seconds));
        assert_eq!(prestarts.begin_zygote(&kind(), at(1)), (false, 0));
        prestarts.expect(&kind());
        assert_eq!(prestarts.begin_zygote(&kind(), at(1)), (true, 0));
        assert_eq!(prestarts.begin_zygote(&kind(), at(1)), (false, 0));
        assert_eq!(prestarts.end_zygote(&kind(), None, 3, at(2)), 3);
        assert_eq!(prestarts.begin_zygote(&kind(), at(61)), (false, 0));
        assert_eq!(prestarts.begin_zygote(&kind(), at(62)), (true, 0));
        // Of what was wanted back meanwhile, one is not free.
        assert_eq!(prestarts.give_up(), 0);
        assert_eq!(prestarts.end_zygote(&kind(), None, 3, at(63)), 2);
    }
}
