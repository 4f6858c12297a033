//! A continuum: three sites at the edge and a cloud, in network namespaces, with real delays between
//! them, and what becomes of calls when links and nodes fail.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use serverledge_testbed::{Fleet, Link, Plan, Reply};

use crate::support::function::{Function, echo};
use crate::support::{eventually, python};

const MS: Duration = Duration::from_millis(1);

/// Nodes at three sites; a cloud with much more room, 20 ms away.
fn continuum() -> Plan {
    Plan::new(env!("CARGO_BIN_EXE_serverledge"))
        .edge("milan")
        .edge("rome")
        .edge("turin")
        .cloud("cloud")
        .between_edges(Link::delay(5 * MS).jitter(MS))
        .to_the_cloud(Link::delay(20 * MS).jitter(2 * MS))
        .set("sandbox.prestart", 0)
        .set("container.pool.memory", 256)
        .set_for("cloud", "container.pool.memory", 4096)
        .set_for("milan", "scheduler.policy", "edgecloud")
        .set_for("rome", "scheduler.policy", "edgecloud")
}

#[track_caller]
fn start(plan: Plan) -> Fleet {
    plan.start().unwrap_or_else(|error| panic!("{error:#}"))
}

#[track_caller]
fn create(fleet: &Fleet, at: &str, function: &Function) {
    let reply = fleet.send(at, "POST", "/create", &function.body()).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// Calls `name` at a node, from where the clients are.
#[track_caller]
fn call(fleet: &Fleet, at: &str, name: &str, params: Value) -> Reply {
    let request = json!({ "Params": params, "CanDoOffloading": true });
    fleet
        .send(at, "POST", &format!("/invoke/{name}"), &request)
        .unwrap_or_else(|error| panic!("{error:#}"))
}

#[track_caller]
fn ran_at(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json().unwrap()["ExecutionNode"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// What the function returned.
#[track_caller]
fn result(reply: &Reply) -> Value {
    let report = reply.json().unwrap();
    serde_json::from_str(report["Result"].as_str().unwrap()).unwrap()
}

#[track_caller]
fn until_known(fleet: &Fleet, name: &str, at: &[&str]) {
    for node in at {
        eventually("the function to be known", || {
            let names = fleet.send(node, "GET", "/function", &Value::Null).ok()?;
            names.body.contains(&format!("\"{name}\"")).then_some(())
        });
    }
}

/// Has room in the cloud only.
fn large(name: &str) -> Function {
    echo(name).memory(1024)
}

#[test]
fn a_function_made_at_one_site_runs_at_every_other_and_in_the_cloud() {
    let fleet = start(continuum());
    create(&fleet, "milan", &echo("fits"));
    create(&fleet, "turin", &large("large"));
    until_known(&fleet, "fits", &["rome", "turin", "cloud"]);
    until_known(&fleet, "large", &["milan", "rome", "cloud"]);
    for site in ["milan", "rome", "turin"] {
        assert_eq!(ran_at(&call(&fleet, site, "fits", json!({}))), site);
    }
    let there = call(&fleet, "rome", "large", json!({ "n": 1 }));
    assert_eq!(ran_at(&there), "cloud");
    // There and back.
    let latency = there.json().unwrap()["OffloadLatency"].as_f64().unwrap();
    assert!(latency >= 0.040, "faster than its link: {latency}");
    let sent = fleet.network().traffic("rome", "cloud").unwrap();
    assert!(sent.packets > 0, "{sent:?}");
}

#[test]
fn a_site_that_is_cut_off_serves_what_it_knows_and_comes_back_by_itself() {
    let mut fleet = start(continuum());
    create(&fleet, "milan", &echo("fits"));
    create(&fleet, "milan", &large("large"));
    until_known(&fleet, "large", &["rome", "cloud"]);
    until_known(&fleet, "fits", &["rome"]);
    assert_eq!(ran_at(&call(&fleet, "rome", "large", json!({}))), "cloud");

    for far in ["registry", "cloud"] {
        fleet.network().cut("rome", far).unwrap();
    }
    assert_eq!(ran_at(&call(&fleet, "rome", "fits", json!({}))), "rome");
    // Refused with a reason, or in time, and not for ever.
    let request = json!({
        "Params": {}, "CanDoOffloading": true, "QoS": { "Class": 0, "MaxRespT": 3.0 },
    });
    let refused = fleet
        .send("rome", "POST", "/invoke/large", &request)
        .unwrap();
    assert_ne!(refused.status, 200);
    assert!(refused.body.contains("cloud"), "{}", refused.body);
    // A call to be run later is taken all the same.
    let later = json!({ "Params": { "n": 5 }, "Async": true });
    let later = fleet.send("rome", "POST", "/invoke/fits", &later).unwrap();
    let id = later.json().unwrap()["ReqId"].as_str().unwrap().to_owned();

    fleet.network().heal("rome").unwrap();
    eventually("the cloud to be reached again", || {
        let reply = call(&fleet, "rome", "large", json!({}));
        (reply.status == 200).then_some(())
    });
    // Its result is told wherever it is asked for, once etcd has it.
    eventually("the result at another site", || {
        let path = format!("/poll/{id}");
        let reply = fleet.send("milan", "GET", &path, &Value::Null).unwrap();
        (reply.status == 200).then_some(())
    });
    fleet.stop("milan").unwrap();
}

#[test]
fn a_cloud_that_dies_under_load_costs_no_site_its_own_calls() {
    let mut fleet = start(continuum());
    create(&fleet, "milan", &echo("fits"));
    create(&fleet, "milan", &large("large"));
    until_known(&fleet, "large", &["milan", "rome", "cloud"]);
    until_known(&fleet, "fits", &["rome"]);
    assert_eq!(ran_at(&call(&fleet, "rome", "large", json!({}))), "cloud");
    fleet.kill("cloud").unwrap();
    for n in 0..10 {
        assert_eq!(
            ran_at(&call(&fleet, "rome", "fits", json!({ "n": n }))),
            "rome"
        );
        let reply = call(&fleet, "rome", "large", json!({}));
        assert_ne!(reply.status, 200);
        assert!(reply.body.contains("cloud"), "no reason: {}", reply.body);
    }
    fleet.restart("cloud").unwrap();
    eventually("the cloud to be used again", || {
        let reply = call(&fleet, "rome", "large", json!({}));
        (reply.status == 200).then_some(())
    });
}

#[test]
fn a_lossy_link_loses_no_call() {
    let lossy = Link::delay(10 * MS).jitter(2 * MS).loss(0.05);
    let fleet = start(continuum().to_the_cloud(lossy.bandwidth(1 << 20)).seed(3));
    create(&fleet, "milan", &large("large"));
    until_known(&fleet, "large", &["milan", "cloud"]);
    let lost = || fleet.network().traffic("milan", "cloud").unwrap().dropped;
    // Until some were; 5 % of many are never none.
    for n in (0..1000).take_while(|n| *n < 20 || lost() == 0) {
        let reply = call(&fleet, "milan", "large", json!({ "n": n }));
        assert_eq!(ran_at(&reply), "cloud");
        assert_eq!(result(&reply), json!({ "n": n }));
    }
    assert!(lost() > 0, "nothing was lost");
}

#[test]
fn the_registry_may_be_away_for_the_length_of_a_test() {
    let mut fleet = start(continuum());
    create(
        &fleet,
        "milan",
        &python("f", "def handler(p, c):\n    return 1\n"),
    );
    until_known(&fleet, "f", &["milan", "rome", "cloud"]);
    fleet.kill("registry").unwrap();
    for site in ["milan", "rome", "cloud"] {
        assert_eq!(ran_at(&call(&fleet, site, "f", json!({}))), site);
    }
    fleet.restart("registry").unwrap();
    eventually("changes to be possible again", || {
        let reply = fleet.send("rome", "POST", "/create", &echo("new").body());
        reply.ok().filter(|reply| matches!(reply.status, 200 | 409))
    });
    until_known(&fleet, "new", &["milan", "cloud"]);
}

/// The keys of the members that a node sees, sorted.
fn seen_by(fleet: &Fleet, node: &str) -> Vec<String> {
    let nodes = fleet.send(node, "GET", "/v1/nodes", &Value::Null);
    let nodes = nodes.unwrap().json().unwrap();
    let nodes = nodes.as_array().unwrap();
    let mut keys: Vec<_> = nodes
        .iter()
        .map(|it| it["Key"].as_str().unwrap().to_owned())
        .collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn until_seen(fleet: &Fleet, node: &str, expected: &[&str]) {
    eventually(&format!("{node} to see {expected:?}"), || {
        (seen_by(fleet, node) == expected).then_some(())
    });
}

#[track_caller]
fn until_runs_in_the_cloud(fleet: &Fleet, at: &str) {
    eventually("the cloud to be used", || {
        let reply = call(fleet, at, "large", json!({}));
        (reply.status == 200 && ran_at(&reply) == "cloud").then_some(())
    });
}

#[test]
fn without_a_registry_sites_find_each_other_part_and_find_each_other_again() {
    let lossy = Link::delay(20 * MS).jitter(2 * MS).loss(0.05);
    let plan = continuum().to_the_cloud(lossy).without_registry();
    let mut fleet = start(plan.set("federation.secret", "the secret of one fleet"));
    let all = ["cloud", "milan", "rome", "turin"];
    for node in all {
        until_seen(&fleet, node, &all);
    }
    create(&fleet, "milan", &large("large"));
    create(&fleet, "rome", &large("large"));
    until_runs_in_the_cloud(&fleet, "milan");
    until_runs_in_the_cloud(&fleet, "rome");

    // In two halves, of which one has nobody that the others were told of at first.
    for (one, other) in [
        ("milan", "turin"),
        ("milan", "cloud"),
        ("rome", "turin"),
        ("rome", "cloud"),
    ] {
        fleet.network().cut(one, other).unwrap();
    }
    for node in ["milan", "rome"] {
        until_seen(&fleet, node, &["milan", "rome"]);
    }
    for node in ["turin", "cloud"] {
        until_seen(&fleet, node, &["cloud", "turin"]);
    }
    let refused = call(&fleet, "milan", "large", json!({}));
    assert_ne!(refused.status, 200);

    for node in ["milan", "rome"] {
        fleet.network().heal(node).unwrap();
    }
    for node in all {
        until_seen(&fleet, node, &all);
    }
    until_runs_in_the_cloud(&fleet, "rome");

    // One that dies, and starts again.
    fleet.kill("cloud").unwrap();
    for node in ["milan", "rome", "turin"] {
        until_seen(&fleet, node, &["milan", "rome", "turin"]);
    }
    fleet.restart("cloud").unwrap();
    for node in all {
        until_seen(&fleet, node, &all);
    }
    until_runs_in_the_cloud(&fleet, "milan");
}

#[test]
fn the_demonstration_does_without_etcd() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .args(["demo", "fleet", "--edges", "2", "--no-etcd"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(demo.stdin.take());
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for expected in [
        "deployed greet (64 MB) at edge-1, edge-2",
        "called   greet at edge-2: ran at edge-2, cold",
        "called   think at edge-2: ran at cloud-1",
    ] {
        assert!(said.contains(expected), "lacks {expected:?}:\n{said}");
    }
}

#[test]
fn the_demonstration_shows_a_continuum_and_obeys() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .args(["demo", "fleet", "--edges", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let commands = "status\ncall edge-1\nkill cloud-1\ncall edge-1 think\nnonsense\nquit\n";
    let mut input = demo.stdin.take().unwrap();
    input.write_all(commands.as_bytes()).unwrap();
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for expected in [
        "called   greet at edge-2: ran at edge-2, cold",
        "called   think at edge-2: ran at cloud-1",
        "called   greet at edge-1: ran at edge-1",
        "unknown command",
        "edge-1 answers 503",
        "stopping",
    ] {
        assert!(said.contains(expected), "lacks {expected:?}:\n{said}");
    }
}
