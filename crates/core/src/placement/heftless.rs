//! `heftless`: a heuristic in the manner of HEFT for time and cost, after HEFTLess (Farahani, Mehran,
//! Ristov, Prodan, IEEE CLUSTER 2024). Tasks are placed one by one, those with the longest way to
//! the end first, each where time and cost, normalised and weighted, are least together.
//!
//! What is known of links decides how data are thought to travel: without [`Link`] each node fetches
//! a task's input from the store, and a node's memory is used up by what is placed there; with it
//! all data go by the handling node, and memory and CPU are shared by what overlaps in time.
//! Branches of a choice are planned as if all were taken.

use super::problem::{Link, NoPlan, Problem};
use super::program::{Program, START};

/// Scores this close are equal.
const TIE: f64 = 1e-9;

/// A placement for `problem`: indices of nodes, by task.
pub fn plan(problem: &Problem) -> Result<Vec<usize>, NoPlan> {
    let program = Program::new(problem)?;
    let mut heft = Heft::new(&program);
    for at in heft.sequence() {
        let node = heft.choose(at)?;
        heft.settle(at, node);
    }
    Ok(program.by_task(&heft.placed))
}

struct Heft<'a> {
    program: &'a Program<'a>,
    deadline: f64,
    /// What times are divided by, and costs.
    time_scale: f64,
    cost_scale: f64,
    placed: Vec<usize>,
    finish: Vec<f64>,
    settled: Vec<usize>,
}

impl<'a> Heft<'a> {
    fn new(program: &'a Program<'a>) -> Self {
        let problem = program.problem;
        let greatest = |row: &Vec<f64>| row.iter().copied().fold(0.0, f64::max);
        let tasks = problem.execution.iter().zip(&problem.init);
        let time_scale: f64 = tasks
            .map(|(run, init)| greatest(run) + greatest(init))
            .sum();
        let costs = problem.nodes.iter().map(|node| node.cost);
        let vertices = program.vertices.len();
        Self {
            program,
            // None was given, as far as this policy goes.
            deadline: match problem.deadline {
                deadline if deadline > 0.0 => deadline,
                _ => f64::INFINITY,
            },
            time_scale,
            cost_scale: time_scale * costs.fold(0.0, f64::max),
            placed: vec![problem.handling; vertices],
            finish: vec![0.0; vertices],
            settled: Vec::with_capacity(vertices),
        }
    }

    /// The task of a vertex; `None` for start and end.
    fn task(&self, at: usize) -> Option<usize> {
        self.program.order.get(at.checked_sub(1)?).copied()
    }

    /// Vertices by falling rank, which is the mean time to the end of all.
    fn sequence(&self) -> Vec<usize> {
        let program = self.program;
        let mut rank = vec![0.0_f64; program.vertices.len()];
        for at in (0..rank.len()).rev() {
            let run = self.task(at).map_or(0.0, |task| {
                let times = &program.problem.execution[task];
                times.iter().sum::<f64>() / times.len() as f64
            });
            let follow = program.vertices[at].outgoing.iter();
            let longest = follow.map(|&edge| rank[program.edges[edge].to]);
            rank[at] = run + longest.fold(0.0, f64::max);
        }
        let mut sequence: Vec<usize> = (0..rank.len()).collect();
        // Stable: equals stay in topological order.
        sequence.sort_by(|&a, &b| rank[b].total_cmp(&rank[a]));
        sequence
    }

    fn choose(&self, at: usize) -> Result<usize, NoPlan> {
        let mut best: Option<(f64, usize)> = None;
        for &node in &self.program.vertices[at].allowed {
            let finish = self.finish_on(at, node);
            if finish > self.deadline || !self.has_room(at, node, finish) {
                continue;
            }
            let score = self.score(at, node, finish);
            let better = best.is_none_or(|(least, chosen)| {
                let tied = (score - least).abs() <= TIE;
                let preferred = self.preference(at, node) > self.preference(at, chosen);
                if tied { preferred } else { score < least }
            });
            if better {
                best = Some((score, node));
            }
        }
        best.map(|(_, node)| node).ok_or_else(|| {
            let task = self.task(at).map(|task| &self.program.problem.tasks[task]);
            NoPlan::Infeasible(task.map_or("end", |task| task.id.as_str()).to_owned())
        })
    }

    fn score(&self, at: usize, node: usize, finish: f64) -> f64 {
        let problem = self.program.problem;
        let scaled = |value: f64, scale: f64| if scale > 0.0 { value / scale } else { 0.0 };
        let cost = self.busy(at, node) * problem.nodes[node].cost;
        problem.weights.violations * scaled(finish, self.time_scale)
            + problem.weights.cost * scaled(cost, self.cost_scale)
    }

    /// Among equals, where the data are; else here.
    fn preference(&self, at: usize, node: usize) -> u8 {
        let program = self.program;
        let mut incoming = program.vertices[at].incoming.iter();
        if incoming.any(|&edge| self.placed[program.edges[edge].from] == node) {
            2
        } else {
            u8::from(node == program.problem.handling)
        }
    }

    fn busy(&self, at: usize, node: usize) -> f64 {
        let problem = self.program.problem;
        self.task(at).map_or(0.0, |task| {
            problem.execution[task][node] + problem.init[task][node]
        })
    }

    fn finish_on(&self, at: usize, node: usize) -> f64 {
        let start = match &self.program.problem.link {
            Some(link) => self.start_by_way_of_here(link, at, node),
            None => self.start_from_store(at, node),
        };
        start + self.busy(at, node)
    }

    fn start_from_store(&self, at: usize, node: usize) -> f64 {
        let program = self.program;
        let (mut ready, mut bytes) = (0.0_f64, 0.0);
        for &edge in &program.vertices[at].incoming {
            let edge = &program.edges[edge];
            ready = ready.max(self.finish[edge.from]);
            bytes += edge.bytes;
        }
        ready + bytes / (1e6 * program.problem.nodes[node].store_bandwidth)
    }

    fn start_by_way_of_here(&self, link: &Link, at: usize, node: usize) -> f64 {
        let program = self.program;
        let here = program.problem.handling;
        let time = |bytes: f64, from: usize, to: usize| {
            let other = if from == here { to } else { from };
            match from == to {
                true => 0.0,
                false => bytes / (1e6 * link.bandwidth[other]) + program.problem.latency[from][to],
            }
        };
        let (mut there, mut arrived, mut bytes) = (0.0_f64, 0.0_f64, 0.0);
        let mut all_there = true;
        for &edge in &program.vertices[at].incoming {
            let edge = &program.edges[edge];
            let (from, finish) = (self.placed[edge.from], self.finish[edge.from]);
            all_there &= from == node;
            there = there.max(finish);
            arrived = arrived.max(finish + time(edge.bytes, from, here));
            bytes += edge.bytes;
        }
        match all_there {
            true => there,
            false => arrived + time(bytes, here, node),
        }
    }

    /// Whether the node has memory and CPU left for it.
    fn has_room(&self, at: usize, node: usize, finish: f64) -> bool {
        let problem = self.program.problem;
        let Some(task) = self.task(at) else {
            return true;
        };
        let start = finish - self.busy(at, node);
        let beside = self.settled.iter().filter(|&&other| {
            let overlaps =
                self.finish[other] > start && self.finish[other] - self.busy(other, node) < finish;
            self.placed[other] == node && (problem.link.is_none() || overlaps)
        });
        let beside: Vec<usize> = beside.filter_map(|&other| self.task(other)).collect();
        let memory = |task: usize| problem.tasks[task].memory_mb;
        let taken = memory(task) + beside.iter().map(|&other| memory(other)).sum::<f64>();
        let resources = problem.nodes[node].resources;
        let cpu_fits = problem.link.as_ref().is_none_or(|link| {
            let cpus = |task: usize| link.task_cpus[task];
            let taken = cpus(task) + beside.iter().map(|&other| cpus(other)).sum::<f64>();
            link.node_cpus[node].is_none_or(|cpus| taken <= cpus)
        });
        cpu_fits && resources.is_none_or(|resources| taken <= resources.available_mb)
    }

    fn settle(&mut self, at: usize, node: usize) {
        self.finish[at] = match at {
            START => 0.0,
            _ => self.finish_on(at, node),
        };
        self.placed[at] = node;
        self.settled.push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::samples::{chain, node};
    use super::super::problem::{Node, Resources};
    use super::*;

    #[track_caller]
    fn check(problem: &Problem, expected: &[usize]) {
        assert_eq!(plan(problem).as_deref(), Ok(expected));
    }

    #[test]
    fn without_costs_the_fastest_node_is_taken() {
        let mut problem = chain(3, 2);
        for row in &mut problem.execution {
            row[1] = 0.001;
        }
        check(&problem, &[1, 1, 1]);
    }

    #[test]
    fn equals_stay_where_the_data_are() {
        let mut problem = chain(3, 3);
        check(&problem, &[0, 0, 0]);
        problem.tasks[0].labels.insert("gpu".into());
        problem.nodes[2].labels.insert("gpu".into());
        check(&problem, &[2, 2, 2]);
    }

    #[test]
    fn costs_count_against_time() {
        let mut problem = chain(2, 2);
        for row in &mut problem.execution {
            row[1] = row[0] * 0.9;
        }
        check(&problem, &[1, 1]);
        problem.nodes[1].cost = 1.0;
        check(&problem, &[0, 0]);
    }

    #[test]
    fn memory_is_used_up_or_shared_by_what_overlaps() {
        let mut problem = chain(3, 2);
        for resources in problem
            .nodes
            .iter_mut()
            .filter_map(|node| node.resources.as_mut())
        {
            resources.available_mb = 256.0;
        }
        // 128 MB each: two here, and the third on the other.
        check(&problem, &[0, 0, 1]);
        problem.link = Some(Link {
            bandwidth: vec![40.0; 2],
            node_cpus: vec![Some(1.0); 2],
            task_cpus: vec![1.0; 3],
        });
        check(&problem, &[0, 0, 0]);
        if let Some(link) = &mut problem.link {
            link.node_cpus[0] = Some(0.5);
        }
        check(&problem, &[1, 1, 1]);
    }

    #[test]
    fn a_deadline_that_cannot_be_met_is_no_plan() {
        let mut problem = chain(2, 2);
        problem.deadline = 0.001;
        let Err(NoPlan::Infeasible(task)) = plan(&problem) else {
            panic!("it can't be met");
        };
        assert_eq!(task, "t0");
        problem.deadline = 0.0;
        check(&problem, &[0, 0]);
    }

    #[test]
    fn data_go_by_way_of_the_handling_node() {
        // What is fast far away is worth the way only for short data.
        let mut problem = chain(2, 2);
        problem.link = Some(Link {
            bandwidth: vec![1.0; 2],
            node_cpus: vec![None; 2],
            task_cpus: vec![0.0; 2],
        });
        problem.execution = vec![vec![0.01, 0.01], vec![1.0, 0.1]];
        problem.tasks[0].output_bytes = 1e5;
        check(&problem, &[0, 1]);
        problem.tasks[0].output_bytes = 2e6;
        check(&problem, &[0, 0]);
    }

    #[test]
    fn the_cloud_has_memory_for_everything() {
        let mut problem = chain(2, 1);
        problem.nodes[0].resources = Some(Resources {
            available_mb: 100.0,
            free_mb: 100.0,
        });
        assert!(matches!(plan(&problem), Err(NoPlan::Infeasible(_))));
        let cloud = Node {
            resources: None,
            ..node("CLOUD")
        };
        problem.nodes.push(cloud);
        problem.latency = vec![vec![0.0, 0.1], vec![0.1, 0.0]];
        problem.execution = vec![vec![0.1; 2]; 2];
        problem.init = vec![vec![0.0; 2]; 2];
        check(&problem, &[1, 1]);
    }
}
