//! Fleets without a registry: nodes that tell each other who is there, and functions that go along
//! with calls. Real processes on the loopback.

use std::net::UdpSocket;

use serde_json::{Value, json};

use crate::support::etcd::{seen_by, sees};
use crate::support::function::{Function, echo};
use crate::support::http::{self, Response};
use crate::support::node::Builder;
use crate::support::{Node, balancer, eventually, node, python};

const SECRET: &str = "the secret of one fleet";

/// Nobody is there.
const NOBODY: &str = "127.0.0.1:9";

/// A node that knows of some peers.
fn member(key: &str, area: &str, peers: &str) -> Builder {
    node()
        .set("federation.peers", peers)
        .set("registry.node.id", key)
        .set("registry.area", area)
        .set("registry.udp.port", 0)
        .set("sandbox.prestart", 0)
}

/// The same, in the cloud.
fn cloud(peers: &str) -> Builder {
    member("cloud", "CLOUD", peers)
}

/// A node whose calls all go to the cloud.
fn edge(key: &str, peers: &str) -> Builder {
    member(key, "EDGE", peers)
        .set("registry.remote.area", "CLOUD")
        .set("scheduler.policy", "cloudonly")
}

/// How `node` sees the member `key`.
#[track_caller]
fn seen(node: &Node, key: &str) -> Option<Value> {
    let nodes = node.get("/v1/nodes").expect(200).json();
    let all = nodes.as_array().cloned().unwrap_or_default();
    all.into_iter().find(|it| it["Key"] == key)
}

/// Where others find the node: the port that it got.
#[track_caller]
fn place(node: &Node, key: &str) -> String {
    eventually("the node's own entry", || {
        let port = seen(node, key)?["StatusPort"].as_u64()?;
        Some(format!("127.0.0.1:{port}"))
    })
}

#[track_caller]
fn call(node: &Node, name: &str, params: Value) -> Response {
    let request = json!({ "Params": params, "CanDoOffloading": true });
    node.post(&format!("/invoke/{name}"), &request)
}

/// Calls until it runs: the other node's address may have been heard of a moment ago.
#[track_caller]
fn runs_at(node: &Node, name: &str, at: &str) -> Value {
    let reply = call(node, name, json!({})).expect(200);
    assert_eq!(reply.json()["ExecutionNode"], at, "{}", reply.shown());
    reply.result()
}

fn answers(name: &str, answer: i64) -> Function {
    python(
        name,
        &format!("def handler(params, context):\n    return {answer}\n"),
    )
}

fn copies(node: &Node) -> Vec<Value> {
    let copies = node.get("/v1/copies").expect(200).json();
    copies.as_array().cloned().unwrap()
}

#[test]
fn nodes_find_each_other_by_any_one_and_lose_who_is_gone() {
    let a = member("a", "EDGE", NOBODY).start();
    let b = member("b", "EDGE", &format!("{NOBODY},{}", place(&a, "a"))).start();
    // By a name, which has several addresses on some machines.
    let by_name = place(&b, "b").replace("127.0.0.1", "localhost");
    let c = member("c", "EDGE", &by_name).start();
    for node in [&a, &b, &c] {
        sees(node, 3);
    }
    let entry = seen(&a, "c").unwrap();
    assert_eq!(entry["Address"], c.address.to_string());
    assert_eq!(entry["Area"], "EDGE");
    eventually("it to be heard", || {
        (seen(&a, "c")?["Health"] == "alive").then_some(())
    });

    // One that dies, and is back with another address under its name.
    let c = c.kill9();
    for node in [&a, &b] {
        sees(node, 2);
    }
    let c = c.start();
    for node in [&a, &b, &c] {
        eventually("the new address", || {
            (seen(node, "c")?["Address"] == c.address.to_string()).then_some(())
        });
    }
    // One that dies and is back at once.
    let c = c.kill9().start();
    for node in [&a, &b, &c] {
        eventually("the new address", || {
            (seen(node, "c")?["Address"] == c.address.to_string()).then_some(())
        });
        sees(node, 3);
    }
    // One that leaves.
    let (status, _) = b.stop();
    assert!(status.success());
    for node in [&a, &c] {
        sees(node, 2);
        assert_eq!(seen_by(node), ["a", "c"]);
    }
}

#[test]
fn a_function_goes_along_with_its_call() {
    let cloud = cloud(NOBODY).start();
    let edge = edge("edge", &place(&cloud, "cloud")).start();
    sees(&edge, 2);
    sees(&cloud, 2);
    edge.create(&answers("f", 1));
    assert_eq!(runs_at(&edge, "f", "cloud"), json!(1));
    assert_eq!(runs_at(&edge, "f", "cloud"), json!(1));
    // It is not the cloud's own.
    assert_eq!(cloud.functions(), [""; 0]);
    cloud.invoke("f", json!({})).expect(404);
    let [copy] = &copies(&cloud)[..] else {
        panic!("{:?}", copies(&cloud));
    };
    assert_eq!(copy["Name"], "f");
    assert_eq!(copy["Origin"], "edge");
    assert_eq!(cloud.warm("f"), 1);

    // An update is another function, which takes the place of the former.
    edge.update(&answers("f", 2));
    assert_eq!(runs_at(&edge, "f", "cloud"), json!(2));
    let [updated] = &copies(&cloud)[..] else {
        panic!("{:?}", copies(&cloud));
    };
    assert_ne!(updated["Revision"], copy["Revision"]);

    // Also with much code, and from what was accepted to be run later.
    let noise: String = (0..3_000_000_u32)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26))
        .collect();
    edge.create(&answers("large", 3).file("noise.txt", &noise));
    assert_eq!(runs_at(&edge, "large", "cloud"), json!(3));
    let request = json!({ "Params": {}, "CanDoOffloading": true, "Async": true });
    let accepted = edge.post("/invoke/f", &request).expect(200);
    let result = edge.poll(accepted.field("ReqId").as_str().unwrap());
    assert_eq!(result.json()["ExecutionNode"], "cloud");
    assert_eq!(result.result(), json!(2));

    // A cloud that starts anew, where nobody would look for it, gets them anew.
    let cloud = cloud.kill9().set("federation.peers", place(&edge, "edge"));
    let cloud = cloud.start();
    eventually("the cloud to be used again", || {
        (call(&edge, "f", json!({})).status == 200).then_some(())
    });
    assert_eq!(copies(&cloud).len(), 1);
}

#[test]
fn what_runs_is_what_the_caller_means() {
    let cloud = cloud(NOBODY).start();
    let one = edge("one", &place(&cloud, "cloud")).start();
    let two = edge("two", &place(&cloud, "cloud")).start();
    for node in [&cloud, &one, &two] {
        sees(node, 3);
    }
    // One name, three functions.
    one.create(&answers("f", 1));
    two.create(&answers("f", 2));
    cloud.create(&answers("f", 3));
    for _ in 0..2 {
        assert_eq!(runs_at(&one, "f", "cloud"), json!(1));
        assert_eq!(runs_at(&two, "f", "cloud"), json!(2));
        assert_eq!(cloud.invoke("f", json!({})).expect(200).result(), json!(3));
    }
    assert_eq!(copies(&cloud).len(), 2);
    // A deletion there is none here.
    cloud.post("/delete", &json!({ "Name": "f" })).expect(200);
    assert_eq!(runs_at(&one, "f", "cloud"), json!(1));
    cloud.invoke("f", json!({})).expect(404);
    // What is the same everywhere is copied nowhere.
    one.create(&echo("same"));
    cloud.create(&echo("same"));
    assert_eq!(runs_at(&one, "same", "cloud"), json!({}));
    assert!(!copies(&cloud).iter().any(|it| it["Name"] == "same"));
}

#[test]
fn many_calls_of_what_is_unknown_copy_it_once() {
    let cloud = cloud(NOBODY).cpus(16.0).memory(4096).start();
    let edge = edge("edge", &place(&cloud, "cloud")).start();
    sees(&edge, 2);
    sees(&cloud, 2);
    edge.create(&answers("f", 1).memory(64));
    std::thread::scope(|scope| {
        let calls = (0..8).map(|_| scope.spawn(|| runs_at(&edge, "f", "cloud")));
        let calls: Vec<_> = calls.collect();
        for call in calls {
            assert_eq!(call.join().unwrap(), json!(1));
        }
    });
    assert_eq!(cloud.log().matches("a function was copied").count(), 1);
}

/// A call as if from a node.
fn sent_on(node: &Node, name: &str, function: &str) -> Response {
    let path = format!("/invoke/{name}");
    let headers = [
        ("Serverledge-Hops", "1"),
        ("Serverledge-Function", function),
    ];
    http::request(node.address, "POST", &path, &headers, b"{}").unwrap()
}

#[test]
fn only_members_are_asked_and_only_what_is_meant_is_run() {
    let cloud = cloud(NOBODY).start();
    let edge = edge("edge", &place(&cloud, "cloud")).start();
    sees(&cloud, 2);
    sees(&edge, 2);
    cloud.create(&answers("f", 3));
    edge.create(&answers("f", 1));
    assert_eq!(runs_at(&edge, "f", "cloud"), json!(1));
    let known = copies(&cloud)[0]["Revision"].as_str().unwrap().to_owned();
    let other = "0".repeat(64);
    let id = |path: &str| {
        use sha2::Digest as _;
        hex::encode(&sha2::Sha256::digest(path)[..16])
    };
    let architecture = seen(&edge, "edge").unwrap()["Architecture"].clone();
    let path = format!("registry/EDGE/{}/edge", architecture.as_str().unwrap());
    // A node that nobody knows; this node itself; one that hasn't got it.
    let cases = [
        (id("registry/EDGE/amd64/nobody"), "isn't known here"),
        (
            id(&path.replace("EDGE", "CLOUD").replace("/edge", "/cloud")),
            "isn't known here",
        ),
        (id(&path), "no such function"),
    ];
    for (digit, (origin, why)) in cases.into_iter().enumerate() {
        // Failures are remembered for a while: each of its own.
        let unknown = other.replacen('0', &digit.to_string(), 1);
        let refused = sent_on(&cloud, "f", &format!("{unknown}.{origin}")).expect(404);
        refused.problem(&[why]);
    }
    // Under another name, it is not what was meant.
    cloud.create(&answers("g", 4));
    let fresh = answers("h", 5);
    edge.create(&fresh);
    let meant = format!("{known}.{}", id(&path));
    assert_eq!(sent_on(&cloud, "f", &meant).expect(200).result(), json!(1));
    sent_on(&cloud, "g", &meant).expect(404);
    // What can't be read is as if it weren't there.
    for odd in ["", "x.y", "http://127.0.0.1:1/", &known] {
        assert_eq!(sent_on(&cloud, "f", odd).expect(200).result(), json!(3));
    }
    // Who isn't one's peer is told nothing of what there isn't.
    edge.get(&format!("/v1/function/{known}")).expect(200);
    edge.get(&format!("/v1/function/{other}")).expect(404);
    edge.get("/v1/function/..").expect(404);
}

#[test]
fn with_a_secret_only_who_has_it_is_in_the_fleet() {
    let secret = |builder: Builder| builder.set("federation.secret", SECRET);
    let cloud = secret(cloud(NOBODY)).start();
    let at = place(&cloud, "cloud");
    let edge = secret(edge("edge", &at)).start();
    let stranger = member("stranger", "EDGE", &at)
        .set("federation.secret", "what somebody guessed")
        .start();
    let plain = member("plain", "EDGE", &at).start();
    sees(&edge, 2);
    sees(&cloud, 2);
    edge.create(&answers("f", 1));
    assert_eq!(runs_at(&edge, "f", "cloud"), json!(1));

    // Noise at both ports, as long as calls are made: no entry, no loss.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let targets = [at.clone(), place(&edge, "edge")];
    for round in 0..20_000_u32 {
        let mut noise = b"SLG1".to_vec();
        noise.extend((0..round % 1200).map(|n| (n ^ round) as u8));
        socket
            .send_to(&noise, &targets[round as usize % 2])
            .unwrap();
        if round % 5_000 == 0 {
            assert_eq!(runs_at(&edge, "f", "cloud"), json!(1));
        }
    }
    assert_eq!(seen_by(&cloud), ["cloud", "edge"]);
    assert_eq!(seen_by(&edge), ["cloud", "edge"]);
    assert_eq!(seen_by(&stranger), ["stranger"]);
    assert_eq!(seen_by(&plain), ["plain"]);

    // Who can't sign is no node: it gets no function, and what it says of one is not believed.
    let revision = copies(&cloud)[0]["Revision"].as_str().unwrap().to_owned();
    edge.get(&format!("/v1/function/{revision}")).expect(403);
    sent_on(&cloud, "f", &format!("{revision}.{}", "0".repeat(32))).expect(404);
}

#[test]
fn workflows_stay_where_they_are_and_their_functions_may_go() {
    let cloud = cloud(NOBODY).start();
    let edge = edge("edge", &place(&cloud, "cloud"))
        .set("workflow.always_save_progress", true)
        .start();
    sees(&edge, 2);
    sees(&cloud, 2);
    edge.create(&answers("f", 1));
    let definition = json!({ "StartAt": "A", "States": {
        "A": { "Type": "Task", "Resource": "f", "End": true },
    }});
    let workflow = json!({
        "Name": "w", "ASLSrc": base64_of(&definition.to_string()),
    });
    edge.post("/workflow/create", &workflow).expect(200);
    let run = json!({ "Params": {}, "CanDoOffloading": true });
    let ran = edge.post("/workflow/invoke/w", &run).expect(200);
    assert_eq!(ran.json()["Success"], true, "{}", ran.shown());
    assert_eq!(copies(&cloud).len(), 1, "its function ran there");
    // There is nothing to be resumed, and that is said.
    let resume = json!({ "ReqId": "nobody-1", "Params": {} });
    let refused = edge.post("/workflow/resume/w", &resume);
    assert_ne!(refused.status, 200);
    assert!(refused.text().contains("nobody-1") || refused.text().contains("etcd"));
}

#[test]
fn a_balancer_gossips_too_and_functions_go_through_it() {
    let secret = |builder: Builder| builder.set("federation.secret", SECRET);
    let one = secret(cloud(NOBODY).set("registry.node.id", "one")).start();
    let at = place(&one, "one");
    let two = secret(cloud(&at).set("registry.node.id", "two")).start();
    let balancer = secret(balancer())
        .set("federation.peers", &at)
        .set("registry.area", "CLOUD")
        .set("registry.node.id", "balancer")
        .set("registry.udp.port", 0)
        .start();
    let edge = secret(edge("edge", &at)).start();
    for node in [&one, &two, &edge] {
        sees(node, 4);
    }
    assert_eq!(seen(&edge, "balancer").unwrap()["IsBalancer"], true);
    // A change goes to all of its nodes, and a call to one.
    eventually("the balancer to know its nodes", || {
        let reply = balancer.post("/update", &answers("f", 3).body());
        let known = [&one, &two].map(|node| node.functions() == ["f"]);
        (reply.status == 200 && known == [true, true]).then_some(())
    });
    let reply = balancer.invoke("f", json!({})).expect(200);
    assert_eq!(reply.result(), json!(3));
    // A call of the edge's own function goes there first, and is the edge's wherever it runs.
    edge.create(&answers("f", 1));
    let reply = call(&edge, "f", json!({})).expect(200);
    assert_eq!(reply.result(), json!(1));
    let why = reply.header("serverledge-decision").unwrap();
    assert!(why.contains("balancer: chosen"), "{why}");
    assert_eq!(copies(&one).len() + copies(&two).len(), 1);

    // One that is gone is a target no more.
    drop(two.kill9());
    for _ in 0..4 {
        eventually("an answer", || {
            let reply = balancer.invoke("f", json!({}));
            (reply.status == 200).then_some(())
        });
    }
    sees(&edge, 3);
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
