//! How nodes know each other's status by datagrams, and where `edgeonly` sends calls by it. Real
//! nodes, a real etcd, and peers that speak as the original's nodes were recorded to.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::function::echo;
use crate::support::http::Response;
use crate::support::node::Builder;
use crate::support::{Etcd, Node, etcd, eventually, node};

/// What the original's nodes answer.
const RECORDED: &str = include_str!("data/udp-status.json");

fn member(etcd: &Etcd, key: &str) -> Builder {
    node()
        .set("etcd.address", etcd.address())
        .set("registry.node.id", key)
        .set("registry.udp.port", 0)
        .set("sandbox.prestart", 0)
}

/// What `node` knows of the member `key`.
#[track_caller]
fn known(node: &Node, key: &str) -> Value {
    let nodes = node.get("/v1/nodes").expect(200).json();
    let all = nodes.as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|it| it["Key"] == key);
    found.unwrap_or_default()
}

#[track_caller]
fn becomes(node: &Node, key: &str, health: &str) -> Value {
    eventually(&format!("{key} to be {health}"), || {
        let known = known(node, key);
        (known["Health"] == health).then_some(known)
    })
}

fn call(node: &Node, name: &str) -> Response {
    let request = json!({ "Params": { "n": 1 }, "CanDoOffloading": true });
    node.post(&format!("/invoke/{name}"), &request)
}

fn decision(reply: &Response) -> String {
    let header = reply.header("serverledge-decision");
    header.unwrap_or_default().to_owned()
}

/// Calls until one runs at the node `key`, which may have to be heard of first.
#[track_caller]
fn runs_at(node: &Node, name: &str, key: &str) -> Response {
    eventually(&format!("{name} to run at {key}"), || {
        let reply = call(node, name);
        let is_there = reply.status == 200 && reply.json()["ExecutionNode"] == key;
        is_there.then_some(reply)
    })
}

/// A node of the original, as far as its status goes: it checks what it is asked and answers what
/// was recorded, until it is told to be silent.
struct Peer {
    port: u16,
    is_silent: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(answer: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let port = socket.local_addr().unwrap().port();
        let is_silent = Arc::new(AtomicBool::new(false));
        let end = Arc::new(AtomicBool::new(false));
        let (silent, ended, answer) = (Arc::clone(&is_silent), Arc::clone(&end), answer.to_owned());
        let thread = std::thread::spawn(move || {
            let mut question = [0; 64];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else {
                    continue;
                };
                assert_eq!(&question[..length], b"A");
                if !silent.load(Ordering::Relaxed) {
                    socket.send_to(answer.as_bytes(), from).unwrap();
                }
            }
        });
        Self {
            port,
            is_silent,
            end,
            thread: Some(thread),
        }
    }

    fn register(&self, etcd: &Etcd, key: &str, api_port: u16) {
        let value = format!("127.0.0.1;{api_port};{};amd64", self.port);
        etcd.put(&format!("registry/ROME/amd64/{key}"), &value);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[test]
fn nodes_know_each_others_status() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").memory(2048).start();
    let cloud = member(&etcd, "far")
        .set("registry.area", "CLOUD")
        .set("registry.remote.area", "ROME")
        .start();
    let known_b = becomes(&a, "b", "alive");
    assert_eq!(known_b["Status"]["TotalMemory"], 2048);
    assert!(known_b["Status"]["Distance"].as_f64().unwrap() > 0.0);
    becomes(&b, "a", "alive");
    // A node asks its own area and its cloud's, and nobody else.
    becomes(&cloud, "a", "alive");
    assert_eq!(known(&a, "far")["Health"], Value::Null);
    assert_eq!(known(&a, "a")["Health"], Value::Null);
    // It finds out where it is.
    let moved = |node: &Node| {
        let position = node.status()["Coordinates"]["Vec"].clone();
        (position != json!([0, 0, 0])).then_some(())
    };
    eventually("a to have moved", || moved(&a));

    // A change is known within seconds.
    b.create(&echo("echo"));
    b.invoke("echo", json!({})).expect(200);
    eventually("a to hear of it", || {
        let status = &known(&a, "b")["Status"];
        (status["FreeMemory"] == 2048 - 128).then_some(())
    });
}

#[test]
fn the_originals_nodes_are_asked_in_their_way_and_die_by_silence() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let peer = Peer::start(RECORDED);
    peer.register(&etcd, "go", 1);
    let known = becomes(&a, "go", "alive");
    assert_eq!(known["Status"]["TotalMemory"], 2048);
    assert_eq!(known["Status"]["FreeMemory"], 896);

    peer.is_silent.store(true, Ordering::Relaxed);
    becomes(&a, "go", "dead");
    // Whether it is in the fleet is not for others to say.
    let entries = etcd.entries("registry/");
    assert!(entries.iter().any(|(key, ..)| key.ends_with("/go")));
    peer.is_silent.store(false, Ordering::Relaxed);
    becomes(&a, "go", "alive");

    // What isn't a status harms nobody.
    let odd = Peer::start("{\"TotalMemory\":[]}");
    odd.register(&etcd, "odd", 1);
    let unknown = becomes(&a, "odd", "unknown");
    assert_eq!(unknown["Status"], Value::Null);
    becomes(&a, "go", "alive");
}

#[test]
fn edgeonly_sends_calls_to_the_neighbour_with_most_memory() {
    let etcd = etcd();
    let large = member(&etcd, "large").memory(4096).start();
    let small = member(&etcd, "small").memory(160).start();
    let edge = member(&etcd, "edge")
        .set("scheduler.policy", "edgeonly")
        .start();
    edge.create(&echo("echo"));
    becomes(&edge, "small", "alive");
    // Even though there is room here.
    let reply = runs_at(&edge, "echo", "large");
    assert_eq!(reply.result(), json!({ "n": 1 }));
    let why = decision(&reply);
    assert!(why.starts_with("policy edgeonly; "), "{why}");
    assert!(why.contains("large: chosen (4"), "{why}");

    // Who has told that it has no room for it isn't asked first.
    edge.create(&echo("much").memory(512));
    eventually("small to be passed over", || {
        let why = decision(&call(&edge, "much"));
        let both = why.contains("small: told that it has no room; large: chosen");
        both.then_some(())
    });

    // What may not leave runs here.
    let here = edge.invoke("echo", json!({})).expect(200);
    assert_eq!(here.json()["ExecutionNode"], "edge");
    drop((large, small));
}

#[test]
fn a_neighbour_that_hangs_is_not_chosen() {
    let etcd = etcd();
    let hangs = member(&etcd, "hangs").memory(4096).start();
    let lives = member(&etcd, "lives").memory(2048).start();
    let edge = member(&etcd, "edge")
        .set("scheduler.policy", "edgeonly")
        .start();
    edge.create(&echo("echo"));
    runs_at(&edge, "echo", "hangs");
    // Connections to it are made still, by its kernel.
    hangs.signal("STOP");
    becomes(&edge, "hangs", "dead");
    // It may have been the only one that was asked all the time.
    let reply = runs_at(&edge, "echo", "lives");
    let why = decision(&reply);
    assert!(!why.contains("hangs: chosen"), "{why}");
    hangs.signal("CONT");
    runs_at(&edge, "echo", "hangs");
    drop(lives);
}

#[test]
fn edgeonly_without_a_neighbour_drops_or_falls_back() {
    let etcd = etcd();
    let strict = member(&etcd, "strict")
        .set("scheduler.policy", "edgeonly")
        .set("registry.area", "A")
        .start();
    strict.create(&echo("echo"));
    let refused = call(&strict, "echo").expect(429);
    refused.problem(&["edgeonly", "neighbours: there are none"]);
    strict.invoke("echo", json!({})).expect(200);

    // One that answers its status and nothing else.
    let peer = Peer::start(RECORDED);
    peer.register(&etcd, "go", 1);
    let lenient = member(&etcd, "lenient")
        .set("scheduler.policy", "edgeonly")
        .set("scheduler.fallback.local", true)
        .start();
    eventually("a call to fall back", || {
        let reply = call(&lenient, "echo");
        let why = decision(&reply);
        let fell = reply.status == 200 && why.contains("go: can't be reached");
        fell.then(|| assert_eq!(reply.json()["ExecutionNode"], "lenient"))
    });
}
