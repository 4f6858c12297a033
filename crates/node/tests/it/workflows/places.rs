//! Functions of workflows that run where a policy wants them: a node, a real etcd, and a server of the
//! test in the place of the cloud's node, which answers as the original does.

use serde_json::{Value, json};

use super::peer::{Answer, Peer};
use super::register;
use crate::support::etcd::seen_by;
use crate::support::node::Builder;
use crate::support::{Etcd, Node, etcd, eventually, node, python};

/// What a node answers whose function returned this.
fn returned(result: &str) -> Answer {
    let report = json!({
        "Success": true, "Result": result, "ResponseTime": 0.01, "IsWarmStart": true, "InitTime": 0.001,
        "QueueingTime": 0, "OffloadLatency": 0, "Duration": 0.005, "Output": "",
        "ExecutionArea": "CLOUD", "ExecutionNode": "peer",
    });
    Answer::ok(&report.to_string())
}

/// A node whose cloud is `cloud`, with a function and two workflows: one that calls it in two branches
/// at once, one that calls it once.
#[track_caller]
fn edge(etcd: &Etcd, cloud: &Peer, set: impl FnOnce(Builder) -> Builder) -> Node {
    let port = cloud.port();
    let entry = format!("127.0.0.1;{port};9996;amd64");
    etcd.put("registry/CLOUD/amd64/peer", &entry);
    let builder = node()
        .set("etcd.address", etcd.address())
        .set("registry.node.id", "edge")
        .set("registry.area", "EDGE")
        .set("registry.remote.area", "CLOUD")
        .set("registry.udp.port", 0);
    let edge = set(builder).start();
    eventually("the cloud to be seen", || {
        (seen_by(&edge).len() == 2).then_some(())
    });
    edge.create(&python(
        "inc",
        "def handler(params, context):\n    return {'n': params['n'] + 1}\n",
    ));
    let call = json!({ "Type": "Task", "Resource": "inc", "End": true });
    let branch = |name: &str| json!({ "StartAt": name, "States": { name: call } });
    let both = json!({ "StartAt": "Both", "States": { "Both": {
        "Type": "Parallel", "Branches": [branch("Left"), branch("Right")], "End": true,
    } } });
    register(&edge, "both", &both);
    register(&edge, "one", &branch("One"));
    edge
}

#[track_caller]
fn run(node: &Node, workflow: &str, can_offload: bool) -> Value {
    let request = json!({
        "Workflow": workflow, "Input": { "n": 1 }, "Type": "express", "CanDoOffloading": can_offload,
    });
    node.post("/v1/executions", &request).expect(200).json()
}

/// Has `ilp` ask `optimizer`.
fn asking(optimizer: &Peer) -> impl FnOnce(Builder) -> Builder {
    let port = optimizer.port();
    move |builder| {
        builder
            .set("workflow.offloading.policy", "ilp")
            .set("workflow.offloading.policy.optimizer.host", "127.0.0.1")
            .set("workflow.offloading.policy.optimizer.port", port)
    }
}

#[test]
fn branches_can_run_on_different_nodes_at_once() {
    let etcd = etcd();
    let optimizer = Peer::start(|_| Answer::ok(r#"{"Left":"edge","Right":"CLOUD","x":"y"}"#));
    let cloud = Peer::start(|_| returned(r#"{"n":42}"#));
    let edge = edge(&etcd, &cloud, asking(&optimizer));
    let ended = run(&edge, "both", true);
    assert_eq!(ended["Output"], json!([{ "n": 2 }, { "n": 42 }]), "{ended}");
    let question = optimizer.received();
    assert_eq!(question.path, "/ilp");
    assert_eq!(question.body["handling_node"], "edge");
    assert_eq!(question.body["cloud_nodes"], json!(["CLOUD"]));
    // Without what led there.
    let memory = json!({ "Left": 128, "Right": 128 });
    assert_eq!(question.body["task_memory"], memory);
    let call = cloud.received();
    assert_eq!(call.path, "/invoke/inc");
    assert_eq!(call.body["Params"], json!({ "n": 1 }));
    assert_eq!(call.body["CanDoOffloading"], false);

    // Only with its caller's leave.
    let ended = run(&edge, "both", false);
    assert_eq!(ended["Output"], json!([{ "n": 2 }, { "n": 2 }]), "{ended}");
}

#[test]
fn without_a_plan_functions_run_locally() {
    let etcd = etcd();
    let optimizer = Peer::start(|number| match number {
        0 => Answer::status(500, "no idea"),
        1 => Answer::ok("{"),
        2 => Answer::ok(r#"{"One":"nowhere"}"#),
        _ => Answer::hang_up(),
    });
    let cloud = Peer::start(|_| returned(r#"{"n":42}"#));
    let edge = edge(&etcd, &cloud, asking(&optimizer));
    for _ in 0..4 {
        let ended = run(&edge, "one", true);
        assert_eq!(ended["Output"], json!({ "n": 2 }), "{ended}");
        optimizer.received();
    }
}

#[test]
fn what_has_not_begun_elsewhere_runs_here_and_what_may_have_fails() {
    let etcd = etcd();
    let cloud = Peer::start(|number| match number {
        0 => Answer::status(429, ""),
        1 => Answer::status(404, "Function unknown"),
        _ => Answer::status(500, "boom"),
    });
    let edge = edge(&etcd, &cloud, |builder| {
        builder
            .set("workflow.offloading.policy", "threshold")
            .set("workflow.offloading.policy.threshold", 0)
    });
    for _ in 0..2 {
        let ended = run(&edge, "one", true);
        assert_eq!(ended["Output"], json!({ "n": 2 }), "{ended}");
        cloud.received();
    }
    let failed = run(&edge, "one", true);
    assert_eq!(failed["Status"], "FAILED", "{failed}");
    assert!(
        failed["Cause"].as_str().unwrap().contains("boom"),
        "{failed}"
    );
}

#[test]
fn the_optimiser_built_in_goes_where_it_is_cheap() {
    let etcd = etcd();
    let cloud = Peer::start(|_| returned(r#"{"n":42}"#));
    for policy in ["ilp", "heftless"] {
        let edge = edge(&etcd, &cloud, |builder| {
            builder
                .set("workflow.offloading.policy", policy)
                .set("workflow.offloading.policy.ilp.obj.cost", 1000)
                .set("workflow.offloading.policy.region.cost.edge", 1)
        });
        let ended = run(&edge, "one", true);
        assert_eq!(ended["Output"], json!({ "n": 42 }), "{policy}: {ended}");
        edge.send("DELETE", "/v1/workflows/one", "");
        edge.send("DELETE", "/v1/workflows/both", "");
        edge.post("/delete", &json!({ "Name": "inc" })).expect(200);
    }
}
