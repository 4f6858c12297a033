//! How nodes know each other's status by datagrams, and where `edgeonly` sends calls by it. Real
//! nodes, a real etcd, and peers that speak as the original's nodes were recorded to.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::function::echo;
use crate::support::http::{self, Response};
use crate::support::node::Builder;
use crate::support::{Etcd, Node, PATIENCE, etcd, eventually, node, python};

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

const SECRET: &str = "known to the nodes of one fleet";

/// Where a member answers questions, as the registry has it.
fn status_port(etcd: &Etcd, key: &str) -> u16 {
    let entries = etcd.entries("registry/");
    let (_, value, _) = entries
        .iter()
        .find(|(path, ..)| path.ends_with(&format!("/{key}")))
        .unwrap();
    value.split(';').nth(2).unwrap().parse().unwrap()
}

#[test]
fn with_a_secret_only_those_who_know_it_are_heard() {
    let etcd = etcd();
    let with =
        |key: &str, secret: &str| member(&etcd, key).set("federation.secret", secret).start();
    let a = with("a", SECRET);
    let b = with("b", SECRET);
    // Registered as if it were a node; it keeps what it is asked.
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    let listens = listener.local_addr().unwrap().port();
    let value = format!("127.0.0.1;1;{listens};amd64");
    etcd.put("registry/ROME/amd64/listener", &value);

    becomes(&a, "b", "alive");
    becomes(&b, "a", "alive");
    let mut question = [0; 2048];
    let asked = loop {
        let (length, asker) = listener.recv_from(&mut question).unwrap();
        if length > 1 {
            break (question[..length].to_vec(), asker);
        }
    };
    let (question, asker) = asked;
    let stranger = with("stranger", "of another fleet altogether");
    let plain = member(&etcd, "plain").start();
    for node in [&a, &b] {
        becomes(node, "stranger", "unknown");
        becomes(node, "plain", "unknown");
    }

    // A million, forged and replayed, at the port that answers and at one that asks.
    let forger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = ("127.0.0.1", status_port(&etcd, "b"));
    for round in 0..500_000_usize {
        let mut forged = match round % 3 {
            0 => b"A".to_vec(),
            1 => question.clone(),
            _ => RECORDED.as_bytes().to_vec(),
        };
        if round % 2 == 1 {
            let at = round % forged.len();
            forged[at] ^= 1 << (round % 8);
        }
        forger.send_to(&forged, target).unwrap();
        listener.send_to(&forged, asker).unwrap();
    }
    becomes(&b, "a", "alive");
    becomes(&a, "b", "alive");
    forger.set_nonblocking(true).unwrap();
    assert!(forger.recv(&mut [0; 2048]).is_err(), "b answered a forger");
    for node in [&a, &b] {
        for key in ["listener", "stranger", "plain"] {
            let known = known(node, key);
            assert_eq!(known["Health"], "unknown", "{known}");
            assert_eq!(known["Status"], Value::Null, "{known}");
        }
    }
    drop((stranger, plain));
}

#[test]
fn with_a_secret_only_nodes_say_where_a_call_has_come_from() {
    let etcd = etcd();
    let with = |key: &str| member(&etcd, key).set("federation.secret", SECRET);
    let edge = with("edge").set("scheduler.policy", "edgeonly").start();
    let other = with("other").start();
    let source = "def handler(params, context):\n    return context.request_id\n";
    edge.create(&python("id", source));
    let reply = runs_at(&edge, "id", "other");
    let id = reply.result().as_str().unwrap().to_owned();
    assert!(id.starts_with("id-") && id.contains("edge"), "{id}");

    let headers = [
        ("Serverledge-Hops", "1"),
        ("Serverledge-Request-Id", "forged"),
    ];
    let body = json!({ "Params": {} }).to_string();
    let call = |node: &Node, headers: &[(&str, &str)]| {
        http::request(node.address, "POST", "/invoke/id", headers, body.as_bytes()).unwrap()
    };
    let unsigned = call(&other, &headers).result();
    assert_ne!(unsigned, "forged");
    let seal = format!("t=1800000000000000,s={}", "0".repeat(64));
    let signed = [headers[0], headers[1], ("Serverledge-Signature", &seal)];
    assert_ne!(call(&other, &signed).result(), "forged");
    // Without a secret, whoever can reach a node is believed.
    let open = member(&etcd, "open").start();
    assert_eq!(call(&open, &headers).result(), "forged");
}
