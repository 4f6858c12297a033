//! A solution as a table to look things up in, and why it is as it is.

use std::collections::BTreeMap;
use std::fmt;

use super::draw::{Choice, Probabilities};
use super::program::{Flow, Place, Program};
use super::solve::Solution;

/// Below this, a place is not used.
const UNUSED: f64 = 1e-6;

/// How much of a limit is used when it is what keeps others out.
const FULL: f64 = 1.0 - 1e-6;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What was asked.
    pub program: Program,
    /// What was answered.
    pub solution: Solution,
    /// By function.
    table: BTreeMap<String, Row>,
}

/// A function's part of the table.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    /// The way to the cloud and back, and to neighbors, seconds.
    ways: [f64; 2],
    /// By class.
    classes: Vec<Option<Probabilities>>,
}

/// A place that the plan sends nothing of a flow to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rejected {
    /// Which place.
    pub choice: Choice,
    /// Why.
    pub why: Why,
}

/// Why the plan doesn't use a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    /// The function can't run there.
    Nobody,
    /// No answer from there can be in time.
    TooLate,
    /// Calls there are worth no more than dropped ones.
    Worthless,
    /// Other calls make more of the memory that there is.
    Memory,
    /// Other calls make more of the money that there is.
    Budget,
    /// Another place makes as much of these calls, or more.
    Better,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody there can run it",
            Self::TooLate => "no answer from there can be within the deadline",
            Self::Worthless => "an answer from there is worth no more than none",
            Self::Memory => "the memory there is worth more to other calls",
            Self::Budget => "the budget is worth more to other calls",
            Self::Better => "another place is as good or better",
        })
    }
}

impl Plan {
    /// Of a program and its solution.
    pub fn new(program: Program, solution: Solution) -> Self {
        let mut table: BTreeMap<String, Row> = BTreeMap::new();
        for (flow, it) in program.flows.iter().zip(&solution.probabilities) {
            let view = &program.functions[flow.function];
            let way = |place: Option<Place>| place.map_or(0.0, |place| place.offset);
            let row = || Row {
                ways: [way(view.cloud), way(view.edge)],
                classes: vec![None; program.classes.len()],
            };
            let row = table.entry(view.name.clone()).or_insert_with(row);
            row.classes[flow.class] = Some(*it);
        }
        Self {
            program,
            solution,
            table,
        }
    }

    /// The probabilities for a call of `function` in `class`; `None` if nothing is planned for it.
    ///
    /// With `remaining` seconds to its own deadline, it doesn't go where the way alone takes longer:
    /// what is left doesn't sum to 1 then.
    pub fn find(
        &self,
        function: &str,
        class: usize,
        remaining: Option<f64>,
    ) -> Option<Probabilities> {
        let row = self.table.get(function)?;
        let mut planned = (*row.classes.get(class)?)?;
        if let Some(remaining) = remaining {
            let [cloud, edge] = row.ways;
            if cloud >= remaining {
                planned.cloud = 0.0;
            }
            if edge >= remaining {
                planned.edge = 0.0;
            }
        }
        Some(planned)
    }

    /// The places that a flow, by its index, never goes to, and why.
    pub fn rejected(&self, index: usize) -> Vec<Rejected> {
        let program = &self.program;
        let (Some(flow), Some(it)) = (
            program.flows.get(index),
            self.solution.probabilities.get(index),
        ) else {
            return Vec::new();
        };
        let places = [
            (Choice::Local, it.local),
            (Choice::Cloud, it.cloud),
            (Choice::Edge, it.edge),
        ];
        let unused = places.into_iter().enumerate();
        unused
            .filter(|(_, (_, share))| *share < UNUSED)
            .map(|(place, (choice, _))| Rejected {
                choice,
                why: self.why(flow, place),
            })
            .collect()
    }

    fn why(&self, flow: &Flow, place: usize) -> Why {
        let program = &self.program;
        let view = &program.functions[flow.function];
        let terms = program.terms(flow);
        let (Some(value), Some(expected)) = (
            terms.values[place],
            [view.local, view.cloud, view.edge][place],
        ) else {
            return Why::Nobody;
        };
        if expected.in_time(program.classes[flow.class].deadline_seconds()) <= 0.0 {
            return Why::TooLate;
        }
        if value <= terms.dropped {
            return Why::Worthless;
        }
        let uses = [terms.local_mb, terms.cost, terms.edge_mb][place] > 0.0;
        match place {
            0 if uses && self.is_full(place, Some(program.local_limit())) => Why::Memory,
            1 if uses && self.is_full(place, program.budget_limit()) => Why::Budget,
            2 if uses && self.is_full(place, Some(program.edge_memory_mb)) => Why::Memory,
            _ => Why::Better,
        }
    }

    fn is_full(&self, place: usize, limit: Option<f64>) -> bool {
        let flows = self.program.flows.iter().zip(&self.solution.probabilities);
        let used = flows.map(|(flow, it)| {
            let terms = self.program.terms(flow);
            [
                it.local * terms.local_mb,
                it.cloud * terms.cost,
                it.edge * terms.edge_mb,
            ][place]
        });
        limit.is_some_and(|limit| used.sum::<f64>() >= limit * FULL)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::classes::Class;
    use super::super::program::View;
    use super::*;

    /// One function in two classes; there is room for one of them here, and the cloud is far.
    fn program() -> Program {
        let place = Place {
            service: 0.1,
            init: 0.0,
            cold: 0.0,
            offset: 0.0,
        };
        let far = Place {
            offset: 2.0,
            ..place
        };
        let view = View {
            name: "f".into(),
            memory_mb: 100.0,
            local: Some(place),
            cloud: Some(far),
            edge: None,
        };
        let urgent = Class {
            utility: 5.0,
            deadline: Some(Duration::from_secs(1)),
            ..Class::new("urgent")
        };
        let flow = |class| Flow {
            function: 0,
            class,
            rate: 10.0,
        };
        Program {
            functions: vec![view],
            classes: vec![urgent, Class::new("default")],
            flows: vec![flow(0), flow(1)],
            local_memory_mb: 100.0,
            usable: 1.0,
            edge_memory_mb: 0.0,
            cloud_cost: 0.0,
            budget: None,
        }
    }

    #[test]
    fn what_is_worth_more_runs_here_and_the_rest_in_the_cloud() {
        let program = program();
        let solution = program.solve().unwrap();
        let plan = Plan::new(program, solution);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{plan:?}");
        close(plan.find("f", 0, None).unwrap().local, 1.0);
        close(plan.find("f", 1, None).unwrap().cloud, 1.0);
        assert_eq!(plan.find("f", 2, None), None);
        assert_eq!(plan.find("g", 0, None), None);
        // The way to the cloud takes 2 s.
        close(plan.find("f", 1, Some(3.0)).unwrap().cloud, 1.0);
        close(plan.find("f", 1, Some(1.5)).unwrap().cloud, 0.0);

        let why = |index| {
            let all = plan.rejected(index).into_iter();
            all.map(|it| (it.choice, it.why)).collect::<Vec<_>>()
        };
        let nobody = (Choice::Edge, Why::Nobody);
        assert_eq!(why(0), [(Choice::Cloud, Why::TooLate), nobody]);
        assert_eq!(why(1), [(Choice::Local, Why::Memory), nobody]);
        assert_eq!(why(9), []);
    }

    #[test]
    fn the_budget_and_worthlessness_are_reasons() {
        let mut program = program();
        program.cloud_cost = 1.0;
        program.budget = Some(0.0);
        let solution = program.solve().unwrap();
        let plan = Plan::new(program, solution);
        assert!((plan.find("f", 1, None).unwrap().drop - 1.0).abs() < 1e-6);
        let cloud = plan.rejected(1).into_iter();
        let cloud = cloud.filter(|it| it.choice == Choice::Cloud);
        assert_eq!(cloud.map(|it| it.why).collect::<Vec<_>>(), [Why::Budget]);

        let mut program = plan.program;
        program.classes[1].utility = 0.0;
        let solution = program.solve().unwrap();
        let plan = Plan::new(program, solution);
        let why = plan.rejected(1);
        assert!(why.iter().any(|it| it.why == Why::Worthless), "{why:?}");
    }
}
