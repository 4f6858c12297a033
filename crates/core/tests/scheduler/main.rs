//! Properties of the scheduler under any interleaving of events, checked against an independent
//! account of what it promised; and its rules, one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rules;
mod world;

use proptest::prelude::*;
use serverledge_core::{GiveUp, Outcome};

use crate::world::{World, config};

#[derive(Debug, Clone)]
enum Event {
    Arrive(u64, bool),
    Ready(usize),
    StartFailed(usize),
    Complete(usize, u8),
    Died(usize),
    Rejudge(usize),
    GiveUp(usize),
    Withdraw(usize),
    Prewarm(u64, usize),
    Spare(bool),
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
        1 => (0..8_usize).prop_map(Event::Withdraw),
        1 => (0..5_u64, 0..4_usize).prop_map(|(f, n)| Event::Prewarm(f, n)),
        2 => any::<bool>().prop_map(Event::Spare),
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
                let outcome = match outcome {
                    0 => Outcome::Broken,
                    1 => Outcome::TimedOut,
                    2 => Outcome::Unused,
                    _ => Outcome::Done,
                };
                world.complete(call, outcome);
            }
        }
        Event::Died(index) => {
            let up: Vec<u64> = world.sandboxes.keys().copied().collect();
            if let Some(sandbox) = pick(&up, index) {
                world.died(sandbox);
            }
        }
        Event::Rejudge(index) => {
            let waiting: Vec<u64> = world.waiting.keys().copied().collect();
            if let Some(call) = pick(&waiting, index) {
                let again = world.rejudge(call);
                let waits = world.waiting.contains_key(&call);
                let later = again.is_none_or(|again| again > world.now);
                assert!(later && (again.is_some() || !waits), "no next judgement");
            }
        }
        Event::Withdraw(index) => {
            let waiting: Vec<u64> = world.waiting.keys().copied().collect();
            if let Some(call) = pick(&waiting, index) {
                assert!(world.withdraw(call));
            }
        }
        Event::GiveUp(index) => {
            let waiting: Vec<u64> = world.waiting.keys().copied().collect();
            if let Some(call) = pick(&waiting, index) {
                let answer = world.give_up(call);
                let later = |until| until > world.now;
                assert!(match answer {
                    GiveUp::Dropped => !world.waiting.contains_key(&call),
                    GiveUp::Postponed(until) => later(until),
                    GiveUp::Answered => false,
                });
            }
        }
        Event::Prewarm(function, count) => {
            assert!(world.prewarm(revisions[function as usize], count) <= count);
        }
        Event::Spare(more) => world.spare(more),
        Event::Retire(function) => {
            world.retire(revisions[function as usize]);
            revisions[function as usize] += 5;
        }
        Event::Pass(milliseconds) => world.pass(milliseconds),
        Event::Expire => {
            world.pass(30_000);
            world.expire();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        // A failing case becomes a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

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

/// Found by the property above: a call that waits for its turn to start while all starts are taken
/// must not count on a sandbox of its own function, as there is none.
#[test]
fn a_call_without_a_sandbox_of_its_function_gets_its_turn() {
    use Event::{Arrive, Complete, Ready, StartFailed};
    let calls = |functions: &[u64]| functions.iter().map(|f| Arrive(*f, false)).collect();
    let events: [Vec<Event>; 6] = [
        calls(&[1, 0]),
        vec![StartFailed(5), Arrive(2, false), Ready(0)],
        calls(&[1, 0]),
        vec![StartFailed(0), Arrive(0, false), Complete(0, 0)],
        calls(&[1, 0, 2]),
        calls(&[0, 0]),
    ];
    let mut world = World::new(config());
    let mut revisions = [0, 1, 2, 3, 4];
    for event in events.into_iter().flatten() {
        apply(&mut world, &mut revisions, event);
    }
    world.finish();
}
