//! `qosaware`: by lot, as planned for calls of its function and class (`qos`).

use super::{Local, Placement, Policy, Remote, Situation};
use crate::qos::{Choice, Left, Odds};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct QosAware;

impl Policy for QosAware {
    fn name(&self) -> &'static str {
        "qosaware"
    }

    fn place(&self, situation: &Situation) -> Placement {
        let open = |remote: Remote| situation.can_offload && remote == Remote::Open;
        let refused_here = matches!(situation.local, Local::Refused(_));
        let failed = [
            situation.local != Local::Untried,
            situation.edge != Remote::Open,
            situation.cloud != Remote::Open,
        ];
        let left = Left {
            local: situation.local == Local::Untried,
            cloud: open(situation.cloud),
            edge: open(situation.edge),
            refused_here,
            failures: failed.into_iter().filter(|it| *it).count() as u64,
        };
        // A call that nobody has looked up is like one that nothing is planned for.
        let odds = situation.odds.unwrap_or(Odds::unplanned(0));
        match odds.choose(&left) {
            Choice::Local => Placement::Local,
            Choice::Cloud => Placement::Offload,
            Choice::Edge => Placement::Neighbor,
            Choice::Drop => Placement::Drop,
        }
    }
}
