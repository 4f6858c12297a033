//! Calls that go to the cloud: an edge node and a cloud's, real processes, with a real etcd.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::support::etcd::{member, sees};
use crate::support::function::{Function, echo};
use crate::support::http::{self, Response};
use crate::support::node::Builder;
use crate::support::server::{Answer, serve};
use crate::support::{Etcd, Node, etcd, eventually, python};

/// What another implementation recorded.
const RECORDED: &str = include_str!("data/node-to-node.jsonl");

/// A node in the area `EDGE` whose cloud is the area `CLOUD`.
fn edge(etcd: &Etcd, policy: &str) -> Builder {
    member(etcd, "edge", "EDGE")
        .set("registry.remote.area", "CLOUD")
        .set("scheduler.policy", policy)
}

fn cloud(etcd: &Etcd) -> Builder {
    member(etcd, "cloud", "CLOUD")
}

/// Calls `name`, which may run elsewhere.
#[track_caller]
fn call(node: &Node, name: &str, params: Value) -> Response {
    let request = json!({ "Params": params, "CanDoOffloading": true });
    node.post(&format!("/invoke/{name}"), &request)
}

#[track_caller]
fn ran_at(reply: &Response) -> String {
    assert_eq!(reply.status, 200, "{}", reply.shown());
    reply.json()["ExecutionNode"].as_str().unwrap().to_owned()
}

/// Larger than what [`small`] nodes have.
fn large(name: &str) -> Function {
    echo(name).memory(512)
}

/// Has room for one of our functions, which is too little for a [`large`] one.
fn small(builder: Builder) -> Builder {
    builder.memory(160).set("sandbox.prestart", 0)
}

#[test]
fn edgecloud_sends_what_has_no_room_here_to_the_cloud() {
    let etcd = etcd();
    let cloud = cloud(&etcd).start();
    let edge = small(edge(&etcd, "edgecloud")).start();
    sees(&edge, 2);
    edge.create(&echo("fits"));
    edge.create(&large("large"));

    let here = call(&edge, "fits", json!({}));
    assert_eq!(ran_at(&here), "edge");
    assert_eq!(here.json()["OffloadLatency"], 0.0);

    let there = call(&edge, "large", json!({ "n": 1 }));
    assert_eq!(ran_at(&there), "cloud");
    assert_eq!(there.result(), json!({ "n": 1 }));
    let report = there.json();
    assert_eq!(report["ExecutionArea"], "CLOUD");
    let seconds = |field: &str| report[field].as_f64().unwrap();
    assert!(seconds("OffloadLatency") > 0.0, "{report}");
    assert!(
        seconds("ResponseTime") >= seconds("OffloadLatency") + seconds("Duration"),
        "{report}"
    );
    assert_eq!(there.header("serverledge-node-name"), Some("edge"));
    let why = there.header("serverledge-decision").unwrap();
    assert!(why.starts_with("policy edgecloud; here: "), "{why}");

    // Only with its caller's leave.
    let refused = edge.invoke("large", json!({})).expect(429);
    refused.problem(&["edgecloud", "not allowed"]);
    assert_eq!(cloud.warm("large"), 1);
}

#[test]
fn an_overloaded_edge_refuses_nothing_while_the_cloud_has_room() {
    let etcd = etcd();
    let cloud = cloud(&etcd).cpus(64.0).memory(4096).start();
    let edge = small(edge(&etcd, "edgecloud")).start();
    sees(&edge, 2);
    let source = "import time\ndef handler(params, context):\n    time.sleep(0.3)\n    return 1\n";
    edge.create(&python("slow", source));
    eventually("the cloud to know it", || {
        cloud.functions().contains(&"slow".to_owned()).then_some(())
    });
    // Warm here, so that the first calls don't wait for a start by choice.
    edge.invoke("slow", json!({})).expect(200);
    let nodes: Vec<String> = std::thread::scope(|scope| {
        let calls = (0..12).map(|_| scope.spawn(|| ran_at(&call(&edge, "slow", json!({})))));
        let calls: Vec<_> = calls.collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(nodes.iter().any(|node| node == "edge"), "{nodes:?}");
    drop(cloud);
}

#[test]
fn cloudonly_never_runs_here_unless_it_may_fall_back() {
    let etcd = etcd();
    let cloud = cloud(&etcd).start();
    let strict = edge(&etcd, "cloudonly").start();
    let lenient = edge(&etcd, "cloudonly")
        .set("registry.node.id", "lenient")
        .set("scheduler.fallback.local", true)
        .start();
    sees(&strict, 3);
    sees(&lenient, 3);
    cloud.create(&echo("echo"));
    assert_eq!(ran_at(&call(&strict, "echo", json!({}))), "cloud");
    assert_eq!(ran_at(&call(&lenient, "echo", json!({}))), "cloud");
    strict.invoke("echo", json!({})).expect(429);

    // Killed, so that the registry has it still.
    let cloud = cloud.kill9();
    let refused = call(&strict, "echo", json!({})).expect(429);
    refused.problem(&["cloud: can't be reached"]);
    let fallen = call(&lenient, "echo", json!({}));
    assert_eq!(ran_at(&fallen), "lenient");
    let why = fallen.header("serverledge-decision").unwrap();
    assert!(why.contains("cloud: can't be reached"), "{why}");

    // It is used again by itself.
    let _cloud = cloud.start();
    eventually("the cloud to be used again", || {
        let reply = call(&strict, "echo", json!({}));
        (reply.status == 200).then_some(())
    });
}

#[test]
fn the_result_of_an_offloaded_async_call_is_where_it_was_asked_for() {
    let etcd = etcd();
    let _cloud = cloud(&etcd).start();
    let edge = edge(&etcd, "cloudonly").start();
    sees(&edge, 2);
    edge.create(&echo("echo"));
    let request = json!({ "Params": { "n": 1 }, "CanDoOffloading": true, "Async": true });
    let reply = edge.post("/invoke/echo", &request).expect(200);
    let id = reply.field("ReqId").as_str().unwrap().to_owned();
    let result = edge.poll(&id);
    assert_eq!(ran_at(&result), "cloud");
    assert_eq!(result.result(), json!({ "n": 1 }));
}

#[test]
fn what_a_function_did_elsewhere_is_told_here() {
    let etcd = etcd();
    let _cloud = cloud(&etcd).start();
    let edge = edge(&etcd, "cloudonly").start();
    sees(&edge, 2);
    edge.create(&python(
        "boom",
        "def handler(params, context):\n    raise ValueError('boom!')\n",
    ));
    let failed = call(&edge, "boom", json!({})).expect(500);
    let problem = failed.problem(&["node cloud", "boom!"]);
    assert!(
        problem["stack"].as_str().unwrap().contains("f.py"),
        "{problem}"
    );

    // The call has one identity on both nodes.
    edge.create(&python(
        "id",
        "def handler(params, context):\n    return context.request_id\n",
    ));
    let id = call(&edge, "id", json!({}));
    let id = id.result();
    assert!(id.as_str().unwrap().starts_with("id-"), "{id}");
    assert!(id.as_str().unwrap().contains("edge"), "{id}");
}

#[test]
fn a_call_that_may_run_twice_is_tried_elsewhere_when_a_node_breaks_off() {
    let etcd = etcd();
    // Takes the call, and goes away with it.
    let breaks = serve(|_| Answer::Raw(Vec::new()));
    let entry = format!("127.0.0.1;{};1;amd64", breaks.port());
    etcd.put("registry/CLOUD/amd64/breaks", &entry);
    let edge = edge(&etcd, "cloudonly")
        .set("scheduler.fallback.local", true)
        .start();
    sees(&edge, 2);
    edge.create(&echo("echo"));
    let request = json!({ "Params": { "n": 1 }, "CanDoOffloading": true }).to_string();
    let call = |headers: &[(&str, &str)]| {
        let body = request.as_bytes();
        http::request(edge.address, "POST", "/invoke/echo", headers, body).unwrap()
    };
    let lost = call(&[]).expect(502);
    lost.problem(&["breaks"]);
    let retried = call(&[("Idempotency-Key", "\"1\"")]);
    assert_eq!(ran_at(&retried), "edge");
    let why = retried.header("serverledge-decision").unwrap();
    assert!(why.contains("breaks: doesn't answer any more"), "{why}");
}

#[test]
fn a_call_makes_one_hop() {
    let etcd = etcd();
    // Each is the other's cloud, and none runs anything itself.
    let a = member(&etcd, "a", "EDGE").set("registry.remote.area", "CLOUD");
    let a = a.set("scheduler.policy", "cloudonly").start();
    let b = member(&etcd, "b", "CLOUD").set("registry.remote.area", "EDGE");
    let b = b.set("scheduler.policy", "cloudonly").start();
    sees(&a, 2);
    sees(&b, 2);
    a.create(&echo("echo"));
    let refused = call(&a, "echo", json!({})).expect(429);
    refused.problem(&["b: has no room"]);
}

/// A member of the cloud that answers one request as another implementation did, and tells what it
/// has got: head and body.
fn recorded_peer(etcd: &Etcd) -> JoinHandle<(String, String)> {
    let answer = recorded()["peer_answered"].as_str().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let entry = format!("127.0.0.1;{port};9996;amd64");
    etcd.put("registry/CLOUD/amd64/peer", &entry);
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let bytes = answer.len();
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{answer}");
        reader.get_mut().write_all(reply.as_bytes()).unwrap();
        (head, String::from_utf8(body).unwrap())
    })
}

fn recorded() -> Value {
    serde_json::from_str(RECORDED.lines().next().unwrap()).unwrap()
}

#[test]
fn the_originals_nodes_get_what_they_know() {
    let etcd = etcd();
    let peer = recorded_peer(&etcd);
    let edge = edge(&etcd, "cloudonly").start();
    sees(&edge, 2);
    edge.create(&echo("off"));
    let request = json!({
        "Params": { "n": 1 }, "CanDoOffloading": true, "ReturnOutput": true, "QoSClass": 0,
    });
    let reply = edge.post("/invoke/off", &request).expect(200).json();
    let (head, body) = peer.join().unwrap();
    assert!(head.starts_with("POST /invoke/off HTTP/1.1\r\n"), "{head}");
    // The recorded call wanted an answer within 1.5 s, of which some have passed when it is sent.
    let recorded = recorded();
    let expected = recorded["peer_received"][0]["body"].as_str().unwrap();
    assert_eq!(body, expected.replace("1.5", "0"));
    assert_eq!(reply["ExecutionNode"], "peer");
    assert_eq!(reply["Result"], "42");
    // 6 ms, says the peer, who answered at once.
    assert!(
        reply["OffloadLatency"].as_f64().unwrap() > -0.006,
        "{reply}"
    );
}

#[test]
fn the_trace_goes_along_with_an_async_call_too() {
    let etcd = etcd();
    let peer = recorded_peer(&etcd);
    let edge = edge(&etcd, "cloudonly").start();
    sees(&edge, 2);
    edge.create(&echo("off"));
    let request = json!({ "Params": {}, "CanDoOffloading": true, "Async": true }).to_string();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("traceparent", trace),
        ("tracestate", "a=1"),
        ("x-mine", "1"),
    ];
    let body = request.as_bytes();
    let accepted = http::request(edge.address, "POST", "/invoke/off", &headers, body).unwrap();
    accepted.expect(200);
    let (head, _) = peer.join().unwrap();
    assert!(
        head.contains(&format!("traceparent: {trace}\r\n")),
        "{head}"
    );
    assert!(head.contains("tracestate: a=1\r\n"), "{head}");
    assert!(!head.contains("x-mine"), "{head}");
}
