//! Classes of calls, and the policy `qosaware`: real nodes with a real etcd, and a peer that keeps
//! what it is sent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::support::etcd::{member, sees};
use crate::support::function::{Function, echo};
use crate::support::http::{self, Response};
use crate::support::node::Builder;
use crate::support::{Etcd, Node, etcd, eventually, node};

const POLICIES: &str = include_str!("../../../../docs/policies.md");

/// With room for one of our functions, which is too little for a [`large`] one: what it does is then
/// a question of the plan alone.
fn planner(etcd: &Etcd) -> Builder {
    member(etcd, "edge", "EDGE")
        .set("scheduler.policy", "qosaware")
        .set("solver.evalinterval", "500ms")
        .memory(160)
        .set("sandbox.prestart", 0)
}

fn large(name: &str) -> Function {
    echo(name).memory(512)
}

/// A call of a class, which may run elsewhere.
#[track_caller]
fn call(node: &Node, name: &str, class: Value) -> Response {
    let request = json!({ "Params": { "n": 1 }, "QoSClass": class, "CanDoOffloading": true });
    node.post(&format!("/invoke/{name}"), &request)
}

fn why(reply: &Response) -> String {
    reply
        .header("serverledge-decision")
        .unwrap_or_default()
        .to_owned()
}

/// What is planned for calls of a function and class, if anything is.
#[track_caller]
fn flow(node: &Node, function: &str, class: &str) -> Option<Value> {
    let policy = node.get("/v1/policy").expect(200).json();
    let flows = policy["Plan"]["Flows"].as_array().cloned()?;
    flows
        .into_iter()
        .find(|it| it["Function"] == function && it["Class"] == class)
}

#[track_caller]
fn reason(flow: &Value, place: &str) -> String {
    let rejected = flow["Rejected"].as_array().cloned().unwrap_or_default();
    let found = rejected.iter().find(|it| it["Place"] == place);
    let found = found.unwrap_or_else(|| panic!("{place} is not rejected: {flow}"));
    found["Why"].as_str().unwrap().to_owned()
}

#[test]
fn a_class_that_is_not_there_is_refused_with_those_that_are() {
    let node = node()
        .set("qos.class.gold.number", 7)
        .set("qos.class.silver.utility", 0.5)
        .start();
    node.create(&echo("echo"));
    for class in [
        json!(0),
        json!(7),
        json!("Gold"),
        json!("silver"),
        json!(""),
        json!(null),
    ] {
        call(&node, "echo", class).expect(200);
    }
    for class in [
        json!(1),
        json!(-1),
        json!("bronze"),
        json!("x".repeat(10_000)),
    ] {
        let refused = call(&node, "echo", class).expect(400);
        let problem =
            refused.problem(&["no class of service", "default (0)", "gold (7)", "silver"]);
        assert!(problem.to_string().len() < 1000, "{problem}");
    }
    // What other nodes send on may have been classified by others.
    let body = json!({ "QoSClass": "bronze" }).to_string();
    let hop = [("serverledge-hops", "1")];
    let sent_on = http::request(node.address, "POST", "/invoke/echo", &hop, body.as_bytes());
    sent_on.unwrap().expect(200);

    let policy = node.get("/v1/policy").expect(200).json();
    assert_eq!(policy["Policy"], "default");
    assert!(policy["NoPlan"].is_string(), "{policy}");
    assert_eq!(policy["Classes"].as_array().unwrap().len(), 3);
}

#[test]
fn without_classes_any_is_taken_as_by_the_original() {
    let node = node().start();
    node.create(&echo("echo"));
    for class in [json!(3), json!(-1), json!("gold")] {
        call(&node, "echo", class).expect(200);
    }
}

#[test]
fn a_plan_is_made_followed_and_explained() {
    let etcd = etcd();
    let _cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = planner(&etcd)
        .set("registry.remote.area", "CLOUD")
        .set("qos.class.gold.number", 7)
        .set("qos.class.gold.utility", 5)
        // Nothing can be in time, and being late costs.
        .set("qos.class.hopeless.deadline", 0)
        .set("qos.class.hopeless.penalty", 1)
        .start();
    sees(&edge, 2);
    edge.create(&large("large"));

    let planned = eventually("calls to go by a plan", || {
        let reply = call(&edge, "large", json!("gold")).expect(200);
        assert_eq!(reply.field("ExecutionNode"), "cloud");
        let why = why(&reply);
        assert!(why.starts_with("policy qosaware; class gold; "), "{why}");
        why.contains("; planned ").then_some(why)
    });
    let expected =
        "planned local 0.00, cloud 1.00, edge 0.00, drop 0.00; drew cloud; cloud: chosen";
    assert!(planned.contains(expected), "{planned}");

    let dropped = eventually("what is worth nothing to be dropped", || {
        let reply = call(&edge, "large", json!("hopeless"));
        (reply.status == 429 && why(&reply).contains("drop 1.00; drew drop")).then_some(reply)
    });
    dropped.problem(&["class hopeless", "drew drop"]);

    call(&edge, "large", json!(7)).expect(200);
    let (gold, hopeless) = eventually("both to be planned for", || {
        call(&edge, "large", json!(7)).expect(200);
        call(&edge, "large", json!("hopeless"));
        Some((
            flow(&edge, "large", "gold")?,
            flow(&edge, "large", "hopeless")?,
        ))
    });
    assert!(
        gold["Cloud"]["Probability"].as_f64().unwrap() > 0.999,
        "{gold}"
    );
    assert!(gold["Rate"].as_f64().unwrap() > 0.0, "{gold}");
    assert!(reason(&gold, "local").contains("nobody there can run it"));
    assert!(reason(&gold, "edge").contains("nobody there can run it"));
    assert!(hopeless["Drop"].as_f64().unwrap() > 0.999, "{hopeless}");
    assert!(reason(&hopeless, "cloud").contains("within the deadline"));
    let policy = edge.get("/v1/policy").expect(200).json();
    assert!(policy["Plan"]["Age"].is_number() && policy["Plan"]["Took"].is_number());
    assert_eq!(policy["Plan"]["LocalMemory"], 160.0);
    assert_eq!(policy["Cloud"][0]["Key"], "cloud");
    assert_eq!(policy["Neighbors"], json!([]));
}

#[test]
fn a_neighbor_with_room_is_planned_for() {
    let etcd = etcd();
    let _neighbor = member(&etcd, "neighbor", "EDGE").start();
    let edge = planner(&etcd).start();
    sees(&edge, 2);
    edge.create(&large("large"));
    eventually("calls to be planned for the neighbour", || {
        let reply = call(&edge, "large", json!(0));
        let why = why(&reply);
        let planned = why.contains("edge 1.00, drop 0.00; drew edge; neighbor: chosen");
        if planned {
            assert_eq!(reply.expect(200).field("ExecutionNode"), "neighbor");
        }
        planned.then_some(())
    });
    // What may not leave has no place here, and no neighbour is asked.
    let refused = edge.invoke("large", json!({})).expect(429);
    refused.problem(&["class default", "not allowed"]);
}

#[test]
fn nothing_goes_to_the_cloud_once_the_budget_is_spent() {
    let etcd = etcd();
    let _cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = planner(&etcd)
        .set("registry.remote.area", "CLOUD")
        .set("scheduler.cloud.cost", 1_000_000)
        .set("scheduler.local.budget", 0.000_001)
        .start();
    sees(&edge, 2);
    edge.create(&large("large"));
    edge.create(&echo("fits"));
    // Costs far more than there is, but how much is known only afterwards.
    let first = call(&edge, "large", json!(0)).expect(200);
    assert_eq!(first.field("ExecutionNode"), "cloud");
    for _ in 0..5 {
        let refused = call(&edge, "large", json!(0)).expect(429);
        refused.problem(&["the cloud's budget is spent"]);
    }
    let here = call(&edge, "fits", json!(0)).expect(200);
    assert_eq!(here.field("ExecutionNode"), "edge");
    let spending = edge.get("/v1/policy").expect(200).json()["Spending"].clone();
    let spent = spending["LastHour"].as_f64().unwrap();
    assert!(
        spent > spending["BudgetAnHour"].as_f64().unwrap(),
        "{spending}"
    );
}

/// A peer that answers one call, and gives what it was sent.
fn peer() -> (u16, JoinHandle<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = json!({
            "Success": true, "Result": "42", "ResponseTime": 0.1, "IsWarmStart": true,
            "InitTime": 0.0, "QueueingTime": 0.0, "OffloadLatency": 0.0, "Duration": 0.05,
            "Output": "", "ExecutionArea": "CLOUD", "ExecutionNode": "peer",
        });
        let answer = answer.to_string();
        let bytes = answer.len();
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{answer}");
        reader.get_mut().write_all(reply.as_bytes()).unwrap();
        serde_json::from_slice(&body).unwrap()
    });
    (port, peer)
}

#[test]
fn class_and_remaining_deadline_go_along() {
    let etcd = etcd();
    let edge = member(&etcd, "edge", "EDGE")
        .set("registry.remote.area", "CLOUD")
        .set("scheduler.policy", "cloudonly")
        .set("qos.class.gold.number", 7)
        .set("qos.class.gold.deadline", 50)
        .set("qos.class.nameless.utility", 2)
        .start();
    edge.create(&echo("echo"));
    // What is asked for: class, own wish, asynchronous. What the peer gets: class, at most this.
    let cases = [
        (json!("GOLD"), 0.0, false, json!(7), Some(50.0)),
        (json!(7), 20.0, false, json!(7), Some(20.0)),
        (json!(7), 90.0, true, json!(7), Some(50.0)),
        (json!("nameless"), 20.0, true, json!("nameless"), Some(20.0)),
        (json!(0), -1.0, false, json!(0), None),
    ];
    for (class, wish, is_async, expected, most) in cases {
        let (port, peer) = peer();
        let address = format!("127.0.0.1;{port};9996;amd64");
        // Each is another node: one that left alone its last caller's connection.
        etcd.put(&format!("registry/CLOUD/amd64/peer-{port}"), &address);
        sees(&edge, 2);
        let request = json!({
            "Params": {}, "QoSClass": class, "QoSMaxRespT": wish, "CanDoOffloading": true,
            "Async": is_async,
        });
        let reply = edge.post("/invoke/echo", &request).expect(200);
        let sent = peer.join().unwrap();
        assert_eq!(sent["QoSClass"], expected, "{request} {sent}");
        assert_eq!(sent["CanDoOffloading"], false);
        let remaining = sent["QoSMaxRespT"].as_f64().unwrap();
        match most {
            Some(most) => assert!(remaining > 0.0 && remaining < most, "{request} {sent}"),
            None => assert!(remaining <= 0.0, "{request} {sent}"),
        }
        if is_async {
            edge.poll(reply.field("ReqId").as_str().unwrap());
        }
        etcd.delete(&format!("registry/CLOUD/amd64/peer-{port}"));
        sees(&edge, 1);
    }
}

/// The settings of the document, as they stand there.
#[test]
fn the_documented_classes_are_configured_as_documented() {
    let (_, rest) = POLICIES.split_once("```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```").unwrap();
    let node = node().config(yaml).start();
    let policy = node.get("/v1/policy").expect(200).json();
    let classes = policy["Classes"].as_array().unwrap();
    let named = |name: &str| classes.iter().find(|it| it["Name"] == name).unwrap();
    let critical = named("critical");
    assert_eq!(critical["Number"], 1);
    assert_eq!(critical["Deadline"], 0.5);
    assert_eq!(critical["Completion"], 0.9);
    assert_eq!(named("batch")["Utility"], 0.01);
    assert_eq!(named("batch")["Deadline"], Value::Null);
    assert_eq!(named("default")["Utility"], 1.0);
}
