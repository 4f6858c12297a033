//! Properties of the scheduler under any interleaving of events, checked against an independent
//! account of what it promised; and its rules, one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use serverledge_core::{
    Action, CallId, Decision, DropReason, FunctionId, Limits, Outcome, SandboxId, Scheduler,
    SchedulerConfig, Timestamp,
};

fn config() -> SchedulerConfig {
    SchedulerConfig {
        memory_mb: 1000,
        cpus: 4.0,
        keep_alive: Duration::from_secs(60),
        queue_capacity: 5,
        wait_capacity: 10,
        queue_timeout: Duration::from_secs(5),
        starts_max: 4,
        cores: 2,
    }
}

fn limits(function: u64) -> Limits {
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
enum Phase {
    Starting,
    Up(BTreeSet<u64>),
}

/// The shell and the world, as the properties see them.
struct World {
    scheduler: Scheduler,
    now: Timestamp,
    actions: Vec<Action>,
    sandboxes: BTreeMap<u64, (u64, Phase)>,
    waiting: BTreeMap<u64, u64>,
    running: BTreeMap<u64, u64>,
    ended: BTreeSet<u64>,
    calls: u64,
    created: usize,
}

impl World {
    fn new(config: SchedulerConfig) -> Self {
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
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
    }

    fn arrive(&mut self, function: u64, patient: bool) -> (u64, Decision) {
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

    fn start(&mut self, call: u64, sandbox: SandboxId) {
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

    fn end(&mut self, call: u64) {
        assert!(self.ended.insert(call), "call {call} ended twice");
    }

    fn perform(&mut self) {
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
                    // Calls in it fail; their leases report it later.
                    if let Phase::Up(calls) = phase {
                        for call in calls {
                            self.running.remove(&call);
                            self.end(call);
                        }
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
                    self.start(call.0, sandbox);
                }
                Action::Refuse { call, .. } => {
                    self.waiting.remove(&call.0).expect("refused while waiting");
                    self.end(call.0);
                }
            }
        }
        self.check();
    }

    /// Memory and CPU are what the sandboxes need, and never more than there is.
    fn check(&self) {
        let snapshot = self.scheduler.snapshot();
        let memory: u64 = self
            .sandboxes
            .values()
            .map(|(function, _)| limits(*function).memory_mb)
            .sum();
        assert_eq!(
            snapshot.memory_busy + snapshot.memory_warm,
            memory,
            "memory is conserved"
        );
        assert!(memory <= snapshot.memory_total, "more memory than there is");
        let busy = |phase: &Phase| matches!(phase, Phase::Up(calls) if !calls.is_empty());
        let cpu: f64 = self
            .sandboxes
            .values()
            .filter(|(_, phase)| busy(phase))
            .map(|(function, _)| limits(*function).cpu)
            .sum();
        assert!(
            snapshot.cpu_used >= cpu - 1e-9,
            "busy sandboxes hold their CPU"
        );
        assert!(
            snapshot.cpu_used <= snapshot.cpu_total + 1e-9,
            "more CPU than there is"
        );
        let known = self.waiting.len() + self.running.len() + self.ended.len();
        assert_eq!(
            known as u64, self.calls,
            "every call waits, runs or has ended"
        );
    }

    fn ready(&mut self, sandbox: u64) {
        if let Some((_, phase)) = self.sandboxes.get_mut(&sandbox) {
            *phase = Phase::Up(BTreeSet::new());
        }
        self.scheduler
            .ready(SandboxId(sandbox), self.now, &mut self.actions);
        self.perform();
    }

    fn start_failed(&mut self, sandbox: u64) {
        self.sandboxes.remove(&sandbox);
        self.scheduler
            .start_failed(SandboxId(sandbox), self.now, &mut self.actions);
        self.perform();
    }

    fn complete(&mut self, call: u64, outcome: Outcome) {
        let sandbox = self.running.remove(&call).expect("a running call");
        if let Some((_, Phase::Up(calls))) = self.sandboxes.get_mut(&sandbox) {
            calls.remove(&call);
        }
        self.end(call);
        let service = Duration::from_millis(3);
        self.scheduler.complete(
            SandboxId(sandbox),
            outcome,
            service,
            self.now,
            &mut self.actions,
        );
        self.perform();
    }

    fn rejudge(&mut self, call: u64) {
        let call = CallId(call);
        let again = self.scheduler.rejudge(call, self.now, &mut self.actions);
        assert!(
            again.is_some_and(|again| again > self.now),
            "no next judgement"
        );
        self.perform();
    }

    fn prewarm(&mut self, function: u64, count: usize) {
        let (id, limits) = (FunctionId(function), limits(function));
        let actions = &mut self.actions;
        let ids = self
            .scheduler
            .prewarm(id, &limits, count, self.now, actions);
        assert!(ids.len() <= count);
        self.perform();
    }

    fn starting(&self) -> Vec<u64> {
        let starting = |(_, phase): &&(u64, Phase)| *phase == Phase::Starting;
        let entries = self.sandboxes.iter();
        entries
            .filter(|(_, entry)| starting(entry))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Lets everything that began come to its end; nothing may be left waiting.
    fn finish(&mut self) {
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

#[derive(Debug, Clone)]
enum Event {
    Arrive(u64, bool),
    Ready(usize),
    StartFailed(usize),
    Complete(usize, u8),
    Died(usize),
    Rejudge(usize),
    GiveUp(usize),
    Prewarm(u64, usize),
    Retire(u64),
    Pass(u64),
    Expire,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..5_u64, prop::bool::weighted(0.2)).prop_map(|(f, p)| Event::Arrive(f, p)),
        6 => (0..8_usize).prop_map(Event::Ready),
        1 => (0..8_usize).prop_map(Event::StartFailed),
        6 => (0..8_usize, 0..8_u8).prop_map(|(call, outcome)| Event::Complete(call, outcome)),
        1 => (0..8_usize).prop_map(Event::Died),
        3 => (0..8_usize).prop_map(Event::Rejudge),
        1 => (0..8_usize).prop_map(Event::GiveUp),
        1 => (0..5_u64, 0..4_usize).prop_map(|(f, n)| Event::Prewarm(f, n)),
        1 => (0..5_u64).prop_map(Event::Retire),
        2 => (0..100_u64).prop_map(Event::Pass),
        1 => Just(Event::Expire),
    ]
}

fn pick<T: Copy>(items: &[T], index: usize) -> Option<T> {
    (!items.is_empty()).then(|| items[index % items.len()])
}

/// `revisions` maps a function to its current revision: a retired one never gets new calls.
fn apply(world: &mut World, revisions: &mut [u64; 5], event: Event) {
    match event {
        Event::Arrive(function, patient) => {
            world.arrive(revisions[function as usize], patient);
        }
        Event::Ready(index) => {
            if let Some(sandbox) = pick(&world.starting(), index) {
                world.ready(sandbox);
            }
        }
        Event::StartFailed(index) => {
            if let Some(sandbox) = pick(&world.starting(), index) {
                world.start_failed(sandbox);
            }
        }
        Event::Complete(index, outcome) => {
            let running: Vec<u64> = world.running.keys().copied().collect();
            if let Some(call) = pick(&running, index) {
                let outcomes = [Outcome::Broken, Outcome::TimedOut, Outcome::Done];
                world.complete(call, outcomes[usize::from(outcome.min(2))]);
            }
        }
        Event::Died(index) => {
            let up: Vec<u64> = world.sandboxes.keys().copied().collect();
            if let Some(sandbox) = pick(&up, index) {
                world
                    .scheduler
                    .died(SandboxId(sandbox), world.now, &mut world.actions);
                world.perform();
            }
        }
        Event::Rejudge(index) => {
            let waiting: Vec<u64> = world.waiting.keys().copied().collect();
            if let Some(call) = pick(&waiting, index) {
                world.rejudge(call);
            }
        }
        Event::GiveUp(index) => {
            let waiting: Vec<u64> = world.waiting.keys().copied().collect();
            if let Some(call) = pick(&waiting, index) {
                world.waiting.remove(&call);
                world.end(call);
                assert!(
                    world
                        .scheduler
                        .give_up(CallId(call), world.now, &mut world.actions)
                );
                world.perform();
            }
        }
        Event::Prewarm(function, count) => world.prewarm(revisions[function as usize], count),
        Event::Retire(function) => {
            let retired = FunctionId(revisions[function as usize]);
            revisions[function as usize] += 5;
            world
                .scheduler
                .retire(retired, world.now, &mut world.actions);
            world.perform();
        }
        Event::Pass(milliseconds) => world.pass(milliseconds),
        Event::Expire => {
            world.pass(30_000);
            world.scheduler.expire(world.now, &mut world.actions);
            world.perform();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_is_promised_twice(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut world = World::new(config());
        let mut revisions = [0, 1, 2, 3, 4];
        for event in events {
            apply(&mut world, &mut revisions, event);
        }
        world.finish();
    }
}

#[test]
fn the_newest_idle_sandbox_is_reused_first() {
    let mut world = World::new(config());
    let (first, _) = world.arrive(0, false);
    world.ready(1);
    let (second, _) = world.arrive(0, false);
    world.ready(2);
    world.complete(first, Outcome::Done);
    world.pass(1);
    world.complete(second, Outcome::Done);
    assert_eq!(world.arrive(0, false).1, Decision::Start(SandboxId(2)));
    assert_eq!(world.arrive(0, false).1, Decision::Start(SandboxId(1)));
}

#[test]
fn the_least_recently_used_sandbox_of_any_function_is_evicted() {
    let mut world = World::new(config());
    for (function, sandbox) in [(0, 1), (1, 2), (2, 3)] {
        let (call, _) = world.arrive(function, false);
        world.ready(sandbox);
        world.pass(1);
        world.complete(call, Outcome::Done);
    }
    // Function 0 is used again: function 1 is the least recently used now.
    let (call, decision) = world.arrive(0, false);
    assert_eq!(decision, Decision::Start(SandboxId(1)));
    world.complete(call, Outcome::Done);
    world.arrive(3, false);
    let left: Vec<u64> = world.sandboxes.keys().copied().collect();
    assert_eq!(left, [1, 3, 4]);
}

#[test]
fn concurrent_calls_share_a_sandbox_before_another_is_started() {
    let mut world = World::new(config());
    world.arrive(2, false);
    world.ready(1);
    assert_eq!(world.arrive(2, false).1, Decision::Start(SandboxId(1)));
    assert_eq!(world.arrive(2, false).1, Decision::Start(SandboxId(1)));
    assert!(matches!(world.arrive(2, false).1, Decision::Enqueue { .. }));
    assert_eq!(world.created, 2);
}

#[test]
fn a_function_larger_than_the_node_is_dropped_at_once() {
    let decision = World::new(config()).arrive(4, true).1;
    assert!(matches!(
        decision,
        Decision::Drop(DropReason::TooLarge {
            memory_mb: 2000,
            ..
        })
    ));
}

#[test]
fn without_room_calls_queue_up_to_the_capacity() {
    let mut world = World::new(SchedulerConfig {
        queue_capacity: 1,
        ..config()
    });
    world.arrive(3, false);
    world.ready(1);
    world.arrive(3, false);
    // Both slots are taken; 300 MB and one core are left; function 3 needs 700 MB.
    assert!(matches!(world.arrive(3, false).1, Decision::Enqueue { .. }));
    assert_eq!(
        world.arrive(3, false).1,
        Decision::Drop(DropReason::QueueFull)
    );
    let mut world = World::new(SchedulerConfig {
        queue_capacity: 0,
        ..config()
    });
    for _ in 0..2 {
        world.arrive(3, false);
    }
    assert_eq!(world.waiting.len(), 2, "two slots are on their way");
    world.ready(1);
    assert_eq!(world.arrive(3, false).1, Decision::Drop(DropReason::NoRoom));
}

#[test]
fn a_call_that_waited_as_long_as_a_start_takes_gets_a_sandbox() {
    let mut world = World::new(config());
    for _ in 0..3 {
        world.arrive(0, false);
    }
    assert_eq!(
        world.created, 2,
        "as many starts as cores while nothing is known"
    );
    let (third, again) = (CallId(3), Duration::from_millis(30));
    world.pass(30);
    let next = world
        .scheduler
        .rejudge(third, world.now, &mut world.actions);
    world.perform();
    assert_eq!(next, Some(world.now + again));
    assert_eq!(world.created, 3);
}

#[test]
fn retired_sandboxes_go_when_their_calls_end() {
    let mut world = World::new(config());
    let (call, _) = world.arrive(0, false);
    world.ready(1);
    world
        .scheduler
        .retire(FunctionId(0), world.now, &mut world.actions);
    world.perform();
    assert_eq!(world.sandboxes.len(), 1);
    world.complete(call, Outcome::Done);
    assert!(world.sandboxes.is_empty());
}

#[test]
fn a_failed_start_is_told_to_those_who_counted_on_it() {
    let mut world = World::new(config());
    world.arrive(0, false);
    world.arrive(0, false);
    world.start_failed(1);
    assert_eq!(world.waiting.len(), 2, "another sandbox is on its way");
    world.start_failed(2);
    assert!(world.waiting.is_empty());
}

/// 32 calls at once from cold, in virtual time: service and start times in, what happened out.
fn burst(service_ms: u64) -> (usize, u64) {
    let roomy = SchedulerConfig {
        memory_mb: 10_000,
        ..config()
    };
    let mut world = World::new(SchedulerConfig {
        wait_capacity: 100,
        starts_max: 16,
        ..roomy
    });
    for _ in 0..32 {
        world.arrive(0, false);
    }
    let (mut ready_at, mut ends_at) = (BTreeMap::new(), BTreeMap::new());
    let mut time = 0;
    while world.ended.len() < 32 {
        for sandbox in world.starting() {
            ready_at.entry(sandbox).or_insert(time + 30);
        }
        for call in world.running.keys().copied().collect::<Vec<_>>() {
            let end = *ends_at.entry(call).or_insert(time + service_ms);
            if end <= time {
                world.complete(call, Outcome::Done);
            }
        }
        for sandbox in world.starting() {
            if ready_at.get(&sandbox).is_some_and(|at| *at <= time) {
                world.ready(sandbox);
            }
        }
        if time > 0 && time % 45 == 0 {
            for call in world.waiting.keys().copied().collect::<Vec<_>>() {
                world
                    .scheduler
                    .rejudge(CallId(call), world.now, &mut world.actions);
                world.perform();
            }
        }
        world.pass(1);
        time += 1;
        assert!(time < 100_000, "the burst never ends");
    }
    (world.created, time)
}

#[test]
fn a_burst_of_short_calls_starts_few_sandboxes_and_one_of_long_calls_many() {
    let (created, time) = burst(1);
    assert!(created <= 8, "{created} sandboxes for calls of 1 ms");
    assert!(time <= 80, "{time} ms for calls of 1 ms");
    let (created, time) = burst(1000);
    assert!(created >= 30, "{created} sandboxes for calls of 1 s");
    assert!(time <= 1400, "{time} ms for calls of 1 s");
}
