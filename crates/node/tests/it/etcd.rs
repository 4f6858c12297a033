//! Nodes that share a real etcd: who is there, functions and results that all of them know, and
//! what becomes of that while etcd is away.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::etcd::seen_by;
use crate::support::function::{Function, echo};
use crate::support::node::Builder;
use crate::support::server::{ok, serve};
use crate::support::{Etcd, Node, PATIENCE, Secure, etcd, eventually, node, python, secure_etcd};

/// What another implementation recorded.
const RECORDED: &str = include_str!("data/etcd.jsonl");

/// A node called `key` that shares `etcd`.
fn member(etcd: &Etcd, key: &str) -> Builder {
    node()
        .set("etcd.address", etcd.address())
        .set("registry.node.id", key)
        .set("registry.udp.port", 0)
}

/// What a node tells whoever sends it a datagram, as the original's nodes do.
fn status_by_datagram(port: u16) -> Value {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"A", ("127.0.0.1", port)).unwrap();
    let mut answer = [0; 1024];
    let length = socket.recv(&mut answer).unwrap();
    let status = serde_json::from_slice(&answer[..length]).unwrap();
    // An answer is no question: two nodes would ask each other for ever.
    socket
        .send_to(&answer[..length], ("127.0.0.1", port))
        .unwrap();
    socket.send_to(b"B", ("127.0.0.1", port)).unwrap();
    socket.recv(&mut answer).unwrap();
    socket.set_nonblocking(true).unwrap();
    let more = socket.recv(&mut answer);
    assert!(more.is_err(), "two answers to one question");
    status
}

fn knows(node: &Node, name: &str) -> bool {
    node.functions().iter().any(|known| known == name)
}

#[test]
fn nodes_see_each_other_come_and_go() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    eventually("a to see both", || {
        (seen_by(&a) == ["a", "b"]).then_some(())
    });
    eventually("b to see both", || {
        (seen_by(&b) == ["a", "b"]).then_some(())
    });
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let port = b.address.port();
    let (key, value, leased) = etcd.entries("registry/").remove(1);
    assert_eq!(key, format!("registry/ROME/{architecture}/b"));
    assert!(leased);
    let start = format!("127.0.0.1;{port};");
    let udp_port = value
        .strip_prefix(&start)
        .and_then(|rest| rest.split_once(';'));
    let (udp_port, rest) = udp_port.unwrap_or_else(|| panic!("{value}"));
    assert_eq!(rest, architecture);
    assert_eq!(
        status_by_datagram(udp_port.parse().unwrap())["TotalMemory"],
        1024
    );

    // An orderly stop revokes the lease at once; a killed node's ends by itself.
    let (_, b) = b.stop();
    assert_eq!(etcd.entries("registry/").len(), 1);
    eventually("a to see b go", || (seen_by(&a) == ["a"]).then_some(()));
    let b = b.start();
    eventually("b to be back", || (seen_by(&a) == ["a", "b"]).then_some(()));
    drop(b.kill9());
    eventually("a to see b die", || (seen_by(&a) == ["a"]).then_some(()));
}

#[test]
fn a_function_is_known_to_all_nodes() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    a.create(&echo("shared"));
    // At once: a node that doesn't know a function asks.
    assert_eq!(
        b.invoke("shared", json!({ "n": 1 })).result(),
        json!({ "n": 1 })
    );
    b.post("/create", &echo("shared").body()).expect(409);

    b.update(&python(
        "shared",
        "def handler(params, context):\n    return 2\n",
    ));
    eventually("the update to reach a", || {
        (a.invoke("shared", json!({})).result() == 2).then_some(())
    });
    a.post("/delete", &json!({ "Name": "shared" })).expect(200);
    eventually("the deletion to reach b", || {
        (!knows(&b, "shared")).then_some(())
    });
    b.post("/invoke/shared", &json!({})).expect(404);

    // One that joins knows them from its first answer on.
    a.create(&echo("before"));
    let c = member(&etcd, "c").start();
    assert!(knows(&c, "before"));
}

#[test]
fn functions_look_like_the_originals() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    a.create(&echo("echo"));
    let ours: Value = serde_json::from_str(&etcd.value("/function/echo").unwrap()).unwrap();
    let lines = RECORDED
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let recorded: Vec<Value> = lines.collect();
    let echo_entry = recorded.iter().find(|it| it["key"] == "/function/echo");
    let theirs: Value =
        serde_json::from_str(echo_entry.unwrap()["value"].as_str().unwrap()).unwrap();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&ours), keys(&theirs));
    for key in [
        "Name",
        "Runtime",
        "Handler",
        "SupportedArchs",
        "Signature",
        "CustomImage",
    ] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }

    // And what the original has put there can be called.
    use base64::Engine as _;
    let tar = echo("x").file("f.py", "").tar();
    let tar = base64::engine::general_purpose::STANDARD.encode(tar);
    let functions = recorded
        .iter()
        .filter(|entry| entry["key"].as_str().unwrap().starts_with("/function/ret-"));
    let mut count = 0;
    for entry in functions {
        let value = entry["value"].as_str().unwrap().replace("${tar}", &tar);
        etcd.put(entry["key"].as_str().unwrap(), &value);
        count += 1;
    }
    assert_eq!(count, 6);
    eventually("all to be known", || {
        (a.functions().len() == 7).then_some(())
    });
    a.invoke("ret-int", json!({})).expect(500);
    let b = member(&etcd, "b").start();
    assert_eq!(b.functions().len(), 7);
    // What is no function harms nobody.
    etcd.put("/function/odd", "not JSON");
    etcd.put("/function/named", r#"{"Name":"otherwise"}"#);
    etcd.delete("/function/ret-int");
    eventually("the deletion", || (!knows(&b, "ret-int")).then_some(()));
    assert!(!knows(&b, "odd") && !knows(&b, "named") && !knows(&b, "otherwise"));
}

#[test]
fn results_of_async_calls_are_found_at_every_node() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    a.create(&echo("echo"));
    let id = a.invoke_async("echo", json!({ "n": 1 }));
    let there = b.poll(&id);
    assert_eq!(there.body, a.poll(&id).body);
    let entries = etcd.entries("async/");
    let [(key, value, leased)] = &entries[..] else {
        panic!("{entries:?}");
    };
    assert_eq!(
        (key.as_str(), *leased),
        (format!("async/{id}").as_str(), true)
    );
    assert_eq!(value.as_bytes(), there.body);
    b.get("/poll/echo-unknown1").expect(404).problem(&[]);
}

/// Random enough not to be compressed below etcd's limit.
fn large(name: &str) -> Function {
    let mut seed = 1_u32;
    let noise: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (seed >> 24) as u8 % 90)
    })
    .take(2 << 20)
    .collect();
    echo(name).file("noise.txt", &noise)
}

#[test]
fn code_that_etcd_does_not_take_is_pulled_from_a_node() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    a.create(&large("large"));
    let value: Value = serde_json::from_str(&etcd.value("/function/large").unwrap()).unwrap();
    assert_eq!(
        (&value["TarFunctionCode"], &value["CodeHolder"]),
        (&json!(""), &json!("a"))
    );
    // Compressed, this one is small.
    let even = echo("even").file("even.txt", &"x".repeat(2 << 20));
    a.create(&even);
    let b = member(&etcd, "b").start();
    for name in ["large", "even"] {
        let result = b.invoke(name, json!({ "n": 1 })).result();
        assert_eq!(result, json!({ "n": 1 }));
    }
    // Who has pulled it has it for others, and the code goes with the function.
    let (_, a) = a.stop();
    let c = member(&etcd, "c").start();
    eventually("c to have it from b", || {
        let reply = c.post("/invoke/large", &json!({ "Params": { "n": 2 } }));
        (reply.status == 200).then(|| assert_eq!(reply.result(), json!({ "n": 2 })))
    });
    c.update(&large("large").file("g.py", ""));
    eventually("b to have the update", || {
        let new = etcd.value("/function/large").unwrap();
        let new: Value = serde_json::from_str(&new).unwrap();
        let path = format!("/v1/code/{}", new["CodeDigest"].as_str().unwrap());
        (b.get(&path).status == 200).then_some(())
    });
    b.get("/v1/code/0").expect(404).problem(&["no code"]);
    b.get(&format!("/v1/code/{}", "0".repeat(64))).expect(404);
    b.get("/v1/code/../../serverledge.redb").expect(404);
    // Nor do strangers say where code is.
    let mut body = echo("x").body();
    body["CodeDigest"] = value["CodeDigest"].clone();
    b.post("/create", &body)
        .expect(400)
        .problem(&["CodeDigest"]);
    drop(a.start());
}

#[test]
fn code_is_pulled_from_whoever_has_it_and_believed_by_its_digest() {
    let etcd = etcd();
    let secret = "known to the nodes of one fleet";
    let with_secret = |key| member(&etcd, key).set("federation.secret", secret);
    let a = with_secret("a").start();
    a.create(&large("large"));
    let value: Value = serde_json::from_str(&etcd.value("/function/large").unwrap()).unwrap();
    let digest = value["CodeDigest"].as_str().unwrap();
    a.get(&format!("/v1/code/{digest}"))
        .expect(403)
        .problem(&["signed"]);

    // Registered as the holder: one that isn't there, and one that gives something else.
    let liar = serve(|_| ok(b"something else"));
    let port = liar.port();
    etcd.put(
        "registry/ROME/amd64/0liar",
        &format!("127.0.0.1;{port};1;amd64"),
    );
    etcd.put("registry/ROME/amd64/0gone", "127.0.0.1;1;1;amd64");
    let mut told = value.clone();
    told["CodeHolder"] = json!("0liar");
    etcd.put("/function/large", &told.to_string());
    let b = with_secret("b").start();
    eventually("b to have the code", || {
        let reply = b.post("/invoke/large", &json!({ "Params": { "n": 1 } }));
        (reply.status == 200).then(|| assert_eq!(reply.result(), json!({ "n": 1 })))
    });
    b.wait_for_log("code was pulled");

    // Nobody has it: the function isn't known, and nothing else suffers.
    told["Name"] = json!("lost");
    told["CodeDigest"] = json!("0".repeat(64));
    etcd.put("/function/lost", &told.to_string());
    b.post("/invoke/lost", &json!({})).expect(404);
    b.create(&echo("fine"));
    a.invoke("fine", json!({})).expect(200);
}

#[test]
fn calls_go_on_while_etcd_is_away_and_all_is_caught_up_with() {
    let mut etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    a.create(&echo("echo"));
    eventually("b to know it", || knows(&b, "echo").then_some(()));
    eventually("a to see both", || {
        (seen_by(&a) == ["a", "b"]).then_some(())
    });
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ends also when the test fails, which would wait for it otherwise.
            let end = Instant::now() + 3 * PATIENCE;
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                b.invoke("echo", json!({ "n": 1 })).expect(200);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
        etcd.kill();
        let id = a.invoke_async("echo", json!({ "n": 2 }));
        assert_eq!(a.poll(&id).result(), json!({ "n": 2 }));
        a.post("/create", &echo("new").body())
            .expect(503)
            .problem(&["etcd"]);
        a.post("/delete", &echo("echo").body()).expect(503);
        b.get(&format!("/poll/{id}")).expect(503);
        assert_eq!(seen_by(&a), ["a", "b"]);
        let before = calls.load(Ordering::Relaxed);
        eventually("calls without etcd", || {
            (calls.load(Ordering::Relaxed) > before + 100).then_some(())
        });
        etcd.start();
        eventually("the result to be published", || {
            (b.get(&format!("/poll/{id}")).status == 200).then_some(())
        });
        eventually("both to be registered", || {
            (etcd.entries("registry/").len() == 2).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    a.create(&echo("new"));
    assert_eq!(
        b.invoke("new", json!({ "n": 3 })).result(),
        json!({ "n": 3 })
    );
    eventually("the watches to work again", || {
        knows(&b, "new").then_some(())
    });
}

#[test]
fn an_etcd_that_has_lost_everything_is_told_it_again() {
    let mut etcd = etcd();
    let a = member(&etcd, "a").start();
    a.create(&echo("echo"));
    a.create(&echo("other"));
    etcd.kill();
    etcd.wipe();
    etcd.start();
    eventually("the registration and both functions", || {
        let all = (
            etcd.entries("registry/").len(),
            etcd.entries("/function/").len(),
        );
        (all == (1, 2)).then_some(())
    });
    a.invoke("echo", json!({})).expect(200);
}

#[test]
fn what_happened_while_a_node_was_stopped_is_caught_up_with() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    for name in ["stays", "goes", "changes"] {
        a.create(&echo(name));
    }
    eventually("b to know them", || {
        (b.functions().len() == 3).then_some(())
    });
    let (_, b) = b.stop();
    a.post("/delete", &echo("goes").body()).expect(200);
    a.update(&python(
        "changes",
        "def handler(params, context):\n    return 2\n",
    ));
    a.create(&echo("comes"));
    // No event is left to tell of it.
    etcd.compact();
    let b = b.start();
    assert_eq!(b.functions(), ["changes", "comes", "stays"]);
    assert_eq!(b.invoke("changes", json!({})).result(), 2);
}

#[test]
fn a_node_starts_without_etcd_and_joins_when_it_comes() {
    let mut etcd = etcd();
    // From before it was in a fleet.
    let alone = node().set("registry.node.id", "a").start();
    alone.create(&echo("echo"));
    let (_, alone) = alone.stop();
    etcd.kill();
    let a = alone.set("etcd.address", etcd.address()).start();
    a.invoke("echo", json!({})).expect(200);
    etcd.start();
    eventually("a to register", || {
        (etcd.entries("registry/").len() == 1).then_some(())
    });
    eventually("its function to be shared", || etcd.value("/function/echo"));
}

#[test]
fn the_next_endpoint_is_asked_when_one_is_dead() {
    let etcd = etcd();
    let addresses = format!("127.0.0.1:1,{}", etcd.address());
    let a = node().set("etcd.address", addresses).start();
    a.create(&echo("echo"));
    assert!(etcd.value("/function/echo").is_some());
}

/// A node that is let into an etcd with TLS and passwords.
fn let_in(etcd: &Etcd, key: &str) -> Builder {
    let secure = etcd.secure();
    node()
        .set("etcd.address", secure.address())
        .set("etcd.username", "node")
        .set("etcd.password", Secure::PASSWORD)
        .set("etcd.tls.ca", secure.file("ca.pem"))
        .set("etcd.tls.certificate", secure.file("node.pem"))
        .set("etcd.tls.key", secure.file("node.key"))
        .set("registry.node.id", key)
        .set("registry.udp.port", 0)
}

#[test]
fn an_etcd_with_tls_and_passwords_is_used_as_any_other() {
    let mut etcd = secure_etcd();
    let a = let_in(&etcd, "a").start();
    // With a scheme instead, and the other endpoint dead.
    let addresses = format!("https://127.0.0.1:1,https://{}", etcd.secure().address());
    let b = let_in(&etcd, "b").set("etcd.address", addresses).start();
    eventually("a to see both", || {
        (seen_by(&a) == ["a", "b"]).then_some(())
    });
    a.create(&echo("shared"));
    let called = b.invoke("shared", json!({ "n": 1 }));
    assert_eq!(called.result(), json!({ "n": 1 }));
    let id = a.invoke_async("shared", json!({ "n": 2 }));
    assert_eq!(b.poll(&id).result(), json!({ "n": 2 }));

    // Its tokens end with it, and when its users change.
    etcd.kill();
    etcd.start();
    etcd.log_in();
    eventually("a to be let in again", || {
        // 409: an answer has been lost on a busy machine.
        let created = a.post("/create", &echo("later").body()).status;
        matches!(created, 200 | 409).then_some(())
    });
    etcd.forget_logins();
    eventually("b to be let in again", || {
        let body = json!({ "Name": "later" });
        let deleted = b.post("/delete", &body).status;
        (deleted == 200 || !knows(&b, "later")).then_some(())
    });
    eventually("a to hear of it", || (!knows(&a, "later")).then_some(()));
    assert_eq!(etcd.value("/function/later"), None);
}

#[test]
fn who_is_not_let_in_goes_on_alone() {
    let etcd = secure_etcd();
    let secure = etcd.secure();
    let alone = |name: &str, key: &str, value: &str| {
        let node = let_in(&etcd, name).set(key, value).start();
        node.wait_for_log("etcd is away");
        assert_eq!(seen_by(&node), [""; 0], "{name}");
        node.post("/create", &echo("f").body()).expect(503);
    };
    alone("wrong-password", "etcd.password", "a guess");
    alone("trusts-others", "etcd.tls.ca", &secure.file("others.pem"));
    // Shows a certificate of an authority that etcd doesn't know.
    let stranger = let_in(&etcd, "stranger")
        .set("etcd.tls.certificate", secure.file("stranger.pem"))
        .set("etcd.tls.key", secure.file("stranger.key"))
        .start();
    stranger.wait_for_log("etcd is away");
    assert!(etcd.entries("registry/").is_empty());
}
