//! `edgecloud`: here if there is room, else in the cloud.

use super::{Local, Placement, Policy, Remote, Situation};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct EdgeCloud;

impl Policy for EdgeCloud {
    fn name(&self) -> &'static str {
        "edgecloud"
    }

    fn place(&self, situation: &Situation) -> Placement {
        match (situation.local, situation.cloud) {
            (Local::Untried, _) => Placement::Local,
            (_, Remote::Open) if situation.can_offload => Placement::Offload,
            _ => Placement::Drop,
        }
    }
}
