//! `threshold`: here while the memory in use stays below a share of the pool; what would exceed it
//! goes, with a few of the tasks that follow and would exceed it too, to the neighbour with the most
//! memory, or to the cloud.

use std::collections::{BTreeSet, VecDeque};

use super::problem::{Arc, Kind, Task};
use super::{CLOUD, Decision};

/// See the module. The default is the original's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// The share of the pool's memory that may be in use.
    pub load_max: f64,
    /// Tasks that follow the first in a group, at most.
    pub tasks_max: usize,
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            load_max: 0.75,
            tasks_max: 5,
        }
    }
}

/// Memory of the pool, MB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Of what runs.
    pub used_mb: f64,
    /// In all.
    pub total_mb: f64,
}

/// A node nearby, as last heard of.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// Its key.
    pub key: String,
    /// Memory that it has for others, MB.
    pub available_mb: f64,
}

impl Threshold {
    /// What becomes of the tasks `ready`, by their indices. `cloud` tells whether there is one.
    pub fn decide(
        &self,
        tasks: &[Task],
        arcs: &[Arc],
        ready: &[usize],
        usage: Usage,
        neighbours: &[Neighbour],
        cloud: bool,
    ) -> Decision {
        let first = ready
            .first()
            .and_then(|&task| Some((task, tasks.get(task)?)));
        let Some((first, task)) = first else {
            return Decision::Local;
        };
        if task.kind != Kind::Function || !self.exceeds(usage, task) {
            return Decision::Local;
        }
        let group = self.group(tasks, arcs, first, usage);
        let functions = group.iter().map(|&task| &tasks[task]);
        let need: f64 = functions
            .filter(|task| task.kind == Kind::Function)
            .map(|task| task.memory_mb)
            .sum();
        let able = neighbours.iter().filter(|it| it.available_mb >= need);
        let largest = able.max_by(|a, b| a.available_mb.total_cmp(&b.available_mb));
        let to = largest.map(|it| it.key.as_str()).or(cloud.then_some(CLOUD));
        match to {
            Some(to) => Decision::Offload {
                to: to.to_owned(),
                tasks: group.iter().map(|&task| tasks[task].id.clone()).collect(),
            },
            None => Decision::Local,
        }
    }

    fn exceeds(&self, usage: Usage, task: &Task) -> bool {
        // Written so that a pool of no size is exceeded.
        usage.used_mb + task.memory_mb > self.load_max * usage.total_mb
    }

    /// The first task and those after it that would exceed the share each by itself.
    fn group(&self, tasks: &[Task], arcs: &[Arc], first: usize, usage: Usage) -> Vec<usize> {
        let follow = |task: usize| {
            let arcs = arcs.iter().filter(move |arc| arc.from == task);
            arcs.map(|arc| arc.to).filter(|&to| to < tasks.len())
        };
        let mut group = vec![first];
        let mut seen = BTreeSet::from([first]);
        let mut queue: VecDeque<usize> = follow(first).collect();
        while group.len() <= self.tasks_max {
            let Some(task) = queue.pop_front() else {
                break;
            };
            let joins = match tasks[task].kind {
                Kind::Function => self.exceeds(usage, &tasks[task]),
                Kind::Choice => true,
                Kind::Other => false,
            };
            if joins && seen.insert(task) {
                group.push(task);
                queue.extend(follow(task));
            }
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::samples::chain;
    use super::*;

    const FULL: Usage = Usage {
        used_mb: 700.0,
        total_mb: 1024.0,
    };

    fn neighbours(available: &[f64]) -> Vec<Neighbour> {
        let neighbour = |(number, &available_mb): (usize, &f64)| Neighbour {
            key: format!("p{number}"),
            available_mb,
        };
        available.iter().enumerate().map(neighbour).collect()
    }

    fn decide(usage: Usage, available: &[f64], cloud: bool) -> Decision {
        let problem = chain(8, 1);
        let (tasks, arcs) = (&problem.tasks, &problem.arcs);
        Threshold::default().decide(tasks, arcs, &[0], usage, &neighbours(available), cloud)
    }

    fn offload(to: &str, count: usize) -> Decision {
        Decision::Offload {
            to: to.into(),
            tasks: (0..count).map(|number| format!("t{number}")).collect(),
        }
    }

    #[test]
    fn below_the_share_all_stays_here() {
        let usage = Usage {
            used_mb: 640.0,
            total_mb: 1024.0,
        };
        // 640 + 128 is three quarters exactly.
        assert_eq!(decide(usage, &[4096.0], true), Decision::Local);
        assert_eq!(decide(FULL, &[], false), Decision::Local);
    }

    #[test]
    fn the_largest_neighbour_that_can_hold_the_group_is_taken_else_the_cloud() {
        // Six tasks of 128 MB.
        assert_eq!(
            decide(FULL, &[768.0, 4096.0, 900.0], true),
            offload("p1", 6)
        );
        assert_eq!(decide(FULL, &[767.0], true), offload(CLOUD, 6));
        assert_eq!(decide(FULL, &[767.0], false), Decision::Local);
    }

    #[test]
    fn the_recorded_group_is_that_of_the_original() {
        // A and B are functions, what follows is the end.
        let mut problem = chain(3, 1);
        problem.tasks[2].kind = Kind::Other;
        let (tasks, arcs) = (&problem.tasks, &problem.arcs);
        let (policy, peers) = (Threshold::default(), neighbours(&[4096.0]));
        let decided = policy.decide(tasks, arcs, &[0], FULL, &peers, true);
        assert_eq!(decided, offload("p0", 2));
    }

    #[test]
    fn choices_go_along_with_all_that_they_lead_to() {
        let mut problem = chain(4, 1);
        problem.tasks[1].kind = Kind::Choice;
        problem.arcs = [(0, 1), (1, 2), (1, 3)]
            .map(|(from, to)| Arc {
                from,
                to,
                probability: 0.5,
            })
            .to_vec();
        problem.tasks[3].memory_mb = 10.0;
        let (tasks, arcs) = (&problem.tasks, &problem.arcs);
        let policy = Threshold::default();
        let decided = policy.decide(tasks, arcs, &[0], FULL, &[], true);
        assert_eq!(decided, offload(CLOUD, 3));
        // What is no function stays, whatever follows.
        assert_eq!(
            policy.decide(tasks, arcs, &[1], FULL, &[], true),
            Decision::Local
        );
        assert_eq!(
            policy.decide(tasks, arcs, &[], FULL, &[], true),
            Decision::Local
        );
    }
}
