//! The load balancer beside the bare node and beside the smallest proxy there can be, in turn: what
//! it adds to a call, and what it leaves of the node's throughput. Everything is on one machine, so a
//! balancer takes from the node's cores: the proxy shows how much any must.

use super::Plan;
use super::load::{self, Summary};
use super::measure::{ROOMY, median};
use super::report::{Limit, Promise, Report};
use super::server::{self, Language};

/// Warm no-op calls at 1, 8 and 32 connections.
pub(super) fn calls(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let node = server::node(ROOMY)?;
    let floor = server::proxy(node.port)?;
    let balancer = server::balancer(node.port)?;
    balancer.create("noop", Language::Python)?;
    balancer.invoke("noop")?;
    for connections in [1, 8, 32] {
        println!("lb, {connections} connections");
        let mut rounds: Vec<[Summary; 3]> = Vec::new();
        for _ in 0..plan.rounds {
            let one = |port| load::run(port, "/invoke/noop", connections, plan.duration);
            rounds.push([one(node.port)?, one(floor.port)?, one(balancer.port)?]);
        }
        let middle = |value: &dyn Fn(&[Summary; 3]) -> f64| median(rounds.iter().map(value));
        let what = |figure: &str| format!("lb, {connections} connections: {figure}");
        report.promise(Promise {
            what: what("added p50"),
            measured: middle(&|[bare, _, lb]| lb.p50 - bare.p50),
            unit: "us",
            limit: match connections {
                1 => Limit::AtMost(150.0),
                _ => Limit::None,
            },
            remark: format!(
                "{:.0} us / {:.0} us; the smallest proxy adds {:.0} us",
                middle(&|[_, _, lb]| lb.p50),
                middle(&|[bare, _, _]| bare.p50),
                middle(&|[bare, floor, _]| floor.p50 - bare.p50)
            ),
        });
        report.promise(Promise {
            what: what("requests/s / bare node"),
            measured: middle(&|[bare, _, lb]| lb.rate / bare.rate),
            unit: "x",
            limit: match connections {
                // One client waits for the way there and back.
                1 => Limit::None,
                _ => Limit::AtLeast(0.8),
            },
            remark: format!(
                "{:.0} / {:.0}; the smallest proxy {:.2} x; p99 {:.0} us / {:.0} us",
                middle(&|[_, _, lb]| lb.rate),
                middle(&|[bare, _, _]| bare.rate),
                middle(&|[bare, floor, _]| floor.rate / bare.rate),
                middle(&|[_, _, lb]| lb.p99),
                middle(&|[bare, _, _]| bare.p99)
            ),
        });
    }
    Ok(())
}
