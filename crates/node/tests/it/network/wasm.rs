//! The same world for WebAssembly: sockets of WASI, and requests over HTTP.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{WORLD, World, world};
use crate::support::node::Builder;
use crate::support::wasm::{body, http_example, rust_component};
use crate::support::{Node, eventually};

/// `reach.rs`, compiled.
fn reach() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/network/reach.rs");
    MADE.get_or_init(|| rust_component(Path::new(source)))
}

impl World {
    /// A node with time to compile, however slow the machine is.
    fn patient_node(&self) -> Builder {
        self.node().set("sandbox.start_timeout", 600)
    }
}

/// Registers a function with this policy, or none.
#[track_caller]
fn create(node: &Node, name: &str, module: &[u8], network: Option<Value>) {
    let mut body = body(name, module);
    if let Some(network) = network {
        body["Network"] = network;
    }
    node.post("/create", &body).expect(200);
}

/// What came of each of these attempts.
#[track_caller]
fn attempt(node: &Node, name: &str, attempts: &[&str]) -> Value {
    let reply = node.invoke(name, json!({ "attempts": attempts.join(";") }));
    reply.expect(200).result()
}

#[test]
fn sockets_reach_the_world_without_the_node() {
    let module = reach();
    let world = world();
    let own = TcpListener::bind("0.0.0.0:9000").unwrap();
    let node = world.patient_node().start();
    create(&node, "f", module, None);
    let port = node.address.port();
    let api = format!("tcp 127.0.0.1:{port}");
    for (tried, expected) in [
        ("tcp 93.184.216.34:443", "hello"),
        ("tcp 10.9.9.9:80", "hello"),
        ("udp 93.184.216.34:7", "hello"),
        ("name example.org", WORLD),
        ("name EXAMPLE.org.", WORLD),
        ("name 10.1.2.3", "10.1.2.3"),
        ("tcp example.org:443", "hello"),
        ("bulk 93.184.216.34:443 2", "whole"),
        ("tcp 93.184.216.34:81", "ConnectionRefused"),
        // Servers listen at all of these.
        ("tcp 169.254.169.254:80", "PermissionDenied"),
        ("udp 169.254.169.254:7", "PermissionDenied"),
        ("tcp 100.100.100.200:80", "PermissionDenied"),
        ("tcp 10.77.0.1:9000", "PermissionDenied"),
        ("tcp 127.0.0.1:9000", "PermissionDenied"),
        (&*api, "PermissionDenied"),
        ("tcp [::1]:9000", "PermissionDenied"),
        ("udp 127.0.0.1:7", "PermissionDenied"),
        // What stands for the resolvers in other sandboxes.
        ("udp 198.18.0.2:53", "PermissionDenied"),
        // A name is as good as the address that it stands for.
        ("name metadata.example", "169.254.169.254"),
        ("tcp metadata.example:80", "PermissionDenied"),
        ("tcp both.example:80", "hello"),
        // Nobody comes in.
        ("listen 0.0.0.0:0", "PermissionDenied"),
        ("listen 93.184.216.34:80", "PermissionDenied"),
        ("bind 127.0.0.1:0", "PermissionDenied"),
    ] {
        let came = attempt(&node, "f", &[tried]);
        assert_eq!(came, json!([expected]), "{tried}");
    }
    // One address stands in several notations for IPv4.
    for other in [
        "[::ffff:169.254.169.254]:80",
        "[::ffff:a9fe:a9fe]:80",
        "[::a9fe:a9fe]:80",
    ] {
        let came = attempt(&node, "f", &[&format!("tcp {other}")]);
        assert_ne!(came, json!(["hello"]), "{other}");
    }
    // No name but an address in an old notation, which nobody reads.
    for name in ["2852039166", "169.254.43518", "none.example"] {
        let came = attempt(&node, "f", &[&format!("name {name}")]);
        assert!(
            [
                json!(["Uncategorized"]),
                json!(["InvalidInput"]),
                json!(["Other"])
            ]
            .contains(&came),
            "{name}: {came}"
        );
    }
    own.set_nonblocking(true).unwrap();
    let nobody = own.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn each_module_has_its_policy() {
    let module = reach();
    let world = world();
    let node = world
        .patient_node()
        .set("network.deny", "10.9.0.0/16")
        .start();
    create(&node, "none", module, Some(json!("none")));
    create(&node, "egress", module, Some(json!("egress")));
    let only = json!(["93.184.216.34:440-443", "169.254.0.0/16"]);
    create(&node, "only", module, Some(only));
    create(&node, "names", module, Some(json!(["dns"])));
    let attempts = [
        "tcp 93.184.216.34:443",
        "tcp 93.184.216.34:80",
        "udp 93.184.216.34:7",
        "tcp 169.254.169.254:80",
        "tcp 10.9.9.9:80",
    ];
    let (yes, no) = ("hello", "PermissionDenied");
    for (name, expected, names) in [
        ("none", json!([no, no, no, no, no]), false),
        ("egress", json!([yes, yes, yes, no, no]), true),
        ("only", json!([yes, no, no, no, no]), false),
        ("names", json!([no, no, no, no, no]), true),
    ] {
        assert_eq!(attempt(&node, name, &attempts), expected, "{name}");
        let found = attempt(&node, name, &["name example.org"]) == json!([WORLD]);
        assert_eq!(found, names, "{name}");
    }
}

#[test]
fn connections_of_a_module_are_limited_and_end_with_its_time() {
    let module = reach();
    let world = world();
    let node = world
        .patient_node()
        .set("network.connections_max", 4)
        .start();
    create(&node, "f", module, None);
    for _ in 0..3 {
        let came = attempt(&node, "f", &["many 93.184.216.34:443 10"]);
        assert_eq!(came, json!(["4 4"]));
    }
    let mut waits = body("waits", module);
    waits["TimeoutSeconds"] = json!(0.5);
    node.post("/create", &waits).expect(200);
    let reply = node.invoke("waits", json!({ "attempts": "wait" }));
    reply.expect(504).problem(&["0.5 s"]);
    eventually("nothing is connected any more", || {
        (established(node.pid()) == 0).then_some(())
    });
}

/// How many of a process's connections go to the world's port 443.
fn established(pid: u32) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    // In this notation, 443 of 93.184.216.34, and 1 for a connection that is open.
    let open = |line: &&str| line.contains("22D8B85D:01BB 01");
    table.lines().filter(open).count()
}

/// What came of getting this page.
#[track_caller]
fn get(node: &Node, name: &str, page: &str) -> Value {
    node.invoke(name, json!({ "get": page }))
        .expect(200)
        .result()
}

#[test]
fn requests_over_http_reach_the_world_without_the_node() {
    let module = http_example();
    let world = world();
    let node = world.patient_node().start();
    create(&node, "f", module, None);
    let found = |at: &str, host: &str| json!({"status": 200, "location": "", "text": format!("{at} for {host}")});
    for (page, host) in [
        ("93.184.216.34:8080/", "93.184.216.34:8080"),
        ("example.org:8080/a?b", "example.org:8080"),
        // The one of its two addresses that is allowed.
        ("both.example:8080/", "both.example:8080"),
    ] {
        assert_eq!(get(&node, "f", page), found(WORLD, host), "{page}");
    }
    for (page, code) in [
        ("169.254.169.254:8080/", "DestinationIpProhibited"),
        ("metadata.example:8080/", "DestinationIpProhibited"),
        ("10.77.0.1:8080/", "DestinationIpProhibited"),
        ("127.0.0.1:8080/", "DestinationIpProhibited"),
        ("[::1]:8080/", "DestinationNotFound"),
        ("[::ffff:169.254.169.254]:8080/", "DestinationNotFound"),
        ("2852039166:8080/", "DestinationNotFound"),
        ("user@169.254.169.254:8080/", "DestinationIpProhibited"),
        ("none.example:8080/", "DnsError"),
        ("93.184.216.34:81/", "ConnectionRefused"),
        ("93.184.216.34:8080/head", "HttpResponseHeaderSectionSize"),
    ] {
        let came = get(&node, "f", page);
        let error = came["error"].as_str().unwrap_or_default();
        assert!(error.contains(code), "{page}: {came}");
    }
    // A redirect is told, and its target judged as any other.
    let metadata = "169.254.169.254:8080";
    let came = get(&node, "f", &format!("example.org:8080/redirect/{metadata}"));
    assert_eq!(came["location"], format!("http://{metadata}/"));
    // As much of it as the function wants.
    let came = get(&node, "f", "example.org:8080/endless");
    assert_eq!(came["text"], "x".repeat(64));
    // A name that stands for another address each time is never trusted for the former's sake.
    for _ in 0..6 {
        let came = get(&node, "f", "rebind.example:8080/");
        let allowed = found(WORLD, "rebind.example:8080");
        let denied = json!({"error": "ErrorCode::DestinationIpProhibited"});
        assert!(came == allowed || came == denied, "{came}");
    }
}

#[test]
fn requests_obey_the_policy_and_end_with_their_time() {
    let module = http_example();
    let world = world();
    let node = world.patient_node().start();
    create(&node, "none", module, Some(json!("none")));
    create(&node, "only", module, Some(json!(["93.184.216.34:8080"])));
    let denied = json!({"error": "ErrorCode::HttpRequestDenied"});
    assert_eq!(get(&node, "none", "93.184.216.34:8080/"), denied);
    assert_eq!(get(&node, "only", "example.org:8080/"), denied);
    assert_eq!(get(&node, "only", "93.184.216.34:8080/")["status"], 200);
    let prohibited = json!({"error": "ErrorCode::DestinationIpProhibited"});
    assert_eq!(get(&node, "only", "93.184.216.34:80/"), prohibited);

    let mut waits = body("waits", module);
    waits["TimeoutSeconds"] = json!(0.5);
    node.post("/create", &waits).expect(200);
    let reply = node.invoke("waits", json!({ "get": "example.org:8080/silent" }));
    reply.expect(504).problem(&["0.5 s"]);
    eventually("its server hears of it", || {
        let came = get(&node, "only", "93.184.216.34:8080/closed");
        (came["text"] == "1").then_some(())
    });
    // The node serves others meanwhile and after.
    assert!(TcpStream::connect(node.address).is_ok());
}
