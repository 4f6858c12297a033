//! Where the tasks of a workflow run: here, on a neighbour or in the cloud. One policy a file, by
//! the original's names: `disable`, `threshold`, `ilp`, `heftless`.
//!
//! `threshold` looks at the memory in use and groups what comes next. The other two solve a
//! [`Problem`], which holds all that is known of tasks and nodes, and answer with a [`Placement`] of
//! every task that is left; [`decide`] says what that means for the tasks that are ready. A solver
//! that finds no answer says why ([`NoPlan`]): what to do then is the shell's business, and the
//! original's mistake was to fail the workflow.
//!
//! Not here: where the numbers come from, the JSON of an optimiser outside (`serverledge-api`), and
//! handing tasks over.

mod bound;
mod heftless;
mod ilp;
mod plan;
mod problem;
mod program;
mod statistics;
mod threshold;

use std::collections::BTreeMap;

pub use self::heftless::plan as heftless;
pub use self::ilp::{Effort, Solution, plan as ilp};
pub use self::plan::Plan;
pub use self::problem::{
    Arc, Costs, Kind, Link, NoPlan, Node, Problem, Resources, TASKS_MAX, Task, Weights,
};
pub use self::program::{Program, Value};
pub use self::statistics::{Branch, FunctionMeans, Means, Measured, PlaceMeans, Statistics};
pub use self::threshold::{Neighbour, Threshold, Usage};

/// The key that stands for the cloud, whichever of its nodes that is.
pub const CLOUD: &str = "CLOUD";

/// A rule for where the tasks of a workflow run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Here.
    #[default]
    Disable,
    /// Here until memory is short.
    Threshold,
    /// Where a linear program says.
    Ilp,
    /// Where a heuristic in the manner of HEFT says.
    Heftless,
}

impl Policy {
    /// Every policy, by its name in `workflow.offloading.policy`.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("disable", Self::Disable),
        ("threshold", Self::Threshold),
        ("ilp", Self::Ilp),
        ("heftless", Self::Heftless),
    ];

    /// The policy called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, policy)| *policy)
    }
}

/// Keys of nodes by ids of tasks.
pub type Placement = BTreeMap<String, String>;

/// What becomes of the tasks that are ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// They run here.
    Local,
    /// They are handed over.
    Offload {
        /// The key of a node, or [`CLOUD`].
        to: String,
        /// Ids of the tasks that may run there, ready or not, connected or not.
        tasks: Vec<String>,
    },
}

/// What `placement` means for the tasks `ready` on the node `here`. A task that it doesn't know is
/// for here: no solver could have meant anything else.
pub fn decide(placement: &Placement, ready: &[&str], here: &str) -> Decision {
    let place = |task: &&str| placement.get(*task).map_or(here, String::as_str);
    let Some(to) = ready.last().map(place) else {
        return Decision::Local;
    };
    if ready.iter().any(|task| place(task) == here) {
        return Decision::Local;
    }
    let there = placement.iter().filter(|(_, node)| *node == to);
    Decision::Offload {
        to: to.to_owned(),
        tasks: there.map(|(task, _)| task.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement() -> Placement {
        let pairs = [
            ("a", "n1"),
            ("b", "n2"),
            ("c", "n2"),
            ("d", "n3"),
            ("e", "n1"),
        ];
        let owned = pairs.map(|(task, node)| (task.to_owned(), node.to_owned()));
        owned.into_iter().collect()
    }

    #[test]
    fn whatever_is_ready_here_runs_first() {
        assert_eq!(decide(&placement(), &["b", "a"], "n1"), Decision::Local);
        assert_eq!(decide(&placement(), &[], "n1"), Decision::Local);
        assert_eq!(
            decide(&placement(), &["b", "unknown"], "n1"),
            Decision::Local
        );
    }

    #[test]
    fn the_last_ready_task_says_where_to_and_all_that_is_placed_there_goes_along() {
        let expected = |to: &str, tasks: &[&str]| Decision::Offload {
            to: to.into(),
            tasks: tasks.iter().map(|&task| task.into()).collect(),
        };
        let decide = |ready: &[&str]| decide(&placement(), ready, "n1");
        assert_eq!(decide(&["b"]), expected("n2", &["b", "c"]));
        assert_eq!(decide(&["b", "d"]), expected("n3", &["d"]));
    }

    #[test]
    fn policies_go_by_the_originals_names() {
        assert_eq!(Policy::by_name("ilp"), Some(Policy::Ilp));
        assert_eq!(Policy::by_name("ILP"), None);
        assert_eq!(Policy::by_name(""), None);
    }
}
