//! Which of the cloud's members a call is sent to: a load balancer if there is one, else a node that
//! runs the function's architecture. The original tests its own architecture instead.

use super::trail::{Reason, Trail};

/// A member of the cloud's area.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub key: String,
    /// Whether it passes calls on to nodes, of whichever architecture suits.
    pub is_balancer: bool,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// Why it is out of the question, if it is.
    pub rejected: Option<Reason>,
}

/// The index of a candidate for a function of `architectures` (none: any); `seed` decides between
/// equals. Why there is none is noted in `trail`.
pub fn choose(
    candidates: &[Candidate],
    architectures: &[String],
    seed: u64,
    trail: &mut Trail,
) -> Option<usize> {
    let fits = |candidate: &Candidate| {
        candidate.is_balancer
            || architectures.is_empty()
            || architectures.contains(&candidate.architecture)
    };
    let open = |balancers: bool| {
        candidates
            .iter()
            .enumerate()
            .filter(move |(_, it)| it.is_balancer == balancers && it.rejected.is_none())
            .filter(|(_, it)| fits(it))
            .map(|(index, _)| index)
    };
    for balancers in [true, false] {
        let count = open(balancers).count() as u64;
        if count > 0 {
            return open(balancers).nth((seed % count) as usize);
        }
    }
    if candidates.is_empty() {
        trail.reject("cloud", Reason::Nobody);
    }
    for candidate in candidates {
        let reason = candidate.rejected.unwrap_or(Reason::Architecture);
        trail.reject(&candidate.key, reason);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: &str, architecture: &str) -> Candidate {
        Candidate {
            key: key.into(),
            is_balancer: key.starts_with("lb"),
            architecture: architecture.into(),
            rejected: None,
        }
    }

    #[track_caller]
    fn check(candidates: &[Candidate], architectures: &[&str], expected: &[&str]) {
        let architectures: Vec<String> = architectures.iter().map(|&it| it.into()).collect();
        let mut trail = Trail::new("edgecloud");
        let chosen =
            (0..12).filter_map(|seed| choose(candidates, &architectures, seed, &mut trail));
        let mut chosen: Vec<_> = chosen.map(|index| &candidates[index].key).collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn balancers_come_first_and_equals_share() {
        let all = [
            candidate("a", "amd64"),
            candidate("lb1", "arm64"),
            candidate("lb2", "amd64"),
        ];
        check(&all, &["amd64"], &["lb1", "lb2"]);
    }

    #[test]
    fn nodes_must_run_the_functions_architecture() {
        let all = [candidate("a", "amd64"), candidate("b", "arm64")];
        check(&all, &["arm64"], &["b"]);
        check(&all, &["arm64", "amd64"], &["a", "b"]);
        check(&all, &[], &["a", "b"]);
        check(&all, &["riscv64"], &[]);
        check(&[], &[], &[]);
    }

    #[test]
    fn the_rejected_are_passed_over_and_named() {
        let mut all = [candidate("lb", "amd64"), candidate("a", "amd64")];
        all[0].rejected = Some(Reason::Unreachable);
        check(&all, &[], &["a"]);
        all[1].rejected = Some(Reason::Full);
        check(&all, &[], &[]);
        let mut trail = Trail::new("edgecloud");
        assert_eq!(choose(&all, &[], 0, &mut trail), None);
        let text = trail.to_string();
        assert!(text.contains("lb: can't be reached"), "{text}");
        assert!(text.contains("a: has no room"), "{text}");
    }
}
