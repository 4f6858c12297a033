//! A small world to compare policies in: a busy node, neighbors, and a cloud, with sandboxes that
//! take memory, start cold and stay warm. Time is virtual, and luck comes from a seed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use serverledge_core::Timestamp;
use serverledge_core::qos::{
    Choice, Classes, Estimators, Known, Odds, Plan, Probabilities, Ran, Spending, Surroundings,
};

/// How long a sandbox stays warm, seconds.
const KEEP_ALIVE: f64 = 600.0;

/// What is called, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) functions: Vec<Function>,
    pub(crate) classes: Classes,
    /// How many of a function's calls are of each class.
    pub(crate) weights: Vec<f64>,
    /// Calls of each function a second.
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    pub(crate) neighbors: usize,
    pub(crate) node_memory_mb: f64,
    pub(crate) cloud_memory_mb: f64,
    /// There and back, seconds.
    pub(crate) cloud_way: f64,
    pub(crate) edge_way: f64,
    pub(crate) cloud_cost: f64,
    pub(crate) budget: f64,
    /// Between plans, seconds.
    pub(crate) interval: f64,
}

#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) service: f64,
    pub(crate) init: f64,
    pub(crate) memory_mb: f64,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) utility: f64,
    pub(crate) penalty: f64,
    pub(crate) cost: f64,
    pub(crate) dropped: u64,
    pub(crate) late: u64,
    pub(crate) here: u64,
    pub(crate) edge: u64,
    pub(crate) cloud: u64,
    pub(crate) plans: u64,
}

impl Totals {
    pub(crate) fn net(&self) -> f64 {
        self.utility - self.penalty
    }
}

/// Numbers from a seed.
pub(crate) struct Luck(u64);

impl Luck {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// A place with sandboxes.
struct Node {
    memory_mb: f64,
    busy_mb: f64,
    idle_mb: f64,
    /// When those that are idle end, by function; oldest first.
    idle: BTreeMap<usize, Vec<f64>>,
}

impl Node {
    fn new(memory_mb: f64) -> Self {
        Self {
            memory_mb,
            busy_mb: 0.0,
            idle_mb: 0.0,
            idle: BTreeMap::new(),
        }
    }

    /// Takes a sandbox, if there is one or room for one; whether it is cold.
    fn take(&mut self, functions: &[Function], index: usize, now: f64) -> Option<bool> {
        for (index, idle) in &mut self.idle {
            let before = idle.len();
            idle.retain(|until| *until > now);
            self.idle_mb -= (before - idle.len()) as f64 * functions[*index].memory_mb;
        }
        let wanted = functions[index].memory_mb;
        if self.idle.get_mut(&index).and_then(Vec::pop).is_some() {
            self.idle_mb -= wanted;
            self.busy_mb += wanted;
            return Some(false);
        }
        if self.busy_mb + wanted > self.memory_mb {
            return None;
        }
        while self.busy_mb + self.idle_mb + wanted > self.memory_mb {
            let oldest = self.idle.iter().filter(|(_, idle)| !idle.is_empty());
            let oldest = oldest.min_by(|a, b| a.1[0].total_cmp(&b.1[0]));
            let victim = oldest.map(|(index, _)| *index)?;
            self.idle.get_mut(&victim)?.remove(0);
            self.idle_mb -= functions[victim].memory_mb;
        }
        self.busy_mb += wanted;
        Some(true)
    }

    fn give_back(&mut self, functions: &[Function], index: usize, now: f64) {
        let memory = functions[index].memory_mb;
        self.busy_mb -= memory;
        self.idle_mb += memory;
        self.idle.entry(index).or_default().push(now + KEEP_ALIVE);
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Arrival { function: usize },
    Ended { node: usize, function: usize },
    Replan,
}

struct Due {
    at: f64,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_time = other.at.total_cmp(&self.at);
        by_time.then_with(|| other.number.cmp(&self.number))
    }
}

/// What has been tried for a call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    pub(crate) here: bool,
    pub(crate) edge: bool,
    pub(crate) cloud: bool,
}

/// What decides.
pub(crate) trait Rule {
    /// The next thing to try. `odds` are those of `qosaware`; others have no use for them.
    fn next(&self, tried: Tried, odds: &Odds) -> Choice;
    /// Whether it goes by a plan.
    fn plans(&self) -> bool;
}

/// A run of a scenario.
pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    rule: &'a dyn Rule,
    /// The busy node, then its neighbors, then the cloud.
    nodes: Vec<Node>,
    due: BinaryHeap<Due>,
    number: u64,
    now: f64,
    /// Arrivals and run times, the same for every rule.
    nature: Luck,
    /// What rules draw.
    draws: Luck,
    estimators: Estimators,
    spending: Spending,
    plan: Option<Plan>,
    /// Memory that this node's calls hold on neighbors.
    held_mb: f64,
    totals: Totals,
}

impl<'a> World<'a> {
    pub(crate) fn run(scenario: &'a Scenario, rule: &'a dyn Rule, seed: u64) -> Totals {
        let mut nodes = vec![Node::new(scenario.node_memory_mb)];
        nodes.extend((0..scenario.neighbors).map(|_| Node::new(scenario.node_memory_mb)));
        nodes.push(Node::new(scenario.cloud_memory_mb));
        let mut world = Self {
            scenario,
            rule,
            nodes,
            due: BinaryHeap::new(),
            number: 0,
            now: 0.0,
            nature: Luck::new(seed),
            draws: Luck::new(!seed),
            estimators: Estimators::new(scenario.classes.all().len()),
            spending: Spending::default(),
            plan: None,
            held_mb: 0.0,
            totals: Totals::default(),
        };
        for function in 0..scenario.functions.len() {
            world.schedule_arrival(function);
        }
        if rule.plans() {
            world.schedule(scenario.interval, Event::Replan);
        }
        while let Some(due) = world.due.pop() {
            world.now = due.at;
            match due.event {
                Event::Arrival { function } => world.arrival(function),
                Event::Ended { node, function } => world.ended(node, function),
                Event::Replan => world.replan(),
            }
        }
        world.totals
    }

    fn schedule(&mut self, after: f64, event: Event) {
        self.number += 1;
        self.due.push(Due {
            at: self.now + after,
            number: self.number,
            event,
        });
    }

    fn schedule_arrival(&mut self, function: usize) {
        let after = self.nature.exponential(1.0 / self.scenario.rate);
        if self.now + after < self.scenario.seconds {
            self.schedule(after, Event::Arrival { function });
        }
    }

    fn arrival(&mut self, function: usize) {
        let class = self.class();
        // Drawn for every call, so that all rules meet the same ones.
        let mean = self.scenario.functions[function].service;
        let service = self.nature.exponential(mean);
        self.schedule_arrival(function);
        self.totals.calls += 1;
        let name = &self.scenario.functions[function].name;
        self.estimators.arrived(name, class, 0);
        let odds = self.odds(function, class);
        let mut tried = Tried::default();
        loop {
            let choice = self.rule.next(tried, &odds);
            let started = match choice {
                Choice::Local => self.try_node(0, function),
                Choice::Edge => {
                    let neighbors = 1..self.nodes.len() - 1;
                    let free = |index: &usize| {
                        let node = &self.nodes[*index];
                        node.memory_mb - node.busy_mb
                    };
                    let best = neighbors.max_by(|a, b| free(a).total_cmp(&free(b)));
                    best.and_then(|best| self.try_node(best, function))
                }
                Choice::Cloud => self.try_node(self.nodes.len() - 1, function),
                Choice::Drop => {
                    self.totals.dropped += 1;
                    self.totals.penalty += self.scenario.classes.all()[class].drop_penalty;
                    return;
                }
            };
            match choice {
                Choice::Local => self.estimators.tried(started.is_none()),
                Choice::Edge => self.estimators.sent("neighbors", started.is_none()),
                _ => {}
            }
            match started {
                Some((node, cold)) => {
                    return self.start(choice, node, (function, class), service, cold);
                }
                None if choice == Choice::Local => tried.here = true,
                None if choice == Choice::Edge => tried.edge = true,
                None => tried.cloud = true,
            }
        }
    }

    fn class(&mut self) -> usize {
        let weights = &self.scenario.weights;
        let mut left = self.nature.unit() * weights.iter().sum::<f64>();
        for (class, weight) in weights.iter().enumerate() {
            if left < *weight {
                return class;
            }
            left -= weight;
        }
        weights.len() - 1
    }

    fn odds(&mut self, function: usize, class: usize) -> Odds {
        let seed = self.draws.next();
        let name = &self.scenario.functions[function].name;
        let planned = self
            .plan
            .as_ref()
            .and_then(|plan| plan.find(name, class, None));
        let now = Timestamp(Duration::from_secs_f64(self.now));
        let budget = self.scenario.budget;
        Odds {
            planned: planned.unwrap_or(Probabilities::UNPLANNED),
            is_planned: planned.is_some(),
            is_worth: self.scenario.classes.all()[class].utility > 0.0,
            over_budget: self.spending.rate(now) > budget,
            spent_up: self.spending.spent(now) >= budget,
            seed,
        }
    }

    fn try_node(&mut self, node: usize, function: usize) -> Option<(usize, bool)> {
        let cold = self.nodes[node].take(&self.scenario.functions, function, self.now)?;
        Some((node, cold))
    }

    fn start(
        &mut self,
        choice: Choice,
        node: usize,
        (index, class): (usize, usize),
        service: f64,
        cold: bool,
    ) {
        let function = &self.scenario.functions[index];
        let way = match choice {
            Choice::Cloud => self.scenario.cloud_way,
            Choice::Edge => self.scenario.edge_way,
            _ => 0.0,
        };
        let init = if cold { function.init } else { 0.0 };
        let response = way + init + service;
        let ran = Ran {
            service,
            init,
            is_cold: cold,
            way,
        };
        // Known a little early, which is of no advantage to a plan for many calls.
        self.estimators.ran(&function.name, choice, &ran);
        match choice {
            Choice::Cloud => {
                let cost = self.scenario.cloud_cost * service * function.memory_mb / 1024.0;
                self.totals.cost += cost;
                self.totals.cloud += 1;
                let now = Timestamp(Duration::from_secs_f64(self.now));
                self.spending.spend(cost, now);
            }
            Choice::Edge => {
                self.totals.edge += 1;
                self.held_mb += function.memory_mb;
            }
            _ => self.totals.here += 1,
        }
        let class = &self.scenario.classes.all()[class];
        let in_time = class
            .deadline
            .is_none_or(|deadline| response <= deadline.as_secs_f64());
        match in_time {
            true => self.totals.utility += class.utility,
            false => {
                self.totals.late += 1;
                self.totals.penalty += class.penalty;
            }
        }
        let event = Event::Ended {
            node,
            function: index,
        };
        self.schedule(way / 2.0 + init + service, event);
    }

    fn ended(&mut self, node: usize, function: usize) {
        if node > 0 && node < self.nodes.len() - 1 {
            self.held_mb -= self.scenario.functions[function].memory_mb;
        }
        self.nodes[node].give_back(&self.scenario.functions, function, self.now);
    }

    fn replan(&mut self) {
        let scenario = self.scenario;
        self.estimators
            .close(Duration::from_secs_f64(scenario.interval));
        let neighbors = &self.nodes[1..self.nodes.len() - 1];
        let free: f64 = neighbors.iter().map(|it| it.memory_mb - it.busy_mb).sum();
        let around = Surroundings {
            local_memory_mb: scenario.node_memory_mb,
            edge_memory_mb: (free + self.held_mb) * self.estimators.exposed("neighbors"),
            cloud_way: scenario.cloud_way,
            edge_way: scenario.edge_way,
            cloud_bandwidth: f64::INFINITY,
            edge_bandwidth: f64::INFINITY,
            cloud_cost: scenario.cloud_cost,
            budget: Some(scenario.budget),
        };
        let known = |name: &str| {
            let function = scenario.functions.iter().find(|it| it.name == name)?;
            Some(Known {
                memory_mb: function.memory_mb,
                here: true,
                in_cloud: true,
                on_edge: scenario.neighbors > 0,
            })
        };
        let (program, _) = self.estimators.program(&scenario.classes, known, &around);
        let solution = program.solve().expect("the scenario's programs are solved");
        self.plan = Some(Plan::new(program, solution));
        self.totals.plans += 1;
        if self.now + scenario.interval < scenario.seconds {
            self.schedule(scenario.interval, Event::Replan);
        }
    }
}
