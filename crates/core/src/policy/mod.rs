//! Where a call runs: here, at a neighbour or in the cloud. One policy a file, by the original's names.
//!
//! A policy is asked until the call has run or is dropped: each time it sees what has been tried
//! and how that ended, and names the next thing to try. It ends because nothing is tried twice.
//! Not here: which sandbox (`scheduler`), and anything that takes time.

mod cloudonly;
mod edgecloud;
mod edgeonly;
mod qosaware;
mod target;
mod trail;

pub use self::cloudonly::CloudOnly;
pub use self::edgecloud::EdgeCloud;
pub use self::edgeonly::EdgeOnly;
pub use self::qosaware::QosAware;
pub use self::target::{Candidate, Wanted, choose, choose_neighbor};
pub use self::trail::{Reason, Trail};

use crate::qos::Odds;
use crate::scheduler::DropReason;

/// What a policy sees of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation {
    /// Whether the call may leave this node: its caller allows it, and it hasn't come from another.
    pub can_offload: bool,
    /// Whether this node runs calls that find no other place: `scheduler.fallback.local`.
    pub fallback_local: bool,
    /// How it went here.
    pub local: Local,
    /// How it went at neighbours.
    pub edge: Remote,
    /// How it went in the cloud.
    pub cloud: Remote,
    /// What is planned for calls like it, if that was looked up: for `qosaware`.
    pub odds: Option<Odds>,
}

/// What is known of running the call here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Local {
    /// Not tried yet.
    Untried,
    /// The function isn't for this node's architecture.
    Unfit,
    /// The scheduler had no place for it.
    Refused(DropReason),
}

/// What is known of running the call at other nodes of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Not tried yet, or one of several targets refused it before it began.
    Open,
    /// There is no target (left).
    Closed,
    /// There never was one.
    Nobody,
}

/// The next thing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Run it here if there is room.
    Local,
    /// Send it to the cloud.
    Offload,
    /// Send it to a neighbour.
    Neighbor,
    /// Refuse it.
    Drop,
}

/// A rule for where calls run.
pub trait Policy: std::fmt::Debug + Send + Sync {
    /// As `scheduler.policy` has it.
    fn name(&self) -> &'static str;

    /// The next thing to try.
    fn place(&self, situation: &Situation) -> Placement;
}

/// The policy called `name` that looks beyond its own node; `None` for those that don't, which need
/// no asking.
pub fn by_name(name: &str) -> Option<&'static dyn Policy> {
    match name {
        "cloudonly" => Some(&CloudOnly),
        "edgecloud" => Some(&EdgeCloud),
        "edgeonly" => Some(&EdgeOnly),
        "qosaware" => Some(&QosAware),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Local = Local::Refused(DropReason::NoRoom);

    const OPEN: Remote = Remote::Open;
    const CLOSED: Remote = Remote::Closed;

    #[track_caller]
    fn check(policy: &str, can_offload: bool, local: Local, remote: Remote, expected: Placement) {
        let situation = Situation {
            can_offload,
            fallback_local: false,
            local,
            edge: remote,
            cloud: remote,
            odds: None,
        };
        let placed = by_name(policy).unwrap().place(&situation);
        assert_eq!(placed, expected, "{policy} {situation:?}");
    }

    #[test]
    fn edgecloud_runs_here_if_it_can_and_else_in_the_cloud() {
        let check = |can_offload, local, cloud, expected| {
            check("edgecloud", can_offload, local, cloud, expected);
        };
        check(true, Local::Untried, OPEN, Placement::Local);
        check(false, Local::Untried, OPEN, Placement::Local);
        check(true, REFUSED, OPEN, Placement::Offload);
        check(true, Local::Unfit, OPEN, Placement::Offload);
        check(false, REFUSED, OPEN, Placement::Drop);
        check(false, Local::Unfit, OPEN, Placement::Drop);
        check(true, REFUSED, CLOSED, Placement::Drop);
        check(true, REFUSED, Remote::Nobody, Placement::Drop);
    }

    #[test]
    fn cloudonly_never_runs_here() {
        let check = |can_offload, local, cloud, expected| {
            check("cloudonly", can_offload, local, cloud, expected);
        };
        check(true, Local::Untried, OPEN, Placement::Offload);
        check(false, Local::Untried, OPEN, Placement::Drop);
        check(true, Local::Untried, CLOSED, Placement::Drop);
    }

    #[test]
    fn cloudonly_falls_back_if_it_may() {
        let mut situation = Situation {
            can_offload: true,
            fallback_local: true,
            local: Local::Untried,
            edge: OPEN,
            cloud: OPEN,
            odds: None,
        };
        assert_eq!(CloudOnly.place(&situation), Placement::Offload);
        for closed in [CLOSED, Remote::Nobody] {
            situation.cloud = closed;
            assert_eq!(CloudOnly.place(&situation), Placement::Local);
        }
        situation.local = REFUSED;
        assert_eq!(CloudOnly.place(&situation), Placement::Drop);
    }

    #[test]
    fn edgeonly_prefers_neighbours_to_its_own_node() {
        let check = |can_offload, local, edge, expected| {
            check("edgeonly", can_offload, local, edge, expected);
        };
        check(true, Local::Untried, OPEN, Placement::Neighbor);
        check(true, Local::Unfit, OPEN, Placement::Neighbor);
        check(true, Local::Untried, CLOSED, Placement::Drop);
        check(true, Local::Untried, Remote::Nobody, Placement::Drop);
        check(false, Local::Untried, OPEN, Placement::Local);
        check(false, REFUSED, OPEN, Placement::Drop);
        check(false, Local::Unfit, OPEN, Placement::Drop);
    }

    #[test]
    fn edgeonly_falls_back_if_it_may_and_has_neighbours() {
        let mut situation = Situation {
            can_offload: true,
            fallback_local: true,
            local: Local::Untried,
            edge: OPEN,
            cloud: OPEN,
            odds: None,
        };
        assert_eq!(EdgeOnly.place(&situation), Placement::Neighbor);
        situation.edge = CLOSED;
        assert_eq!(EdgeOnly.place(&situation), Placement::Local);
        situation.local = REFUSED;
        assert_eq!(EdgeOnly.place(&situation), Placement::Drop);
        (situation.local, situation.edge) = (Local::Untried, Remote::Nobody);
        assert_eq!(EdgeOnly.place(&situation), Placement::Drop);
    }

    /// The shell asks again after every failure: no policy may ask for what has failed.
    #[test]
    fn every_policy_comes_to_an_end() {
        for name in ["edgecloud", "cloudonly", "edgeonly", "qosaware"] {
            let policy = by_name(name).unwrap();
            for bits in 0..8_u64 {
                let mut situation = Situation {
                    can_offload: bits & 1 != 0,
                    fallback_local: bits & 2 != 0,
                    local: Local::Untried,
                    edge: OPEN,
                    cloud: OPEN,
                    odds: (bits & 4 != 0).then(|| Odds::unplanned(bits)),
                };
                for step in 0.. {
                    assert!(step < 4, "{name} {situation:?}");
                    match policy.place(&situation) {
                        Placement::Local => situation.local = REFUSED,
                        Placement::Offload => situation.cloud = CLOSED,
                        Placement::Neighbor => situation.edge = CLOSED,
                        Placement::Drop => break,
                    }
                }
            }
        }
    }

    #[test]
    fn other_names_stay_on_the_node() {
        for name in ["default", "localonly", "fastest", ""] {
            assert!(by_name(name).is_none(), "{name}");
        }
    }
}
