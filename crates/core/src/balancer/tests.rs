//! Properties of the balancer under any interleaving of events, and its rules one by one.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn config(policy: TargetPolicy, architecture: ArchitecturePolicy) -> BalancerConfig {
    BalancerConfig {
        policy,
        architecture,
        replicas: 64,
        load_factor: 1.25,
        inflight_max: 100,
        bandit: bandit::tests::config(BanditKind::Ucb1),
        health: HealthConfig {
            failures_max: 3,
            ejection: Duration::from_secs(1),
            ejection_max: Duration::from_secs(30),
            readmission: Duration::from_secs(10),
        },
    }
}

fn target(number: u64, architecture: Option<Architecture>) -> Target {
    Target {
        id: TargetId(number),
        key: format!("node-{number}"),
        architecture,
    }
}

fn balancer(config: BalancerConfig, targets: &[Target]) -> Balancer {
    let plan = Plan::new(&config, targets.to_vec());
    let mut balancer = Balancer::new(config);
    balancer.install(plan);
    balancer
}

fn some(policy: TargetPolicy, count: u64) -> Balancer {
    let targets: Vec<Target> = (0..count)
        .map(|number| target(number, Some(Architecture::Amd64)))
        .collect();
    balancer(config(policy, ArchitecturePolicy::Unaware), &targets)
}

const NOW: Timestamp = Timestamp(Duration::ZERO);

fn ask(name: &str) -> Ask<'_> {
    Ask {
        name: Some(name),
        needs: None,
        home: None,
        tried: &[],
        draw: 1,
    }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, run: None }
}

#[test]
fn calls_of_a_function_stay_together_until_a_target_has_its_share() {
    for policy in [TargetPolicy::Bounded, TargetPolicy::Ring] {
        let mut balancer = some(policy, 4);
        let first = balancer.pick(&ask("f"), NOW).unwrap();
        assert_eq!(first.how, How::First);
        balancer.end(Some("f"), &first, answered(200), NOW);
        for _ in 0..10 {
            let again = balancer.pick(&ask("f"), NOW).unwrap();
            assert_eq!(again.target, first.target, "{policy:?}");
            balancer.end(Some("f"), &again, answered(200), NOW);
        }
    }
    let mut balancer = some(TargetPolicy::Bounded, 4);
    let picked: Vec<Picked> = (0..8)
        .map(|_| balancer.pick(&ask("f"), NOW).unwrap())
        .collect();
    assert!(picked.iter().any(|it| it.how == How::Spilled));
    // ceil(1.25 * 8 / 4) = 3.
    assert!(balancer.seen(NOW).iter().all(|it| it.inflight <= 3));
}

#[test]
fn a_target_with_idle_cores_is_not_too_busy() {
    let mut balancer = some(TargetPolicy::Bounded, 4);
    for number in 0..4 {
        let stock = Stock {
            cpu_total: Some(4.0),
            ..Stock::default()
        };
        balancer.report(TargetId(number), stock);
    }
    let picked: Vec<TargetId> = (0..4)
        .map(|_| balancer.pick(&ask("f"), NOW).unwrap().target)
        .collect();
    assert!(picked.iter().all(|it| *it == picked[0]), "{picked:?}");
    assert_ne!(balancer.pick(&ask("f"), NOW).unwrap().target, picked[0]);
}

#[test]
fn memory_is_taken_into_account_and_debited() {
    let needs = Needs {
        memory_mb: 100.0,
        cpu: 0.0,
        architectures: Vec::new(),
    };
    let ask = Ask {
        needs: Some(&needs),
        ..ask("f")
    };
    for policy in [
        TargetPolicy::Bounded,
        TargetPolicy::Ring,
        TargetPolicy::Memory,
    ] {
        let mut balancer = some(policy, 3);
        for (number, free) in [(0, 250.0), (1, 150.0), (2, 50.0)] {
            let stock = Stock {
                memory_free: Some(free),
                ..Stock::default()
            };
            balancer.report(TargetId(number), stock);
        }
        // Room for two and for one, whatever the order; then all are crowded.
        let mut counts = [0; 3];
        for _ in 0..3 {
            let picked = balancer.pick(&ask, NOW).unwrap();
            assert_ne!(picked.how, How::Crowded, "{policy:?}");
            counts[picked.target.0 as usize] += 1;
            if policy == TargetPolicy::Bounded {
                // Its share is another matter.
                balancer.fleet.states[picked.target.0 as usize].inflight = 0;
            }
        }
        assert_eq!(counts, [2, 1, 0], "{policy:?}");
        assert_eq!(balancer.pick(&ask, NOW).unwrap().how, How::Crowded);
    }
    // The first is the one with the most.
    let mut balancer = some(TargetPolicy::Memory, 3);
    for number in 0..3 {
        let stock = Stock {
            memory_free: Some(1000.0 + number as f64),
            ..Stock::default()
        };
        balancer.report(TargetId(number), stock);
    }
    assert_eq!(balancer.pick(&ask, NOW).unwrap().target, TargetId(2));
    // What has not begun is given back.
    let picked = balancer.pick(&ask, NOW).unwrap();
    let free = |balancer: &Balancer| balancer.seen(NOW)[1].stock.memory_free;
    assert_eq!((picked.target, free(&balancer)), (TargetId(1), Some(901.0)));
    balancer.end(Some("f"), &picked, Outcome::Unreachable, NOW);
    assert_eq!(free(&balancer), Some(1001.0));
}

#[test]
fn nonsense_that_targets_tell_of_themselves_changes_nothing() {
    let mut balancer = some(TargetPolicy::Memory, 1);
    let told = |value| Stock {
        memory_free: value,
        memory_total: value,
        cpu_free: value,
        cpu_total: value,
    };
    balancer.report(TargetId(0), told(Some(5.0)));
    for nonsense in [f64::NAN, f64::INFINITY, -1.0] {
        balancer.report(TargetId(0), told(Some(nonsense)));
        assert_eq!(balancer.seen(NOW)[0].stock, told(Some(5.0)));
    }
    balancer.report(TargetId(0), told(None));
    assert_eq!(balancer.seen(NOW)[0].stock, told(Some(5.0)));
}

#[test]
fn requests_that_any_target_takes_go_round() {
    let mut balancer = some(TargetPolicy::Bounded, 3);
    let any = Ask {
        name: None,
        ..ask("")
    };
    let order: Vec<u64> = (0..6)
        .map(|_| balancer.pick(&any, NOW).unwrap().target.0)
        .collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn what_has_a_home_goes_there_while_that_is_in() {
    let mut balancer = some(TargetPolicy::Bounded, 3);
    let home = Some(TargetId(2));
    let asked = Ask {
        name: None,
        home,
        ..ask("")
    };
    for _ in 0..5 {
        assert_eq!(balancer.pick(&asked, NOW).unwrap().target, TargetId(2));
    }
    balancer.probe_failed(TargetId(2), Ejection::Unreachable, NOW);
    assert_ne!(balancer.pick(&asked, NOW).unwrap().target, TargetId(2));
}

#[test]
fn why_there_is_none_is_told() {
    let mut balancer = some(TargetPolicy::Bounded, 0);
    assert_eq!(balancer.pick(&ask("f"), NOW), Err(NoTarget::Nobody));

    let mut balancer = some(TargetPolicy::Bounded, 1);
    let arm = Needs {
        architectures: vec![Architecture::Arm64],
        ..Needs::default()
    };
    let unfit = Ask {
        needs: Some(&arm),
        ..ask("f")
    };
    assert_eq!(balancer.pick(&unfit, NOW), Err(NoTarget::Unfit));
    let tried = Ask {
        tried: &[TargetId(0)],
        ..ask("f")
    };
    assert_eq!(balancer.pick(&tried, NOW), Err(NoTarget::Tried));
    let mut picked = None;
    for _ in 0..100 {
        picked = Some(balancer.pick(&ask("f"), NOW).unwrap());
    }
    assert_eq!(balancer.pick(&ask("f"), NOW), Err(NoTarget::Full));
    let picked = picked.unwrap();
    let ejection = balancer.end(Some("f"), &picked, Outcome::Unreachable, NOW);
    assert_eq!(ejection, Some(Ejection::Unreachable));
    assert_eq!(balancer.pick(&ask("f"), NOW), Err(NoTarget::Ejected));
}

#[test]
fn one_bad_function_does_not_take_all_targets_away() {
    let mut balancer = some(TargetPolicy::RoundRobin, 4);
    for _ in 0..100 {
        let picked = balancer.pick(&ask("bad"), NOW).unwrap();
        balancer.end(Some("bad"), &picked, Outcome::Broken, NOW);
    }
    let seen = balancer.seen(NOW);
    let ejected = seen.iter().filter(|it| it.health == "ejected").count();
    assert_eq!(ejected, 2);
    assert!(balancer.pick(&ask("good"), NOW).is_ok());
}

#[test]
fn a_target_that_comes_back_gets_little_at_first() {
    let mut balancer = some(TargetPolicy::RoundRobin, 2);
    balancer.probe_failed(TargetId(0), Ejection::Unreachable, NOW);
    let back = NOW + Duration::from_secs(1);
    assert!(balancer.probed(TargetId(0), back));
    let mut share = |after: u64| {
        let now = back + Duration::from_secs(after);
        let mut count = 0;
        for draw in 0..1000 {
            let picked = balancer.pick(&Ask { draw, ..ask("f") }, now).unwrap();
            count += u64::from(picked.target == TargetId(0));
            balancer.end(Some("f"), &picked, answered(200), now);
        }
        count
    };
    let (first, later, last) = (share(0), share(5), share(10));
    assert!((50..200).contains(&first), "{first}");
    assert!((300..500).contains(&later), "{later}");
    assert_eq!(last, 500);
}

#[test]
fn who_is_left_is_used_while_it_comes_back() {
    let mut balancer = some(TargetPolicy::Bounded, 1);
    balancer.probe_failed(TargetId(0), Ejection::Unreachable, NOW);
    let back = NOW + Duration::from_secs(1);
    balancer.probed(TargetId(0), back);
    for draw in 0..50 {
        assert!(balancer.pick(&Ask { draw, ..ask("f") }, back).is_ok());
    }
}

fn mixed(policy: ArchitecturePolicy) -> Balancer {
    let targets = [
        target(0, Some(Architecture::Arm64)),
        target(1, Some(Architecture::Amd64)),
    ];
    balancer(config(TargetPolicy::Bounded, policy), &targets)
}

fn needs(architectures: &[Architecture]) -> Needs {
    Needs {
        architectures: architectures.to_vec(),
        ..Needs::default()
    }
}

#[test]
fn architectures_take_turns_and_stand_in_for_each_other() {
    let both = needs(&Architecture::KNOWN);
    let ask = Ask {
        needs: Some(&both),
        ..ask("f")
    };
    let mut balancer = mixed(ArchitecturePolicy::RoundRobin);
    let mut next = |ask: &Ask<'_>| {
        let picked = balancer.pick(ask, NOW).unwrap();
        balancer.end(ask.name, &picked, answered(200), NOW);
        picked.target.0
    };
    assert_eq!([next(&ask), next(&ask), next(&ask)], [0, 1, 0]);
    let only = needs(&[Architecture::Amd64]);
    let only = Ask {
        needs: Some(&only),
        ..ask
    };
    assert_eq!([next(&only), next(&only)], [1, 1]);
    let tried = Ask {
        tried: &[TargetId(0)],
        ..ask
    };
    assert_eq!([next(&tried), next(&tried)], [1, 1]);
}

#[test]
fn a_bandit_learns_which_architecture_is_faster() {
    let both = needs(&Architecture::KNOWN);
    let ask = Ask {
        needs: Some(&both),
        ..ask("f")
    };
    for failing in [false, true] {
        let mut balancer = mixed(ArchitecturePolicy::Bandit);
        let mut counts = [0; 2];
        for _ in 0..300 {
            let picked = balancer.pick(&ask, NOW).unwrap();
            let number = picked.target.0 as usize;
            counts[number] += 1;
            let run = Some(Run {
                duration: Duration::from_millis([80, 10][number]),
                is_warm: true,
            });
            let outcome = match (failing, number) {
                (true, 0) => answered(500),
                _ => Outcome::Answered { status: 200, run },
            };
            balancer.end(Some("f"), &picked, outcome, NOW);
        }
        assert!(counts[1] > 200, "{failing} {counts:?}");
    }
    // Nobody fills its memory with names that don't exist.
    let mut balancer = mixed(ArchitecturePolicy::Bandit);
    for number in 0..100 {
        let name = format!("made-up-{number}");
        balancer.pick(&super::tests::ask(&name), NOW).unwrap();
    }
    assert!(balancer.bandits.is_empty());
}

#[test]
fn one_bandit_a_function_and_none_of_the_forgotten() {
    let both = needs(&Architecture::KNOWN);
    let mut balancer = mixed(ArchitecturePolicy::Bandit);
    for name in ["a", "b"] {
        let ask = Ask {
            needs: Some(&both),
            ..ask(name)
        };
        balancer.pick(&ask, NOW).unwrap();
    }
    assert_eq!(balancer.bandits.len(), 2);
    balancer.forget("a");
    assert_eq!(balancer.bandits.len(), 1);
}

#[derive(Debug, Clone)]
enum Event {
    Pick(u8, u64),
    End(usize, u8),
    Report(u64, f64, f64),
    Probe(u64, bool),
    Members(u8),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..6_u8, any::<u64>()).prop_map(|(name, draw)| Event::Pick(name, draw)),
        7 => (any::<usize>(), 0..6_u8).prop_map(|(at, outcome)| Event::End(at, outcome)),
        2 => (0..8_u64, any::<f64>(), any::<f64>()).prop_map(|(t, m, c)| Event::Report(t, m, c)),
        2 => (0..8_u64, any::<bool>()).prop_map(|(target, ok)| Event::Probe(target, ok)),
        1 => any::<u8>().prop_map(Event::Members),
        2 => (0..3000_u64).prop_map(Event::Pass),
    ]
}

fn policies() -> impl Strategy<Value = (TargetPolicy, ArchitecturePolicy)> {
    let target = prop_oneof![
        Just(TargetPolicy::Bounded),
        Just(TargetPolicy::Ring),
        Just(TargetPolicy::Memory),
        Just(TargetPolicy::RoundRobin),
    ];
    let architecture = prop_oneof![
        Just(ArchitecturePolicy::Unaware),
        Just(ArchitecturePolicy::RoundRobin),
        Just(ArchitecturePolicy::Random),
        Just(ArchitecturePolicy::Bandit),
    ];
    (target, architecture)
}

/// Target `number`, of an architecture that follows from it.
fn member(number: u64) -> Target {
    let architecture = [Some(Architecture::Amd64), Some(Architecture::Arm64), None];
    target(number, architecture[number as usize % 3])
}

fn outcome(kind: u8) -> Outcome {
    let run = Some(Run {
        duration: Duration::from_millis(3),
        is_warm: true,
    });
    match kind {
        0 => Outcome::Unreachable,
        1 => Outcome::Broken,
        2 => Outcome::Abandoned,
        3 => answered(503),
        _ => Outcome::Answered { status: 200, run },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// An account of our own of who has which requests agrees, nobody is chosen who may not be, and
    /// somebody is whenever somebody may be.
    #[test]
    fn whatever_happens_the_account_is_right(
        (policy, architecture) in policies(),
        events in prop::collection::vec(event(), 1..200),
    ) {
        let config = BalancerConfig { inflight_max: 5, ..config(policy, architecture) };
        let names = ["a", "b", "c", "d", "e", "f"];
        let wanted = [
            needs(&[]), needs(&Architecture::KNOWN), needs(&[Architecture::Amd64]),
            needs(&[Architecture::Arm64]), needs(&[Architecture::Other]), needs(&[]),
        ];
        let mut balancer = Balancer::new(config.clone());
        let mut members: Vec<u64> = Vec::new();
        let mut open: Vec<(usize, Picked)> = Vec::new();
        let mut now = NOW;
        for event in events {
            match event {
                Event::Pick(name, draw) => {
                    let name = name as usize;
                    let ask = Ask { needs: Some(&wanted[name]), draw, ..ask(names[name]) };
                    let before = balancer.seen(now);
                    let may = |it: &Seen| {
                        let fits = it.target.architecture.is_none_or(|own| {
                            let all = &wanted[name].architectures;
                            all.is_empty() || all.contains(&own)
                        });
                        it.health != "ejected" && it.inflight < 5 && fits
                    };
                    match balancer.pick(&ask, now) {
                        Ok(picked) => {
                            let seen = before.iter().find(|it| it.target.id == picked.target);
                            prop_assert!(may(seen.unwrap()), "{seen:?}");
                            open.push((name, picked));
                        }
                        Err(_) => prop_assert!(!before.iter().any(may), "{before:?}"),
                    }
                }
                Event::End(at, kind) if !open.is_empty() => {
                    let (name, picked) = open.swap_remove(at % open.len());
                    balancer.end(Some(names[name]), &picked, outcome(kind), now);
                }
                Event::End(..) => {}
                Event::Report(target, memory, cpu) => {
                    let stock = Stock {
                        memory_free: Some(memory),
                        memory_total: Some(memory),
                        cpu_free: Some(cpu),
                        cpu_total: Some(cpu),
                    };
                    balancer.report(TargetId(target), stock);
                }
                Event::Probe(target, true) => {
                    balancer.probed(TargetId(target), now);
                }
                Event::Probe(target, false) => {
                    balancer.probe_failed(TargetId(target), Ejection::Silent, now);
                }
                Event::Members(bits) => {
                    let gone: Vec<u64> = members.clone();
                    members = (0..8).filter(|number| bits & (1 << number) != 0).collect();
                    let plan = Plan::new(&config, members.iter().map(|number| member(*number)));
                    balancer.install(plan);
                    // A number that goes is never given again; here it is, so nothing of it is left.
                    open.retain(|(_, picked)| {
                        let id = picked.target.0;
                        members.contains(&id) || !gone.contains(&id)
                    });
                }
                Event::Pass(milliseconds) => now = now + Duration::from_millis(milliseconds),
            }
            for seen in balancer.seen(now) {
                let ours = open.iter().filter(|(_, it)| it.target == seen.target.id).count();
                prop_assert_eq!(seen.inflight, ours);
            }
            let sum: usize = balancer.seen(now).iter().map(|it| it.inflight).sum();
            prop_assert_eq!(balancer.fleet.inflight, sum);
            let live = balancer.seen(now).iter().filter(|it| it.health != "ejected").count();
            prop_assert_eq!(balancer.fleet.live(), live);
        }
    }

    /// The paper's promise: no target has more than `ceil(c m / n)` of `m` requests.
    #[test]
    fn loads_are_bounded(
        count in 1..20_u64,
        factor in 1.0..3.0_f64,
        requests in prop::collection::vec((0..5_u8, any::<bool>(), any::<usize>()), 1..300),
    ) {
        let config = BalancerConfig {
            load_factor: factor,
            inflight_max: usize::MAX,
            ..config(TargetPolicy::Bounded, ArchitecturePolicy::Unaware)
        };
        let targets: Vec<Target> = (0..count).map(|it| target(it, None)).collect();
        let mut balancer = balancer(config, &targets);
        let mut open = Vec::new();
        for (name, ends, at) in requests {
            if ends && !open.is_empty() {
                let picked = open.swap_remove(at % open.len());
                balancer.end(None, &picked, answered(200), NOW);
                continue;
            }
            let name = name.to_string();
            let picked = balancer.pick(&ask(&name), NOW).unwrap();
            let load = balancer.seen(NOW)
                .into_iter()
                .find(|it| it.target.id == picked.target)
                .unwrap()
                .inflight;
            open.push(picked);
            let most = (factor * open.len() as f64 / count as f64).ceil() as usize;
            prop_assert!(load <= most, "{load} of {} at one of {count}, at most {most}", open.len());
        }
    }
}
