//! What functions reach, in a world of their own: the node runs in a network namespace that a test
//! made, with a route to a second one, where servers listen at all addresses of interest. Nothing
//! touches the machine's network.

mod wasm;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::docker::on_docker;
use crate::support::function::python;
use crate::support::node::Builder;
use crate::support::{Function, Node, eventually, node};

mod containers;

const REACH: &str = include_str!("network/reach.py");
const WORLD: &str = "93.184.216.34";

/// Ends with the test, and so does its network namespace.
struct World {
    world: Child,
    /// Keeps the namespace of the node.
    here: Child,
    dir: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.world, &mut self.here] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl World {
    /// A node that looks names up in this world.
    fn node(&self) -> Builder {
        self.names(node())
    }

    /// The same, with its sandboxes in containers.
    fn docker_node(&self) -> Builder {
        self.names(on_docker())
    }

    fn names(&self, node: Builder) -> Builder {
        let path = self.dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.77.0.2\n").unwrap();
        node.set("network.resolv_conf", path.display())
    }
}

/// Moves this thread, which is the test's own, into a new network namespace with a world behind it.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let here = apart(Command::new("unshare").args(["--net", "cat"]));
    let script = dir.path().join("world.py");
    std::fs::write(&script, include_str!("network/world.py")).unwrap();
    let world = apart(
        Command::new("unshare")
            .args(["--net", "python3"])
            .arg(&script),
    );
    let mut made = World { world, here, dir };
    let namespace = File::open(format!("/proc/{}/ns/net", made.here.id())).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    let peer = made.world.id();
    for words in [
        "link set lo up".to_owned(),
        format!("link add n0 type veth peer name w0 netns {peer}"),
        // Without an address of IPv6, which would appear a moment later.
        "link set n0 addrgenmode none".to_owned(),
        "addr add 10.77.0.1/24 dev n0".to_owned(),
        "link set n0 up".to_owned(),
        "route add default via 10.77.0.2".to_owned(),
    ] {
        ip(&words);
    }
    let go = made.world.stdin.as_mut().unwrap().write_all(b"go\n");
    go.unwrap();
    let mut line = String::new();
    let stdout = made.world.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    eventually("the addresses stay as they are", || {
        (!state()[1].contains("tentative")).then_some(())
    });
    made
}

/// What the machine's network consists of, where this thread is.
fn state() -> [String; 4] {
    ["-o link", "-o addr", "route", "rule"].map(ip)
}

/// Starts a program that is in a network namespace of its own when this returns.
fn apart(command: &mut Command) -> Child {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let ours = namespace("thread-self");
    eventually("a network namespace", || {
        namespace(&child.id().to_string()).filter(|theirs| Some(theirs) != ours.as_ref())
    });
    child
}

#[track_caller]
fn ip(words: &str) -> String {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {words}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn reach(name: &str) -> Function {
    python(name, REACH)
}

/// What came of these attempts.
#[track_caller]
fn attempt(node: &Node, name: &str, attempts: Value) -> Value {
    let reply = node.invoke(name, json!({ "attempts": attempts }));
    reply.expect(200).result()
}

/// A function with the default policy on this node reaches the world, and nothing else.
#[track_caller]
fn reaches_the_world(node: &Node, own: &TcpListener) {
    node.create(&reach("f"));
    for (allowed, expected) in [
        (json!(["tcp", WORLD, 443]), json!("hello")),
        (json!(["tcp", "10.9.9.9", 80]), json!("hello")),
        (json!(["udp", WORLD, 7]), json!("hello")),
        (json!(["name", "example.org"]), json!(WORLD)),
        (json!(["tcp", "example.org", 443]), json!("hello")),
        (json!(["bulk", WORLD, 443, 4 << 20]), json!(true)),
        (json!(["interfaces"]), json!(["egress", "lo"])),
        // A closed port is closed, here as there.
        (json!(["tcp", WORLD, 81]), json!("ECONNREFUSED")),
        (json!(["udp", WORLD, 8]), json!("ECONNREFUSED")),
    ] {
        let came = attempt(node, "f", json!([allowed]));
        assert_eq!(came[0], expected, "{allowed}");
    }
    for (denied, error) in [
        // Servers listen at all of these.
        (json!(["tcp", "169.254.169.254", 80]), "EHOSTUNREACH"),
        (json!(["udp", "169.254.169.254", 7]), "EHOSTUNREACH"),
        (json!(["tcp", "100.100.100.200", 80]), "EHOSTUNREACH"),
        (json!(["tcp", "10.77.0.1", 9000]), "EHOSTUNREACH"),
        (json!(["tcp", "198.18.0.2", 9000]), "EHOSTUNREACH"),
        (json!(["tcp", "198.18.0.254", 9000]), "EHOSTUNREACH"),
        // Its own loopback, and all sandboxes have the same address.
        (json!(["tcp", "127.0.0.1", 9000]), "ECONNREFUSED"),
        (json!(["tcp", "198.18.0.1", 9000]), "ECONNREFUSED"),
    ] {
        let came = attempt(node, "f", json!([denied]));
        assert_eq!(came[0], error, "{denied}");
    }
    let nobody = own.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

/// A server of the machine's own, which nobody is to reach.
fn own_server() -> TcpListener {
    let own = TcpListener::bind("0.0.0.0:9000").unwrap();
    own.set_nonblocking(true).unwrap();
    own
}

#[test]
fn egress_is_the_world_without_the_node() {
    let world = world();
    let own = own_server();
    for prestart in [0, 2] {
        let node = world.node().set("sandbox.prestart", prestart).start();
        reaches_the_world(&node, &own);
    }
}

#[test]
fn no_function_reaches_etcd() {
    let world = world();
    let node = world.node().start();
    node.create(&reach("f").network(json!("egress")));
    let attempts = json!([["tcp", WORLD, 443], ["tcp", WORLD, 80]]);
    assert_eq!(
        attempt(&node, "f", attempts.clone()),
        json!(["hello", "hello"])
    );
    // It is away, as who answers there is none.
    let (_, node) = node.stop();
    let node = node.set("etcd.address", format!("{WORLD}:443")).start();
    let no = "EHOSTUNREACH";
    assert_eq!(attempt(&node, "f", attempts), json!([no, no]));
}

#[test]
fn each_function_has_its_policy() {
    let world = world();
    keeps_to_policies(&world.node().set("network.deny", "10.9.0.0/16").start());
}

/// Functions on this node, which denies a part of the world, reach what they were registered with.
#[track_caller]
fn keeps_to_policies(node: &Node) {
    node.create(&reach("none").network(json!("none")));
    node.create(&reach("egress").network(json!("egress")));
    node.create(&reach("only").network(json!(["93.184.216.34:440-443", "169.254.0.0/16"])));
    node.create(&reach("names").network(json!(["dns"])));
    let attempts = json!([
        ["tcp", WORLD, 443],
        ["tcp", WORLD, 80],
        ["udp", WORLD, 7],
        ["name", "example.org"],
        ["tcp", "169.254.169.254", 80],
        ["tcp", "10.9.9.9", 80],
    ]);
    let (none, no, no_name) = ("ENETUNREACH", "EHOSTUNREACH", "no such name");
    for (name, expected) in [
        ("none", json!([none, none, none, no_name, none, none])),
        ("egress", json!(["hello", "hello", "hello", WORLD, no, no])),
        ("only", json!(["hello", no, no, no_name, no, no])),
        ("names", json!([no, no, no, WORLD, no, no])),
    ] {
        assert_eq!(attempt(node, name, attempts.clone()), expected, "{name}");
    }
    let interfaces = attempt(node, "none", json!([["interfaces"]]));
    assert_eq!(interfaces, json!([["lo"]]));
    // An update takes effect for every later call.
    node.update(&reach("egress").network(json!("none")));
    let came = attempt(node, "egress", json!([["tcp", WORLD, 443]]));
    assert_eq!(came, json!([none]));
}

#[test]
fn what_is_no_policy_is_refused() {
    let node = node().set("network.default", "none").start();
    for (wrong, word) in [
        (json!("world"), "world"),
        (json!(["example.com:443"]), "host names"),
        (json!(["[::1]:443"]), "IPv6"),
        (json!(["none", "10.0.0.1"]), "alone"),
        (json!([]), "say none"),
        (json!(7), "Network"),
    ] {
        let body = reach("f").network(wrong).body();
        let refused = node.post("/create", &body).expect(400);
        refused.problem(&["Network", word]);
    }
    node.create(&reach("f"));
    let came = attempt(&node, "f", json!([["interfaces"]]));
    assert_eq!(came, json!([["lo"]]));
}

#[test]
fn many_sandboxes_reach_the_world_at_once() {
    let world = world();
    let node = world.node().memory(4096).cpus(32.0).start();
    node.create(&reach("f"));
    let (node, here) = (&node, &world.here);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(move || {
                // A thread is born where its parent is.
                assert!(same_namespace(here));
                let came = attempt(node, "f", json!([["bulk", WORLD, 443, 1 << 20]]));
                assert_eq!(came, json!([true]));
            });
        }
    });
}

fn same_namespace(child: &Child) -> bool {
    let link = |of: &str| std::fs::read_link(Path::new("/proc").join(of).join("ns/net")).unwrap();
    link("thread-self") == link(&child.id().to_string())
}

#[test]
fn nothing_is_left_of_a_killed_node_and_nodes_do_not_meet() {
    let world = world();
    let before = state();
    let (one, two) = (world.node().start(), world.node().start());
    for node in [&one, &two] {
        node.create(&reach("f"));
        let came = attempt(node, "f", json!([["tcp", WORLD, 443]]));
        assert_eq!(came, json!(["hello"]));
    }
    // While they run, too, there is nothing.
    assert_eq!(state(), before);
    let one = one.kill9();
    let came = attempt(&two, "f", json!([["tcp", WORLD, 443]]));
    assert_eq!(came, json!(["hello"]));
    assert_eq!(state(), before);
    let one = one.start();
    let came = attempt(&one, "f", json!([["tcp", WORLD, 443]]));
    assert_eq!(came, json!(["hello"]));
}
