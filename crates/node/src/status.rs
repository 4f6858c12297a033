//! What the node has and uses, as others are told: over HTTP, and as a datagram.

use std::collections::BTreeMap;

use serverledge_api::{Coordinates, StatusReply};

use crate::invoke::unix_now;
use crate::node::Node;

/// As of now.
pub(crate) fn now(node: &Node) -> StatusReply {
    let snapshot = node.pool.snapshot();
    let mut warm: BTreeMap<String, i64> = BTreeMap::new();
    let copies = node.federation.as_ref().map(|it| &it.copies);
    for (function, idle) in node.pool.warm() {
        let is_own = node.catalog.function(&function.record.name).is_some();
        if is_own || copies.is_some_and(|it| it.has(&function)) {
            *warm.entry(function.record.name.clone()).or_default() += idle as i64;
        }
    }
    StatusReply {
        available_warm_containers: warm,
        total_memory: snapshot.memory_total as i64,
        available_memory: snapshot.memory_total.saturating_sub(snapshot.memory_busy) as i64,
        free_memory: snapshot
            .memory_total
            .saturating_sub(snapshot.memory_busy + snapshot.memory_warm)
            as i64,
        total_cpu: snapshot.cpu_total,
        used_cpu: snapshot.cpu_used,
        coordinates: coordinates(node),
        load_avg: Some(load_average()),
        last_update_time: unix_now() as i64,
    }
}

/// Where the node is in the fleet's network.
fn coordinates(node: &Node) -> Coordinates {
    let Some(federation) = &node.federation else {
        return Coordinates::default();
    };
    let own = federation.peers().coordinates();
    Coordinates {
        vec: own.position,
        error: own.error,
        adjustment: own.adjustment,
        height: own.height,
    }
}

/// Of the machine over 1, 5 and 15 minutes; -1 where it can't be read.
fn load_average() -> [f64; 3] {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or(-1.0));
    std::array::from_fn(|_| numbers.next().unwrap_or(-1.0))
}
