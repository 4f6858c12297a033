//! Who may go on with an execution that several nodes could go on with.
//!
//! The registry has one owner of each execution, who counts how often it has changed hands. A node may
//! act for its executions as long as its lease runs, by a clock of its own that begins when the lease
//! was asked for. Once that is over, it has to look whether it is still the owner. Not here: the
//! registry, and what is done.

use std::time::Duration;

use crate::Timestamp;

/// A part of a lease that a node doesn't count on: its clock may be slower than the registry's.
const MARGIN: u32 = 10;

/// For how long a node may act for its executions without looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tenure {
    until: Option<Timestamp>,
    /// How often it has begun anew.
    generation: u64,
}

impl Tenure {
    /// The registry has begun the lease anew, which lives for `life`, at a request of the time `sent`;
    /// it is `now` that this is known. Whoever counted on an earlier tenure that has ended meanwhile
    /// must look first: see [`Tenure::generation`].
    pub fn kept(&mut self, sent: Timestamp, life: Duration, now: Timestamp) {
        let until = sent + (life - life / MARGIN);
        if !self.holds(now) {
            self.generation += 1;
        }
        self.until = self.until.max(Some(until));
    }

    /// The lease has ended, or is another's.
    pub fn lost(&mut self) {
        self.until = None;
    }

    /// Whether the node may act at a time.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Which of the tenures this is, from 1 on; what was known in another one is to be looked at anew.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Who runs an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The node's key.
    pub node: &'a str,
    /// How often it was taken up when it became this node's.
    pub epoch: u64,
}

/// Whether a node may go on with an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the owner.
    Mine,
    /// Somebody else is, or has been since.
    Lost,
    /// The registry knows nothing of it: it has never got there, or the registry has lost all. Nobody
    /// else can have it.
    Unknown,
}

/// What the registry says to a node that holds an execution as `held`.
pub fn judge(found: Option<Owner<'_>>, held: Owner<'_>) -> Verdict {
    match found {
        None => Verdict::Unknown,
        Some(owner) if owner == held => Verdict::Mine,
        Some(_) => Verdict::Lost,
    }
}

/// Whose turn it is to take an execution over: the first one is 0. Those of the execution's area come
/// before the others; among equals chance decides, for each execution otherwise, and for all nodes in
/// the same way. `candidates` are keys with whether they are of that area; who is not among them comes
/// last.
pub fn turn<'a>(
    execution: u128,
    me: &str,
    candidates: impl Iterator<Item = (&'a str, bool)>,
) -> usize {
    let mut ranked: Vec<(bool, u64, &str)> = candidates
        .map(|(key, is_near)| (!is_near, weight(execution, key), key))
        .collect();
    ranked.sort_unstable();
    let found = ranked.iter().position(|(_, _, key)| *key == me);
    found.unwrap_or(ranked.len())
}

/// The same everywhere, hence spelt out: FNV-1a, of which all bits are then mixed.
fn weight(execution: u128, key: &str) -> u64 {
    let bytes = execution.to_be_bytes();
    let bytes = bytes.iter().chain(key.as_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(Duration::from_secs(seconds))
    }

    #[test]
    fn a_tenure_counts_from_when_it_was_asked_for() {
        let mut tenure = Tenure::default();
        assert!(!tenure.holds(at(0)));
        tenure.kept(at(5), LIFE, at(7));
        assert!(tenure.holds(at(13)) && !tenure.holds(at(14)));
        // An answer that comes late says less than one that is known.
        tenure.kept(at(4), LIFE, at(8));
        assert!(tenure.holds(at(13)));
        assert_eq!(tenure.generation(), 1);
        tenure.kept(at(13), LIFE, at(13));
        assert_eq!(tenure.generation(), 1);
        tenure.kept(at(21), LIFE, at(22));
        assert_eq!(
            tenure.generation(),
            2,
            "it had ended before it was known to go on"
        );
        tenure.lost();
        assert!(!tenure.holds(at(22)));
        // It may come so late that it says nothing.
        tenure.kept(at(30), LIFE, at(60));
        assert!(!tenure.holds(at(60)));
    }

    #[test]
    fn an_execution_is_its_owners_in_its_epoch() {
        let owner = |node, epoch| Owner { node, epoch };
        let held = owner("a", 2);
        assert_eq!(judge(Some(held), held), Verdict::Mine);
        assert_eq!(judge(Some(owner("b", 3)), held), Verdict::Lost);
        assert_eq!(judge(Some(owner("a", 3)), held), Verdict::Lost);
        assert_eq!(judge(Some(owner("b", 2)), held), Verdict::Lost);
        assert_eq!(judge(None, held), Verdict::Unknown);
    }

    #[test]
    fn everybody_has_another_turn_and_those_near_come_first() {
        let nodes = [("a", true), ("b", true), ("c", false), ("d", false)];
        let mut firsts = [0; 2];
        for execution in 0..1_000 {
            let turns: Vec<usize> = nodes
                .iter()
                .map(|(me, _)| turn(execution, me, nodes.iter().rev().copied()))
                .collect();
            let mut sorted = turns.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
            assert!(turns[..2].iter().all(|turn| *turn < 2), "{turns:?}");
            firsts[usize::from(turns[1] == 0)] += 1;
            assert_eq!(turn(execution, "stranger", nodes.iter().copied()), 4);
        }
        assert!(firsts.iter().all(|count| *count > 400), "{firsts:?}");
    }
}
