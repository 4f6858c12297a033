//! `/v1/nodes`: who is in the fleet, as this node sees it.

use serde::Serialize;

use super::{Reply, json};
use crate::federation::Member;
use crate::node::Node;

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "Key")]
    key: &'a str,
    #[serde(rename = "Area")]
    area: &'a str,
    #[serde(rename = "Architecture")]
    architecture: &'a str,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "IsBalancer")]
    is_balancer: bool,
}

impl<'a> Shown<'a> {
    fn of(member: &'a Member) -> Self {
        Self {
            key: &member.key,
            area: &member.area,
            architecture: &member.architecture,
            address: format!("{}:{}", member.host, member.api_port),
            is_balancer: member.is_balancer,
        }
    }
}

/// All members; none if the node is in no fleet.
pub(super) fn nodes(node: &Node) -> Reply {
    let members = node.federation.as_ref().map(|fleet| fleet.members().all());
    let members = members.unwrap_or_default();
    json(&members.values().map(Shown::of).collect::<Vec<_>>())
}
