//! Lower bounds for the program: what a placement must cost, with some of its tasks placed.
//!
//! The objective has two parts that aren't sums over tasks: the violation, which goes by a longest
//! path, and the reclaimed memory. Both are bounded by sums (Lagrangian relaxation): a flow of w1 at
//! most from start to end along whichever paths says how much each second counts, and a multiplier
//! of w4 at most for each node how much each MB does. What remains is a sum over tasks and edges,
//! whose minimum is found backwards, edge by edge, if each vertex with several edges into it may be
//! placed once for each. Any flow gives a true bound; good ones come from the search's beginning
//! (`ilp`), where placements and flows answer each other.

use super::program::{Edge, Program, START};

/// Multipliers, and the sums that follow from them.
#[derive(Debug, Clone)]
pub(super) struct Relaxation {
    /// How much a second on each edge counts.
    flow: Vec<f64>,
    /// Of placing each vertex on each node.
    place: Vec<Vec<f64>>,
    /// At least this for each vertex on each node and all that follows.
    rest: Vec<Vec<f64>>,
    constant: f64,
}

impl Relaxation {
    /// With a flow by edge and multipliers by node.
    pub(super) fn new(program: &Program<'_>, flow: &[f64], memory: &[f64]) -> Self {
        let problem = program.problem;
        let nodes = problem.nodes.len();
        let total: f64 = program.vertices[START]
            .outgoing
            .iter()
            .map(|&edge| flow[edge])
            .sum();
        let mut constant = -total * problem.deadline;
        for (multiplier, node) in memory.iter().zip(&problem.nodes) {
            constant -= multiplier * node.resources.map_or(0.0, |it| it.free_mb);
        }
        let place = program.vertices.iter().map(|vertex| {
            let through: f64 = vertex.incoming.iter().map(|&edge| flow[edge]).sum();
            let cost = |node: usize| {
                through * vertex.time[node]
                    + problem.weights.cost * vertex.cost[node]
                    + memory[node] * vertex.memory[node]
            };
            (0..nodes).map(cost).collect()
        });
        let mut relaxation = Self {
            flow: flow.to_vec(),
            place: place.collect(),
            rest: vec![vec![0.0; nodes]; program.vertices.len()],
            constant,
        };
        for at in (0..program.vertices.len()).rev() {
            for &node in &program.vertices[at].allowed {
                relaxation.rest[at][node] = relaxation.at_least(program, at, node);
            }
        }
        relaxation
    }

    fn at_least(&self, program: &Program<'_>, at: usize, node: usize) -> f64 {
        let follow = program.vertices[at].outgoing.iter().map(|&edge| {
            let to = program.edges[edge].to;
            let next = &program.vertices[to];
            let share = 1.0 / next.incoming.len() as f64;
            let costs = next.allowed.iter().map(|&other| {
                self.cross(program, edge, node, other) + share * self.rest[to][other]
            });
            costs.fold(f64::INFINITY, f64::min)
        });
        self.place[at][node] + follow.sum::<f64>()
    }

    /// Of an edge from node to node.
    fn cross(&self, program: &Program<'_>, edge: usize, from: usize, to: usize) -> f64 {
        if from == to {
            return 0.0;
        }
        let edge_between: &Edge = &program.edges[edge];
        let time = program.transfer(edge_between, from, to);
        self.flow[edge] * time + program.problem.weights.data
    }

    /// Below this no placement is.
    pub(super) fn lower(&self, program: &Program<'_>) -> f64 {
        self.rest[START][program.problem.handling] + self.constant
    }

    /// A placement that follows the sums.
    pub(super) fn follow(&self, program: &Program<'_>) -> Vec<usize> {
        let mut placed = vec![program.problem.handling; program.vertices.len()];
        for (at, vertex) in program.vertices.iter().enumerate() {
            let cost = |node: usize| {
                let edges = vertex
                    .incoming
                    .iter()
                    .map(|&edge| self.cross(program, edge, placed[program.edges[edge].from], node));
                edges.sum::<f64>() + self.rest[at][node]
            };
            let costs = vertex.allowed.iter().map(|&node| (cost(node), node));
            let best = costs.min_by(|(a, _), (b, _)| a.total_cmp(b));
            placed[at] = best.map_or(placed[at], |(_, node)| node);
        }
        placed
    }
}

/// The bound of one relaxation while vertices are placed, first to last, and taken back.
#[derive(Debug)]
pub(super) struct Partial {
    relaxation: Relaxation,
    /// Of the edges from placed vertices to each vertex, if that is placed on each node.
    reached: Vec<Vec<f64>>,
    /// How many of a vertex's edges come from placed ones.
    edges: Vec<usize>,
    /// At least this for each vertex that is reached and not placed, its share of what follows too.
    open: Vec<f64>,
    total: f64,
    undo: Vec<Undo>,
    /// Rows of `reached` as they were.
    rows: Vec<f64>,
}

/// What placing a vertex has changed.
#[derive(Debug)]
enum Undo {
    Total(f64),
    Open(usize, f64),
}

impl Partial {
    pub(super) fn new(program: &Program<'_>, relaxation: Relaxation) -> Self {
        let vertices = program.vertices.len();
        let nodes = program.problem.nodes.len();
        let mut open = vec![0.0; vertices];
        // What is left to be placed is all reached from the start.
        open[START] = relaxation.rest[START][program.problem.handling];
        Self {
            total: relaxation.lower(program),
            relaxation,
            reached: vec![vec![0.0; nodes]; vertices],
            edges: vec![0; vertices],
            open,
            undo: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// At least this, with the vertices placed as they are.
    pub(super) fn lower(&self) -> f64 {
        self.total
    }

    pub(super) fn place(&mut self, program: &Program<'_>, at: usize, node: usize) {
        self.undo.push(Undo::Total(self.total));
        let relaxation = &self.relaxation;
        self.total += self.reached[at][node] + relaxation.place[at][node] - self.open[at];
        for &edge in &program.vertices[at].outgoing {
            let to = program.edges[edge].to;
            let next = &program.vertices[to];
            self.rows.extend_from_slice(&self.reached[to]);
            self.undo.push(Undo::Open(to, self.open[to]));
            self.edges[to] += 1;
            let share = self.edges[to] as f64 / next.incoming.len() as f64;
            let mut open = f64::INFINITY;
            for &other in &next.allowed {
                let reached = &mut self.reached[to][other];
                *reached += relaxation.cross(program, edge, node, other);
                open = open.min(*reached + share * relaxation.rest[to][other]);
            }
            self.total += open - self.open[to];
            self.open[to] = open;
        }
    }

    /// Takes back the last placing.
    pub(super) fn take_back(&mut self) {
        loop {
            match self.undo.pop() {
                Some(Undo::Open(to, open)) => {
                    self.open[to] = open;
                    self.edges[to] -= 1;
                    let row = &mut self.reached[to];
                    let from = self.rows.len() - row.len();
                    row.copy_from_slice(&self.rows[from..]);
                    self.rows.truncate(from);
                }
                Some(Undo::Total(total)) => {
                    self.total = total;
                    return;
                }
                None => return,
            }
        }
    }
}

/// At least the time from the end of each vertex, placed on each node, to the end of all.
pub(super) fn tails(program: &Program<'_>) -> Vec<Vec<f64>> {
    let nodes = program.problem.nodes.len();
    let mut tails = vec![vec![0.0; nodes]; program.vertices.len()];
    for (at, vertex) in program.vertices.iter().enumerate().rev() {
        for &node in &vertex.allowed {
            let follow = vertex.outgoing.iter().map(|&edge| {
                let edge = &program.edges[edge];
                let next = &program.vertices[edge.to];
                let times = next.allowed.iter().map(|&other| {
                    program.transfer(edge, node, other) + next.time[other] + tails[edge.to][other]
                });
                times.fold(f64::INFINITY, f64::min)
            });
            tails[at][node] = follow.fold(0.0, f64::max);
        }
    }
    tails
}
