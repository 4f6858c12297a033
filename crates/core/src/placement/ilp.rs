//! `ilp`: the placement that minimises the program, found and proved by branch and bound.
//!
//! A general solver would be told some thousand variables for which most of the program's
//! constraints only say what a crossing is; its relaxation places half of every task here and half
//! there and learns next to nothing. Here a vertex after the other is placed, first to last, and
//! what can't beat the best placement known is given up, by the bounds of `bound`. The work is
//! counted, not timed, so that the same problem has the same answer everywhere.

use super::bound::{Partial, Relaxation, tails};
use super::problem::{NoPlan, Problem};
use super::program::{Program, START, Value};

/// What a plan is worth, in steps of some nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort(pub u64);

/// About a second of an optimised build: a placement is of use for the next two tasks.
impl Default for Effort {
    fn default() -> Self {
        Self(200_000_000)
    }
}

/// A placement, and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// Indices of nodes, by task.
    pub nodes: Vec<usize>,
    /// What that is worth.
    pub value: Value,
    /// No placement's objective is below this.
    pub bound: f64,
}

/// What is as good as the best: less than the numbers are known by.
const GAP: f64 = 0.02;

/// Two objectives this close are the same, relative to their size.
const SAME: f64 = 1e-9;

/// Rounds in which placements and flows answer each other.
const ROUNDS: usize = 80;

/// Relaxations that are kept, besides the one without multipliers.
const KEPT: usize = 3;

/// The best placement for `problem`.
pub fn plan(problem: &Problem, effort: Effort) -> Result<Solution, NoPlan> {
    let program = Program::new(problem)?;
    let mut search = Search::new(&program, effort.0);
    search.prepare();
    let complete = search.branch(START, f64::NEG_INFINITY);
    let placed = search.best.ok_or(NoPlan::TooHard)?;
    let value = program.value(&placed);
    let bound = match complete {
        true => value.objective,
        false => search.lower,
    };
    if value.objective - bound > GAP * value.objective.abs() {
        return Err(NoPlan::TooHard);
    }
    Ok(Solution {
        nodes: program.by_task(&placed),
        value,
        bound,
    })
}

/// Means over the rounds, which the next flow answers.
struct Means {
    time: Vec<f64>,
    transfer: Vec<f64>,
    memory: Vec<f64>,
}

struct Search<'a> {
    program: &'a Program<'a>,
    work_left: u64,
    best: Option<Vec<usize>>,
    objective: f64,
    /// The greatest bound known before the search.
    lower: f64,
    /// Without multipliers first.
    partials: Vec<Partial>,
    tails: Vec<Vec<f64>>,
    placed: Vec<usize>,
    done: Vec<f64>,
    memory: Vec<f64>,
}

impl<'a> Search<'a> {
    fn new(program: &'a Program<'a>, work: u64) -> Self {
        let vertices = program.vertices.len();
        Self {
            program,
            work_left: work,
            best: None,
            objective: f64::INFINITY,
            lower: f64::NEG_INFINITY,
            partials: Vec::new(),
            tails: tails(program),
            placed: vec![program.problem.handling; vertices],
            done: vec![0.0; vertices],
            memory: vec![0.0; program.problem.nodes.len()],
        }
    }

    /// Finds good placements, and relaxations that bound well.
    fn prepare(&mut self) {
        let program = self.program;
        let nodes = program.problem.nodes.len();
        for node in 0..nodes {
            let placed = program.vertices.iter().map(|vertex| {
                let there = vertex.allowed.binary_search(&node).is_ok();
                let here = vertex
                    .allowed
                    .binary_search(&program.problem.handling)
                    .is_ok();
                match (there, here) {
                    (true, _) => node,
                    (false, true) => program.problem.handling,
                    (false, false) => vertex.allowed[0],
                }
            });
            self.consider(&placed.collect::<Vec<_>>());
        }
        let mut flow = vec![0.0; program.edges.len()];
        let mut memory = vec![0.0; nodes];
        let mut kept: Vec<(f64, Relaxation)> = Vec::new();
        let mut means: Option<Means> = None;
        let round = (program.edges.len() * nodes * nodes) as u64 + 1;
        for number in 0..ROUNDS {
            // At most half of what may be done is done before the search.
            if number > 0 && !self.spend(round, self.work_left / 2) {
                break;
            }
            let relaxation = Relaxation::new(program, &flow, &memory);
            let lower = relaxation.lower(program);
            self.lower = self.lower.max(lower);
            let placed = relaxation.follow(program);
            self.consider(&placed);
            if number == 0 {
                self.partials.push(Partial::new(program, relaxation));
            } else {
                kept.push((lower, relaxation));
                kept.sort_by(|(a, _), (b, _)| b.total_cmp(a));
                kept.truncate(KEPT);
            }
            if self.lower >= self.goal() {
                break;
            }
            let weight = 2.0 / (number as f64 + 2.0);
            let means = means.get_or_insert_with(|| Means::new(program));
            means.add(program, &placed, weight);
            means.answer(program, &mut flow, &mut memory, weight);
        }
        for (_, relaxation) in kept {
            self.partials.push(Partial::new(program, relaxation));
        }
    }

    /// Takes the placement, or a better one near it, if it is the best so far.
    fn consider(&mut self, placed: &[usize]) {
        let objective = self.program.value(placed).objective;
        if objective >= self.goal() {
            return;
        }
        let mut placed = placed.to_vec();
        self.objective = self.improve(&mut placed, objective);
        self.best = Some(placed);
    }

    /// Moves one task at a time while that helps.
    fn improve(&mut self, placed: &mut [usize], mut objective: f64) -> f64 {
        let program = self.program;
        let pass = program.edges.len() * program.vertices.len() * program.problem.nodes.len();
        let mut improved = true;
        while improved && self.spend(pass as u64, self.work_left / 2) {
            improved = false;
            for (at, vertex) in program.vertices.iter().enumerate() {
                for &node in &vertex.allowed {
                    let before = std::mem::replace(&mut placed[at], node);
                    let moved = program.value(placed).objective;
                    if moved < objective - SAME * (1.0 + objective.abs()) {
                        objective = moved;
                        improved = true;
                    } else {
                        placed[at] = before;
                    }
                }
            }
        }
        objective
    }

    /// Whether there was work left, of `of`.
    fn spend(&mut self, work: u64, of: u64) -> bool {
        let enough = work <= of;
        if enough {
            self.work_left -= work;
        }
        enough
    }

    /// What a placement must stay below to be better.
    fn goal(&self) -> f64 {
        self.objective - SAME * (1.0 + self.objective.abs())
    }

    /// Places `at` and all after it in every way that could be better than the best; `false` if the
    /// work ran out. `last` is the earliest time at which all can be over.
    fn branch(&mut self, at: usize, last: f64) -> bool {
        let program = self.program;
        let Some(vertex) = program.vertices.get(at) else {
            let objective = program.value(&self.placed).objective;
            if objective < self.goal() {
                self.objective = objective;
                self.best = Some(self.placed.clone());
            }
            return true;
        };
        let step = program.problem.nodes.len() * (1 + vertex.outgoing.len()) * self.partials.len();
        let step = (step * vertex.allowed.len() * 4) as u64;
        if !self.spend(step, self.work_left) {
            return false;
        }
        let mut children = Vec::with_capacity(vertex.allowed.len());
        for &node in &vertex.allowed {
            let (lower, last) = self.place(at, node, last);
            self.take_back(at, node);
            if lower < self.goal() {
                children.push((lower, last, node));
            }
        }
        children.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        for (lower, last_child, node) in children {
            if lower >= self.goal() {
                break;
            }
            self.place(at, node, last);
            let complete = self.branch(at + 1, last_child);
            self.take_back(at, node);
            if !complete {
                return false;
            }
        }
        true
    }

    /// Places a vertex. At least this much the objective will be, and this late the end.
    fn place(&mut self, at: usize, node: usize, last: f64) -> (f64, f64) {
        let program = self.program;
        let vertex = &program.vertices[at];
        let start = vertex.incoming.iter().map(|&edge| {
            let edge = &program.edges[edge];
            self.done[edge.from] + program.transfer(edge, self.placed[edge.from], node)
        });
        self.done[at] = start.fold(0.0, f64::max) + vertex.time[node];
        self.placed[at] = node;
        self.memory[node] += vertex.memory[node];
        let last = last.max(self.done[at] + self.tails[at][node]);

        let problem = program.problem;
        let weights = problem.weights;
        let mut lower = weights.violations * (last - problem.deadline).max(0.0);
        for (memory, node) in self.memory.iter().zip(&problem.nodes) {
            let free = node.resources.map_or(f64::INFINITY, |it| it.free_mb);
            lower += weights.reclaimed * (memory - free).max(0.0);
        }
        for partial in &mut self.partials {
            partial.place(program, at, node);
        }
        let mut relaxed = self.partials.iter().map(Partial::lower);
        lower += relaxed.next().unwrap_or(0.0);
        (relaxed.fold(lower, f64::max), last)
    }

    fn take_back(&mut self, at: usize, node: usize) {
        self.memory[node] -= self.program.vertices[at].memory[node];
        for partial in &mut self.partials {
            partial.take_back();
        }
    }
}

impl Means {
    fn new(program: &Program<'_>) -> Self {
        Self {
            time: vec![0.0; program.vertices.len()],
            transfer: vec![0.0; program.edges.len()],
            memory: vec![0.0; program.problem.nodes.len()],
        }
    }

    fn add(&mut self, program: &Program<'_>, placed: &[usize], weight: f64) {
        let mut memory = vec![0.0; self.memory.len()];
        for (at, vertex) in program.vertices.iter().enumerate() {
            shift(&mut self.time[at], vertex.time[placed[at]], weight);
            memory[placed[at]] += vertex.memory[placed[at]];
        }
        for (mean, memory) in self.memory.iter_mut().zip(memory) {
            shift(mean, memory, weight);
        }
        for (mean, edge) in self.transfer.iter_mut().zip(&program.edges) {
            let time = program.transfer(edge, placed[edge.from], placed[edge.to]);
            shift(mean, time, weight);
        }
    }

    /// Moves the multipliers to where the means hurt most.
    fn answer(&self, program: &Program<'_>, flow: &mut [f64], memory: &mut [f64], weight: f64) {
        let problem = program.problem;
        let mut done = vec![0.0; self.time.len()];
        let mut way = vec![None; self.time.len()];
        for (at, vertex) in program.vertices.iter().enumerate() {
            let arrivals = vertex
                .incoming
                .iter()
                .map(|&edge| (done[program.edges[edge].from] + self.transfer[edge], edge));
            let latest = arrivals.max_by(|(a, _), (b, _)| a.total_cmp(b));
            way[at] = latest.map(|(_, edge)| edge);
            done[at] = latest.map_or(0.0, |(time, _)| time) + self.time[at];
        }
        let end = self.time.len() - 1;
        let late = done[end] > problem.deadline;
        flow.iter_mut().for_each(|flow| shift(flow, 0.0, weight));
        let mut at = end;
        while let Some(edge) = way[at].filter(|_| late) {
            flow[edge] += weight * problem.weights.violations;
            at = program.edges[edge].from;
        }
        for ((multiplier, mean), node) in memory.iter_mut().zip(&self.memory).zip(&problem.nodes) {
            let short = node.resources.is_some_and(|it| *mean > it.free_mb);
            let target = if short {
                problem.weights.reclaimed
            } else {
                0.0
            };
            shift(multiplier, target, weight);
        }
    }
}

fn shift(mean: &mut f64, to: f64, weight: f64) {
    *mean += weight * (to - *mean);
}
