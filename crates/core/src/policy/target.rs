//! Which of several nodes a call is sent to, by what each of them has told of late.
//!
//! In the cloud: a load balancer if there is one, else a node that runs the function's architecture
//! (the original tests its own instead). Among neighbours: the one with the most memory available,
//! as in the original, which doesn't look whether that is enough. In both cases, nodes known to have
//! no room come last, as things may have changed, and those that are dead not at all.

use std::cmp::Reverse;

use super::trail::{Reason, Trail};
use crate::fleet::{Health, Known, Status};
use crate::time::Timestamp;

/// A node that a call may be sent to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub key: String,
    /// Whether it passes calls on to nodes, of whichever architecture suits.
    pub is_balancer: bool,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// What it told, if it is one that tells.
    pub known: Option<Known>,
}

/// What a call needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where the function runs; none: anywhere.
    pub architectures: &'a [String],
    /// Memory of a sandbox, MiB.
    pub memory_mb: u64,
    /// Cores.
    pub cpu: f64,
    /// When it is decided.
    pub now: Timestamp,
    /// Decides between equals.
    pub seed: u64,
}

/// How good a candidate is; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Balancer,
    HasRoom,
    Unknown,
    /// It has told that it has no room.
    Crowded,
}

/// The index of a node of the cloud; `rejected` says for each why it is out of the question, if it
/// is. What was chosen, or why there is none, is noted in `trail`.
pub fn choose(
    candidates: &[Candidate],
    rejected: &[Option<Reason>],
    wanted: &Wanted<'_>,
    trail: &mut Trail,
) -> Option<usize> {
    let (mut best, mut count) = (None, 0);
    for (candidate, rejected) in candidates.iter().zip(rejected) {
        let Ok(rank) = judge(candidate, *rejected, wanted) else {
            continue;
        };
        match best {
            Some(known) if rank > known => {}
            Some(known) if rank == known => count += 1,
            _ => (best, count) = (Some(rank), 1),
        }
    }
    let Some(best) = best else {
        if candidates.is_empty() {
            trail.reject("cloud", Reason::Nobody);
        }
        explain(candidates, rejected, wanted, trail);
        return None;
    };
    let equals = candidates.iter().zip(rejected).enumerate();
    let mut equals = equals
        .filter(|(_, (candidate, rejected))| judge(candidate, **rejected, wanted) == Ok(best));
    let chosen = equals.nth((wanted.seed % count) as usize)?.0;
    note(candidates, chosen, rejected, wanted, trail);
    Some(chosen)
}

/// As [`choose`], of neighbours: only those are asked that have told their status of late.
pub fn choose_neighbor(
    candidates: &[Candidate],
    rejected: &[Option<Reason>],
    wanted: &Wanted<'_>,
    trail: &mut Trail,
) -> Option<usize> {
    let open = candidates.iter().zip(rejected).enumerate();
    let told = open.filter_map(|(index, (candidate, rejected))| {
        let rank = judge(candidate, *rejected, wanted).ok()?;
        let available = status(candidate)?.memory_available;
        // The nearer of equals: they come in that order.
        (rank != Rank::Unknown).then_some((rank, Reverse(available), index))
    });
    let Some((_, _, chosen)) = told.min() else {
        if candidates.is_empty() {
            trail.reject("neighbours", Reason::Alone);
        }
        explain(candidates, rejected, wanted, trail);
        return None;
    };
    note(candidates, chosen, rejected, wanted, trail);
    Some(chosen)
}

fn status(candidate: &Candidate) -> Option<&Status> {
    candidate.known.as_ref()?.status.as_deref()
}

fn judge(
    candidate: &Candidate,
    rejected: Option<Reason>,
    wanted: &Wanted<'_>,
) -> Result<Rank, Reason> {
    if let Some(reason) = rejected {
        return Err(reason);
    }
    if candidate.is_balancer {
        return Ok(Rank::Balancer);
    }
    let architectures = wanted.architectures;
    if !architectures.is_empty() && !architectures.contains(&candidate.architecture) {
        return Err(Reason::Architecture);
    }
    let health = candidate.known.as_ref().map(|it| it.health(wanted.now));
    match (health, status(candidate)) {
        (Some(Health::Dead), _) => Err(Reason::Silent),
        (Some(Health::Alive), Some(status)) => {
            let has_cpu = status.cpu_total - status.cpu_used >= wanted.cpu;
            match status.memory_available >= wanted.memory_mb && has_cpu {
                true => Ok(Rank::HasRoom),
                false => Ok(Rank::Crowded),
            }
        }
        _ => Ok(Rank::Unknown),
    }
}

/// Notes who was chosen, and who would have been if it had told of room.
fn note(
    candidates: &[Candidate],
    chosen: usize,
    rejected: &[Option<Reason>],
    wanted: &Wanted<'_>,
    trail: &mut Trail,
) {
    for (index, (candidate, rejected)) in candidates.iter().zip(rejected).enumerate() {
        let rank = judge(candidate, *rejected, wanted);
        if index == chosen {
            continue;
        }
        match rank {
            Err(reason) => trail.reject(&candidate.key, reason),
            Ok(Rank::Crowded) => trail.reject(&candidate.key, Reason::Crowded),
            Ok(_) => {}
        }
    }
    trail.choose(&candidates[chosen].key, candidates[chosen].known.as_ref());
}

fn explain(
    candidates: &[Candidate],
    rejected: &[Option<Reason>],
    wanted: &Wanted<'_>,
    trail: &mut Trail,
) {
    for (candidate, rejected) in candidates.iter().zip(rejected) {
        let reason = judge(candidate, *rejected, wanted).err();
        trail.reject(&candidate.key, reason.unwrap_or(Reason::NotHeard));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::fleet::{FRESH, Fleet, Group};

    const NOW: Timestamp = Timestamp(Duration::from_secs(100));

    fn candidate(key: &str, architecture: &str) -> Candidate {
        Candidate {
            key: key.into(),
            is_balancer: key.starts_with("lb"),
            architecture: architecture.into(),
            known: None,
        }
    }

    /// One that told this so long ago, as a fleet knows it.
    fn told(key: &str, available: u64, ago: Duration) -> Candidate {
        let status = Status {
            memory_available: available,
            cpu_total: 4.0,
            ..Status::default()
        };
        let mut fleet = Fleet::new(1, 1);
        let path: Arc<str> = key.into();
        fleet.set_members([(Arc::clone(&path), Group::Neighbor)]);
        let then = Timestamp(NOW.0 - ago);
        fleet.tick(then);
        fleet.answered(key, status, 300, None, then);
        Candidate {
            known: fleet.peer(key),
            ..candidate(key, "amd64")
        }
    }

    /// One that has answered once, and hasn't since.
    fn dead(key: &str) -> Candidate {
        let mut fleet = Fleet::new(1, 1);
        fleet.set_members([(key.into(), Group::Neighbor)]);
        fleet.answered(key, Status::default(), 300, None, NOW);
        for tick in 0..60 {
            fleet.tick(NOW + Duration::from_millis(100) * tick);
        }
        Candidate {
            known: fleet.peer(key),
            ..candidate(key, "amd64")
        }
    }

    fn wanted(architectures: &[String], seed: u64) -> Wanted<'_> {
        Wanted {
            architectures,
            memory_mb: 128,
            cpu: 1.0,
            now: NOW,
            seed,
        }
    }

    type Choose = fn(&[Candidate], &[Option<Reason>], &Wanted<'_>, &mut Trail) -> Option<usize>;

    /// All that may be chosen, as the seed has it.
    #[track_caller]
    fn check(choose: Choose, candidates: &[Candidate], architectures: &[&str], expected: &[&str]) {
        let architectures: Vec<String> = architectures.iter().map(|&it| it.into()).collect();
        let mut trail = Trail::new("edgecloud");
        let rejected = vec![None; candidates.len()];
        let chosen = (0..12).filter_map(|seed| {
            choose(
                candidates,
                &rejected,
                &wanted(&architectures, seed),
                &mut trail,
            )
        });
        let mut chosen: Vec<_> = chosen.map(|index| &candidates[index].key).collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen, expected);
    }

    const SOON: Duration = Duration::from_millis(400);

    #[test]
    fn balancers_come_first_and_equals_share() {
        let all = [
            candidate("a", "amd64"),
            candidate("lb1", "arm64"),
            candidate("lb2", "amd64"),
        ];
        check(choose, &all, &["amd64"], &["lb1", "lb2"]);
    }

    #[test]
    fn nodes_must_run_the_functions_architecture() {
        let all = [candidate("a", "amd64"), candidate("b", "arm64")];
        check(choose, &all, &["arm64"], &["b"]);
        check(choose, &all, &["arm64", "amd64"], &["a", "b"]);
        check(choose, &all, &[], &["a", "b"]);
        check(choose, &all, &["riscv64"], &[]);
        check(choose, &[], &[], &[]);
    }

    #[test]
    fn who_has_told_of_room_comes_first_and_the_crowded_last() {
        let mut all = vec![
            told("crowded", 64, SOON),
            candidate("unknown", "amd64"),
            told("stale", 4096, FRESH * 2),
            told("roomy", 512, SOON),
        ];
        check(choose, &all, &[], &["roomy"]);
        all.pop();
        check(choose, &all, &[], &["stale", "unknown"]);
        all.truncate(1);
        check(choose, &all, &[], &["crowded"]);
        let needs_much = Wanted {
            cpu: 5.0,
            ..wanted(&[], 0)
        };
        let all = [told("few-cores", 512, SOON), candidate("unknown", "amd64")];
        let mut trail = Trail::new("edgecloud");
        assert_eq!(choose(&all, &[None; 2], &needs_much, &mut trail), Some(1));
        let text = trail.to_string();
        assert!(
            text.contains("few-cores: told that it has no room"),
            "{text}"
        );
    }

    #[test]
    fn the_dead_are_never_chosen() {
        for choose in [choose, choose_neighbor] {
            check(choose, &[dead("a")], &[], &[]);
            check(choose, &[dead("a"), told("b", 64, SOON)], &[], &["b"]);
        }
    }

    #[test]
    fn the_neighbour_with_most_memory_takes_it() {
        let all = [
            told("near", 256, SOON),
            told("large", 1024, SOON),
            told("equal", 1024, SOON),
            told("stale", 9000, FRESH * 2),
            candidate("unknown", "amd64"),
        ];
        check(choose_neighbor, &all, &[], &["large"]);
        check(choose_neighbor, &all[3..], &[], &[]);
        check(choose_neighbor, &all[..1], &["arm64"], &[]);
        // Not enough, but nobody has more.
        let crowded = [told("a", 10, SOON), told("b", 100, SOON)];
        check(choose_neighbor, &crowded, &[], &["b"]);
    }

    #[test]
    fn the_rejected_are_passed_over_and_all_is_explained() {
        let all = [candidate("lb", "amd64"), told("a", 512, SOON)];
        let mut trail = Trail::new("edgecloud");
        let mut rejected = [Some(Reason::Unreachable), None];
        let chosen = choose(&all, &rejected, &wanted(&[], 0), &mut trail);
        assert_eq!(chosen, Some(1));
        rejected[1] = Some(Reason::Full);
        trail.reject("a", Reason::Full);
        assert_eq!(choose(&all, &rejected, &wanted(&[], 0), &mut trail), None);
        assert_eq!(
            trail.to_string(),
            "policy edgecloud; lb: can't be reached; a: chosen (512 MiB available, 0.0 ms away); \
             a: has no room"
        );
        let mut trail = Trail::new("edgeonly");
        let all = [dead("x"), candidate("y", "amd64")];
        choose_neighbor(&all, &[None; 2], &wanted(&[], 0), &mut trail);
        assert_eq!(
            trail.to_string(),
            "policy edgeonly; x: doesn't answer any more; y: hasn't told its status of late"
        );
    }

    proptest! {
        /// Whoever is chosen is neither rejected, nor dead, nor of another architecture; and if
        /// there is one with room, it is one with room.
        #[test]
        fn what_is_chosen_is_fit(
            kinds in prop::collection::vec((0_u8..5, any::<bool>(), any::<bool>()), 0..12),
            seed in any::<u64>(),
        ) {
            let (mut all, mut rejected) = (Vec::new(), Vec::new());
            for (index, (kind, is_rejected, is_arm)) in kinds.into_iter().enumerate() {
                let key = format!("n{index}");
                let mut one = match kind {
                    0 => dead(&key),
                    1 => told(&key, 64, SOON),
                    2 => told(&key, 1000, SOON),
                    3 => told(&key, 1000, FRESH * 2),
                    _ => candidate(&key, "amd64"),
                };
                if is_arm {
                    one.architecture = "arm64".into();
                }
                all.push((kind, one));
                rejected.push(is_rejected.then_some(Reason::Full));
            }
            let candidates: Vec<_> = all.iter().map(|(_, it)| it.clone()).collect();
            let architectures = ["amd64".to_owned()];
            let wanted = wanted(&architectures, seed);
            let open = |index: usize| rejected[index].is_none() && all[index].1.architecture == "amd64";
            let has_room = (0..all.len()).any(|index| open(index) && all[index].0 == 2);
            for (choose, least) in [(choose as Choose, 1), (choose_neighbor, 1)] {
                let mut trail = Trail::new("p");
                match choose(&candidates, &rejected, &wanted, &mut trail) {
                    Some(chosen) => {
                        prop_assert!(open(chosen) && all[chosen].0 >= least);
                        prop_assert!(!has_room || all[chosen].0 == 2);
                    }
                    None => prop_assert!(!has_room),
                }
            }
        }
    }
}
