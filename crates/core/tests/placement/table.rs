//! The table: problems, the optimum of the linear program by HiGHS, and what HEFTLess places by a
//! second implementation. How it was made is in `instances.py`.

use std::collections::BTreeSet;

use serde_json::Value;
use serverledge_core::placement::{
    Arc, Effort, Kind, NoPlan, Node, Problem, Program, Resources, Task, Weights, heftless, ilp,
};

const TABLE: &str = include_str!("instances.jsonl");

/// HiGHS is content with this.
const TOLERANCE: f64 = 2e-6;

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn tables(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn problem(line: &Value) -> Problem {
    let output = numbers(&line["output"]);
    let task = |(number, (&memory_mb, &output_bytes)): (usize, (&f64, &f64))| Task {
        id: number.to_string(),
        kind: Kind::Function,
        memory_mb,
        output_bytes,
        labels: BTreeSet::new(),
    };
    let of_node = ["available", "free", "bandwidth", "store_latency", "cost"];
    let [available, free, bandwidth, latency, cost] = of_node.map(|key| numbers(&line[key]));
    let node = |number: usize| Node {
        key: number.to_string(),
        resources: (line["cloud"][number] == false).then(|| Resources {
            available_mb: available[number],
            free_mb: free[number],
        }),
        store_bandwidth: bandwidth[number],
        store_latency: latency[number],
        cost: cost[number],
        labels: BTreeSet::new(),
    };
    let arc = |arc: Vec<f64>| Arc {
        from: arc[0] as usize,
        to: arc[1] as usize,
        probability: arc[2],
    };
    let weights = numbers(&line["weights"]);
    Problem {
        tasks: numbers(&line["memory"])
            .iter()
            .zip(&output)
            .enumerate()
            .map(task)
            .collect(),
        arcs: tables(&line["arcs"]).into_iter().map(arc).collect(),
        nodes: (0..cost.len()).map(node).collect(),
        handling: line["handling"].as_u64().unwrap() as usize,
        latency: tables(&line["latency"]),
        execution: tables(&line["execution"]),
        init: tables(&line["init"]),
        input_bytes: line["input"].as_f64().unwrap(),
        deadline: line["deadline"].as_f64().unwrap(),
        weights: Weights {
            violations: weights[0],
            data: weights[1],
            cost: weights[2],
            reclaimed: weights[3],
        },
        link: None,
    }
}

fn lines() -> impl Iterator<Item = Value> {
    TABLE
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
}

#[test]
fn ilp_finds_the_optimum_that_highs_finds() {
    let mut solved = 0;
    for line in lines() {
        let problem = problem(&line);
        let name = line["name"].as_str().unwrap();
        let solution = ilp(&problem, Effort::default());
        let Some(expected) = line["ilp"].as_f64() else {
            assert!(
                matches!(solution, Err(NoPlan::Infeasible(_))),
                "{name}: {solution:?}"
            );
            continue;
        };
        let solution = solution.unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = solution.value.objective;
        let allowed = TOLERANCE * (1.0 + expected.abs());
        assert!(
            (found - expected).abs() <= allowed,
            "{name}: {found}, not {expected}"
        );
        let value = Program::new(&problem).unwrap().evaluate(&solution.nodes);
        assert_eq!(value, Some(solution.value), "{name}");
        assert!(solution.bound <= found + allowed, "{name}");
        solved += 1;
    }
    assert!(solved > 100, "{solved}");
}

#[test]
fn heftless_places_as_a_second_implementation_does() {
    let (mut placed, mut refused) = (0, 0);
    for line in lines() {
        let name = line["name"].as_str().unwrap();
        match (heftless(&problem(&line)), &line["heftless"]) {
            (Err(NoPlan::Infeasible(_)), Value::Null) => refused += 1,
            (Ok(nodes), Value::Array(_)) => {
                let expected = numbers(&line["heftless"]);
                let nodes: Vec<f64> = nodes.into_iter().map(|node| node as f64).collect();
                assert_eq!(nodes, expected, "{name}");
                placed += 1;
            }
            (plan, expected) => panic!("{name}: {plan:?}, not {expected}"),
        }
    }
    assert!(
        placed > 60 && refused > 20,
        "{placed} placed, {refused} refused"
    );
}

/// Tens of tasks, ten nodes: what a fleet asks for. Workflows are made of sequences, choices and
/// branches; of graphs as wild as the table's meshes, some are beyond the effort allowed.
#[test]
fn what_a_fleet_asks_for_is_solved_with_effort_to_spare() {
    let Effort(whole) = Effort::default();
    let mut unsolved = Vec::new();
    for line in lines() {
        let mut problem = problem(&line);
        let name = line["name"].as_str().unwrap();
        if problem.nodes.len() < 2 || line["ilp"].is_null() {
            continue;
        }
        widen(&mut problem, 10);
        let effort = Effort(whole / 10);
        match ilp(&problem, effort) {
            Ok(_) => {}
            Err(NoPlan::TooHard) if name.starts_with("mesh") => unsolved.push(name.to_owned()),
            Err(error) => panic!("{name} with ten nodes: {error}"),
        }
    }
    assert!(unsolved.len() < 3, "{unsolved:?}");
}

/// Adds nodes, each a little different from one that is there.
fn widen(problem: &mut Problem, nodes: usize) {
    let original = problem.nodes.len();
    for number in original..nodes {
        let like = number % original;
        let factor = 1.0 + number as f64 / 50.0;
        let mut node = problem.nodes[like].clone();
        node.key = number.to_string();
        node.cost *= factor;
        problem.nodes.push(node);
        for row in problem.execution.iter_mut().chain(&mut problem.init) {
            row.push(row[like] * factor);
        }
        let near = problem.latency[like].iter().map(|latency| latency + 0.001);
        let mut row: Vec<f64> = near.collect();
        for (other, latency) in row.iter().enumerate() {
            problem.latency[other].push(*latency);
        }
        row.push(0.0);
        problem.latency.push(row);
    }
}
