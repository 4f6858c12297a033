//! Where the tasks of an execution run: what this node knows, asked by the configured policy.
//!
//! Times and sizes are measured (`core::placement::Statistics`), wherever a function has run; memory,
//! CPU and distance of neighbours are what they tell. The plan of an execution is kept with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serverledge_api::{InvokeReply, Optimizer};
use serverledge_core::fleet::{Group, Status};
use serverledge_core::placement::{
    self as core, Branch, CLOUD, Costs, Decision, Kind, Means, Measured, Neighbour, Node as Place,
    Plan, Policy, Problem, Resources, Statistics, Usage, decide,
};
use tracing::debug;

use super::functions::Placing;
use super::graph::Graph;
use super::means;
use super::optimizer::Source;
use crate::config::Placement as Config;
use crate::federation::Member;
use crate::node::Node;

/// What is no function: run time, s, and memory, MB.
const OTHER_TIME: f64 = 1e-4;
const OTHER_MEMORY: f64 = 10.0;

/// A function that isn't in the catalog: memory, MB.
const UNKNOWN_MEMORY: f64 = 128.0;

/// To the data store, s: from the edge, if there is no cloud to measure; from the cloud.
const STORE_LATENCY_UNKNOWN: f64 = 0.1;
const STORE_LATENCY_CLOUD: f64 = 0.001;

/// To a cloud whose distance isn't known yet, s.
const CLOUD_LATENCY_UNKNOWN: f64 = 0.1;

/// Neighbours that a plan is made with, the nearest.
const NEIGHBOURS_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Places {
    config: Config,
    source: Source,
    statistics: Mutex<Statistics>,
    /// Whether nothing is measured: a file says what functions take.
    is_given: bool,
}

/// What is to be placed, as it stands.
pub(crate) struct Question<'a> {
    /// The workflow's name.
    pub(crate) workflow: &'a str,
    pub(crate) graph: &'a Graph,
    /// Tasks that have neither run nor been skipped, by index.
    pub(crate) left: Vec<usize>,
    /// Those that come next.
    pub(crate) ready: &'a [String],
    /// What the execution was started with, bytes.
    pub(crate) input_bytes: f64,
    /// What is left of the wanted response time, s; 0 or less: none.
    pub(crate) deadline: f64,
    /// Nodes that are out of the question.
    pub(crate) shunned: &'a BTreeSet<String>,
}

/// A node nearby.
#[derive(Debug, Clone)]
struct Edge {
    member: Arc<Member>,
    status: Arc<Status>,
    /// Round trip, s.
    distance: f64,
}

/// This node and those around it.
#[derive(Debug, Clone)]
pub(crate) struct World {
    here: String,
    usage: Usage,
    resources: Resources,
    neighbours: Vec<Edge>,
    cloud: Option<(Arc<Member>, f64)>,
}

impl World {
    /// As far as `node` knows it.
    pub(crate) fn around(node: &Node, shunned: &BTreeSet<String>) -> Self {
        let pool = node.pool.snapshot();
        let total = pool.memory_total as f64;
        let mut world = Self {
            here: node.identity.key.clone(),
            usage: Usage {
                used_mb: pool.memory_busy as f64,
                total_mb: total,
            },
            resources: Resources {
                available_mb: total - pool.memory_busy as f64,
                free_mb: total - (pool.memory_busy + pool.memory_warm + pool.memory_spare) as f64,
            },
            neighbours: Vec::new(),
            cloud: None,
        };
        let Some(federation) = &node.federation else {
            return world;
        };
        for (near, status) in federation.peers().alive() {
            let has_room = status.memory_available > 0 && status.cpu_used < status.cpu_total;
            let is_open = !shunned.contains(&near.member.key) && !near.member.is_balancer;
            if near.known.group == Group::Neighbor
                && has_room
                && is_open
                && world.neighbours.len() < NEIGHBOURS_MAX
            {
                world.neighbours.push(Edge {
                    member: near.member,
                    status,
                    distance: near.known.distance.unwrap_or(0.0),
                });
            }
        }
        if !shunned.contains(CLOUD) {
            let target = federation.cloud_target(node);
            world.cloud = target.map(|(member, latency)| {
                // Some time, if nothing is known: it is no neighbour.
                (member, latency.unwrap_or(CLOUD_LATENCY_UNKNOWN))
            });
        }
        world
    }

    fn is_lonely(&self) -> bool {
        self.neighbours.is_empty() && self.cloud.is_none()
    }

    /// Who a key of a placement means, if it isn't this node.
    fn member(&self, key: &str) -> Option<Arc<Member>> {
        if key == CLOUD {
            return self.cloud.as_ref().map(|(member, _)| Arc::clone(member));
        }
        let edge = self.neighbours.iter().find(|edge| edge.member.key == key);
        edge.map(|edge| Arc::clone(&edge.member))
    }

    /// One way between two of the neighbours, or one of them and this node (`None`), s.
    fn latency(&self, from: Option<&Edge>, to: Option<&Edge>) -> f64 {
        match (from, to) {
            (None, None) => 0.0,
            (Some(edge), None) | (None, Some(edge)) => edge.distance / 2.0,
            (Some(from), Some(to)) if Arc::ptr_eq(&from.member, &to.member) => 0.0,
            (Some(from), Some(to)) => {
                let (from, to) = (&from.status.coordinates, &to.status.coordinates);
                (from.distance(to) / 2.0).max(0.0)
            }
        }
    }
}

/// What becomes of the tasks that are ready.
#[derive(Debug, Clone)]
pub(crate) enum Chosen {
    /// They run here.
    Here,
    /// They go to another node, with these tasks.
    There {
        /// As plans call it.
        key: String,
        member: Arc<Member>,
        tasks: Vec<String>,
    },
}

impl Places {
    /// An error is that of a file that was to be read.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let given = config.means_file.as_deref().map(means::load).transpose()?;
        let host = config.optimizer_host.as_ref();
        let endpoint = host.map(|host| format!("{host}:{}", config.optimizer_port));
        Ok(Self {
            config: config.clone(),
            source: Source::new(endpoint),
            is_given: given.is_some(),
            statistics: Mutex::new(given.unwrap_or_default()),
        })
    }

    /// What is known of functions.
    pub(crate) fn means(&self) -> Means {
        self.statistics().means()
    }

    /// Whether tasks may go anywhere at all.
    pub(crate) fn is_on(&self) -> bool {
        self.config.policy != Policy::Disable
    }

    /// For an execution that stays here; `None` if nobody is to be asked about its functions.
    pub(crate) fn placing(&self, may: bool) -> Option<Placing> {
        (may && self.is_on()).then(Placing::default)
    }

    fn statistics(&self) -> MutexGuard<'_, Statistics> {
        // It is consistent between its methods, and none of them panics.
        self.statistics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A function has run for a workflow, here or elsewhere.
    pub(crate) fn ran(&self, node: &Node, function: &str, reply: &InvokeReply) {
        if self.is_given {
            return;
        }
        let in_cloud = node.config.registry.remote_area.as_ref() == Some(&reply.execution_area);
        let place = if in_cloud {
            CLOUD
        } else {
            &reply.execution_node
        };
        let measured = Measured {
            execution: reply.duration,
            init: (!reply.is_warm_start).then_some(reply.init_time),
            output_bytes: reply.result.len() as f64,
        };
        self.statistics().ran(function, place, measured);
    }

    /// A choice was made.
    pub(crate) fn chose(&self, workflow: &str, task: &str, next: &str) {
        if self.is_given {
            return;
        }
        let branch = Branch {
            workflow: workflow.to_owned(),
            task: task.to_owned(),
        };
        self.statistics().chose(&branch, next);
    }

    /// Where the ready tasks run. Never fails: without a plan they run here.
    pub(crate) async fn choose(
        &self,
        node: &Node,
        question: &Question<'_>,
        plan: &mut Plan,
    ) -> Chosen {
        let world = World::around(node, question.shunned);
        let decision = match self.config.policy {
            Policy::Disable => Decision::Local,
            _ if world.is_lonely() => Decision::Local,
            Policy::Threshold => self.by_threshold(node, question, &world),
            Policy::Ilp => {
                self.by_plan(node, question, &world, plan, Optimizer::Ilp)
                    .await
            }
            Policy::Heftless => {
                self.by_plan(node, question, &world, plan, Optimizer::Heftless)
                    .await
            }
        };
        match decision {
            Decision::Local => Chosen::Here,
            // Who isn't there any more gets nothing.
            Decision::Offload { to, tasks } => match world.member(&to) {
                None => Chosen::Here,
                Some(member) => Chosen::There {
                    key: to,
                    member,
                    tasks,
                },
            },
        }
    }

    fn by_threshold(&self, node: &Node, question: &Question<'_>, world: &World) -> Decision {
        let (tasks, arcs) = self.tasks(node, question);
        let index = |id: &String| tasks.iter().position(|task| task.id == *id);
        let ready: Vec<usize> = question.ready.iter().filter_map(index).collect();
        let neighbour = |edge: &Edge| Neighbour {
            key: edge.member.key.clone(),
            available_mb: edge.status.memory_available as f64,
        };
        let neighbours: Vec<Neighbour> = world.neighbours.iter().map(neighbour).collect();
        let has_cloud = world.cloud.is_some();
        let threshold = self.config.threshold;
        threshold.decide(&tasks, &arcs, &ready, world.usage, &neighbours, has_cloud)
    }

    async fn by_plan(
        &self,
        node: &Node,
        question: &Question<'_>,
        world: &World,
        plan: &mut Plan,
        optimizer: Optimizer,
    ) -> Decision {
        let ready: Vec<&str> = question.ready.iter().map(String::as_str).collect();
        if let Some(placement) = plan.take() {
            return decide(placement, &ready, &world.here);
        }
        let uses = match optimizer {
            Optimizer::Ilp => self.config.placement_uses,
            Optimizer::Heftless => u32::MAX,
        };
        let problem = self.problem(node, question, world);
        let placement = match self.source.solve(optimizer, problem).await {
            Ok(placement) => placement,
            Err(error) => {
                let workflow = question.workflow;
                debug!(workflow, error = %crate::chain(&error), "no plan: tasks run locally");
                // For as long as a plan would have held.
                BTreeMap::new()
            }
        };
        *plan = Plan::new(placement, uses);
        match plan.take() {
            Some(placement) => decide(placement, &ready, &world.here),
            None => Decision::Local,
        }
    }

    /// Tasks that are left and the arcs between them; sizes of outputs are not known yet.
    fn tasks(&self, node: &Node, question: &Question<'_>) -> (Vec<core::Task>, Vec<core::Arc>) {
        let graph = question.graph;
        let task = |&at: &usize| {
            let task = &graph.tasks[at];
            let function = task.function.as_deref();
            core::Task {
                id: task.id.clone(),
                kind: task.kind,
                memory_mb: function.map_or(OTHER_MEMORY, |function| memory(node, function)),
                output_bytes: 0.0,
                labels: BTreeSet::new(),
            }
        };
        let tasks = question.left.iter().map(task).collect();
        let place: BTreeMap<usize, usize> = question
            .left
            .iter()
            .enumerate()
            .map(|(number, at)| (*at, number))
            .collect();
        let statistics = self.statistics();
        let mut arcs = Vec::new();
        for (&at, &from) in &place {
            let task = &graph.tasks[at];
            let follow = graph.follow(&task.id);
            let shares = match task.kind {
                Kind::Choice => statistics.shares(
                    &Branch {
                        workflow: question.workflow.to_owned(),
                        task: task.id.clone(),
                    },
                    &follow,
                ),
                _ => vec![1.0; follow.len()],
            };
            for (next, probability) in follow.iter().zip(shares) {
                let to = graph.index(next).and_then(|to| place.get(&to));
                if let Some(&to) = to {
                    arcs.push(core::Arc {
                        from,
                        to,
                        probability,
                    });
                }
            }
        }
        (tasks, arcs)
    }

    /// All that is known of what is left, for a solver.
    fn problem(&self, node: &Node, question: &Question<'_>, world: &World) -> Problem {
        let (tasks, arcs) = self.tasks(node, question);
        let edges: Vec<Option<&Edge>> = std::iter::once(None)
            .chain(world.neighbours.iter().map(Some))
            .collect();
        let cloud = world.cloud.as_ref().map(|(_, latency)| *latency);
        let nodes = self.nodes(node, world);
        let latency = |from: usize, to: usize| match (edges.get(from), edges.get(to)) {
            (Some(from), Some(to)) => world.latency(*from, *to),
            (None, None) => 0.0,
            _ => cloud.unwrap_or(CLOUD_LATENCY_UNKNOWN),
        };
        let latency = (0..nodes.len())
            .map(|from| (0..nodes.len()).map(|to| latency(from, to)).collect())
            .collect();
        let statistics = self.statistics();
        let table = |other: f64, of: &dyn Fn(&str, &str) -> f64| -> Vec<Vec<f64>> {
            let row = |&at: &usize| {
                let function = question.graph.tasks[at].function.as_deref();
                let value = |place: &Place| function.map_or(other, |it| of(it, &place.key));
                nodes.iter().map(value).collect()
            };
            question.left.iter().map(row).collect()
        };
        let execution = table(OTHER_TIME, &|function, key| {
            statistics.execution(function, key)
        });
        let init = table(0.0, &|function, key| statistics.init(function, key));
        let mut problem = Problem {
            tasks,
            arcs,
            nodes,
            handling: 0,
            latency,
            execution,
            init,
            input_bytes: question.input_bytes,
            deadline: question.deadline,
            weights: self.config.weights,
            link: None,
        };
        outputs(&mut problem, question, &statistics);
        problem
    }

    /// This node first, then its neighbours, then the cloud.
    fn nodes(&self, node: &Node, world: &World) -> Vec<Place> {
        let registry = &node.config.registry;
        let costs: &Costs = &self.config.costs;
        let cloud = world.cloud.as_ref();
        let to_store = cloud.map_or(STORE_LATENCY_UNKNOWN, |(_, latency)| *latency);
        let edge = |key: &str, resources: Resources| Place {
            key: key.to_owned(),
            resources: Some(resources),
            store_bandwidth: self.config.node_bandwidth,
            store_latency: to_store,
            cost: costs.of(&registry.area),
            labels: BTreeSet::new(),
        };
        let mut nodes = vec![edge(&world.here, world.resources)];
        for Edge { member, status, .. } in &world.neighbours {
            let resources = Resources {
                available_mb: status.memory_available as f64,
                free_mb: status.memory_free as f64,
            };
            nodes.push(edge(&member.key, resources));
        }
        if cloud.is_some() {
            let area = registry.remote_area.as_deref().unwrap_or_default();
            nodes.push(Place {
                key: CLOUD.to_owned(),
                resources: None,
                store_bandwidth: self.config.cloud_bandwidth,
                store_latency: STORE_LATENCY_CLOUD,
                cost: costs.of(area),
                labels: BTreeSet::new(),
            });
        }
        nodes
    }
}

/// A function's memory, MB.
fn memory(node: &Node, function: &str) -> f64 {
    let known = node.catalog.function(function);
    known.map_or(UNKNOWN_MEMORY, |it| it.record.memory_mb as f64)
}

/// What each task hands on: functions their mean, others what they get.
fn outputs(problem: &mut Problem, question: &Question<'_>, statistics: &Statistics) {
    // Passed on along the arcs, as often as the longest way has tasks.
    for _ in 0..problem.tasks.len() {
        let mut changed = false;
        for number in 0..problem.tasks.len() {
            let task = &question.graph.tasks[question.left[number]];
            let bytes = match &task.function {
                Some(function) => statistics.output(function),
                None => {
                    let before = problem.arcs.iter().filter(|arc| arc.to == number);
                    let bytes = before.map(|arc| problem.tasks[arc.from].output_bytes);
                    bytes.reduce(f64::max).unwrap_or(problem.input_bytes)
                }
            };
            changed |= problem.tasks[number].output_bytes != bytes;
            problem.tasks[number].output_bytes = bytes;
        }
        if !changed {
            break;
        }
    }
}
