//! What a solver is told: tasks that are left, nodes that could run them, and numbers about both.

use std::collections::{BTreeMap, BTreeSet};

use super::Placement;

/// Tasks that a problem may have: a solver's memory goes with tasks and the square of nodes.
pub const TASKS_MAX: usize = 256;

/// Arcs between them.
pub(super) const ARCS_MAX: usize = 2048;

/// Nodes that a problem may have.
pub(super) const NODES_MAX: usize = 64;

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// More than a solver takes on.
    #[error("the workflow or the fleet is too large to be planned")]
    TooLarge,
    /// A number or a name that can't be.
    #[error("a problem that makes no sense: {0}")]
    Malformed(&'static str),
    /// Tasks that wait for each other.
    #[error("the tasks form a loop")]
    Cyclic,
    /// No node may or can run a task.
    #[error("no node can run the task {0:?} within the limits")]
    Infeasible(String),
    /// The optimum was not found with the effort that a plan is worth.
    #[error("no placement was proved best within the effort allowed")]
    TooHard,
}

/// What a task is, as far as placing it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It calls a function.
    Function,
    /// It selects one of its successors.
    Choice,
    /// Neither; it costs next to nothing.
    Other,
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Memory that it takes while it runs, MB.
    pub memory_mb: f64,
    /// What it hands on, bytes.
    pub output_bytes: f64,
    /// What a node must have to run it.
    pub labels: BTreeSet<String>,
}

/// A task may follow another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arc {
    /// Index of the earlier task.
    pub from: usize,
    /// Index of the later task.
    pub to: usize,
    /// How probable it is that it follows, once the earlier has run.
    pub probability: f64,
}

/// Memory of an edge node, MB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resources {
    /// What can be had by reclaiming what is warm.
    pub available_mb: f64,
    /// What can be had at once.
    pub free_mb: f64,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its key.
    pub key: String,
    /// Memory; `None` for the cloud, which has enough.
    pub resources: Option<Resources>,
    /// To the data store, MB/s.
    pub store_bandwidth: f64,
    /// To the data store, s.
    pub store_latency: f64,
    /// Of a MB second.
    pub cost: f64,
    /// What it has that tasks may ask for.
    pub labels: BTreeSet<String>,
}

/// What heftless can be told besides: then data go by the handling node, and CPUs count.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Between a node and the handling node, MB/s, by node.
    pub bandwidth: Vec<f64>,
    /// Cores, by node; `None` for the cloud, which has enough.
    pub node_cpus: Vec<Option<f64>>,
    /// Cores, by task.
    pub task_cpus: Vec<f64>,
}

/// How much each part of the objective counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// A second beyond the deadline.
    pub violations: f64,
    /// An arc that crosses from node to node.
    pub data: f64,
    /// A unit of cost.
    pub cost: f64,
    /// A MB that must be reclaimed.
    pub reclaimed: f64,
}

/// The original's defaults.
impl Default for Weights {
    fn default() -> Self {
        Self {
            violations: 0.3,
            data: 0.3,
            cost: 0.3,
            reclaimed: 0.1,
        }
    }
}

/// See the module. Tables are indexed by task, then node, or by node and node.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Tasks that have neither run nor been skipped.
    pub tasks: Vec<Task>,
    /// Which follows which.
    pub arcs: Vec<Arc>,
    /// Nodes that could run tasks.
    pub nodes: Vec<Node>,
    /// Index of the node that has the execution.
    pub handling: usize,
    /// Between nodes, one way, s.
    pub latency: Vec<Vec<f64>>,
    /// A task's run time on a node, s.
    pub execution: Vec<Vec<f64>>,
    /// What starting a sandbox adds to it, as expected, s; 0 if none would be started.
    pub init: Vec<Vec<f64>>,
    /// What the first tasks get, bytes.
    pub input_bytes: f64,
    /// When all is to be over, s from now; 0 or less: the sooner the better.
    pub deadline: f64,
    /// Of the objective's parts.
    pub weights: Weights,
    /// More about links and CPUs, for heftless.
    pub link: Option<Link>,
}

impl Problem {
    /// Whether a solver can work with it: sizes, references, and numbers that are numbers.
    pub fn check(&self) -> Result<(), NoPlan> {
        let (tasks, nodes) = (self.tasks.len(), self.nodes.len());
        if tasks > TASKS_MAX || nodes > NODES_MAX || self.arcs.len() > ARCS_MAX {
            return Err(NoPlan::TooLarge);
        }
        let is_amount = |value: f64| value.is_finite() && value >= 0.0;
        let are_amounts = |values: &[f64]| values.iter().all(|value| is_amount(*value));
        let fits = |table: &[Vec<f64>], rows: usize| {
            table.len() == rows
                && table
                    .iter()
                    .all(|row| row.len() == nodes && are_amounts(row))
        };
        let ensure = |holds: bool, what| match holds {
            true => Ok(()),
            false => Err(NoPlan::Malformed(what)),
        };
        let weights = self.weights;
        let weights = [
            weights.violations,
            weights.data,
            weights.cost,
            weights.reclaimed,
        ];

        ensure(
            self.handling < nodes,
            "the handling node is not among the nodes",
        )?;
        ensure(
            !self.has_double_names(),
            "two tasks or two nodes of one name",
        )?;
        ensure(
            fits(&self.latency, nodes) && fits(&self.execution, tasks) && fits(&self.init, tasks),
            "a latency or a time is missing or is no amount",
        )?;
        ensure(
            are_amounts(&weights) && is_amount(self.input_bytes) && self.deadline.is_finite(),
            "a weight, the input's size or the deadline is no amount",
        )?;
        let amounts = |task: &Task| are_amounts(&[task.memory_mb, task.output_bytes]);
        ensure(
            self.tasks.iter().all(amounts),
            "a task's memory or output is no amount",
        )?;
        ensure(
            self.nodes.iter().all(Node::is_sound),
            "a node's bandwidth, memory or cost is no amount",
        )?;
        let sound = |arc: &Arc| {
            let ends = arc.from < tasks && arc.to < tasks;
            ends && is_amount(arc.probability) && arc.probability <= 1.0
        };
        ensure(
            self.arcs.iter().all(sound),
            "an arc leads nowhere or has no probability",
        )?;
        ensure(!self.has_double_arcs(), "an arc is there twice")?;
        let link = self.link.as_ref();
        ensure(
            link.is_none_or(|link| link.is_sound(tasks, nodes)),
            "a link's bandwidth or a number of CPUs is no amount",
        )
    }

    fn has_double_names(&self) -> bool {
        let tasks: BTreeSet<_> = self.tasks.iter().map(|task| &task.id).collect();
        let nodes: BTreeSet<_> = self.nodes.iter().map(|node| &node.key).collect();
        tasks.len() != self.tasks.len() || nodes.len() != self.nodes.len()
    }

    fn has_double_arcs(&self) -> bool {
        let pairs: BTreeSet<_> = self.arcs.iter().map(|arc| (arc.from, arc.to)).collect();
        pairs.len() != self.arcs.len()
    }

    /// The nodes of the tasks, by index, as keys by ids.
    pub fn named(&self, nodes: &[usize]) -> Placement {
        let pairs = self.tasks.iter().zip(nodes);
        let named = pairs.map(|(task, &node)| (task.id.clone(), self.nodes[node].key.clone()));
        named.collect()
    }

    /// What of somebody else's answer can be followed: ids that aren't asked for mean nothing, but
    /// a node that there isn't, or that can't take the task, makes it worthless as a whole.
    pub fn accept(&self, mut answer: Placement) -> Result<Placement, NoPlan> {
        answer.retain(|id, _| self.tasks.iter().any(|task| task.id == *id));
        for (at, task) in self.tasks.iter().enumerate() {
            let Some(key) = answer.get(&task.id) else {
                continue;
            };
            let node = self.nodes.iter().position(|node| node.key == *key);
            let node = node.ok_or(NoPlan::Malformed("an answer with a node that there isn't"))?;
            if !self.allows(at, node) {
                return Err(NoPlan::Infeasible(task.id.clone()));
            }
        }
        Ok(answer)
    }

    /// Indices of the tasks such that each comes after those it follows; among equals, in the order
    /// they have.
    pub(super) fn order(&self) -> Result<Vec<usize>, NoPlan> {
        let mut before = vec![0_usize; self.tasks.len()];
        for arc in &self.arcs {
            before[arc.to] += 1;
        }
        let mut ready: BTreeSet<usize> = (0..before.len()).filter(|&at| before[at] == 0).collect();
        let mut order = Vec::with_capacity(before.len());
        while let Some(task) = ready.pop_first() {
            order.push(task);
            for arc in self.arcs.iter().filter(|arc| arc.from == task) {
                before[arc.to] -= 1;
                if before[arc.to] == 0 {
                    ready.insert(arc.to);
                }
            }
        }
        match order.len() == self.tasks.len() {
            true => Ok(order),
            false => Err(NoPlan::Cyclic),
        }
    }

    /// Whether the task may be placed on the node at all.
    pub(super) fn allows(&self, task: usize, node: usize) -> bool {
        let (task, node) = (&self.tasks[task], &self.nodes[node]);
        let has_room = node
            .resources
            .is_none_or(|resources| task.memory_mb <= resources.available_mb);
        has_room && task.labels.is_subset(&node.labels)
    }
}

impl Node {
    fn is_sound(&self) -> bool {
        let amounts = [self.store_latency, self.cost];
        let amounts = amounts
            .iter()
            .all(|value| value.is_finite() && *value >= 0.0);
        // Of a node that has given away more than it has, others are told less than nothing.
        let memory = self
            .resources
            .is_none_or(|it| it.available_mb.is_finite() && it.free_mb.is_finite());
        amounts && memory && self.store_bandwidth.is_finite() && self.store_bandwidth > 0.0
    }
}

impl Link {
    fn is_sound(&self, tasks: usize, nodes: usize) -> bool {
        let is_amount = |value: &f64| value.is_finite() && *value >= 0.0;
        let cpus = self.node_cpus.iter().flatten().chain(&self.task_cpus);
        self.bandwidth.len() == nodes
            && self.node_cpus.len() == nodes
            && self.task_cpus.len() == tasks
            && self.bandwidth.iter().all(|it| it.is_finite() && *it > 0.0)
            && cpus.into_iter().all(is_amount)
    }
}

/// What a MB second costs in each area: `workflow.offloading.policy.region.cost`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Costs(BTreeMap<String, f64>);

impl Costs {
    /// Sets the cost of an area, whose name goes by lower case.
    pub fn set(&mut self, area: &str, cost: f64) {
        self.0.insert(area.to_lowercase(), cost);
    }

    /// The cost of an area; none if it is not known.
    pub fn of(&self, area: &str) -> f64 {
        self.0.get(&area.to_lowercase()).copied().unwrap_or(0.0)
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Small problems for tests.
#[cfg(test)]
pub(super) mod samples {
    use super::*;

    pub(crate) fn node(key: &str) -> Node {
        Node {
            key: key.into(),
            resources: Some(Resources {
                available_mb: 1024.0,
                free_mb: 1024.0,
            }),
            store_bandwidth: 40.0,
            store_latency: 0.01,
            cost: 0.0,
            labels: BTreeSet::new(),
        }
    }

    /// Tasks of 128 MB and 100 ms, one after the other, and nodes all alike.
    pub(crate) fn chain(tasks: usize, nodes: usize) -> Problem {
        let task = |number: usize| Task {
            id: format!("t{number}"),
            kind: Kind::Function,
            memory_mb: 128.0,
            output_bytes: 1000.0,
            labels: BTreeSet::new(),
        };
        let arc = |number: usize| Arc {
            from: number - 1,
            to: number,
            probability: 1.0,
        };
        let latency = |from: usize, to: usize| if from == to { 0.0 } else { 0.005 };
        Problem {
            tasks: (0..tasks).map(task).collect(),
            arcs: (1..tasks).map(arc).collect(),
            nodes: (0..nodes)
                .map(|number| node(&format!("n{number}")))
                .collect(),
            handling: 0,
            latency: (0..nodes)
                .map(|from| (0..nodes).map(|to| latency(from, to)).collect())
                .collect(),
            execution: vec![vec![0.1; nodes]; tasks],
            init: vec![vec![0.0; nodes]; tasks],
            input_bytes: 100.0,
            deadline: 0.0,
            weights: Weights::default(),
            link: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::chain;
    use super::*;

    #[track_caller]
    fn check(change: impl Fn(&mut Problem), part: &str) {
        let mut problem = chain(3, 2);
        assert_eq!(problem.check(), Ok(()));
        change(&mut problem);
        let error = problem.check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        check(|it| it.handling = 2, "handling node");
        check(|it| it.tasks[1].id = "t0".into(), "one name");
        check(|it| it.nodes[1].key = "n0".into(), "one name");
        check(|it| it.latency[0][1] = f64::NAN, "latency");
        check(|it| it.execution[2][1] = -1.0, "latency or a time");
        check(|it| drop(it.init.pop()), "latency or a time");
        check(|it| it.deadline = f64::INFINITY, "deadline");
        check(|it| it.weights.data = -0.1, "weight");
        check(|it| it.tasks[0].memory_mb = f64::NAN, "memory");
        check(|it| it.nodes[0].store_bandwidth = 0.0, "bandwidth");
        check(|it| it.arcs[0].to = 3, "leads nowhere");
        check(|it| it.arcs[0].probability = 1.5, "probability");
        check(|it| it.arcs.push(it.arcs[0]), "twice");
        let link = |bandwidth| Link {
            bandwidth: vec![bandwidth; 2],
            node_cpus: vec![None; 2],
            task_cpus: vec![0.0; 3],
        };
        check(|it| it.link = Some(link(0.0)), "link");
    }

    #[test]
    fn what_is_too_large_is_not_begun() {
        assert_eq!(chain(TASKS_MAX + 1, 1).check(), Err(NoPlan::TooLarge));
        assert_eq!(chain(1, NODES_MAX + 1).check(), Err(NoPlan::TooLarge));
    }

    #[test]
    fn loops_have_no_order() {
        let mut problem = chain(3, 1);
        assert_eq!(problem.order(), Ok(vec![0, 1, 2]));
        problem.arcs.push(Arc {
            from: 2,
            to: 1,
            probability: 0.5,
        });
        assert_eq!(problem.order(), Err(NoPlan::Cyclic));
    }

    #[test]
    fn answers_of_others_are_followed_as_far_as_they_make_sense() {
        let mut problem = chain(2, 2);
        let placement = |pairs: &[(&str, &str)]| -> Placement {
            let owned = pairs
                .iter()
                .map(|(id, key)| (id.to_string(), key.to_string()));
            owned.collect()
        };
        let sound = placement(&[("t0", "n1"), ("t1", "n0")]);
        assert_eq!(problem.named(&[1, 0]), sound);
        let more = placement(&[("t0", "n1"), ("t1", "n0"), ("x", "nowhere")]);
        assert_eq!(problem.accept(more), Ok(sound.clone()));
        assert_eq!(problem.accept(placement(&[])), Ok(placement(&[])));
        let nowhere = problem.accept(placement(&[("t0", "nowhere")]));
        assert!(matches!(nowhere, Err(NoPlan::Malformed(_))), "{nowhere:?}");
        problem.tasks[0].memory_mb = 2048.0;
        assert_eq!(problem.accept(sound), Err(NoPlan::Infeasible("t0".into())));
    }

    #[test]
    fn areas_go_by_lower_case() {
        let mut costs = Costs::default();
        costs.set("Rome", 0.5);
        assert_eq!(
            (costs.of("ROME"), costs.of("rome"), costs.of("x")),
            (0.5, 0.5, 0.0)
        );
    }
}
