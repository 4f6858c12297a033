//! The paper's scenario: `qosaware` against the simpler policies.

use std::time::Duration;

use serverledge_core::DropReason;
use serverledge_core::policy::{self, Local, Placement, Remote, Situation};
use serverledge_core::qos::{Choice, Class, Classes, Odds};

use crate::world::{Function, Luck, Rule, Scenario, Tried, World};

/// A policy as the node uses it.
struct Real(&'static str);

impl Rule for Real {
    fn next(&self, tried: Tried, odds: &Odds) -> Choice {
        let Some(policy) = policy::by_name(self.0) else {
            // `default`, which the node doesn't ask.
            return match tried.here {
                true => Choice::Drop,
                false => Choice::Local,
            };
        };
        let remote = |tried: bool| match tried {
            true => Remote::Closed,
            false => Remote::Open,
        };
        let situation = Situation {
            can_offload: true,
            fallback_local: true,
            local: match tried.here {
                true => Local::Refused(DropReason::NoRoom),
                false => Local::Untried,
            },
            edge: remote(tried.edge),
            cloud: remote(tried.cloud),
            odds: Some(*odds),
        };
        match policy.place(&situation) {
            Placement::Local => Choice::Local,
            Placement::Offload => Choice::Cloud,
            Placement::Neighbor => Choice::Edge,
            Placement::Drop => Choice::Drop,
        }
    }

    fn plans(&self) -> bool {
        self.0 == "qosaware"
    }
}

/// `edgecloud` that keeps to the budget: the paper's "basic-budget".
struct Thrifty;

impl Rule for Thrifty {
    fn next(&self, tried: Tried, odds: &Odds) -> Choice {
        match tried {
            Tried { here: false, .. } => Choice::Local,
            Tried { cloud: false, .. } if !odds.over_budget => Choice::Cloud,
            _ => Choice::Drop,
        }
    }

    fn plans(&self) -> bool {
        false
    }
}

/// As published, but for the length: five functions, four classes, one busy node of five.
fn paper(seed: u64, budget: f64, neighbors: usize) -> Scenario {
    let mut luck = Luck::new(seed);
    let function = |index| Function {
        name: format!("f{index}"),
        service: luck.between(0.1, 0.5),
        init: luck.between(0.25, 0.75),
        memory_mb: luck.between(128.0, 1024.0),
    };
    let functions = (0..5).map(function).collect();
    let class = |name: &str, number, deadline, utility, penalty| Class {
        number: Some(number),
        deadline: Some(Duration::from_secs_f64(deadline)),
        utility,
        penalty,
        ..Class::new(name)
    };
    let classes = vec![
        class("critical", 0, 0.5, 1.0, 0.0),
        class("standard", 1, 0.5, 0.01, 0.0),
        class("batch", 2, 99.0, 1.0, 0.0),
        class("critical-p", 3, 0.5, 1.0, 0.75),
    ];
    Scenario {
        functions,
        classes: Classes::new(classes).unwrap(),
        weights: vec![1.0, 7.0, 1.0, 1.0],
        rate: 10.0,
        seconds: 600.0,
        neighbors,
        node_memory_mb: 4096.0,
        cloud_memory_mb: 128_000.0,
        cloud_way: 0.2,
        edge_way: 0.01,
        cloud_cost: 5e-5,
        budget,
        interval: 10.0,
    }
}

const SIMPLE: [&str; 4] = ["default", "edgecloud", "cloudonly", "edgeonly"];

const SEEDS: std::ops::Range<u64> = 1..3;

/// What may be spent beyond the budget, which the first calls do while there is no plan: in the ten
/// minutes of a run, the first of which counts as a whole.
const EXCESS: f64 = 1.15;

#[test]
fn it_is_worth_more_than_every_simpler_policy() {
    for seed in SEEDS {
        let simple = SIMPLE.map(|name| World::run(&paper(seed, 0.0, 4), &Real(name), seed));
        for budget in [0.25, 10.0] {
            let scenario = paper(seed, budget, 4);
            let planned = World::run(&scenario, &Real("qosaware"), seed);
            for (name, simple) in SIMPLE.iter().zip(&simple) {
                // The same calls for all of them.
                assert_eq!(planned.calls, simple.calls);
                assert!(
                    planned.net() > simple.net(),
                    "seed {seed}, budget {budget}: {planned:?}, and {name}: {simple:?}"
                );
            }
            let most = budget * scenario.seconds / 3600.0 * EXCESS;
            assert!(planned.cost <= most, "{planned:?}, of {most}");
        }
    }
}

/// Without neighbors and with little money, no policy is worth much that keeps to the budget: those
/// that don't are worth more, at five times the price and above.
#[test]
fn it_is_worth_more_than_what_keeps_to_the_same_budget() {
    for seed in SEEDS {
        let scenario = paper(seed, 0.25, 0);
        let planned = World::run(&scenario, &Real("qosaware"), seed);
        let thrifty = World::run(&scenario, &Thrifty, seed);
        assert!(
            planned.net() > 1.5 * thrifty.net(),
            "{planned:?}, {thrifty:?}"
        );
        let spender = World::run(&scenario, &Real("edgecloud"), seed);
        assert!(
            spender.cost > 4.0 * planned.cost,
            "{planned:?}, {spender:?}"
        );
    }
}
