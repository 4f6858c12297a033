//! On small problems every placement can be tried: none is better than the solver's, and what the
//! solver says of its own is what a slow evaluation by the book says.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serverledge_core::placement::{
    Arc, Effort, Kind, NoPlan, Node, Problem, Program, Resources, Task, Weights, heftless, ilp,
};

const TASKS_MAX: usize = 5;
const NODES_MAX: usize = 3;

fn amount(max: f64) -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 4 => 0.0..max]
}

fn grid(rows: usize, columns: usize, max: f64) -> impl Strategy<Value = Vec<Vec<f64>>> {
    prop::collection::vec(prop::collection::vec(amount(max), columns), rows)
}

fn labels() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set("[ab]", 0..2)
}

fn task(number: usize) -> impl Strategy<Value = Task> {
    let task =
        move |(memory_mb, output_bytes, labels): (f64, f64, Option<BTreeSet<String>>)| Task {
            id: format!("t{number}"),
            kind: Kind::Function,
            memory_mb,
            output_bytes,
            labels: labels.unwrap_or_default(),
        };
    (
        amount(600.0),
        amount(5e6),
        prop::option::weighted(0.2, labels()),
    )
        .prop_map(task)
}

fn node(number: usize) -> impl Strategy<Value = Node> {
    let resources = (0.0..1500.0, -100.0..800.0);
    let figures = (1.0..100.0, amount(0.1), amount(0.01), labels());
    let node = move |(resources, (store_bandwidth, store_latency, cost, labels))| {
        let resources: Option<(f64, f64)> = resources;
        Node {
            key: format!("n{number}"),
            resources: resources.map(|(available_mb, free_mb)| Resources {
                available_mb,
                free_mb,
            }),
            store_bandwidth,
            store_latency,
            cost,
            labels,
        }
    };
    (prop::option::weighted(0.7, resources), figures).prop_map(node)
}

/// Any graph without loops, over tasks in any order.
fn arcs(tasks: usize) -> impl Strategy<Value = Vec<Arc>> {
    let pairs = tasks * (tasks - 1) / 2;
    let order = Just((0..tasks).collect::<Vec<_>>()).prop_shuffle();
    let chosen = prop::collection::vec(prop::option::weighted(0.4, 0.0..=1.0), pairs);
    (order, chosen).prop_map(move |(order, chosen)| {
        let pairs = (0..tasks).flat_map(|from| (from + 1..tasks).map(move |to| (from, to)));
        let arc = |((from, to), probability): ((usize, usize), Option<f64>)| {
            Some(Arc {
                from: order[from],
                to: order[to],
                probability: probability?,
            })
        };
        pairs.zip(chosen).filter_map(arc).collect()
    })
}

pub(super) fn problem() -> impl Strategy<Value = Problem> {
    (1..=TASKS_MAX, 1..=NODES_MAX).prop_flat_map(|(tasks, nodes)| {
        let lists = (
            (0..tasks).map(task).collect::<Vec<_>>(),
            arcs(tasks),
            (0..nodes).map(node).collect::<Vec<_>>(),
            0..nodes,
        );
        let tables = (
            grid(nodes, nodes, 0.2),
            grid(tasks, nodes, 2.0),
            grid(tasks, nodes, 0.5),
        );
        let rest = (amount(5e6), -5.0..8.0, prop::array::uniform4(amount(1.0)));
        let problem = |((tasks, arcs, nodes, handling), (latency, execution, init), rest)| {
            let (input_bytes, deadline, weights): (f64, f64, [f64; 4]) = rest;
            Problem {
                tasks,
                arcs,
                nodes,
                handling,
                latency,
                execution,
                init,
                input_bytes,
                deadline,
                weights: Weights {
                    violations: weights[0],
                    data: weights[1],
                    cost: weights[2],
                    reclaimed: weights[3] / 10.0,
                },
                link: None,
            }
        };
        (lists, tables, rest).prop_map(problem)
    })
}

/// Every way of placing the tasks.
fn placements(problem: &Problem) -> impl Iterator<Item = Vec<usize>> {
    let (tasks, nodes) = (problem.tasks.len(), problem.nodes.len());
    (0..nodes.pow(tasks as u32)).map(move |number| {
        let digit = |task: usize| number / nodes.pow(task as u32) % nodes;
        (0..tasks).map(digit).collect()
    })
}

pub(super) fn may(problem: &Problem, task: usize, node: usize) -> bool {
    let (task, node) = (&problem.tasks[task], &problem.nodes[node]);
    task.labels.iter().all(|label| node.labels.contains(label))
        && node
            .resources
            .is_none_or(|it| it.available_mb >= task.memory_mb)
}

/// How probable it is that the task runs.
pub(super) fn runs(problem: &Problem, task: usize) -> f64 {
    let arcs = problem.arcs.iter().filter(|arc| arc.to == task);
    let parts: Vec<f64> = arcs
        .map(|arc| runs(problem, arc.from) * arc.probability)
        .collect();
    if parts.is_empty() {
        1.0
    } else {
        parts.iter().sum::<f64>().min(1.0)
    }
}

/// The objective by the book: completions are asked for backwards, from each task to what it follows.
fn objective(problem: &Problem, placed: &[usize]) -> Option<f64> {
    let tasks = problem.tasks.len();
    if (0..tasks).any(|task| !may(problem, task, placed[task])) {
        return None;
    }
    let home = problem.handling;
    let followed = |task: usize| problem.arcs.iter().filter(move |arc| arc.to == task);
    let is_last = |task: usize| problem.arcs.iter().all(|arc| arc.from != task);

    let way = |bytes: f64, from: usize, to: usize| {
        let (a, b) = (&problem.nodes[from], &problem.nodes[to]);
        match from == to {
            true => 0.0,
            false => {
                bytes / a.store_bandwidth / 1e6
                    + bytes / b.store_bandwidth / 1e6
                    + (a.store_latency + b.store_latency)
                    + problem.latency[from][to] * 2.0
            }
        }
    };
    fn done(
        problem: &Problem,
        placed: &[usize],
        way: &dyn Fn(f64, usize, usize) -> f64,
        task: usize,
    ) -> f64 {
        let node = placed[task];
        let arcs: Vec<&Arc> = problem.arcs.iter().filter(|arc| arc.to == task).collect();
        let start = match arcs.is_empty() {
            true => way(problem.input_bytes, problem.handling, node),
            false => arcs.iter().fold(0.0, |latest: f64, arc| {
                let bytes = problem.tasks[arc.from].output_bytes;
                let arrives = done(problem, placed, way, arc.from)
                    + arc.probability * way(bytes, placed[arc.from], node);
                latest.max(arrives)
            }),
        };
        let busy = problem.execution[task][node] + problem.init[task][node];
        start + runs(problem, task) * busy
    }

    let (mut end, mut crossings, mut cost) = (0.0_f64, 0, 0.0);
    let mut started = vec![0.0; problem.nodes.len()];
    for task in 0..tasks {
        let node = placed[task];
        let busy = problem.execution[task][node] + problem.init[task][node];
        let mut finish = done(problem, placed, &way, task);
        cost += problem.tasks[task].memory_mb * busy * problem.nodes[node].cost;
        crossings += followed(task)
            .filter(|arc| placed[arc.from] != node)
            .count();
        crossings += usize::from(followed(task).next().is_none() && node != home);
        if is_last(task) {
            crossings += usize::from(node != home);
            finish += way(problem.tasks[task].output_bytes, node, home);
        }
        end = end.max(finish);
        if problem.init[task][node] > 0.0 {
            started[node] += problem.tasks[task].memory_mb;
        }
    }
    let reclaimed = problem.nodes.iter().zip(started).map(|(node, started)| {
        node.resources
            .map_or(0.0, |it| (started - it.free_mb).max(0.0))
    });
    let weights = problem.weights;
    Some(
        weights.violations * (end - problem.deadline).max(0.0)
            + weights.data * crossings as f64
            + weights.cost * cost
            + weights.reclaimed * reclaimed.sum::<f64>(),
    )
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-7 * (1.0 + a.abs())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_placement_is_better_than_the_solvers(problem in problem()) {
        let program = Program::new(&problem);
        let mut best = f64::INFINITY;
        for placed in placements(&problem) {
            let by_the_book = objective(&problem, &placed);
            best = best.min(by_the_book.unwrap_or(f64::INFINITY));
            if let Ok(program) = &program {
                let value = program.evaluate(&placed).map(|value| value.objective);
                prop_assert_eq!(value.is_some(), by_the_book.is_some());
                prop_assert!(value.zip(by_the_book).is_none_or(|(a, b)| same(a, b)));
            }
        }
        match ilp(&problem, Effort::default()) {
            Ok(solution) => {
                let found = objective(&problem, &solution.nodes);
                prop_assert!(found.is_some_and(|found| same(found, best)), "{found:?}, not {best}");
                prop_assert!(same(solution.value.objective, best));
            }
            Err(NoPlan::Infeasible(_)) => prop_assert!(best.is_infinite()),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn heftless_keeps_to_what_is_allowed(problem in problem()) {
        match heftless(&problem) {
            Ok(nodes) => {
                let allowed = nodes.iter().enumerate().all(|(task, &node)| may(&problem, task, node));
                prop_assert!(allowed);
                for (number, node) in problem.nodes.iter().enumerate() {
                    let there = nodes.iter().enumerate().filter(|(_, placed)| **placed == number);
                    let memory: f64 = there.map(|(task, _)| problem.tasks[task].memory_mb).sum();
                    prop_assert!(node.resources.is_none_or(|it| memory <= it.available_mb));
                }
            }
            Err(error) => prop_assert!(matches!(error, NoPlan::Infeasible(_)), "{error}"),
        }
    }

    /// However little it may do, it answers, and with nothing that it hasn't bounded.
    #[test]
    fn little_effort_is_no_plan_or_a_good_one(problem in problem(), effort in 0_u64..3000) {
        if let Ok(solution) = ilp(&problem, Effort(effort)) {
            let best = placements(&problem).filter_map(|it| objective(&problem, &it));
            let best = best.fold(f64::INFINITY, f64::min);
            let value = solution.value.objective;
            prop_assert!(value - best <= 0.02 * value.abs() + 1e-9, "{value}, not {best}");
        }
    }
}
