//! Where an execution is that this node doesn't have: its head says it, and else its id, in which there
//! is a mark of the node that began it.

use sha2::{Digest as _, Sha256};

use super::keys::{self, Head};
use crate::node::Node;
use crate::store::executions::Id;

/// Bits of a mark, and those of chance behind it.
const MARK_BITS: u32 = 24;
pub(crate) const CHANCE_BITS: u32 = 56;

/// What ids of executions have of the node that began them.
pub(crate) fn mark(node: &str) -> Id {
    let digest = Sha256::digest(node);
    let first = digest.iter().take(MARK_BITS as usize / 8);
    first.fold(0, |mark, byte| (mark << 8) | Id::from(*byte))
}

fn mark_of(id: Id) -> Id {
    (id >> CHANCE_BITS) & ((1 << MARK_BITS) - 1)
}

/// Keys of the nodes that may have an execution, the likeliest first; never this node's.
pub(crate) async fn locate(node: &Node, id: Id) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(takeover) = &node.workflows.takeover
        && let Ok(Some(entry)) = takeover.etcd.get(&keys::head(id)).await
    {
        found.extend(Head::decode(&entry.value).map(|head| head.node));
    }
    if let Some(federation) = &node.federation {
        let all = federation.members().all();
        let members = all.values().filter(|member| !member.is_balancer);
        let began = members.filter(|member| mark(&member.key) == mark_of(id));
        for member in began {
            if !found.contains(&member.key) {
                found.push(member.key.clone());
            }
        }
    }
    found.retain(|key| *key != node.identity.key);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_mark_of_their_node() {
        assert_ne!(mark("a"), mark("b"));
        let id = (7 << 80) | (mark("a") << CHANCE_BITS) | 99;
        assert_eq!(mark_of(id), mark("a"));
        assert!(mark("a") < 1 << MARK_BITS);
    }
}
