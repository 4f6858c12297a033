//! Functions of workflows that run where a policy wants them: a node, a real etcd, and a server of the
//! test in the place of the cloud's node, which answers as the original does.

use serde_json::{Value, json};

use super::peer::{Answer, Peer};
use super::register;
use crate::support::etcd::seen_by;
use crate::support::node::Builder;
use crate::support::{Etcd, Node, etcd, eventually, http, node, python};

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

/// Sends functions to the cloud, whatever they are.
fn away(builder: Builder) -> Builder {
    builder
        .set("workflow.offloading.policy", "threshold")
        .set("workflow.offloading.policy.threshold", 0)
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

/// Asks for a run of `two` as one of a trace, with a class and a deadline.
#[track_caller]
fn run_with_wishes(node: &Node, path: &str, mut request: Value) -> Value {
    request["QoS"] = json!({ "Class": 3, "MaxRespT": 500 });
    request["CanDoOffloading"] = true.into();
    let headers = [("traceparent", TRACE), ("x-mine", "1")];
    let body = request.to_string();
    let reply = http::request(node.address, "POST", path, &headers, body.as_bytes()).unwrap();
    reply.expect(200).json()
}

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn class_deadline_and_trace_go_along_with_functions_of_every_kind_of_run() {
    let etcd = etcd();
    let cloud = Peer::start(|_| returned(r#"{"n":42}"#));
    let edge = edge(&etcd, &cloud, away);
    let call = json!({ "Type": "Task", "Resource": "inc" });
    let with = |field: &str, value: Value| {
        let mut state = call.clone();
        state[field] = value;
        state
    };
    // No node of the original could go on with it, so only functions are sent.
    let two = json!({ "StartAt": "A", "States": {
        "A": with("Next", "B".into()),
        "B": with("End", true.into()),
    } });
    register(&edge, "two", &two);
    let outer = json!({ "StartAt": "Run", "States": { "Run": {
        "Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Parameters": { "StateMachineArn": "two", "Input": { "n": 1 } }, "End": true,
    } } });
    register(&edge, "outer", &outer);
    let execution = |workflow: &str, kind: &str| {
        let request = json!({
            "Workflow": workflow, "Type": kind, "Input": { "n": 1 }, "Wait": 30,
        });
        let ended = run_with_wishes(&edge, "/v1/executions", request);
        assert_eq!(ended["Status"], "SUCCEEDED", "{ended}");
    };
    let runs: [&dyn Fn(); 4] = [
        &|| execution("two", "express"),
        &|| execution("two", "standard"),
        &|| execution("outer", "standard"),
        &|| {
            let request = json!({ "Params": { "n": 1 }, "Async": true });
            let reply = run_with_wishes(&edge, "/workflow/invoke/two", request);
            let id = reply["ReqId"].as_str().unwrap();
            assert_eq!(edge.poll(id).json()["Result"], json!({ "n": 42 }));
        },
    ];
    for run in runs {
        run();
        let [first, second] = [cloud.received(), cloud.received()].map(|request| {
            assert_eq!(request.path, "/invoke/inc");
            assert_eq!(request.body["QoSClass"], 3, "{}", request.body);
            let trace = format!("traceparent: {TRACE}\r\n");
            assert!(request.head.contains(&trace), "{}", request.head);
            assert!(!request.head.contains("x-mine"), "{}", request.head);
            request.body["QoSMaxRespT"].as_f64().unwrap()
        });
        assert!(500.0 >= first && first >= second && second > 0.0);
    }
}

#[test]
fn a_run_that_is_handed_over_keeps_its_trace() {
    let etcd = etcd();
    let cloud = Peer::start(|_| Answer::status(404, "unknown here"));
    let edge = edge(&etcd, &cloud, away);
    let mut inc = python(
        "inc",
        "def handler(params, context):\n    return {'n': params['n'] + 1}\n",
    )
    .body();
    let n = json!([{ "Name": "n", "Type": "Int" }]);
    inc["Signature"] = json!({ "Inputs": n, "Outputs": n });
    edge.post("/update", &inc).expect(200);
    let one = json!({ "StartAt": "One", "States": {
        "One": { "Type": "Task", "Resource": "inc", "End": true },
    } });
    register(&edge, "one", &one);
    let request = json!({ "Params": { "n": 1 } });
    let reply = run_with_wishes(&edge, "/workflow/invoke/one", request);
    assert_eq!(reply["Result"], json!({ "n": 2 }));
    let sent = cloud.received();
    assert_eq!(sent.path, "/workflow/resume/one");
    assert_eq!(sent.body["QoS"]["Class"], 3);
    let trace = format!("traceparent: {TRACE}\r\n");
    assert!(sent.head.contains(&trace), "{}", sent.head);
}

#[test]
fn a_file_can_say_what_functions_take() {
    let etcd = etcd();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("means.json");
    let means = json!({
        "AvgEdgeExecutionTime": { "edge": { "inc": 7.5 } },
        "AvgRemoteExecutionTime": { "inc": 2.25 },
        "AvgOutputSize": { "inc": 1234.0 },
    });
    std::fs::write(&file, means.to_string()).unwrap();
    let optimizer = Peer::start(|_| Answer::ok(r#"{"One":"edge"}"#));
    let cloud = Peer::start(|_| returned(r#"{"n":42}"#));
    let edge = edge(&etcd, &cloud, |builder| {
        let builder = builder.set("metrics.load.json.file", file.display());
        asking(&optimizer)(builder)
    });
    // What is measured changes nothing.
    for _ in 0..2 {
        run(&edge, "one", true);
        let question = optimizer.received().body;
        assert_eq!(question["exectime"][r#"["One","edge"]"#], 7.5, "{question}");
        assert_eq!(
            question["exectime"][r#"["One","CLOUD"]"#], 2.25,
            "{question}"
        );
        assert_eq!(question["output_size"]["One"], 1234.0, "{question}");
    }
}

#[test]
fn what_was_measured_is_written_when_the_node_stops() {
    let etcd = etcd();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("means.json");
    let optimizer = Peer::start(|_| Answer::ok(r#"{"One":"edge"}"#));
    let cloud = Peer::start(|_| returned(r#"{"n":42}"#));
    let edge = edge(&etcd, &cloud, |builder| {
        let builder = builder.set("metrics.dump.json.file", file.display());
        asking(&optimizer)(builder)
    });
    run(&edge, "one", true);
    edge.stop();
    let means: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let took = means["AvgEdgeExecutionTime"]["edge"]["inc"].as_f64();
    assert!(took.is_some_and(|took| took > 0.0), "{means}");
    let bytes = means["AvgOutputSize"]["inc"].as_f64();
    assert_eq!(bytes, Some(r#"{"n": 2}"#.len() as f64), "{means}");
}
