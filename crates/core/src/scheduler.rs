//! The scheduler: which call runs in which sandbox, which waits, what is started and what goes.
//!
//! Events in (`arrive`, `ready`, `complete`, ...), answers out: a [`Decision`] for the call that
//! arrived, [`Action`]s for the shell to carry out, in order. Resources are reserved when they are
//! promised, so a decision can't fail later for want of room. Memory is released when a `Destroy`
//! is ordered: every sandbox has limits of its own, so a late death harms nobody.
//!
//! **Start or wait.** A call that finds nothing warm compares the expected wait with the expected
//! cold start. Estimates can be wrong or missing, so the choice to wait is bounded like ski rental
//! (Karlin et al., "Competitive snoopy caching", 1988): after waiting for as long as a cold start
//! takes, a sandbox is started after all. No call does worse than about twice the better choice.
//! The same rule holds for many short waits together: when the calls of a function have waited for
//! as long as a start takes, in all, it gets another sandbox, up to one for each core.
//!
//! **Lack of room.** Calls that need a sandbox for which there is no room wait in order of arrival,
//! across functions: freed room goes to the oldest first, and younger ones don't overtake it.

mod pool;
mod spare;
mod types;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::pool::{Pool, Sandbox, State};
pub use self::spare::Demand;
pub use self::types::{
    Action, CallId, Decision, DropReason, FunctionId, GiveUp, Limits, Outcome, SandboxId,
    SchedulerConfig,
};
use self::waiting::{Waiting, WaitingRoom};
use crate::ledger::{Ledger, Snapshot};
use crate::time::Timestamp;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    ledger: Ledger,
    pools: BTreeMap<FunctionId, Pool>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// Idle sandboxes of all functions, least recently used first.
    idle: BTreeSet<(Timestamp, SandboxId)>,
    waiting: WaitingRoom,
    starting: usize,
    /// Memory of the sandboxes that start for nobody: charged as warm, but not to be evicted.
    warming: u64,
    last_sandbox: u64,
}

/// How long a patient call waits. Not for ever: callers add it to clocks that overflow.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Until a call whose sandbox was still starting at its deadline is asked about again.
const POSTPONED: Duration = Duration::from_secs(1);

impl Scheduler {
    /// With an empty pool.
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            ledger: Ledger::new(config.memory_mb, config.cpus),
            config,
            pools: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            idle: BTreeSet::new(),
            waiting: WaitingRoom::default(),
            starting: 0,
            warming: 0,
            last_sandbox: 0,
        }
    }

    /// A call arrives. Calls must have ascending ids. A `patient` call is never dropped for lack of
    /// room and has no deadline for waiting.
    pub fn arrive(
        &mut self,
        call: CallId,
        function: FunctionId,
        limits: &Limits,
        patient: bool,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Decision {
        let pool = self
            .pools
            .entry(function)
            .or_insert_with(|| Pool::new(limits));
        // Those that wait already go first.
        if pool.queue.is_empty()
            && let Some(sandbox) = self.take_warm(function)
        {
            return Decision::Start(sandbox);
        }
        match self.admit(call, function, patient, now, actions) {
            Ok(cold_start) => Decision::Enqueue {
                // Half a start later than the rule says: by then a sandbox that was started for
                // calls just before this one is up, and the first of them tells how long they take.
                rejudge_at: now + cold_start * 3 / 2,
                give_up_at: now
                    + if patient {
                        PATIENCE
                    } else {
                        self.config.queue_timeout
                    },
            },
            Err(reason) => {
                self.forget_if_unused(function);
                Decision::Drop(reason)
            }
        }
    }

    /// Lets a call wait that found nothing warm, starting a sandbox for it if that is better and
    /// there is room. Returns the expected duration of a start.
    fn admit(
        &mut self,
        call: CallId,
        function: FunctionId,
        patient: bool,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Result<Duration, DropReason> {
        let pool = self.pools.get(&function).ok_or(DropReason::NoRoom)?;
        if !self.ledger.could_ever_fit(pool.limits.memory_mb, pool.cpu) {
            let Limits { memory_mb, cpu, .. } = pool.limits;
            return Err(DropReason::TooLarge {
                memory_mb,
                cpu,
                pool_memory_mb: self.config.memory_mb,
                pool_cpus: self.config.cpus,
            });
        }
        let cold_start = pool.estimate.cold_start();
        let may_wait = patient || pool.queue.len() < self.config.wait_capacity;
        let waiting = Waiting {
            function,
            since: now,
            patient,
        };
        if pool.should_wait(self.config.cores) {
            if !may_wait {
                return Err(DropReason::QueueFull);
            }
            self.enqueue(call, waiting);
        } else if self.fits(function) {
            if self.may_start() {
                self.enqueue(call, waiting);
                self.create(function, false, now, actions);
            } else if may_wait {
                // There is room, but older calls go first, or other starts must end first.
                self.enqueue(call, waiting);
                self.waiting.want(call);
            } else {
                return Err(DropReason::QueueFull);
            }
        } else if patient || self.waiting.crowd() < self.config.queue_capacity {
            self.enqueue(call, waiting);
            self.waiting.want(call);
        } else if self.config.queue_capacity == 0 {
            return Err(DropReason::NoRoom);
        } else {
            return Err(DropReason::QueueFull);
        }
        Ok(cold_start)
    }

    /// A waiting call has waited for longer than a start takes: starts a sandbox if there are fewer
    /// on their way than calls waiting. What has become known of the function since may speak for
    /// waiting on, but not for long. Returns when to judge again; `None` if it waits no more.
    pub fn rejudge(
        &mut self,
        call: CallId,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Option<Timestamp> {
        let Waiting { function, .. } = self.waiting.get(call)?;
        // CPU for a sandbox that is up may have become free elsewhere.
        self.give_idle_to_waiting(function, actions);
        let Waiting { since, .. } = self.waiting.get(call)?;
        let pool = self.pools.get(&function)?;
        let cold_start = pool.estimate.cold_start();
        let waited = now.since(since);
        // Less and less often: most of those that wait for long wait for room, which comes to them.
        let again = now + cold_start.max(waited);
        let hopeful = pool.estimate.service().is_some() && pool.should_wait(self.config.cores);
        if pool.provided() || (hopeful && waited < cold_start * 3) {
            return Some(again);
        }
        if self.may_start() && self.fits(function) {
            self.create(function, false, now, actions);
        } else {
            self.waiting.want(call);
        }
        Some(again)
    }

    /// The deadline of a waiting call passed.
    ///
    /// One whose function's first sandbox is still starting waits for nothing but that: the start
    /// has a limit of its own, and its failure says what is wrong.
    pub fn give_up(&mut self, call: CallId, now: Timestamp, actions: &mut Vec<Action>) -> GiveUp {
        let Some(Waiting { function, .. }) = self.waiting.get(call) else {
            return GiveUp::Answered;
        };
        let pool = self.pools.get(&function);
        if pool.is_some_and(|pool| pool.up == 0 && pool.starting > 0) {
            return GiveUp::Postponed(now + POSTPONED);
        }
        self.waiting.remove(call);
        if let Some(pool) = self.pools.get_mut(&function) {
            pool.queue.retain(|waiting| *waiting != call);
        }
        self.settle(function, now, actions);
        GiveUp::Dropped
    }

    /// Whoever made a call wants it no more. `false` if it doesn't wait (any more): if it was given a
    /// sandbox, that is to be completed as [`Outcome::Unused`].
    pub fn withdraw(&mut self, call: CallId, now: Timestamp, actions: &mut Vec<Action>) -> bool {
        let Some(Waiting { function, .. }) = self.waiting.remove(call) else {
            return false;
        };
        if let Some(pool) = self.pools.get_mut(&function) {
            pool.queue.retain(|waiting| *waiting != call);
        }
        self.settle(function, now, actions);
        true
    }

    /// A sandbox is up.
    pub fn ready(&mut self, id: SandboxId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        let State::Starting { began, prewarm } = sandbox.state else {
            return;
        };
        let function = sandbox.function;
        sandbox.state = State::Busy { calls: 0 };
        self.starting -= 1;
        let Some(pool) = self.pools.get_mut(&function) else {
            return;
        };
        pool.estimate.started(now.since(began));
        pool.starting -= 1;
        pool.up += 1;
        if prewarm {
            // It has held memory only. It goes to a call that waits if its CPU is free as well.
            let memory = pool.limits.memory_mb;
            self.warming -= memory;
            if pool.queue.is_empty() || !self.ledger.cpu_fits(pool.cpu) {
                self.make_idle(id, function, now, actions);
                self.settle(function, now, actions);
                return;
            }
            self.ledger.drop_warm(memory);
            self.ledger.take_busy(memory, pool.cpu);
        }
        self.refill(id, now, true, actions);
        self.settle(function, now, actions);
    }

    /// A sandbox could not be started. If its function has no other, the calls that waited are
    /// refused: they counted on this one, and another try would fail alike.
    pub fn start_failed(&mut self, id: SandboxId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(function) = self.remove(id) else {
            return;
        };
        if let Some(pool) = self.pools.get_mut(&function)
            && pool.up + pool.starting == 0
        {
            for call in std::mem::take(&mut pool.queue) {
                self.waiting.remove(call);
                actions.push(Action::Refuse {
                    call,
                    reason: DropReason::StartFailed,
                });
            }
        }
        self.settle(function, now, actions);
    }

    /// A call ended after `service` in its sandbox.
    pub fn complete(
        &mut self,
        id: SandboxId,
        outcome: Outcome,
        service: Duration,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        // Unknown: it died or was destroyed under the call.
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        let function = sandbox.function;
        let Some(pool) = self.pools.get_mut(&function) else {
            return;
        };
        if outcome == Outcome::Done {
            pool.estimate.served(service);
        }
        let calls = match &mut sandbox.state {
            State::Busy { calls } | State::Draining { calls } => {
                *calls = calls.saturating_sub(1);
                *calls
            }
            _ => return,
        };
        if outcome == Outcome::TimedOut
            && let State::Busy { .. } = sandbox.state
        {
            sandbox.state = State::Draining { calls };
            pool.open.retain(|open| *open != id);
            pool.up -= 1;
        }
        let draining = matches!(sandbox.state, State::Draining { .. });
        if outcome == Outcome::Broken || (draining && calls == 0) {
            self.destroy(id, actions);
        } else if !draining {
            self.refill(id, now, false, actions);
            self.regret(function, now, actions);
        }
        self.settle(function, now, actions);
    }

    /// A sandbox ended by itself. Calls it was running are completed by the shell as usual.
    pub fn died(&mut self, id: SandboxId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(function) = self.sandboxes.get(&id).map(|sandbox| sandbox.function) else {
            return;
        };
        self.destroy(id, actions);
        self.settle(function, now, actions);
    }

    /// Starts up to `count` sandboxes that nobody waits for, as many as fit without evicting.
    pub fn prewarm(
        &mut self,
        function: FunctionId,
        limits: &Limits,
        count: usize,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> Vec<SandboxId> {
        let pool = self
            .pools
            .entry(function)
            .or_insert_with(|| Pool::new(limits));
        let (memory, cpu) = (pool.limits.memory_mb, pool.cpu);
        let mut ids = Vec::new();
        let free = |ledger: &Ledger| ledger.memory_free() + ledger.memory_spare();
        while ids.len() < count && free(&self.ledger) >= memory && self.ledger.cpu_fits(cpu) {
            ids.push(self.create(function, true, now, actions));
        }
        self.forget_if_unused(function);
        ids
    }

    /// No new calls will come: the revision was replaced or deleted. Idle sandboxes go now, busy
    /// ones after their calls, and calls that wait are still served.
    pub fn retire(&mut self, function: FunctionId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(pool) = self.pools.get_mut(&function) else {
            return;
        };
        pool.retired = true;
        for id in pool.idle.clone() {
            self.destroy(id, actions);
        }
        self.settle(function, now, actions);
    }

    /// Destroys sandboxes that were idle for longer than the keep-alive.
    pub fn expire(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while let Some(&(since, id)) = self.idle.first() {
            if now.since(since) < self.config.keep_alive {
                break;
            }
            let function = self.sandboxes.get(&id).map(|sandbox| sandbox.function);
            self.destroy(id, actions);
            if let Some(function) = function {
                self.settle(function, now, actions);
            }
        }
    }

    /// Destroys everything and forgets who waits.
    pub fn drain(&mut self, actions: &mut Vec<Action>) {
        while self.yield_spare(actions) {}
        for id in self.sandboxes.keys().copied().collect::<Vec<_>>() {
            self.destroy(id, actions);
        }
        self.waiting = WaitingRoom::default();
        self.pools.clear();
    }

    /// What is in use.
    pub fn snapshot(&self) -> Snapshot {
        self.ledger.snapshot()
    }

    /// Idle sandboxes of a function.
    pub fn warm(&self, function: FunctionId) -> usize {
        self.pools.get(&function).map_or(0, |pool| pool.idle.len())
    }

    /// A sandbox that can run a call now: a busy one with room first, then the newest idle one.
    fn take_warm(&mut self, function: FunctionId) -> Option<SandboxId> {
        let pool = self.pools.get_mut(&function)?;
        if let Some(&id) = pool.open.last() {
            let State::Busy { calls } = &mut self.sandboxes.get_mut(&id)?.state else {
                return None;
            };
            *calls += 1;
            if *calls >= pool.limits.max_concurrency {
                pool.open.pop();
            }
            return Some(id);
        }
        if !self.ledger.cpu_fits(pool.cpu) {
            return None;
        }
        let id = pool.idle.pop()?;
        let sandbox = self.sandboxes.get_mut(&id)?;
        if let State::Idle { since } = sandbox.state {
            self.idle.remove(&(since, id));
        }
        sandbox.state = State::Busy { calls: 1 };
        if pool.limits.max_concurrency > 1 {
            pool.open.push(id);
        }
        self.ledger.drop_warm(pool.limits.memory_mb);
        self.ledger.take_busy(pool.limits.memory_mb, pool.cpu);
        Some(id)
    }

    /// Gives a busy sandbox with a free slot to the calls that wait; idle if none runs then.
    fn refill(&mut self, id: SandboxId, now: Timestamp, fresh: bool, actions: &mut Vec<Action>) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else {
            return;
        };
        let function = sandbox.function;
        let State::Busy { mut calls } = sandbox.state else {
            return;
        };
        let Some(pool) = self.pools.get_mut(&function) else {
            return;
        };
        let mut cold = fresh;
        while calls < pool.limits.max_concurrency
            && let Some(call) = pool.queue.pop_front()
        {
            calls += 1;
            if let Some(Waiting { since, .. }) = self.waiting.remove(call) {
                pool.regret += now.since(since);
            }
            actions.push(Action::Dispatch {
                call,
                sandbox: id,
                cold,
            });
            cold = false;
        }
        sandbox.state = State::Busy { calls };
        if calls == 0 {
            self.ledger.drop_busy(pool.limits.memory_mb, pool.cpu);
            self.ledger.take_warm(pool.limits.memory_mb);
            pool.open.retain(|open| *open != id);
            self.make_idle(id, function, now, actions);
        } else if calls < pool.limits.max_concurrency && !pool.open.contains(&id) {
            pool.open.push(id);
        } else if calls >= pool.limits.max_concurrency {
            pool.open.retain(|open| *open != id);
        }
    }

    /// Starts another sandbox when waiting has cost as much as that would have.
    fn regret(&mut self, function: FunctionId, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(pool) = self.pools.get_mut(&function) else {
            return;
        };
        if pool.queue.is_empty() || pool.regret < pool.estimate.cold_start() {
            return;
        }
        pool.regret = Duration::ZERO;
        let useful = pool.up + pool.starting < self.config.cores && pool.starting == 0;
        if useful && self.may_start() && self.fits(function) {
            self.create(function, false, now, actions);
        }
    }

    /// A sandbox runs nothing: it is kept warm, unless its function is retired. Its memory must be
    /// charged as warm already.
    fn make_idle(
        &mut self,
        id: SandboxId,
        function: FunctionId,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        if let Some(sandbox) = self.sandboxes.get_mut(&id) {
            sandbox.state = State::Idle { since: now };
        }
        self.idle.insert((now, id));
        let Some(pool) = self.pools.get_mut(&function) else {
            return;
        };
        pool.idle.push(id);
        if pool.retired {
            self.destroy(id, actions);
        }
    }

    /// After any change: idle sandboxes take calls of their function, freed room goes to the oldest
    /// calls that want it, and nobody is left waiting for a sandbox that will never come.
    fn settle(&mut self, function: FunctionId, now: Timestamp, actions: &mut Vec<Action>) {
        self.give_idle_to_waiting(function, actions);
        let orphaned = self.pools.get(&function).and_then(|pool| {
            let nothing_comes = pool.working() == 0;
            pool.queue.front().copied().filter(|_| nothing_comes)
        });
        if let Some(call) = orphaned {
            self.waiting.want(call);
        }
        while let Some((call, Waiting { function, .. })) = self.waiting.first_wanting() {
            if self.give_idle_to_waiting(function, actions) {
                continue;
            }
            let provided = self.pools.get(&function).is_some_and(Pool::provided);
            if !provided {
                if self.starting >= self.config.starts_max || !self.fits(function) {
                    break;
                }
                self.create(function, false, now, actions);
            }
            self.waiting.unwant(call);
        }
        self.forget_if_unused(function);
    }

    /// `true` if a waiting call got a warm sandbox.
    fn give_idle_to_waiting(&mut self, function: FunctionId, actions: &mut Vec<Action>) -> bool {
        let mut given = false;
        while let Some(call) = self
            .pools
            .get(&function)
            .and_then(|p| p.queue.front().copied())
        {
            let Some(sandbox) = self.take_warm(function) else {
                break;
            };
            if let Some(pool) = self.pools.get_mut(&function) {
                pool.queue.pop_front();
            }
            self.waiting.remove(call);
            actions.push(Action::Dispatch {
                call,
                sandbox,
                cold: false,
            });
            given = true;
        }
        given
    }

    fn enqueue(&mut self, call: CallId, waiting: Waiting) {
        if let Some(pool) = self.pools.get_mut(&waiting.function) {
            pool.queue.push_back(call);
        }
        self.waiting.add(call, waiting);
    }

    /// Whether a new start would overtake nobody and be one of few enough.
    fn may_start(&self) -> bool {
        self.starting < self.config.starts_max && self.waiting.first_wanting().is_none()
    }

    /// Whether a sandbox of the function can start now, evicting idle ones if need be.
    fn fits(&self, function: FunctionId) -> bool {
        self.pools.get(&function).is_some_and(|pool| {
            self.ledger.cpu_fits(pool.cpu)
                && pool.limits.memory_mb <= self.ledger.memory_available() - self.warming
        })
    }

    fn create(
        &mut self,
        function: FunctionId,
        prewarm: bool,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) -> SandboxId {
        self.last_sandbox += 1;
        let id = SandboxId(self.last_sandbox);
        let Some(pool) = self.pools.get_mut(&function) else {
            return id;
        };
        pool.starting += 1;
        self.starting += 1;
        let (memory, cpu) = (pool.limits.memory_mb, pool.cpu);
        while self.ledger.memory_free() < memory && self.yield_spare(actions) {}
        while self.ledger.memory_free() < memory
            && let Some(&(_, victim)) = self.idle.first()
        {
            self.destroy(victim, actions);
        }
        if prewarm {
            self.ledger.take_warm(memory);
            self.warming += memory;
        } else {
            self.ledger.take_busy(memory, cpu);
        }
        let state = State::Starting {
            began: now,
            prewarm,
        };
        self.sandboxes.insert(id, Sandbox { function, state });
        actions.push(Action::Create {
            sandbox: id,
            function,
        });
        id
    }

    fn destroy(&mut self, id: SandboxId, actions: &mut Vec<Action>) {
        if self.remove(id).is_some() {
            actions.push(Action::Destroy { sandbox: id });
        }
    }

    /// Takes a sandbox out of all books.
    fn remove(&mut self, id: SandboxId) -> Option<FunctionId> {
        let Sandbox { function, state } = self.sandboxes.remove(&id)?;
        let pool = self.pools.get_mut(&function)?;
        let memory = pool.limits.memory_mb;
        match state {
            State::Starting { prewarm, .. } => {
                pool.starting -= 1;
                self.starting -= 1;
                if prewarm {
                    self.ledger.drop_warm(memory);
                    self.warming -= memory;
                } else {
                    self.ledger.drop_busy(memory, pool.cpu);
                }
            }
            State::Idle { since } => {
                pool.up -= 1;
                pool.idle.retain(|idle| *idle != id);
                self.idle.remove(&(since, id));
                self.ledger.drop_warm(memory);
            }
            State::Busy { .. } => {
                pool.up -= 1;
                pool.open.retain(|open| *open != id);
                self.ledger.drop_busy(memory, pool.cpu);
            }
            State::Draining { .. } => self.ledger.drop_busy(memory, pool.cpu),
        }
        Some(function)
    }

    /// Retired functions, and those that never got a sandbox, leave nothing behind.
    fn forget_if_unused(&mut self, function: FunctionId) {
        let unused = self.pools.get(&function).is_some_and(|pool| {
            let known = pool.estimate.service().is_some();
            pool.is_unused() && (pool.retired || !known) && !self.drains(function)
        });
        if unused {
            self.pools.remove(&function);
        }
    }

    fn drains(&self, function: FunctionId) -> bool {
        let draining = |s: &Sandbox| matches!(s.state, State::Draining { .. });
        self.sandboxes
            .values()
            .any(|sandbox| sandbox.function == function && draining(sandbox))
    }
}
