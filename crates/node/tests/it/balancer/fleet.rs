//! Real nodes behind a balancer: registered in a real etcd, or in its configuration only.

use std::time::Duration;

use serde_json::{Value, json};

use super::targets;
use crate::support::etcd::seen_by;
use crate::support::function::echo;
use crate::support::node::Builder;
use crate::support::{Etcd, Node, balancer, etcd, eventually, node, python};

fn member(etcd: &Etcd, key: &str, area: &str) -> Builder {
    etcd::member(etcd, key, area).set("sandbox.prestart", 0)
}

fn front(etcd: &Etcd) -> Builder {
    balancer()
        .set("etcd.address", etcd.address())
        .set("registry.node.id", "front")
}

/// Waits until the balancer has these targets, and they are well.
#[track_caller]
fn has(balancer: &Node, keys: &[&str]) {
    eventually(&format!("the targets to be {keys:?}"), || {
        let all = targets(balancer);
        let known: Vec<&str> = all.iter().filter_map(|it| it["Key"].as_str()).collect();
        let told = all.iter().all(|it| it["FreeMemory"].is_number());
        (known == keys && told).then_some(())
    });
}

fn alone(key: &str) -> Builder {
    node()
        .set("registry.node.id", key)
        .set("sandbox.prestart", 0)
}

fn in_front_of(nodes: &[&Node]) -> Builder {
    let addresses: Vec<String> = nodes.iter().map(|it| it.address.to_string()).collect();
    balancer().set("lb.targets", addresses.join(","))
}

#[track_caller]
fn ran_at(node: &Node, name: &str) -> String {
    let reply = node.invoke(name, json!({})).expect(200);
    reply.field("ExecutionNode").as_str().unwrap().to_owned()
}

#[test]
fn the_nodes_of_its_area_are_its_targets() {
    let etcd = etcd();
    let lb = front(&etcd).start();
    lb.invoke("echo", json!({})).expect(503);
    let a = member(&etcd, "a", "ROME").start();
    let _elsewhere = member(&etcd, "x", "MILAN").start();
    has(&lb, &["a"]);
    let b = member(&etcd, "b", "ROME").start();
    has(&lb, &["a", "b"]);

    // Whom nodes send to is told them, as the original writes it.
    let entries = etcd.entries("registry/ROME/__lb/");
    let [(key, value, leased)] = &entries[..] else {
        panic!("{entries:?}");
    };
    let port = lb.address.port();
    assert!(
        key.starts_with("registry/ROME/__lb/") && key.ends_with("/front"),
        "{key}"
    );
    assert!(value.starts_with(&format!("127.0.0.1;{port};")), "{value}");
    assert!(leased);
    eventually("nodes to see it", || {
        seen_by(&a).contains(&"front".to_owned()).then_some(())
    });

    // One creates, all know; calls of one function stay together.
    lb.create(&echo("echo"));
    for node in [&a, &b] {
        eventually("both to know it", || {
            node.functions().contains(&"echo".to_owned()).then_some(())
        });
    }
    let first = ran_at(&lb, "echo");
    for _ in 0..5 {
        assert_eq!(ran_at(&lb, "echo"), first);
    }

    // One is killed: whoever is left serves, from the first call on.
    let (killed, left) = match first.as_str() {
        "a" => (a, "b"),
        _ => (b, "a"),
    };
    let builder = killed.kill9();
    for _ in 0..5 {
        assert_eq!(ran_at(&lb, "echo"), left);
    }
    eventually("the killed one to be out", || {
        let all = targets(&lb);
        let is_in = |it: &&Value| it["Key"] == first.as_str() && it["Health"] == "in";
        all.iter().find(is_in).is_none().then_some(())
    });
    let _back = builder.start();
    eventually("the node to be back", || {
        let all = targets(&lb);
        let it = all.iter().find(|it| it["Key"] == first.as_str())?;
        (it["Health"] != "ejected").then_some(())
    });
    let (status, _) = lb.stop();
    assert!(status.success());
    assert_eq!(etcd.entries("registry/ROME/__lb/"), []);
}

#[test]
fn results_are_found_through_it_whoever_ran_the_call() {
    let etcd = etcd();
    let nodes = ["a", "b"].map(|key| member(&etcd, key, "ROME").start());
    let lb = front(&etcd).set("lb.policy", "roundrobin").start();
    has(&lb, &["a", "b"]);
    lb.create(&echo("echo"));
    for node in &nodes {
        eventually("both to know it", || {
            node.functions().contains(&"echo".to_owned()).then_some(())
        });
    }
    let mut ran: Vec<Value> = Vec::new();
    for number in 0..4 {
        let id = lb.invoke_async("echo", json!({ "n": number }));
        let result = lb.poll(&id);
        assert_eq!(result.result(), json!({ "n": number }));
        ran.push(result.field("ExecutionNode"));
        // Another balancer, which has not seen the call, finds it too.
        let other = front(&etcd).set("registry.node.id", "other");
        if number == 0 {
            assert_eq!(other.start().poll(&id).result(), json!({ "n": 0 }));
        }
    }
    assert!(
        ran.contains(&json!("a")) && ran.contains(&json!("b")),
        "{ran:?}"
    );
    assert_eq!(lb.get("/poll/nothing-1").status, 404);
}

#[test]
fn without_etcd_changes_reach_all_and_results_are_found() {
    let [a, b] = ["a", "b"].map(|key| alone(key).start());
    let lb = in_front_of(&[&a, &b])
        .set("lb.policy", "roundrobin")
        .start();
    lb.create(&echo("echo"));
    lb.post("/create", &echo("echo").body()).expect(409);
    for node in [&a, &b, &lb] {
        assert_eq!(node.functions(), ["echo"]);
    }
    lb.update(&python(
        "echo",
        "def handler(params, context):\n    return 'new'\n",
    ));
    for node in [&a, &b] {
        assert_eq!(node.invoke("echo", json!({})).result(), "new");
    }

    let ids: Vec<String> = (0..4).map(|_| lb.invoke_async("echo", json!({}))).collect();
    for id in &ids {
        assert_eq!(lb.poll(id).result(), "new");
    }
    // One that has just started remembers nothing, and asks.
    let other = in_front_of(&[&a, &b]).start();
    for id in &ids {
        assert_eq!(other.poll(id).result(), "new");
    }
    assert_eq!(other.get("/poll/nothing-1").status, 404);

    // A change that misses a node says so.
    let killed = b.kill9();
    let missed = lb.post("/create", &echo("second").body()).expect(502);
    missed.problem(&["not on"]);
    assert_eq!(a.functions(), ["echo", "second"]);
    drop(killed);
    lb.post("/delete", &json!({ "Name": "second" })).expect(502);
    assert_eq!(a.functions(), ["echo"]);
    drop(a);
    let nowhere = lb.post("/create", &echo("third").body()).expect(503);
    nowhere.problem(&["any node"]);
}

#[test]
fn a_node_that_stops_takes_no_call_with_it() {
    let etcd = etcd();
    let nodes = ["a", "b"].map(|key| member(&etcd, key, "ROME").cpus(8.0).start());
    let lb = front(&etcd).start();
    has(&lb, &["a", "b"]);
    lb.create(&python(
        "slow",
        "import time\ndef handler(params, context):\n    time.sleep(0.05)\n    return 1\n",
    ));
    for node in &nodes {
        eventually("both to know it", || {
            node.functions().contains(&"slow".to_owned()).then_some(())
        });
        node.invoke("slow", json!({})).expect(200);
    }
    let [a, b] = nodes;
    let over = std::sync::atomic::AtomicBool::new(false);
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    while !over.load(std::sync::atomic::Ordering::SeqCst) {
                        answers.push(lb.invoke("slow", json!({})).status);
                    }
                    answers
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let (status, _) = a.stop();
        assert!(status.success());
        has(&lb, &["b"]);
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        callers
            .into_iter()
            .flat_map(|it| it.join().unwrap())
            .collect()
    });
    // While it drains it refuses new calls, and says that it does. A call that crosses with the end of
    // a connection, at most one on each, is not made again: whether it ran can't be told.
    let odd = answers.iter().filter(|it| !matches!(it, 200 | 502 | 503));
    assert_eq!(odd.count(), 0, "{answers:?}");
    let crossed = answers.iter().filter(|it| **it == 502).count();
    assert!(crossed <= 3, "{answers:?}");
    lb.invoke("slow", json!({})).expect(200);
    drop(b);
}

#[test]
fn it_serves_what_it_knows_while_etcd_is_away() {
    let mut etcd = etcd();
    let _a = member(&etcd, "a", "ROME").start();
    let lb = front(&etcd).start();
    has(&lb, &["a"]);
    lb.create(&echo("echo"));
    etcd.kill();
    for _ in 0..3 {
        assert_eq!(ran_at(&lb, "echo"), "a");
    }
    etcd.start();
    let _b = member(&etcd, "b", "ROME").start();
    has(&lb, &["a", "b"]);
}

#[test]
fn a_node_in_the_edge_sends_to_the_balancer_of_its_cloud() {
    let etcd = etcd();
    let _cloud = member(&etcd, "cloud", "CLOUD").start();
    let lb = front(&etcd).set("registry.area", "CLOUD").start();
    has(&lb, &["cloud"]);
    let edge = member(&etcd, "edge", "EDGE")
        .set("registry.remote.area", "CLOUD")
        .set("scheduler.policy", "cloudonly")
        .start();
    edge.create(&echo("echo"));
    eventually("the edge to see the balancer", || {
        seen_by(&edge).contains(&"front".to_owned()).then_some(())
    });
    let request = json!({ "Params": { "n": 1 }, "CanDoOffloading": true });
    eventually("the call to run in the cloud", || {
        let reply = edge.post("/invoke/echo", &request);
        (reply.status == 200 && reply.field("ExecutionNode") == "cloud").then_some(())
    });
    let line = "serverledge_lb_requests_total{target=\"cloud\",outcome=\"ok\"}";
    assert!(super::metric(&lb, line).unwrap_or_default() >= 1.0);
}

#[test]
fn without_targets_it_does_not_start() {
    let output = std::process::Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_serverledge"), "lb"])
        .env("SERVERLEDGE_API_PORT", "0")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(
        words.contains("lb.targets") && words.contains("etcd.address"),
        "{words}"
    );
}
