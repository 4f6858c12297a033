//! `cloudonly`: in the cloud. Here only if no target is to be had and the node may fall back.

use super::{Local, Placement, Policy, Remote, Situation};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct CloudOnly;

impl Policy for CloudOnly {
    fn name(&self) -> &'static str {
        "cloudonly"
    }

    fn place(&self, situation: &Situation) -> Placement {
        if !situation.can_offload {
            return Placement::Drop;
        }
        match (situation.cloud, situation.local) {
            (Remote::Open, _) => Placement::Offload,
            (_, Local::Untried) if situation.fallback_local => Placement::Local,
            _ => Placement::Drop,
        }
    }
}
