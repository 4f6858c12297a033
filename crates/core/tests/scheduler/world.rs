//! The shell and the world as the tests see them: what the scheduler orders is carried out here,
//! and each order is checked against an account of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serverledge_core::{
    Action, CallId, Decision, FunctionId, GiveUp, Limits, Outcome, SandboxId, Scheduler,
    SchedulerConfig, Timestamp,
};

pub(crate) fn config() -> SchedulerConfig {
    SchedulerConfig {
        memory_mb: 1000,
        cpus: 4.0,
        keep_alive: Duration::from_secs(60),
        queue_capacity: 5,
        wait_capacity: 10,
        queue_timeout: Duration::from_secs(5),
        starts_max: 4,
        cores: 2,
        spare_mb: 30,
    }
}

pub(crate) fn limits(function: u64) -> Limits {
    let (memory_mb, cpu, max_concurrency) = [
        (100, 0.0, 1),
        (300, 1.0, 1),
        (128, 0.5, 3),
        (700, 0.1, 2),
        (2000, 0.0, 1),
    ][function as usize % 5];
    Limits {
        memory_mb,
        cpu,
        max_concurrency,
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    Starting,
    Up(BTreeSet<u64>),
}

/// The shell and the world, as the properties see them.
pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Timestamp,
    pub(crate) actions: Vec<Action>,
    pub(crate) sandboxes: BTreeMap<u64, (u64, Phase)>,
    pub(crate) waiting: BTreeMap<u64, u64>,
    pub(crate) running: BTreeMap<u64, u64>,
    pub(crate) ended: BTreeSet<u64>,
    pub(crate) calls: u64,
    pub(crate) created: usize,
    /// How long each call runs.
    pub(crate) service: Duration,
    /// Sandboxes that nobody waits for.
    pub(crate) prewarmed: BTreeSet<u64>,
    /// Sandboxes without a function.
    spare: u64,
    pub(crate) retired: BTreeSet<u64>,
}

impl World {
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config),
            now: Timestamp::default(),
            actions: Vec::new(),
            sandboxes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            ended: BTreeSet::new(),
            calls: 0,
            created: 0,
            service: Duration::from_millis(3),
            prewarmed: BTreeSet::new(),
            spare: 0,
            retired: BTreeSet::new(),
        }
    }

    pub(crate) fn pass(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
    }

    pub(crate) fn arrive(&mut self, function: u64, patient: bool) -> (u64, Decision) {
        self.calls += 1;
        let call = self.calls;
        let (id, limits) = (FunctionId(function), limits(function));
        let decision = self.scheduler.arrive(
            CallId(call),
            id,
            &limits,
            patient,
            self.now,
            &mut self.actions,
        );
        match decision {
            Decision::Start(sandbox) => self.start(call, sandbox),
            Decision::Enqueue { .. } => {
                self.waiting.insert(call, function);
            }
            Decision::Drop(_) => {
                assert!(
                    !patient || limits.memory_mb > 1000,
                    "a patient call was dropped"
                );
                self.end(call);
            }
        }
        self.perform();
        (call, decision)
    }

    pub(crate) fn start(&mut self, call: u64, sandbox: SandboxId) {
        let (function, phase) = self
            .sandboxes
            .get_mut(&sandbox.0)
            .expect("a sandbox that exists");
        let Phase::Up(calls) = phase else {
            panic!("call {call} in a sandbox that is not up")
        };
        assert!(calls.insert(call), "call {call} twice in a sandbox");
        assert!(
            calls.len() <= limits(*function).max_concurrency as usize,
            "too many calls"
        );
        assert!(
            self.running.insert(call, sandbox.0).is_none(),
            "call {call} runs twice"
        );
    }

    pub(crate) fn end(&mut self, call: u64) {
        assert!(self.ended.insert(call), "call {call} ended twice");
    }

    pub(crate) fn perform(&mut self) {
        let mut killed = Vec::new();
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Create { sandbox, function } => {
                    self.created += 1;
                    let old = self
                        .sandboxes
                        .insert(sandbox.0, (function.0, Phase::Starting));
                    assert!(old.is_none(), "a sandbox created twice");
                }
                Action::Destroy { sandbox } => {
                    let (_, phase) = self.sandboxes.remove(&sandbox.0).expect("destroyed once");
                    if let Phase::Up(calls) = phase {
                        killed.extend(calls.into_iter().map(|call| (call, sandbox)));
                    }
                }
                Action::Dispatch { call, sandbox, .. } => {
                    let function = self
                        .waiting
                        .remove(&call.0)
                        .expect("dispatched while waiting");
                    assert_eq!(
                        self.sandboxes[&sandbox.0].0, function,
                        "somebody else's sandbox"
                    );
                    let overtaken = self
                        .waiting
                        .iter()
                        .any(|(c, f)| *f == function && *c < call.0);
                    assert!(!overtaken, "call {} overtook an older one", call.0);
                    self.start(call.0, sandbox);
                }
                Action::Refuse { call, .. } => {
                    self.waiting.remove(&call.0).expect("refused while waiting");
                    self.end(call.0);
                }
                Action::Yield => {
                    self.spare = self.spare.checked_sub(1).expect("one that is there");
                }
            }
        }
        // Calls that lost their sandbox fail; their leases report it when all is done.
        for (call, sandbox) in killed {
            self.running.remove(&call);
            self.end(call);
            let (now, actions) = (self.now, &mut self.actions);
            self.scheduler
                .complete(sandbox, Outcome::Broken, Duration::ZERO, now, actions);
            assert!(self.actions.is_empty(), "nothing follows from what is gone");
        }
        self.check();
    }

    /// Memory and CPU are what the sandboxes need, and never more than there is.
    fn check(&self) {
        let snapshot = self.scheduler.snapshot();
        let (mut busy, mut warm, mut cpu) = (0, 0, 0.0);
        for (id, (function, phase)) in &self.sandboxes {
            let limits = limits(*function);
            let idle = match phase {
                Phase::Starting => self.prewarmed.contains(id),
                Phase::Up(calls) => calls.is_empty(),
            };
            if idle {
                warm += limits.memory_mb;
            } else {
                busy += limits.memory_mb;
                cpu += limits.cpu;
            }
            let kept = matches!(phase, Phase::Up(calls) if calls.is_empty());
            assert!(
                !kept || !self.retired.contains(function),
                "a retired sandbox is kept warm"
            );
        }
        assert_eq!((snapshot.memory_busy, snapshot.memory_warm), (busy, warm));
        assert!(
            (snapshot.cpu_used - cpu).abs() < 1e-9,
            "{} cores, not {cpu}",
            snapshot.cpu_used
        );
        let spare = self.spare * config().spare_mb;
        assert_eq!(snapshot.memory_spare, spare);
        assert!(
            busy + warm + spare <= snapshot.memory_total,
            "more memory than there is"
        );
        assert!(cpu <= snapshot.cpu_total + 1e-9, "more CPU than there is");
        let known = self.waiting.len() + self.running.len() + self.ended.len();
        assert_eq!(
            known as u64, self.calls,
            "every call waits, runs or has ended"
        );
    }

    pub(crate) fn prewarm(&mut self, function: u64, count: usize) -> usize {
        let (id, limits) = (FunctionId(function), limits(function));
        let (now, actions) = (self.now, &mut self.actions);
        let ids = self.scheduler.prewarm(id, &limits, count, now, actions);
        self.prewarmed.extend(ids.iter().map(|id| id.0));
        self.perform();
        ids.len()
    }

    /// One more sandbox without a function, or one less.
    pub(crate) fn spare(&mut self, more: bool) {
        if more {
            self.spare += u64::from(self.scheduler.reserve_spare().is_some());
        } else if self.spare > 0 {
            self.spare -= 1;
            self.scheduler.release_spare();
        }
        self.perform();
    }

    pub(crate) fn retire(&mut self, function: u64) {
        self.retired.insert(function);
        self.scheduler
            .retire(FunctionId(function), self.now, &mut self.actions);
        self.perform();
    }

    pub(crate) fn give_up(&mut self, call: u64) -> GiveUp {
        let answer = self
            .scheduler
            .give_up(CallId(call), self.now, &mut self.actions);
        assert_eq!(
            answer == GiveUp::Answered,
            !self.waiting.contains_key(&call)
        );
        if answer == GiveUp::Dropped {
            self.waiting.remove(&call);
            self.end(call);
        }
        self.perform();
        answer
    }

    /// Whoever made the call goes, whether it waits or has just been given a sandbox.
    pub(crate) fn withdraw(&mut self, call: u64) -> bool {
        let waited = self
            .scheduler
            .withdraw(CallId(call), self.now, &mut self.actions);
        assert_eq!(waited, self.waiting.contains_key(&call));
        if waited {
            self.waiting.remove(&call);
            self.end(call);
        }
        self.perform();
        waited
    }

    pub(crate) fn died(&mut self, sandbox: u64) {
        self.scheduler
            .died(SandboxId(sandbox), self.now, &mut self.actions);
        self.perform();
    }

    pub(crate) fn expire(&mut self) {
        self.scheduler.expire(self.now, &mut self.actions);
        self.perform();
    }

    pub(crate) fn rejudge(&mut self, call: u64) -> Option<Timestamp> {
        let again = self
            .scheduler
            .rejudge(CallId(call), self.now, &mut self.actions);
        self.perform();
        again
    }

    pub(crate) fn ready(&mut self, sandbox: u64) {
        if let Some((_, phase)) = self.sandboxes.get_mut(&sandbox) {
            *phase = Phase::Up(BTreeSet::new());
        }
        self.scheduler
            .ready(SandboxId(sandbox), self.now, &mut self.actions);
        self.perform();
    }

    pub(crate) fn start_failed(&mut self, sandbox: u64) {
        self.sandboxes.remove(&sandbox);
        self.scheduler
            .start_failed(SandboxId(sandbox), self.now, &mut self.actions);
        self.perform();
    }

    pub(crate) fn complete(&mut self, call: u64, outcome: Outcome) {
        let sandbox = self.running.remove(&call).expect("a running call");
        if let Some((_, Phase::Up(calls))) = self.sandboxes.get_mut(&sandbox) {
            calls.remove(&call);
        }
        self.end(call);
        self.scheduler.complete(
            SandboxId(sandbox),
            outcome,
            self.service,
            self.now,
            &mut self.actions,
        );
        self.perform();
    }

    pub(crate) fn starting(&self) -> Vec<u64> {
        let starting = |(_, phase): &&(u64, Phase)| *phase == Phase::Starting;
        let entries = self.sandboxes.iter();
        entries
            .filter(|(_, entry)| starting(entry))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Lets everything that began come to its end; nothing may be left waiting.
    pub(crate) fn finish(&mut self) {
        for _ in 0..10_000 {
            self.pass(1);
            if let Some(sandbox) = self.starting().first().copied() {
                self.ready(sandbox);
            } else if let Some(call) = self.running.keys().next().copied() {
                self.complete(call, Outcome::Done);
            } else {
                break;
            }
        }
        assert!(self.waiting.is_empty(), "forgotten: {:?}", self.waiting);
        self.scheduler.drain(&mut self.actions);
        self.perform();
        let snapshot = self.scheduler.snapshot();
        assert_eq!((snapshot.memory_busy, snapshot.memory_warm), (0, 0));
        assert_eq!(snapshot.cpu_used, 0.0);
        assert!(self.sandboxes.is_empty());
    }
}
