//! The linear program behind `ilp`: tasks with a virtual start and end, and what a placement is
//! worth. The formulation is a public companion's of the original, in the reference's words:
//!
//! minimise w1·violation + w2·crossings + w3·cost + w4·reclaimed, where the tasks' completions
//! follow their predecessors' and the transfers between, each weighted by how probable it is.
//!
//! For a given placement all that is left to compute is a longest path, so no simplex is needed to
//! tell what one is worth. How likely a task is to run is the sum over its incoming arcs; where the
//! companion multiplies them, tasks behind a join would hardly ever run.

use super::problem::{Arc, NoPlan, Problem};

/// Where the virtual start is among the vertices.
pub(super) const START: usize = 0;

/// A problem made ready to be solved: vertices are the start, the tasks in topological order, and
/// the end.
#[derive(Debug, Clone)]
pub struct Program<'a> {
    pub(super) problem: &'a Problem,
    /// Indices of tasks, in topological order.
    pub(super) order: Vec<usize>,
    pub(super) vertices: Vec<Vertex>,
    pub(super) edges: Vec<Edge>,
    /// Between nodes, one row after the other: seconds a byte, and seconds besides.
    per_byte: Vec<f64>,
    delay: Vec<f64>,
}

/// A vertex; its numbers are by node.
#[derive(Debug, Clone)]
pub(super) struct Vertex {
    /// Nodes it may be placed on, ascending.
    pub(super) allowed: Vec<usize>,
    /// Expected run time.
    pub(super) time: Vec<f64>,
    /// In what the areas charge.
    pub(super) cost: Vec<f64>,
    /// Memory that may have to be reclaimed.
    pub(super) memory: Vec<f64>,
    /// Indices of edges.
    pub(super) incoming: Vec<usize>,
    pub(super) outgoing: Vec<usize>,
}

/// From a vertex to a later one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bytes: f64,
    probability: f64,
}

/// What a placement is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// The weighted sum; smaller is better.
    pub objective: f64,
    /// Time beyond the deadline, s.
    pub violation: f64,
    /// Arcs that cross from node to node.
    pub crossings: f64,
    /// Cost, unweighted.
    pub cost: f64,
    /// Memory to be reclaimed, MB.
    pub reclaimed: f64,
}

impl<'a> Program<'a> {
    /// Of a problem that makes sense.
    pub fn new(problem: &'a Problem) -> Result<Self, NoPlan> {
        problem.check()?;
        let order = problem.order()?;
        let mut program = Self {
            problem,
            vertices: Vec::with_capacity(order.len() + 2),
            edges: Vec::new(),
            order,
            per_byte: between(problem, |n, k| {
                let seconds = |node: usize| 1.0 / (1e6 * problem.nodes[node].store_bandwidth);
                seconds(n) + seconds(k)
            }),
            // Two messages of control go along.
            delay: between(problem, |n, k| {
                let store = problem.nodes[n].store_latency + problem.nodes[k].store_latency;
                store + 2.0 * problem.latency[n][k]
            }),
        };
        program.add_vertices()?;
        program.add_edges();
        Ok(program)
    }

    fn add_vertices(&mut self) -> Result<(), NoPlan> {
        let problem = self.problem;
        let nodes = problem.nodes.len();
        let virtual_vertex = || Vertex {
            allowed: vec![problem.handling],
            time: vec![0.0; nodes],
            cost: vec![0.0; nodes],
            memory: vec![0.0; nodes],
            incoming: Vec::new(),
            outgoing: Vec::new(),
        };
        let probability = self.probabilities();
        self.vertices.push(virtual_vertex());
        for &task in &self.order {
            let allowed = (0..nodes).filter(|&node| problem.allows(task, node));
            let allowed: Vec<usize> = allowed.collect();
            if allowed.is_empty() {
                return Err(NoPlan::Infeasible(problem.tasks[task].id.clone()));
            }
            let memory_mb = problem.tasks[task].memory_mb;
            let busy = |node: usize| problem.init[task][node] + problem.execution[task][node];
            let cost = |node: usize| memory_mb * busy(node) * problem.nodes[node].cost;
            let memory = |node: usize| {
                let starts = problem.init[task][node] > 0.0;
                let is_edge = problem.nodes[node].resources.is_some();
                if starts && is_edge { memory_mb } else { 0.0 }
            };
            self.vertices.push(Vertex {
                allowed,
                time: (0..nodes)
                    .map(|node| probability[task] * busy(node))
                    .collect(),
                cost: (0..nodes).map(cost).collect(),
                memory: (0..nodes).map(memory).collect(),
                ..virtual_vertex()
            });
        }
        self.vertices.push(virtual_vertex());
        Ok(())
    }

    /// How probable it is that each task runs.
    fn probabilities(&self) -> Vec<f64> {
        let problem = self.problem;
        let mut probability = vec![1.0; problem.tasks.len()];
        for &task in &self.order {
            let incoming = problem.arcs.iter().filter(|arc| arc.to == task);
            let sum = incoming.map(|arc| probability[arc.from] * arc.probability);
            // Several ready at once, each of which leads here for sure, make it no more than sure.
            if let Some(sum) = sum.reduce(|sum, part| sum + part) {
                probability[task] = sum.min(1.0);
            }
        }
        probability
    }

    fn add_edges(&mut self) {
        let problem = self.problem;
        let mut place = vec![0; problem.tasks.len()];
        for (at, &task) in self.order.iter().enumerate() {
            place[task] = at + 1;
        }
        for &Arc {
            from,
            to,
            probability,
        } in &problem.arcs
        {
            let bytes = problem.tasks[from].output_bytes;
            self.add_edge(place[from], place[to], bytes, probability);
        }
        let end = self.vertices.len() - 1;
        for vertex in 1..end {
            if self.vertices[vertex].incoming.is_empty() {
                self.add_edge(START, vertex, problem.input_bytes, 1.0);
            }
            if self.vertices[vertex].outgoing.is_empty() {
                let bytes = problem.tasks[self.order[vertex - 1]].output_bytes;
                self.add_edge(vertex, end, bytes, 1.0);
            }
        }
    }

    fn add_edge(&mut self, from: usize, to: usize, bytes: f64, probability: f64) {
        let edge = self.edges.len();
        self.vertices[from].outgoing.push(edge);
        self.vertices[to].incoming.push(edge);
        self.edges.push(Edge {
            from,
            to,
            bytes,
            probability,
        });
    }

    /// The expected time of an edge's transfer from one node to another.
    pub(super) fn transfer(&self, edge: &Edge, from: usize, to: usize) -> f64 {
        let pair = from * self.problem.nodes.len() + to;
        edge.probability * (edge.bytes * self.per_byte[pair] + self.delay[pair])
    }

    /// When each vertex is done if placed so, by vertex.
    pub(super) fn completions(&self, placed: &[usize]) -> Vec<f64> {
        let mut done = vec![0.0_f64; self.vertices.len()];
        for (at, vertex) in self.vertices.iter().enumerate() {
            let start = vertex.incoming.iter().map(|&edge| {
                let edge = &self.edges[edge];
                done[edge.from] + self.transfer(edge, placed[edge.from], placed[at])
            });
            done[at] = start.fold(0.0, f64::max) + vertex.time[placed[at]];
        }
        done
    }

    /// What it is worth to place the vertices so.
    pub(super) fn value(&self, placed: &[usize]) -> Value {
        let weights = self.problem.weights;
        let done = self.completions(placed);
        let last = done.iter().copied().fold(0.0, f64::max);
        let violation = (last - self.problem.deadline).max(0.0);
        let crosses = |edge: &&Edge| placed[edge.from] != placed[edge.to];
        let crossings = self.edges.iter().filter(crosses).count() as f64;
        let mut cost = 0.0;
        let mut memory = vec![0.0; self.problem.nodes.len()];
        for (vertex, &node) in self.vertices.iter().zip(placed) {
            cost += vertex.cost[node];
            memory[node] += vertex.memory[node];
        }
        let reclaimed = memory
            .iter()
            .zip(&self.problem.nodes)
            .map(|(memory, node)| {
                let free = node.resources.map_or(f64::INFINITY, |it| it.free_mb);
                (memory - free).max(0.0)
            });
        let reclaimed = reclaimed.sum();
        Value {
            objective: weights.violations * violation
                + weights.data * crossings
                + weights.cost * cost
                + weights.reclaimed * reclaimed,
            violation,
            crossings,
            cost,
            reclaimed,
        }
    }

    /// What a placement of the problem's tasks, by their indices, is worth; `None` if it puts one
    /// where it may not be.
    pub fn evaluate(&self, nodes: &[usize]) -> Option<Value> {
        let handling = self.problem.handling;
        let mut placed = vec![handling; self.vertices.len()];
        for (at, &task) in self.order.iter().enumerate() {
            let node = *nodes.get(task)?;
            let vertex = &self.vertices[at + 1];
            vertex.allowed.binary_search(&node).ok()?;
            placed[at + 1] = node;
        }
        Some(self.value(&placed))
    }

    /// The nodes of the problem's tasks, from those of the vertices.
    pub(super) fn by_task(&self, placed: &[usize]) -> Vec<usize> {
        let mut nodes = vec![self.problem.handling; self.order.len()];
        for (at, &task) in self.order.iter().enumerate() {
            nodes[task] = placed[at + 1];
        }
        nodes
    }
}

/// `of` for each pair of different nodes; 0 for a node and itself, where nothing is transferred.
fn between(problem: &Problem, of: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let nodes = problem.nodes.len();
    let pairs = (0..nodes * nodes).map(|pair| (pair / nodes, pair % nodes));
    pairs
        .map(|(n, k)| if n == k { 0.0 } else { of(n, k) })
        .collect()
}
