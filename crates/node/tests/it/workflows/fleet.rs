//! Nodes that share their workflows by a real etcd, with each other and with what the original has
//! put there.

use serde_json::{Value, json};

use super::examples::create_workflow;
use crate::support::node::Builder;
use crate::support::{Etcd, Node, etcd, eventually, node, python};

/// What another implementation recorded.
const RECORDED: &str = include_str!("../data/etcd.jsonl");

fn member(etcd: &Etcd, key: &str) -> Builder {
    node()
        .set("etcd.address", etcd.address())
        .set("registry.node.id", key)
        .set("registry.udp.port", 0)
}

fn create_inc(node: &Node) {
    let source = "def handler(params, context):\n    return int(params['n']) + 1\n";
    let mut body = python("inc", source).body();
    let n = json!([{"Name": "n", "Type": "Int"}]);
    body["Signature"] = json!({"Inputs": n, "Outputs": n});
    node.post("/create", &body).expect(200);
}

fn twice() -> Value {
    json!({"StartAt": "A", "States": {
        "A": {"Type": "Task", "Resource": "inc", "Next": "B"},
        "B": {"Type": "Task", "Resource": "inc", "End": true},
    }})
}

fn run(node: &Node, name: &str) -> Value {
    let body = json!({"Params": {"n": 1}});
    let reply = node.post(&format!("/workflow/invoke/{name}"), &body);
    reply.expect(200).json()["Result"].clone()
}

fn knows(node: &Node, name: &str) -> bool {
    let names = node.get("/workflow/list").expect(200).json();
    names.as_array().unwrap().iter().any(|known| known == name)
}

fn stored(etcd: &Etcd, name: &str) -> Value {
    let value = etcd.value(&format!("/workflow/{name}"));
    serde_json::from_str(&value.expect("an entry")).unwrap()
}

/// The value that the original recorded for its workflow `wf`.
fn recorded() -> String {
    let mut lines = RECORDED
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let entry = lines.find(|entry| entry["key"] == "/workflow/wf");
    entry.unwrap()["value"].as_str().unwrap().to_owned()
}

#[test]
fn a_workflow_is_known_to_all_nodes() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    create_inc(&a);
    create_workflow(&a, "w", &twice().to_string());
    // At once: a node that doesn't know a workflow asks.
    assert_eq!(run(&b, "w"), json!({"n": 3}));
    // Whoever has it first keeps it.
    let source = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(twice().to_string())
    };
    let again = json!({"Name": "w", "ASLSrc": source});
    b.post("/workflow/create", &again).expect(409);

    let body = json!({"Name": "w", "ASLSrc": source, "OverwriteIfExists": true});
    b.post("/workflow/create", &body).expect(200);
    a.post("/workflow/delete", &json!({"Name": "w"}))
        .expect(200);
    eventually("the deletion to reach b", || {
        (!knows(&b, "w")).then_some(())
    });
    assert!(etcd.value("/workflow/w").is_none());

    // One that joins learns of them, and one that was away of what has become of them.
    create_workflow(&a, "before", &twice().to_string());
    create_workflow(&a, "gone", &twice().to_string());
    let c = member(&etcd, "c").start();
    eventually("c to know it", || knows(&c, "before").then_some(()));
    let (_, c) = c.stop();
    a.post("/workflow/delete", &json!({"Name": "gone"}))
        .expect(200);
    let c = c.start();
    eventually("c to forget it", || (!knows(&c, "gone")).then_some(()));
    assert!(knows(&c, "before"));
}

#[test]
fn workflows_look_like_the_originals() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    create_inc(&a);
    create_workflow(&a, "wf", &twice().to_string());
    let mut ours = stored(&etcd, "wf");
    let definition = ours["Definition"]["Text"].as_str().unwrap().to_owned();
    assert_eq!(serde_json::from_str::<Value>(&definition).unwrap(), twice());
    ours.as_object_mut().unwrap().remove("Definition");
    let theirs: Value = serde_json::from_str(&recorded()).unwrap();
    let renamed = |workflow: &Value| {
        let text = workflow.to_string();
        let id = |which: &str| workflow[which]["Id"].as_str().unwrap().to_owned();
        let text = text
            .replace(&id("Start"), "start")
            .replace(&id("End"), "end");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(renamed(&ours), renamed(&theirs));

    // What the original has no words for fails there, and says so; here it is what it is.
    let waits = json!({"StartAt": "W", "States": {
        "W": {"Type": "Wait", "Seconds": 0, "Next": "A"},
        "A": {"Type": "Task", "Resource": "inc", "End": true}}});
    create_workflow(&a, "waits", &waits.to_string());
    let there = stored(&etcd, "waits");
    assert_eq!(there["Tasks"]["NotSupported"]["Type"], "Fail");
    let b = member(&etcd, "b").start();
    eventually("b to know it", || knows(&b, "waits").then_some(()));
    assert_eq!(run(&b, "waits"), json!({"n": 2}));
}

#[test]
fn what_the_original_has_put_there_runs() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    create_inc(&a);
    etcd.put("/workflow/wf", &recorded());
    assert_eq!(run(&a, "wf"), json!({"n": 3}));
    let b = member(&etcd, "b").start();
    assert_eq!(run(&b, "wf"), json!({"n": 3}));
    // It stays as it was: others go by its ids.
    assert_eq!(etcd.value("/workflow/wf").unwrap(), recorded());

    // What is no workflow harms nobody, and an older one is gone.
    etcd.put("/workflow/odd", "not JSON");
    etcd.put("/workflow/named", &recorded());
    etcd.put(
        "/workflow/wf",
        r#"{"Name":"wf","Start":null,"Tasks":null,"End":null}"#,
    );
    eventually("wf to be gone", || (!knows(&a, "wf")).then_some(()));
    etcd.put("/workflow/wf", &recorded());
    eventually("wf to be back", || knows(&a, "wf").then_some(()));
    assert!(!knows(&a, "odd") && !knows(&a, "named"));
    etcd.delete("/workflow/wf");
    eventually("the deletion", || (!knows(&b, "wf")).then_some(()));
}

#[test]
fn workflows_run_but_do_not_change_while_etcd_is_away() {
    let mut etcd = etcd();
    let a = member(&etcd, "a").start();
    create_inc(&a);
    create_workflow(&a, "w", &twice().to_string());
    etcd.kill();
    assert_eq!(run(&a, "w"), json!({"n": 3}));
    a.post("/workflow/delete", &json!({"Name": "w"}))
        .expect(503);
    // Another etcd than before is told what there is.
    etcd.wipe();
    etcd.start();
    eventually("it to be there again", || {
        etcd.value("/workflow/w").map(drop)
    });
    assert!(knows(&a, "w"));
}

#[test]
fn results_of_asynchronous_runs_are_found_at_every_node() {
    let etcd = etcd();
    let a = member(&etcd, "a").start();
    let b = member(&etcd, "b").start();
    create_inc(&a);
    create_workflow(&a, "w", &twice().to_string());
    let body = json!({"Params": {"n": 1}, "Async": true});
    let reply = a.post("/workflow/invoke/w", &body).expect(200).json();
    let id = reply["ReqId"].as_str().unwrap();
    assert_eq!(b.poll(id).json()["Result"], json!({"n": 3}));
}
