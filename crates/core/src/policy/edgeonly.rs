//! `edgeonly`: at a neighbour, even if there is room here. Here what may not leave, and what no
//! neighbour takes if the node may fall back; with no neighbours at all it may not, as in the
//! original.

use super::{Local, Placement, Policy, Remote, Situation};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct EdgeOnly;

impl Policy for EdgeOnly {
    fn name(&self) -> &'static str {
        "edgeonly"
    }

    fn place(&self, situation: &Situation) -> Placement {
        let may_run_here =
            !situation.can_offload || situation.edge == Remote::Closed && situation.fallback_local;
        match (situation.edge, situation.local) {
            (Remote::Open, _) if situation.can_offload => Placement::Neighbor,
            (_, Local::Untried) if may_run_here => Placement::Local,
            _ => Placement::Drop,
        }
    }
}
