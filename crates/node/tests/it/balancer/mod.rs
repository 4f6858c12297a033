//! `serverledge lb`: in front of real nodes, with and without etcd, and in front of targets that
//! misbehave.

mod failures;
mod fleet;
mod policies;
mod wire;

use serde_json::Value;

use crate::support::target::Target;
use crate::support::{Node, balancer, eventually};

/// A balancer with these targets and no etcd.
fn in_front_of(targets: &[&Target]) -> crate::support::node::Builder {
    let addresses: Vec<String> = targets.iter().map(|it| it.address.to_string()).collect();
    balancer().set("lb.targets", addresses.join(","))
}

/// What the balancer says of its targets.
#[track_caller]
fn targets(balancer: &Node) -> Vec<Value> {
    let targets = balancer.get("/v1/balancer/targets").expect(200).json();
    targets.as_array().cloned().unwrap()
}

/// The health of the target with this key, once it is this.
#[track_caller]
fn becomes(balancer: &Node, key: &str, health: &str) {
    eventually(&format!("{key} to be {health}"), || {
        let all = targets(balancer);
        let target = all.iter().find(|it| it["Key"] == key)?;
        (target["Health"] == health).then_some(())
    });
}

/// The value of a metric's line that begins like this.
#[track_caller]
fn metric(balancer: &Node, line: &str) -> Option<f64> {
    let page = balancer.get("/metrics").expect(200);
    let found = page.text().lines().find(|it| it.starts_with(line))?;
    found.rsplit(' ').next()?.parse().ok()
}
