//! The shell around `core`'s scheduler: it carries out what the scheduler decides.
//!
//! One lock guards the scheduler and the tables beside it; it is held for microseconds and never
//! across an await. Starting and destroying sandboxes happens in tasks of their own, which report
//! back as events. What is *not* here: any decision. Which sandbox, which victim, whether to wait:
//! that is `serverledge_core::Scheduler`.

mod waiter;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serverledge_core::{
    Action, CallId, Decision, DropReason, FunctionId, GiveUp, Outcome, SandboxId, Scheduler,
    SchedulerConfig, Snapshot, Timestamp,
};
use serverledge_sandbox::{CreateError, Kind, Prestarted, Sandbox};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::catalog::Function;
use crate::launch::Launcher;
use crate::prestart::{Prestarts, Reserved};

/// The node's sandboxes and the calls that wait for one.
pub struct Pool {
    state: Mutex<State>,
    launcher: Launcher,
    epoch: Instant,
}

/// Why a call got no sandbox.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// The scheduler dropped it.
    #[error("{0}")]
    Dropped(DropReason),
    /// The sandbox it waited for could not be started.
    #[error("the function could not be started")]
    StartFailed(#[source] Arc<CreateError>),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

struct State {
    scheduler: Scheduler,
    /// Scratch space for the scheduler's answers, empty between calls.
    actions: Vec<Action>,
    sandboxes: HashMap<SandboxId, Entry>,
    waiting: HashMap<CallId, Waiting>,
    /// Revisions with sandboxes or waiting calls, and those that had some.
    functions: HashMap<FunctionId, Arc<Function>>,
    prestarts: Prestarts,
    next_call: u64,
    phase: Phase,
}

/// How far the pool is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Serves those who can't come back, and no patient calls.
    Draining,
    /// Serves nobody; all sandboxes are destroyed.
    Closed,
}

struct Entry {
    function: Arc<Function>,
    /// When its start was ordered.
    ordered: Instant,
    sandbox: Option<Arc<dyn Sandbox>>,
    /// Told when a prewarmed sandbox is up (`true`) or failed.
    watcher: Option<oneshot::Sender<bool>>,
}

struct Waiting {
    grant: oneshot::Sender<Result<Granted, Refusal>>,
    since: Instant,
    patient: bool,
    /// Keeps the revision known while the call waits.
    _function: Arc<Function>,
}

struct Granted {
    id: SandboxId,
    sandbox: Arc<dyn Sandbox>,
    cold: bool,
    /// Time spent waiting for anything but the start of this sandbox.
    queueing: Duration,
}

/// The right to run one call in one sandbox.
///
/// Dropped without [`Lease::finish`], it destroys the sandbox: nobody knows in what state the
/// function was left.
pub struct Lease {
    pool: Arc<Pool>,
    granted: Granted,
    started: Instant,
    finished: bool,
}

impl Pool {
    /// A pool of sandboxes made by `launcher`, between `ahead.0` and `ahead.1` of each kind ahead of
    /// their function.
    pub fn new(config: SchedulerConfig, launcher: Launcher, ahead: (usize, usize)) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                scheduler: Scheduler::new(config),
                actions: Vec::new(),
                sandboxes: HashMap::new(),
                waiting: HashMap::new(),
                functions: HashMap::new(),
                prestarts: Prestarts::new(ahead.0, ahead.1),
                next_call: 0,
                phase: Phase::Open,
            }),
            launcher,
            epoch: Instant::now(),
        })
    }

    /// A sandbox for one call of `function`: at once when one is warm, else after a wait that the
    /// scheduler bounds. `patient` calls (asynchronous ones) wait for room as long as it takes.
    pub async fn acquire(
        self: &Arc<Self>,
        function: &Arc<Function>,
        patient: bool,
    ) -> Result<Lease, Refusal> {
        let now = self.now();
        let (call, granted, timers) = {
            let mut state = self.lock();
            if state.phase == Phase::Closed || (patient && state.phase == Phase::Draining) {
                return Err(Refusal::ShuttingDown);
            }
            state.next_call += 1;
            let call = CallId(state.next_call);
            let State {
                scheduler, actions, ..
            } = &mut *state;
            match scheduler.arrive(call, function.id, &function.limits, patient, now, actions) {
                Decision::Start(id) => {
                    let sandbox = state
                        .sandboxes
                        .get(&id)
                        .and_then(|entry| entry.sandbox.clone());
                    self.perform(&mut state);
                    drop(state);
                    return match sandbox {
                        Some(sandbox) => Ok(self.lease(Granted {
                            id,
                            sandbox,
                            cold: false,
                            queueing: Duration::ZERO,
                        })),
                        None => Err(Refusal::Dropped(DropReason::NoRoom)),
                    };
                }
                Decision::Drop(reason) => {
                    self.perform(&mut state);
                    return Err(Refusal::Dropped(reason));
                }
                Decision::Enqueue {
                    rejudge_at,
                    give_up_at,
                } => {
                    let (grant, granted) = oneshot::channel();
                    let waiting = Waiting {
                        grant,
                        since: Instant::now(),
                        patient,
                        _function: Arc::clone(function),
                    };
                    state.waiting.insert(call, waiting);
                    state
                        .functions
                        .entry(function.id)
                        .or_insert_with(|| Arc::clone(function));
                    self.perform(&mut state);
                    (call, granted, (rejudge_at, give_up_at))
                }
            }
        };
        let lease = self.wait(call, granted, timers).await?;
        if patient && self.lock().phase != Phase::Open {
            return Err(Refusal::ShuttingDown);
        }
        Ok(lease)
    }

    /// Starts up to `count` sandboxes that nobody waits for; the number that came up.
    pub async fn prewarm(self: &Arc<Self>, function: &Arc<Function>, count: usize) -> usize {
        let now = self.now();
        let watchers = {
            let mut state = self.lock();
            if state.phase != Phase::Open {
                return 0;
            }
            state
                .functions
                .entry(function.id)
                .or_insert_with(|| Arc::clone(function));
            let State {
                scheduler, actions, ..
            } = &mut *state;
            let ids = scheduler.prewarm(function.id, &function.limits, count, now, actions);
            self.perform(&mut state);
            let mut watchers = Vec::with_capacity(ids.len());
            for id in ids {
                if let Some(entry) = state.sandboxes.get_mut(&id) {
                    let (watcher, watched) = oneshot::channel();
                    entry.watcher = Some(watcher);
                    watchers.push(watched);
                }
            }
            watchers
        };
        let mut up = 0;
        for watched in watchers {
            up += usize::from(watched.await.unwrap_or(false));
        }
        up
    }

    /// The revision was replaced or deleted: no new call will come for it.
    pub fn retire(self: &Arc<Self>, function: &Arc<Function>) {
        let now = self.now();
        let mut state = self.lock();
        // Known from here on, so that the janitor finds it and collects its code.
        state
            .functions
            .entry(function.id)
            .or_insert_with(|| Arc::clone(function));
        let State {
            scheduler, actions, ..
        } = &mut *state;
        scheduler.retire(function.id, now, actions);
        self.perform(&mut state);
    }

    /// The janitor's round: destroys sandboxes that were idle for too long.
    pub fn expire(self: &Arc<Self>) {
        let now = self.now();
        let mut state = self.lock();
        let State {
            scheduler, actions, ..
        } = &mut *state;
        scheduler.expire(now, actions);
        self.perform(&mut state);
        let gone = state.prestarts.sweep(now);
        (0..gone).for_each(|_| state.scheduler.release_spare());
    }

    /// Forgets retired revisions that nothing refers to any more; their code can go.
    pub fn forget_retired(&self, is_current: impl Fn(&Function) -> bool) -> Vec<Arc<Function>> {
        let mut state = self.lock();
        let gone: Vec<FunctionId> = state
            .functions
            .iter()
            .filter(|(_, function)| Arc::strong_count(function) == 1 && !is_current(function))
            .map(|(id, _)| *id)
            .collect();
        gone.iter()
            .filter_map(|id| state.functions.remove(id))
            .collect()
    }

    /// What is in use.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().scheduler.snapshot()
    }

    /// Idle sandboxes of each function that has had some.
    pub fn warm(&self) -> Vec<(Arc<Function>, usize)> {
        let state = self.lock();
        let scheduler = &state.scheduler;
        state
            .functions
            .iter()
            .map(|(id, f)| (Arc::clone(f), scheduler.warm(*id)))
            .collect()
    }

    /// Refuses patient calls from now on, also those that wait: they are run another time.
    pub fn drain(self: &Arc<Self>) {
        let now = self.now();
        let mut state = self.lock();
        state.phase = state.phase.max(Phase::Draining);
        let State {
            scheduler,
            actions,
            waiting,
            ..
        } = &mut *state;
        let patient = |call: &CallId, waiting: &mut Waiting| {
            // One that is postponed gets a sandbox, and is refused then.
            waiting.patient && scheduler.give_up(*call, now, actions) == GiveUp::Dropped
        };
        for (_, waiting) in waiting.extract_if(patient) {
            let _ = waiting.grant.send(Err(Refusal::ShuttingDown));
        }
        self.perform(&mut state);
    }

    /// Whether all sandboxes are destroyed, or about to be.
    pub fn is_closed(&self) -> bool {
        self.lock().phase == Phase::Closed
    }

    /// Refuses everything from now on and destroys every sandbox; returns when all are gone.
    pub async fn close(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            state.phase = Phase::Closed;
            for (_, waiting) in state.waiting.drain() {
                let _ = waiting.grant.send(Err(Refusal::ShuttingDown));
            }
            let State {
                scheduler, actions, ..
            } = &mut *state;
            scheduler.drain(actions);
            self.perform(&mut state);
        }
        self.launcher.close().await;
    }

    /// Carries out the scheduler's answers, under the lock: everything slow is spawned.
    fn perform(self: &Arc<Self>, state: &mut State) {
        if state.actions.is_empty() {
            return;
        }
        let actions = std::mem::take(&mut state.actions);
        for action in actions {
            match action {
                Action::Create { sandbox, function } => self.create(state, sandbox, function),
                Action::Destroy { sandbox } => self.destroy(state, sandbox),
                Action::Yield => {
                    let free = state.prestarts.give_up();
                    (0..free).for_each(|_| state.scheduler.release_spare());
                }
                Action::Dispatch {
                    call,
                    sandbox: id,
                    cold,
                } => waiter::dispatch(state, call, id, cold),
                Action::Refuse { call, reason } => {
                    if let Some(waiting) = state.waiting.remove(&call) {
                        let _ = waiting.grant.send(Err(Refusal::Dropped(reason)));
                    }
                }
            }
        }
    }

    fn create(self: &Arc<Self>, state: &mut State, id: SandboxId, function: FunctionId) {
        let Some(function) = state.functions.get(&function).cloned() else {
            warn!(
                sandbox = id.0,
                "start of a sandbox for a function that is not known"
            );
            return;
        };
        let entry = Entry {
            function: Arc::clone(&function),
            ordered: Instant::now(),
            sandbox: None,
            watcher: None,
        };
        state.sandboxes.insert(id, entry);
        let pool = Arc::clone(self);
        let kind = Launcher::kind(&function);
        let ahead = kind.as_ref().and_then(|kind| self.take(state, kind));
        tokio::spawn(async move {
            let result = pool.launcher.create(id, &function, ahead).await;
            drop(function);
            pool.created(id, result);
            if let Some(kind) = kind {
                // What somebody waits for goes first.
                tokio::time::sleep(REFILL_AFTER).await;
                pool.prestart(kind).await;
            }
        });
    }

    /// A sandbox that was started ahead; the function that gets it pays for itself.
    fn take(&self, state: &mut State, kind: &Kind) -> Option<Box<dyn Prestarted>> {
        let (ahead, gone) = state.prestarts.take(kind, self.now());
        (0..gone).for_each(|_| state.scheduler.release_spare());
        ahead
    }

    /// Functions of this one's kind will be started: has sandboxes made ready for them.
    pub(crate) fn expect(self: &Arc<Self>, function: &Function) {
        let kind = Launcher::kind(function).filter(|kind| self.launcher.makes_ahead(kind));
        let Some(kind) = kind else {
            return;
        };
        if self.lock().prestarts.expect(&kind) {
            let pool = Arc::clone(self);
            tokio::spawn(async move { pool.prestart(kind).await });
        }
    }

    /// The function is new: has done in the background what its first sandbox would have to wait for.
    pub(crate) fn prepare(self: &Arc<Self>, function: &Arc<Function>) {
        let (pool, function) = (Arc::clone(self), Arc::clone(function));
        tokio::spawn(async move { pool.launcher.prepare(&function).await });
    }

    /// Starts a zygote, where there is to be one and none is.
    async fn start_zygote(self: &Arc<Self>, kind: &Kind) {
        let id = {
            let state = &mut *self.lock();
            if state.phase != Phase::Open {
                return;
            }
            let (wanted, gone) = state.prestarts.begin_zygote(kind, self.now());
            (0..gone).for_each(|_| state.scheduler.release_spare());
            if !wanted {
                return;
            }
            state.scheduler.reserve_spare()
        };
        let zygote = match id {
            Some(id) => self.launcher.zygote(id, kind).await,
            None => None,
        };
        let state = &mut *self.lock();
        // What it imports is known only now. If there is no room for that, it has to go.
        let wanted: u64 = zygote.as_ref().map_or(0, |zygote| zygote.memory_mb());
        let wanted = wanted.div_ceil(state.scheduler.spare_mb().max(1)).max(1);
        let more = (1..wanted).map_while(|_| state.scheduler.reserve_spare());
        let units = usize::from(id.is_some()) + more.count();
        let zygote = zygote.filter(|_| units as u64 == wanted);
        let free = state.prestarts.end_zygote(kind, zygote, units, self.now());
        (0..free).for_each(|_| state.scheduler.release_spare());
    }

    /// Starts sandboxes ahead, one by one, until there are enough or memory is short.
    async fn prestart(self: &Arc<Self>, kind: Kind) {
        if self.launcher.has_zygotes(&kind) {
            self.start_zygote(&kind).await;
        }
        loop {
            let now = self.now();
            let id = {
                let state = &mut *self.lock();
                if state.phase != Phase::Open || !state.prestarts.begin(&kind, now) {
                    return;
                }
                state.scheduler.reserve_spare()
            };
            let sandbox = match id {
                Some(id) => self.launcher.prestart(id, &kind).await,
                None => None,
            };
            let enough = sandbox.is_none();
            let state = &mut *self.lock();
            if state.prestarts.end(&kind, sandbox) == Reserved::Free && id.is_some() {
                state.scheduler.release_spare();
            }
            if enough {
                return;
            }
        }
    }

    /// A start ended, well or not.
    fn created(self: &Arc<Self>, id: SandboxId, result: Result<Arc<dyn Sandbox>, CreateError>) {
        let now = self.now();
        let mut state = self.lock();
        let watcher = state
            .sandboxes
            .get_mut(&id)
            .and_then(|entry| entry.watcher.take());
        if let Some(watcher) = watcher {
            let _ = watcher.send(result.is_ok());
        }
        match result {
            Ok(sandbox) => {
                let Some(entry) = state.sandboxes.get_mut(&id) else {
                    // It was given up while it started.
                    drop(state);
                    self.launcher.destroy(sandbox);
                    return;
                };
                entry.sandbox = Some(Arc::clone(&sandbox));
                self.watch(id, sandbox);
                let State {
                    scheduler, actions, ..
                } = &mut *state;
                scheduler.ready(id, now, actions);
            }
            Err(error) => {
                let Some(entry) = state.sandboxes.remove(&id) else {
                    return;
                };
                let function = &entry.function.record.name;
                debug!(function, sandbox = id.0, error = %crate::chain(&error), "start failed");
                let State {
                    scheduler,
                    actions,
                    waiting,
                    ..
                } = &mut *state;
                scheduler.start_failed(id, now, actions);
                let error = Arc::new(error);
                actions.retain(|action| match action {
                    Action::Refuse {
                        call,
                        reason: DropReason::StartFailed,
                    } => {
                        if let Some(waiting) = waiting.remove(call) {
                            let refusal = Refusal::StartFailed(Arc::clone(&error));
                            let _ = waiting.grant.send(Err(refusal));
                        }
                        false
                    }
                    _ => true,
                });
            }
        }
        self.perform(&mut state);
    }

    /// Tells the scheduler when a sandbox dies by itself, so that no call is sent to a dead one.
    fn watch(self: &Arc<Self>, id: SandboxId, sandbox: Arc<dyn Sandbox>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            sandbox.ended().await;
            let Some(pool) = pool.upgrade() else { return };
            let now = pool.now();
            let mut state = pool.lock();
            if state.sandboxes.contains_key(&id) {
                let State {
                    scheduler, actions, ..
                } = &mut *state;
                scheduler.died(id, now, actions);
                pool.perform(&mut state);
            }
        });
    }

    fn destroy(self: &Arc<Self>, state: &mut State, id: SandboxId) {
        if let Some(Entry {
            sandbox: Some(sandbox),
            ..
        }) = state.sandboxes.remove(&id)
        {
            self.launcher.destroy(sandbox);
        }
    }

    fn lease(self: &Arc<Self>, granted: Granted) -> Lease {
        Lease {
            pool: Arc::clone(self),
            granted,
            started: Instant::now(),
            finished: false,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.epoch.elapsed())
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.epoch
            .checked_add(at.0)
            .unwrap_or_else(|| self.epoch + FAR_AWAY)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The scheduler's invariants hold between its methods, and none of them panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Later than any timer that matters.
const FAR_AWAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// From a start to that of the sandbox which takes the place of the one it used up.
const REFILL_AFTER: Duration = Duration::from_millis(5);

impl Lease {
    /// The sandbox to run in.
    pub fn sandbox(&self) -> &dyn Sandbox {
        &*self.granted.sandbox
    }

    /// Whether this is the first call in its sandbox.
    pub fn cold(&self) -> bool {
        self.granted.cold
    }

    /// How long the call waited for something to become free.
    pub fn queueing(&self) -> Duration {
        self.granted.queueing
    }

    /// Gives the sandbox back. Returns what is in use afterwards.
    pub fn finish(mut self, outcome: Outcome) -> Snapshot {
        self.complete(outcome)
    }

    fn complete(&mut self, outcome: Outcome) -> Snapshot {
        self.finished = true;
        let now = self.pool.now();
        let service: Duration = self.started.elapsed();
        let mut state = self.pool.lock();
        let State {
            scheduler, actions, ..
        } = &mut *state;
        scheduler.complete(self.granted.id, outcome, service, now, actions);
        self.pool.perform(&mut state);
        state.scheduler.snapshot()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            self.complete(Outcome::Broken);
        }
    }
}
