//! Instances that another solver has solved: `table.py` says how, and which.

use std::time::Duration;

use serde_json::Value;
use serverledge_core::qos::{Class, Flow, Place, Program, View};

const TABLE: &str = include_str!("table.jsonl");

/// By how much an optimum may differ from the table's, of its size: both are round-off.
const CLOSE: f64 = 1e-5;

fn place(value: &Value) -> Option<Place> {
    let numbers = value.as_array()?;
    let number = |index: usize| numbers[index].as_f64().unwrap();
    Some(Place {
        service: number(0),
        init: number(1),
        cold: number(2),
        offset: number(3),
    })
}

fn function((index, value): (usize, &Value)) -> View {
    View {
        name: format!("f{index}"),
        memory_mb: value["memory"].as_f64().unwrap(),
        local: place(&value["local"]),
        cloud: place(&value["cloud"]),
        edge: place(&value["edge"]),
    }
}

fn class((index, value): (usize, &Value)) -> Class {
    let number = |key: &str| value[key].as_f64().unwrap();
    let deadline = number("deadline");
    Class {
        utility: number("utility"),
        deadline: (deadline >= 0.0).then(|| Duration::from_secs_f64(deadline)),
        completion: number("completion"),
        penalty: number("penalty"),
        drop_penalty: number("drop_penalty"),
        ..Class::new(&format!("c{index}"))
    }
}

fn flow(value: &Value) -> Flow {
    let index = |at: usize| usize::try_from(value[at].as_u64().unwrap()).unwrap();
    Flow {
        function: index(0),
        class: index(1),
        rate: value[2].as_f64().unwrap(),
    }
}

fn program(instance: &Value) -> Program {
    let list = |key: &str| instance[key].as_array().unwrap().iter();
    let number = |key: &str| instance[key].as_f64().unwrap();
    Program {
        functions: list("functions").enumerate().map(function).collect(),
        classes: list("classes").enumerate().map(class).collect(),
        flows: list("flows").map(flow).collect(),
        local_memory_mb: number("memory"),
        usable: number("usable"),
        edge_memory_mb: number("edge_memory"),
        cloud_cost: number("cost"),
        budget: instance["budget"].as_f64(),
    }
}

#[test]
fn another_solver_finds_the_same_optima() {
    let (mut solved, mut infeasible) = (0, 0);
    for line in TABLE.lines() {
        let instance: Value = serde_json::from_str(line).unwrap();
        let name = instance["name"].as_str().unwrap();
        let program = program(&instance);
        let solution = program
            .solve()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (optimum, missing) = (
            instance["optimum"].as_f64().unwrap(),
            instance["missing"].as_f64().unwrap(),
        );
        let close = |found: f64, expected: f64, what: &str| {
            let scale = expected.abs().max(1.0);
            assert!(
                (found - expected).abs() <= CLOSE * scale,
                "{name}: {what} {found}, the table has {expected}"
            );
        };
        close(solution.objective, optimum, "objective");
        let shortfall = solution.shortfalls.iter().map(|(_, by)| by).sum();
        close(shortfall, missing, "shortfall");
        let broken = program.violation(&solution.probabilities, missing == 0.0);
        assert!(broken <= 1e-4, "{name}: breaks a rule by {broken}");
        solved += 1;
        infeasible += u32::from(missing > 0.0);
    }
    assert!(solved >= 50 && infeasible >= 3, "{solved}, {infeasible}");
}
