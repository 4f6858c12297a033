//! The program given to a general solver, which knows nothing of longest paths: it is told them, and
//! what a crossing is, as inequalities.
//!
//! Crossings are written as a flow, as in `instances.py`. Small problems, because it takes its time;
//! why it isn't the solver in use is in decision 21.

use good_lp::{
    Expression, ProblemVariables, Solution as _, SolverModel as _, Variable, constraint,
    default_solver, variable,
};
use proptest::prelude::*;
use serverledge_core::placement::{Effort, Problem, ilp};

use crate::properties::{may, problem, runs};

/// The optimum of the program; `None` if it has none.
fn optimum(problem: &Problem) -> Option<f64> {
    let (tasks, nodes) = (problem.tasks.len(), problem.nodes.len());
    let (start, end) = (tasks, tasks + 1);
    let mut arcs: Vec<(usize, usize, f64, f64)> = Vec::new();
    for arc in &problem.arcs {
        let bytes = problem.tasks[arc.from].output_bytes;
        arcs.push((arc.from, arc.to, arc.probability, bytes));
    }
    for task in 0..tasks {
        if problem.arcs.iter().all(|arc| arc.to != task) {
            arcs.push((start, task, 1.0, problem.input_bytes));
        }
        if problem.arcs.iter().all(|arc| arc.from != task) {
            arcs.push((task, end, 1.0, problem.tasks[task].output_bytes));
        }
    }
    let mut all = ProblemVariables::new();
    let mut whole = || all.add(variable().binary());
    let x: Vec<Vec<Variable>> = (0..tasks + 2)
        .map(|_| (0..nodes).map(|_| whole()).collect())
        .collect();
    let mut amount = || all.add(variable().min(0.0));
    let done: Vec<Variable> = (0..tasks + 2).map(|_| amount()).collect();
    let begun: Vec<Variable> = (0..tasks + 2).map(|_| amount()).collect();
    let reclaimed: Vec<Variable> = (0..nodes).map(|_| amount()).collect();
    let violation = amount();
    let crossing: Vec<Vec<Vec<Variable>>> = (0..arcs.len())
        .map(|_| {
            (0..nodes)
                .map(|_| (0..nodes).map(|_| amount()).collect())
                .collect()
        })
        .collect();

    let weights = problem.weights;
    let mut objective: Expression = weights.violations * violation;
    let mut constraints = Vec::new();
    let sum = |variables: Vec<Variable>| variables.into_iter().sum::<Expression>();
    for vertex in 0..tasks + 2 {
        constraints.push(constraint!(sum(x[vertex].clone()) == 1));
        constraints.push(constraint!(done[vertex] - violation <= problem.deadline));
        let mut finish: Expression = begun[vertex].into();
        for (node, &placed) in x[vertex].iter().enumerate() {
            if vertex >= tasks {
                let here = f64::from(u8::from(node == problem.handling));
                constraints.push(constraint!(placed == here));
                continue;
            }
            let busy = problem.execution[vertex][node] + problem.init[vertex][node];
            finish += runs(problem, vertex) * busy * placed;
            let memory_mb = problem.tasks[vertex].memory_mb;
            objective += weights.cost * memory_mb * busy * problem.nodes[node].cost * placed;
            if !may(problem, vertex, node) {
                constraints.push(constraint!(placed == 0));
            }
        }
        constraints.push(constraint!(done[vertex] >= finish));
    }
    for (&(from, to, probability, bytes), crossing) in arcs.iter().zip(&crossing) {
        let mut arrival: Expression = done[from].into();
        for n in 0..nodes {
            constraints.push(constraint!(sum(crossing[n].clone()) == x[from][n]));
            let into = crossing.iter().map(|row| row[n]).collect();
            constraints.push(constraint!(sum(into) == x[to][n]));
            for k in (0..nodes).filter(|k| *k != n) {
                let (sender, receiver) = (&problem.nodes[n], &problem.nodes[k]);
                let seconds = bytes / (1e6 * sender.store_bandwidth)
                    + bytes / (1e6 * receiver.store_bandwidth)
                    + sender.store_latency
                    + receiver.store_latency
                    + 2.0 * problem.latency[n][k];
                arrival += probability * seconds * crossing[n][k];
                objective += weights.data * crossing[n][k];
            }
        }
        constraints.push(constraint!(begun[to] >= arrival));
    }
    for (node, resources) in problem.nodes.iter().enumerate() {
        if let Some(resources) = resources.resources {
            let started = (0..tasks).filter(|&task| problem.init[task][node] > 0.0);
            let memory: Expression = started
                .map(|task| problem.tasks[task].memory_mb * x[task][node])
                .sum();
            constraints.push(constraint!(reclaimed[node] >= memory - resources.free_mb));
            objective += weights.reclaimed * reclaimed[node];
        }
    }
    let mut model = all.minimise(objective.clone()).using(default_solver);
    for constraint in constraints {
        model.add_constraint(constraint);
    }
    model.solve().ok().map(|solution| solution.eval(&objective))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_general_solver_finds_the_same(problem in problem()) {
        let general = optimum(&problem);
        let ours = ilp(&problem, Effort::default()).ok();
        let ours = ours.map(|solution| solution.value.objective);
        match (general, ours) {
            (None, None) => {}
            (Some(general), Some(ours)) => {
                prop_assert!((general - ours).abs() <= 1e-5 * (1.0 + ours.abs()), "{general}, not {ours}");
            }
            _ => prop_assert!(false, "{general:?}, not {ours:?}"),
        }
    }
}
