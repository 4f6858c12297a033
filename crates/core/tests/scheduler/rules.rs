//! The rules of the scheduler, one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use serverledge_core::{CallId, Decision, DropReason, GiveUp, Outcome, SandboxId, SchedulerConfig};

use crate::world::{World, config};

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
    world.retire(0);
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

#[test]
fn short_calls_wait_for_a_busy_sandbox_and_long_ones_start_another() {
    for (service, created) in [(3, 1), (1000, 2)] {
        let mut world = World::new(config());
        world.service = Duration::from_millis(service);
        let (call, _) = world.arrive(0, false);
        world.pass(30);
        world.ready(1);
        world.complete(call, Outcome::Done);
        world.arrive(0, false);
        world.arrive(0, false);
        assert_eq!(world.created, created, "calls of {service} ms");
    }
}

#[test]
fn calls_that_wait_by_choice_are_bounded_too() {
    let mut world = World::new(SchedulerConfig {
        wait_capacity: 2,
        cores: 1,
        ..config()
    });
    for _ in 0..2 {
        world.arrive(0, false);
    }
    let (_, decision) = world.arrive(0, false);
    assert_eq!(decision, Decision::Drop(DropReason::QueueFull));
    assert!(matches!(world.arrive(0, true).1, Decision::Enqueue { .. }));
}

#[test]
fn a_late_call_is_given_up_once_and_never_runs() {
    let mut world = World::new(SchedulerConfig {
        memory_mb: 100,
        ..config()
    });
    world.arrive(0, false);
    world.ready(1);
    let (call, decision) = world.arrive(0, false);
    let Decision::Enqueue { give_up_at, .. } = decision else {
        panic!("{decision:?}");
    };
    assert_eq!(give_up_at, world.now + config().queue_timeout);
    assert_eq!(world.give_up(call), GiveUp::Dropped);
    assert_eq!(world.give_up(call), GiveUp::Answered);
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_call_that_is_withdrawn_leaves_its_sandbox_to_others() {
    let mut world = World::new(SchedulerConfig {
        memory_mb: 100,
        ..config()
    });
    let (running, _) = world.arrive(0, false);
    world.ready(1);
    let (gone, _) = world.arrive(0, false);
    let (next, _) = world.arrive(0, false);
    assert!(world.withdraw(gone));
    world.complete(running, Outcome::Done);
    assert!(world.running.contains_key(&next));
    // One that has just been given a sandbox gives it back as it is.
    assert!(!world.withdraw(next));
    world.complete(next, Outcome::Unused);
    assert_eq!(world.arrive(0, false).1, Decision::Start(SandboxId(1)));
    assert_eq!(world.waiting.len(), 0);
}

#[test]
fn a_call_whose_sandbox_still_starts_is_not_given_up() {
    let mut world = World::new(config());
    let (call, _) = world.arrive(0, false);
    let answer = world.give_up(call);
    assert!(matches!(answer, GiveUp::Postponed(until) if until > world.now));
    world.ready(1);
    assert_eq!(world.running.len(), 1);
    assert_eq!(world.give_up(call), GiveUp::Answered);
}

#[test]
fn a_patient_call_waits_for_long_but_no_clock_overflows() {
    let mut world = World::new(config());
    let (_, decision) = world.arrive(0, true);
    let Decision::Enqueue { give_up_at, .. } = decision else {
        panic!("{decision:?}");
    };
    let years = give_up_at.since(world.now).as_secs() / (365 * 24 * 3600);
    assert!((1..100).contains(&years), "{years}");
}

#[test]
fn timers_of_those_that_wait_for_room_fire_less_and_less_often() {
    let mut world = World::new(config());
    for _ in 0..2 {
        world.arrive(3, false);
    }
    world.ready(1);
    let (call, decision) = world.arrive(3, false);
    let Decision::Enqueue { mut rejudge_at, .. } = decision else {
        panic!("{decision:?}");
    };
    let mut fired = 0;
    while rejudge_at.0 < config().queue_timeout {
        world.now = rejudge_at;
        rejudge_at = world.rejudge(call).unwrap();
        fired += 1;
    }
    assert!(fired < 20, "{fired} timers in {:?}", config().queue_timeout);
}

#[test]
fn warm_sandboxes_without_cpu_for_them_are_no_room() {
    let crowded = SchedulerConfig {
        cpus: 1.0,
        queue_capacity: 0,
        ..config()
    };
    let mut world = World::new(crowded.clone());
    assert_eq!(world.prewarm(1, 2), 2, "warm sandboxes hold no CPU");
    world.ready(1);
    world.ready(2);
    let (first, decision) = world.arrive(1, false);
    assert_eq!(decision, Decision::Start(SandboxId(2)));
    let (_, decision) = world.arrive(1, false);
    assert_eq!(decision, Decision::Drop(DropReason::NoRoom));
    // Another function's sandbox frees the CPU.
    let (second, _) = world.arrive(1, true);
    world.retire(1);
    world.complete(first, Outcome::Broken);
    assert_eq!(world.created, 3);
    world.ready(3);
    assert!(world.running.contains_key(&second));
}

#[test]
fn a_small_call_neither_overtakes_a_large_one_nor_is_refused_while_there_is_room() {
    let mut world = World::new(SchedulerConfig {
        queue_capacity: 0,
        ..config()
    });
    let (first, _) = world.arrive(3, false);
    world.arrive(3, false);
    world.ready(1);
    let (large, _) = world.arrive(3, true);
    let (small, decision) = world.arrive(0, false);
    assert!(matches!(decision, Decision::Enqueue { .. }));
    assert_eq!(world.created, 1);
    world.complete(first, Outcome::Done);
    assert!(world.running.contains_key(&large));
    assert_eq!(world.created, 2, "now it is the small one's turn");
    world.ready(2);
    assert!(world.running.contains_key(&small));
}

#[test]
fn patient_calls_take_no_place_in_the_queue() {
    let mut world = World::new(SchedulerConfig {
        queue_capacity: 1,
        ..config()
    });
    for _ in 0..2 {
        world.arrive(3, false);
    }
    world.ready(1);
    for _ in 0..3 {
        world.arrive(3, true);
    }
    assert!(matches!(world.arrive(3, false).1, Decision::Enqueue { .. }));
    let (_, decision) = world.arrive(3, false);
    assert_eq!(decision, Decision::Drop(DropReason::QueueFull));
}

#[test]
fn calls_wait_for_their_turn_to_start_but_only_if_there_is_room() {
    let mut world = World::new(SchedulerConfig {
        memory_mb: 200,
        queue_capacity: 0,
        starts_max: 1,
        ..config()
    });
    world.arrive(0, false);
    let (_, decision) = world.arrive(2, false);
    assert_eq!(decision, Decision::Drop(DropReason::NoRoom));
    // Function 5 needs as much as function 0.
    let (call, decision) = world.arrive(5, false);
    assert!(matches!(decision, Decision::Enqueue { .. }));
    assert_eq!(world.created, 1);
    world.ready(1);
    assert_eq!(world.created, 2);
    world.ready(2);
    assert!(world.running.contains_key(&call));
}

#[test]
fn prewarming_fills_free_memory_and_evicts_nothing() {
    let mut world = World::new(config());
    assert_eq!(world.prewarm(0, 5), 5);
    assert_eq!(world.prewarm(1, 5), 1);
    assert_eq!(world.prewarm(1, 5), 0);
    assert_eq!(world.prewarm(4, 1), 0, "larger than the node");
    world.ready(1);
    assert_eq!(world.arrive(0, false).1, Decision::Start(SandboxId(1)));
    // What starts for nobody is not evicted for somebody: only 200 MB are free.
    assert!(matches!(world.arrive(1, false).1, Decision::Enqueue { .. }));
    assert_eq!(world.created, 6);
}

#[test]
fn idle_sandboxes_go_after_the_keep_alive() {
    let mut world = World::new(config());
    world.prewarm(0, 1);
    world.ready(1);
    for (later, left) in [(59_999, 1), (1, 0)] {
        world.pass(later);
        world.expire();
        assert_eq!(world.sandboxes.len(), left);
    }
}

#[test]
fn a_sandbox_that_was_starting_for_nobody_is_not_kept_for_a_retired_function() {
    let mut world = World::new(config());
    world.prewarm(0, 1);
    world.retire(0);
    world.ready(1);
    assert!(world.sandboxes.is_empty());
}

#[test]
fn a_timed_out_sandbox_takes_no_calls_and_ends_with_those_it_has() {
    let mut world = World::new(config());
    let (first, _) = world.arrive(2, false);
    world.ready(1);
    let (second, _) = world.arrive(2, false);
    world.complete(first, Outcome::TimedOut);
    assert!(matches!(world.arrive(2, false).1, Decision::Enqueue { .. }));
    assert!(world.sandboxes.contains_key(&1));
    world.complete(second, Outcome::Done);
    assert!(!world.sandboxes.contains_key(&1));
}

#[test]
fn a_sandbox_that_dies_takes_its_calls_with_it_and_others_get_another() {
    let mut world = World::new(config());
    world.arrive(3, false);
    world.ready(1);
    world.arrive(3, false);
    let (third, _) = world.arrive(3, false);
    world.died(1);
    assert_eq!((world.running.len(), world.created), (0, 2));
    world.ready(2);
    assert!(world.running.contains_key(&third));
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
    world.service = Duration::from_millis(service_ms);
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
