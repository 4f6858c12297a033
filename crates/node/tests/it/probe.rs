//! What a function can see and do, found out by one that tries: `tests/data/probe.py` reports, and
//! here it is judged, in each backend.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::docker::on_docker;
use crate::support::{Function, Node, node, python};

const PROBE: &str = include_str!("../data/probe.py");

/// First of the users that sandboxes have.
const UID_BASE: u64 = 0x7000_0000;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

fn probe(name: &str, handler: &str) -> Function {
    python(name, "")
        .file("probe.py", PROBE)
        .handler(&format!("probe.{handler}"))
        .timeout(60.0)
}

/// Addresses of this machine.
fn addresses() -> Vec<String> {
    let output = Command::new("hostname").arg("-I").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let addresses = text.split_whitespace().map(str::to_owned);
    addresses.filter(|a| a.parse::<IpAddr>().is_ok()).collect()
}

/// The probe's report from a sandbox of this node.
pub(crate) fn report(node: &Node) -> Value {
    node.create(&probe("probe", "handler"));
    let port = node.address.port();
    let mut hosts = addresses();
    hosts.extend(["127.0.0.1", "::1", "0.0.0.0", "192.0.2.1"].map(str::to_owned));
    let mut targets: Vec<Value> = hosts.iter().map(|host| json!([host, port])).collect();
    targets.push(json!(["169.254.169.254", 80]));
    let sockets = json!(["/var/run/docker.sock", "/run/serverledge/node.sock"]);
    let params = json!({ "targets": targets, "sockets": sockets });
    node.invoke("probe", params).result()
}

/// What the report says that it must not, whatever the backend.
pub(crate) fn lapses(report: &Value) -> Vec<String> {
    let mut lapses = Vec::new();
    let status = &report["status"];
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if status[name] != json!(["0000000000000000"]) {
            lapses.push(format!("{name}: {}", status[name]));
        }
    }
    for (name, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        if status[name] != json!([value]) {
            lapses.push(format!("{name}: {}", status[name]));
        }
    }
    for name in ["Uid", "Gid", "Groups"] {
        let ids = status[name].as_array().unwrap().iter();
        let others = ids.filter(|id| id.as_str().unwrap().parse::<u64>().unwrap() < UID_BASE);
        lapses.extend(others.map(|id| format!("{name}: {id}")));
    }
    let hard = |name: &str| report["limits"][name][1].as_i64().unwrap();
    for (name, most) in [
        ("CORE", 0),
        ("NOFILE", 4096),
        ("FSIZE", 64 << 20),
        ("RTPRIO", 0),
    ] {
        if !(0..=most).contains(&hard(name)) {
            lapses.push(format!("limit {name}: {}", hard(name)));
        }
    }
    let expected = |name: &str| match name {
        "getpid" | "stream" | "netlink route" => "ok",
        "clone3" => "ENOSYS",
        _ => "EPERM",
    };
    for group in ["calls", "made_sockets"] {
        for (name, outcome) in report[group].as_object().unwrap() {
            if outcome != expected(name) {
                lapses.push(format!("{name}: {outcome}"));
            }
        }
    }
    let tricks = report["tricks"].as_object().unwrap().iter();
    let worked = tricks.filter(|(_, outcome)| *outcome == "ok");
    lapses.extend(worked.map(|(name, _)| name.clone()));
    for (name, empty) in [
        ("core_dump", json!(false)),
        ("sockets", json!([])),
        ("setuid", json!([])),
        ("secrets", json!([])),
        ("reached", json!(["itself"])),
    ] {
        if report[name] != empty {
            lapses.push(format!("{name}: {}", report[name]));
        }
    }
    lapses
}

/// The texts of a list in the report.
fn texts<'a>(report: &'a Value, name: &str) -> BTreeSet<&'a str> {
    let list = report[name].as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

/// Those of the list that are not among these.
#[track_caller]
fn only(report: &Value, name: &str, allowed: &[&str]) {
    let allowed = allowed.iter().copied().collect();
    let more: Vec<_> = texts(report, name).difference(&allowed).copied().collect();
    assert!(more.is_empty(), "{name}: {more:?}");
}

#[track_caller]
fn has_variables(report: &Value, names: &[&str]) {
    let environment = report["environment"].as_object().unwrap();
    let mut found: Vec<&str> = environment.keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, names);
}

#[test]
fn the_built_in_sandbox_holds() {
    // What it tries in vain otherwise would leave the machine.
    let node = node().set("network.deny", "192.0.2.0/24").start();
    let report = report(&node);
    only(&report, "interfaces", &["egress", "lo"]);
    assert_eq!(lapses(&report), [""; 0]);
    only(&report, "writable", &["/tmp", "/tmp/mode", "/dev/shm"]);
    assert!(texts(&report, "writable").contains("/tmp"));
    only(&report, "descriptors", &["/dev/null", "pipe", "socket"]);
    let devices: Vec<String> = DEVICES.map(|name| format!("/dev/{name}")).into();
    let hidden = [
        "kcore",
        "keys",
        "key-users",
        "timer_list",
        "sysrq-trigger",
        "latency_stats",
    ];
    let hidden = hidden.map(|name| format!("/proc/{name}"));
    let mut known: Vec<&str> = devices.iter().chain(&hidden).map(String::as_str).collect();
    only(&report, "devices", &known);
    has_variables(
        &report,
        &["HOME", "LANG", "PATH", "SERVERLEDGE_SOCKET", "USER"],
    );
    let processes = json!([[1, "/.serverledge/executor"], [2, "/usr/bin/python3"]]);
    assert_eq!(report["processes"], processes);
    let first = report["first_process"].as_object().unwrap();
    for (name, outcome) in first {
        assert_ne!(outcome, "ok", "pid 1: {name}");
    }
    known.extend(["/tmp", "/dev/shm"]);
    for mount in report["mounts"].as_array().unwrap() {
        let (path, options) = (mount[0].as_str().unwrap(), mount[1].as_str().unwrap());
        let options: Vec<&str> = options.split(',').collect();
        assert!(options.contains(&"nosuid"), "{mount}");
        assert!(options.contains(&"ro") || known.contains(&path), "{mount}");
        let is_device = path.starts_with("/dev/") || hidden.iter().any(|name| name == path);
        let may_have_devices = path == "/" || is_device;
        assert!(options.contains(&"nodev") || may_have_devices, "{mount}");
    }
}

#[test]
fn a_container_holds() {
    let node = on_docker().set("network.deny", "192.0.2.0/24").start();
    let report = report(&node);
    only(&report, "interfaces", &["egress", "lo"]);
    assert_eq!(lapses(&report), [""; 0]);
    // A container has message queues as files.
    let writable = ["/tmp", "/tmp/mode", "/dev/shm", "/dev/mqueue"];
    only(&report, "writable", &writable);
    assert!(texts(&report, "writable").contains("/tmp"));
    only(&report, "descriptors", &["/dev/null", "pipe", "socket"]);
    let devices = DEVICES.map(|name| format!("/dev/{name}"));
    let mut known: Vec<&str> = devices.iter().map(String::as_str).collect();
    known.extend(["/dev/tty", "/dev/pts/ptmx"]);
    let hidden = texts(&report, "devices");
    known.extend(hidden.iter().filter(|path| path.starts_with("/proc/")));
    only(&report, "devices", &known);
    has_variables(
        &report,
        &[
            "HOME",
            "HOSTNAME",
            "LANG",
            "PATH",
            "SERVERLEDGE_SOCKET",
            "USER",
        ],
    );
    // The interpreter itself is the first process.
    assert_eq!(report["processes"], json!([[1, "python3"]]));
}

/// Lets a function leave things behind, and others look for them.
fn leaves_nothing(node: &Node) {
    node.create(&probe("leaves", "leave"));
    node.create(&probe("looks", "look"));
    let made = node.invoke("leaves", json!({})).result();
    assert_eq!(made.as_array().unwrap().len(), 5, "{made}");
    let seen = node.invoke("looks", json!({})).result();
    assert_eq!(seen["found"], json!([]));
    // Its own later version is another function too.
    node.update(&probe("leaves", "look"));
    let later = node.invoke("leaves", json!({})).result();
    assert_eq!(later["found"], json!([]));
    assert_ne!(later["uid"], seen["uid"]);
}

#[test]
fn sandboxes_leave_each_other_nothing() {
    leaves_nothing(&node().start());
    leaves_nothing(&on_docker().start());
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// Sandboxes of this node draw different numbers, and know the time.
fn draws_afresh(node: &Node) {
    let mut drawn: Vec<Value> = Vec::new();
    for name in ["a", "b", "c"] {
        node.create(&probe(name, "draw"));
        let before = now();
        let result = node.invoke(name, json!({})).result();
        let time = result["time"].as_f64().unwrap();
        assert!((before..=now()).contains(&time), "{before} {time}");
        drawn.extend(result["different"].as_array().unwrap().iter().cloned());
    }
    let different: BTreeSet<&str> = drawn.iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(different.len(), 3 * 7, "{drawn:#?}");
}

#[test]
fn chance_and_time_are_fresh_in_each_sandbox() {
    for prestart in [0, 2] {
        draws_afresh(&node().set("sandbox.prestart", prestart).start());
        draws_afresh(&on_docker().set("sandbox.prestart", prestart).start());
    }
}
