//! Executions go on at another node when theirs dies, stops answering or is cut off, and at one node
//! only. Real nodes and a real etcd; functions note each of their runs in a file.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::durable::{noted, noting, runs, twenty_states};
use super::{ended, execution, history, register, register_as, start};
use crate::support::etcd::member;
use crate::support::node::Builder;
use crate::support::proxy::Proxy;
use crate::support::{Etcd, Node, balancer, etcd, eventually, http, python};

const PREFIX: &str = "serverledge/executions/";

/// A node whose executions others take over soon, but not so soon that a busy machine looks dead.
fn builder(etcd: &Etcd, key: &str) -> Builder {
    member(etcd, key, "ROME")
        .set("sandbox.isolation", "process")
        .set("workflow.takeover.lease", 5)
}

/// Starts it, and waits until its executions are shared.
#[track_caller]
fn started(builder: Builder) -> Node {
    let node = builder.start();
    node.wait_for_log("executions of this node are kept in etcd");
    node
}

#[track_caller]
fn joined(etcd: &Etcd, key: &str) -> Node {
    started(builder(etcd, key))
}

/// A function that notes its runs and then waits for the file `gate`.
fn gate(dir: &Path) -> crate::support::Function {
    let source = format!(
        "import os, time\ndef handler(params, context):\n    \
         with open({0:?} + '/runs', 'a') as file:\n        \
         file.write('gate\\n')\n    \
         while not os.path.exists({0:?} + '/gate'):\n        \
         time.sleep(0.01)\n    \
         return {{'n': 1}}\n",
        dir.display()
    );
    python("gate", &source).timeout(600.0)
}

fn open(dir: &Path) {
    std::fs::write(dir.join("gate"), "").unwrap();
}

#[track_caller]
fn until_runs(dir: &Path, state: &str, count: usize) {
    eventually(&format!("{state} to run for the {count}th time"), || {
        let runs = runs(&dir.join("runs"));
        (runs.get(state).copied().unwrap_or(0) >= count).then_some(())
    });
}

fn then_noted(first: Value) -> Value {
    let mut first = first;
    first["Next"] = json!("T1");
    let mut states = json!({"First": first});
    for (name, next) in [("T1", Some("T2")), ("T2", Some("T3")), ("T3", None)] {
        let mut state = noted(false);
        match next {
            Some(next) => state["Next"] = json!(next),
            None => state["End"] = json!(true),
        }
        states[name] = state;
    }
    json!({"StartAt": "First", "States": states})
}

/// Makes node and etcd know functions and a workflow `w` that waits at a gate, then has three tasks.
fn prepare_gate(node: &Node) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    node.create(&gate(dir.path()));
    node.create(&noting(&dir.path().join("runs")));
    let gate = json!({"Type": "Task", "Resource": "gate"});
    register(node, "w", &then_noted(gate));
    dir
}

/// The node that has the execution, whoever is asked.
fn owner(node: &Node, id: &str) -> Option<String> {
    let reply = node.get(&format!("/v1/executions/{id}"));
    (reply.status == 200).then(|| reply.json()["Node"].as_str().unwrap_or_default().to_owned())
}

#[track_caller]
fn until_owned(node: &Node, id: &str, key: &str) {
    eventually(&format!("{key} to have it"), || {
        (owner(node, id).as_deref() == Some(key)).then_some(())
    });
}

/// The end of an execution that may be between two nodes.
#[track_caller]
fn ends(node: &Node, id: &str) -> Value {
    eventually("the execution to be found", || owner(node, id));
    eventually("the execution to end", || {
        let reply = node.get(&format!("/v1/executions/{id}?wait=5"));
        let reply = (reply.status == 200).then(|| reply.json())?;
        (reply["Status"] != "RUNNING").then_some(reply)
    })
}

#[track_caller]
fn until_nothing_is_left(etcd: &Etcd) {
    eventually("etcd to have no execution any more", || {
        let parts = ["heads/", "journals/", "of/"];
        let left = parts
            .iter()
            .flat_map(|part| etcd.entries(&format!("{PREFIX}{part}")));
        // What has moved is remembered for a while.
        let left: Vec<_> = left
            .filter(|(_, value, _)| !value.contains("\"IsOver\":true"))
            .collect();
        left.is_empty().then_some(())
    });
}

#[track_caller]
fn assert_ran_once(dir: &Path) {
    let runs = runs(&dir.join("runs"));
    for state in ["T1", "T2", "T3"] {
        assert_eq!(runs.get(state), Some(&1), "{state}: {runs:?}");
    }
}

/// Runs twenty states on a node that dies at a write, and another one beside it. Output, history, runs.
fn dying_at(write: Option<&str>) -> (Value, Vec<(String, Value)>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("runs");
    let etcd = etcd();
    let b = joined(&etcd, "b");
    b.create(&noting(&file));
    register(&b, "w", &twenty_states());
    let a = builder(&etcd, "a");
    let a = match write {
        Some(write) => a.dies_at(write),
        None => a,
    };
    let a = started(a);
    eventually("a to know the workflow", || {
        (a.get("/v1/workflows/w").status == 200).then_some(())
    });
    let request = json!({"Workflow": "w", "Name": "run", "Input": {"n": 0}}).to_string();
    let _ = http::request(a.address, "POST", "/v1/executions", &[], request.as_bytes());
    let id = match write {
        // Mostly because it has died; a machine that is busy enough may make it look so before.
        Some(_) => eventually("b to have it", || {
            let list = b.get("/v1/executions").expect(200).json();
            list["Executions"][0]["Id"].as_str().map(str::to_owned)
        }),
        None => {
            let list = a.get("/v1/executions").expect(200).json();
            list["Executions"][0]["Id"].as_str().unwrap().to_owned()
        }
    };
    let reply = ends(&b, &id);
    assert_eq!(reply["Status"], "SUCCEEDED", "{write:?}: {reply}");
    let node = if write.is_some() { &b } else { &a };
    assert_eq!(reply["Node"], if write.is_some() { "b" } else { "a" });
    until_nothing_is_left(&etcd);
    let history = history(node, &id);
    (reply["Output"].clone(), history, runs(&file).values().sum())
}

#[test]
fn killed_at_a_write_an_execution_ends_elsewhere_as_if_nothing_had_been() {
    let (output, events, once) = dying_at(None);
    let check = |write: &str| {
        let (same, history, runs) = dying_at(Some(write));
        assert_eq!(same, output, "{write}");
        assert_eq!(history, events, "{write}");
        // Only what was under way when the node died may have run twice.
        assert!(runs <= once + 1, "{write}: {runs} runs, undisturbed {once}");
    };
    let writes = [
        "after:1",
        "before:3",
        "after:6",
        "before:9",
        "after:11",
        "before:12",
    ];
    for some in writes.chunks(2) {
        std::thread::scope(|scope| {
            let checks: Vec<_> = some
                .iter()
                .map(|write| scope.spawn(|| check(write)))
                .collect();
            for check in checks {
                check.join().expect("its own failure is shown");
            }
        });
    }
}

#[test]
fn a_node_that_was_stopped_finds_that_another_has_gone_on() {
    let etcd = etcd();
    let (a, b) = (joined(&etcd, "a"), joined(&etcd, "b"));
    let dir = prepare_gate(&a);
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 1);
    a.signal("STOP");
    until_runs(dir.path(), "gate", 2);
    open(dir.path());
    let reply = ends(&b, &id);
    assert_eq!(
        (&reply["Status"], &reply["Node"]),
        (&json!("SUCCEEDED"), &json!("b"))
    );
    assert_eq!(reply["Epoch"], 1);
    a.signal("CONT");
    // It has the result of its own run of the gate by now, and goes on with nothing.
    a.wait_for_log("another node goes on with an execution");
    until_owned(&a, &id, "b");
    assert_eq!(execution(&a, &id)["Output"], reply["Output"]);
    assert_ran_once(dir.path());
    let listed = a.get("/v1/executions").expect(200).json();
    assert_eq!(listed["Executions"], json!([]));
    until_nothing_is_left(&etcd);
}

#[test]
fn a_node_that_is_cut_off_stands_still() {
    let etcd = etcd();
    let proxy = Proxy::to(etcd.clients());
    let a = started(builder(&etcd, "a").set("etcd.address", proxy.address()));
    let dir = prepare_gate(&a);
    let waits = json!({"Type": "Wait", "Seconds": 86_400});
    register(&a, "waits", &then_noted(waits));
    let b = joined(&etcd, "b");
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 1);
    proxy.cut();
    until_runs(dir.path(), "gate", 2);
    until_owned(&b, &id, "b");
    open(dir.path());
    let note = eventually("a to say that it stands still", || {
        execution(&a, &id)["Note"].as_str().map(str::to_owned)
    });
    assert!(note.contains("stands still"), "{note}");
    assert_eq!(execution(&a, &id)["Status"], "RUNNING");
    let reply = ends(&b, &id);
    assert_eq!(reply["Status"], "SUCCEEDED");
    // What begins there meanwhile is that node's alone, and goes on.
    let local = start(&a, "w", json!({}));
    assert_eq!(ended(&a, &local)["Status"], "SUCCEEDED");
    let waiting = start(&a, "waits", json!({"n": 0}));
    proxy.mend();
    until_owned(&a, &id, "b");
    eventually("what waits to be shared", || {
        etcd.value(&format!("{PREFIX}heads/{waiting}")).map(drop)
    });
    let runs = runs(&dir.path().join("runs"));
    assert_eq!(
        (runs["T1"], runs["T3"]),
        (2, 2),
        "once in each execution: {runs:?}"
    );
}

#[test]
fn nobody_else_is_there_a_node_goes_on_when_etcd_is_back() {
    let mut etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 1);
    etcd.kill();
    open(dir.path());
    eventually("it to stand still", || {
        execution(&a, &id)["Note"].is_string().then_some(())
    });
    etcd.start();
    assert_eq!(ended(&a, &id)["Status"], "SUCCEEDED");
    assert_ran_once(dir.path());
    assert_eq!(runs(&dir.path().join("runs"))["gate"], 1);
    // An etcd that has lost everything can't say that somebody else has it.
    std::fs::remove_file(dir.path().join("gate")).unwrap();
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 2);
    etcd.kill();
    etcd.wipe();
    etcd.start();
    open(dir.path());
    assert_eq!(ended(&a, &id)["Status"], "SUCCEEDED");
}

#[test]
fn a_node_that_comes_back_knows_what_it_has_lost_and_what_it_has_not() {
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let waits = json!({"Type": "Wait", "Seconds": 86_400});
    register(&a, "waits", &then_noted(waits));
    let kept = start(&a, "waits", json!({"n": 0}));
    // Nobody is there to take it.
    let a = started(a.kill9());
    assert_eq!(execution(&a, &kept)["Status"], "RUNNING");
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 1);
    let a = a.kill9();
    let b = joined(&etcd, "b");
    until_runs(dir.path(), "gate", 2);
    let a = started(a);
    open(dir.path());
    until_owned(&a, &id, "b");
    until_owned(&a, &kept, "b");
    assert_eq!(ends(&a, &id)["Status"], "SUCCEEDED");
    eventually("a to have nothing left", || {
        let listed = a.get("/v1/executions").expect(200).json();
        (listed["Executions"] == json!([])).then_some(())
    });
    assert_ran_once(dir.path());
    // Whoever is asked, who has it does it.
    let path = format!("/v1/executions/{kept}/stop");
    assert_eq!(
        a.post(&path, &json!({})).expect(200).field("Status"),
        "ABORTED"
    );
    assert_eq!(execution(&b, &kept)["Status"], "ABORTED");
    let path = format!("/v1/executions/{kept}/history?limit=2");
    assert_eq!(
        a.get(&path).expect(200).json(),
        b.get(&path).expect(200).json()
    );
    a.get("/v1/executions/00000000000000000000000000000000")
        .expect(404);
}

#[test]
fn several_share_what_one_leaves() {
    const COUNT: usize = 40;
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = tempfile::tempdir().unwrap();
    a.create(&noting(&dir.path().join("runs")));
    let waits = json!({"Type": "Wait", "SecondsPath": "$.s"});
    register(&a, "w", &then_noted(waits));
    let (b, c) = (joined(&etcd, "b"), joined(&etcd, "c"));
    let ids: Vec<String> = (0..COUNT)
        .map(|_| start(&a, "w", json!({"n": 0, "s": 12})))
        .collect();
    drop(a.kill9());
    let mut owners = std::collections::BTreeMap::new();
    for id in &ids {
        let reply = ends(&b, id);
        assert_eq!(reply["Status"], "SUCCEEDED", "{reply}");
        assert_eq!(reply["Output"], json!({"n": 3}));
        let owner = reply["Node"].as_str().unwrap().to_owned();
        *owners.entry(owner).or_insert(0) += 1;
    }
    assert_eq!(owners.keys().collect::<Vec<_>>(), ["b", "c"], "{owners:?}");
    let runs = runs(&dir.path().join("runs"));
    assert_eq!(runs["T1"], COUNT);
    assert_eq!(runs["T3"], COUNT);
    for (key, node) in [("b", &b), ("c", &c)] {
        let listed = node.get("/v1/executions?limit=1000").expect(200).json();
        let count = listed["Executions"].as_array().unwrap().len();
        assert_eq!(count, owners[key]);
    }
}

#[test]
fn tokens_are_taken_at_every_node() {
    let etcd = etcd();
    let (a, b, c) = (joined(&etcd, "a"), joined(&etcd, "b"), joined(&etcd, "c"));
    let dir = tempfile::tempdir().unwrap();
    let source = format!(
        "def handler(params, context):\n    \
         with open({:?} + '/' + params['name'], 'w') as file:\n        \
         file.write(params['token'])\n",
        dir.path().display()
    );
    a.create(&python("ask", &source));
    let definition = json!({"StartAt": "Ask", "States": {"Ask": {
        "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {"FunctionName": "ask", "Payload": {
            "name.$": "$.name", "token.$": "$$.Task.Token"}},
        "End": true,
    }}});
    register(&a, "asks", &definition);
    let token = |name: &str| {
        eventually("a token", || {
            let token = std::fs::read_to_string(dir.path().join(name)).ok()?;
            (!token.is_empty()).then_some(token)
        })
    };
    let [here, there] = ["here", "there"].map(|name| start(&a, "asks", json!({"name": name})));
    let answered = |node: &Node, token: &str| {
        let path = format!("/v1/tasks/{token}/success");
        node.post(&path, &json!({"Output": "yes"})).status == 200
    };
    eventually("the answer to be taken elsewhere", || {
        answered(&c, &token("here")).then_some(())
    });
    assert_eq!(ended(&a, &here)["Output"], "yes");
    let token = token("there");
    eventually("it to wait for its token", || {
        let path = format!("/v1/tasks/{token}/heartbeat");
        (c.post(&path, &json!({})).status == 200).then_some(())
    });
    drop(a.kill9());
    eventually("the answer to be taken", || {
        answered(&b, &token).then_some(())
    });
    assert_eq!(ends(&c, &there)["Output"], "yes");
    b.post(&format!("/v1/tasks/{token}/success"), &json!({"Output": 1}))
        .expect(404);
}

#[test]
fn etcd_may_come_back_after_the_node_has_died() {
    let mut etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let b = joined(&etcd, "b");
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 1);
    etcd.kill();
    drop(a.kill9());
    open(dir.path());
    etcd.start();
    let reply = ends(&b, &id);
    assert_eq!(reply["Status"], "SUCCEEDED");
    assert_ran_once(dir.path());
}

#[test]
fn what_is_too_large_stays_with_its_node() {
    let etcd = etcd();
    let a = started(builder(&etcd, "a").set("workflow.takeover.bytes_max", "20KiB"));
    let b = joined(&etcd, "b");
    let dir = prepare_gate(&a);
    a.create(&python(
        "large",
        "def handler(params, context):\n    return 'x' * 30_000\n",
    ));
    let definition = json!({"StartAt": "Large", "States": {
        "Large": {"Type": "Task", "Resource": "large", "Next": "Gate"},
        "Gate": {"Type": "Task", "Resource": "gate", "End": true},
    }});
    register(&a, "l", &definition);
    let id = start(&a, "l", json!({}));
    until_runs(dir.path(), "gate", 1);
    let shown = execution(&a, &id);
    let note = shown["Note"].as_str().unwrap_or_default();
    assert!(note.contains("stays with its node"), "{shown}");
    assert!(note.contains("workflow.takeover.bytes_max"), "{shown}");
    until_nothing_is_left(&etcd);
    let a = a.kill9();
    // Nor does anybody have it now; who is asked says where it should be.
    assert_eq!(
        b.get("/v1/executions?limit=9").expect(200).json()["Executions"],
        json!([])
    );
    let a = a.start();
    until_runs(dir.path(), "gate", 2);
    open(dir.path());
    assert_eq!(ended(&a, &id)["Status"], "SUCCEEDED");
}

#[test]
fn thousand_that_wait_are_taken_over() {
    const COUNT: usize = 1_000;
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let waits = json!({"StartAt": "Wait", "States": {
        "Wait": {"Type": "Wait", "SecondsPath": "$.s", "End": true},
    }});
    register(&a, "w", &waits);
    let b = joined(&etcd, "b");
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..COUNT / 10 {
                    start(&a, "w", json!({"s": 86_400}));
                }
            });
        }
    });
    let due = start(&a, "w", json!({"s": 4}));
    eventually("all to be in etcd", || {
        let heads = etcd.entries(&format!("{PREFIX}heads/"));
        (heads.len() == COUNT + 1).then_some(())
    });
    drop(a.kill9());
    assert_eq!(ends(&b, &due)["Status"], "SUCCEEDED");
    let last = eventually("b to have all", || {
        let path = "/v1/executions?status=RUNNING&limit=1000";
        let listed = b.get(path).expect(200).json();
        let listed = listed["Executions"].as_array().unwrap();
        (listed.len() == COUNT).then(|| listed[0]["Id"].as_str().unwrap().to_owned())
    });
    let stopped = b.post(&format!("/v1/executions/{last}/stop"), &json!({}));
    assert_eq!(stopped.expect(200).field("Status"), "ABORTED");
}

#[test]
fn calls_that_are_polled_for_are_answered_by_who_goes_on() {
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let b = joined(&etcd, "b");
    let reply = a.post("/workflow/invoke/w", &json!({"Params": {}, "Async": true}));
    let call = reply
        .expect(200)
        .field("ReqId")
        .as_str()
        .unwrap()
        .to_owned();
    until_runs(dir.path(), "gate", 1);
    let a = a.kill9();
    until_runs(dir.path(), "gate", 2);
    open(dir.path());
    assert_eq!(b.poll(&call).json()["Result"], json!({"n": 4}));
    let a = started(a);
    assert_eq!(a.poll(&call).json()["Result"], json!({"n": 4}));
    eventually("a to have nothing left", || {
        let listed = a.get("/v1/executions").expect(200).json();
        (listed["Executions"] == json!([])).then_some(())
    });
    assert_ran_once(dir.path());
}

#[test]
fn executions_go_on_with_those_that_they_have_started() {
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let parent = json!({"Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Parameters": {"StateMachineArn": "w", "Input": {}}, "ResultSelector": {"n.$": "$.Output.n"}});
    register(
        &a,
        "parent",
        &json!({"StartAt": "Child", "States": {"Child": {
            "Type": "Task", "Resource": parent["Resource"], "Parameters": parent["Parameters"],
            "ResultSelector": parent["ResultSelector"], "End": true,
        }}}),
    );
    let (b, c) = (joined(&etcd, "b"), joined(&etcd, "c"));
    let id = start(&a, "parent", json!({}));
    until_runs(dir.path(), "gate", 1);
    drop(a.kill9());
    until_runs(dir.path(), "gate", 2);
    open(dir.path());
    let reply = ends(&b, &id);
    assert_eq!(
        (&reply["Status"], &reply["Output"]),
        (&json!("SUCCEEDED"), &json!({"n": 4}))
    );
    assert_ran_once(dir.path());
    // Both are at one of them.
    let count = |node: &Node| {
        let listed = node.get("/v1/executions").expect(200).json();
        listed["Executions"].as_array().unwrap().len()
    };
    assert!([(2, 0), (0, 2)].contains(&(count(&b), count(&c))));
}

#[test]
fn a_task_that_may_run_once_does_not_run_again_elsewhere() {
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let definition = json!({"StartAt": "Gate", "States": {
        "Gate": {"Type": "Task", "Resource": "gate", "End": true},
    }});
    register_as(
        &a,
        "once",
        json!({"Definition": definition, "OnCrash": "Fail"}),
    );
    let b = joined(&etcd, "b");
    let id = start(&a, "once", json!({}));
    until_runs(dir.path(), "gate", 1);
    drop(a.kill9());
    let reply = ends(&b, &id);
    assert_eq!(reply["Error"], "Serverledge.NodeDied", "{reply}");
    assert_eq!(runs(&dir.path().join("runs"))["gate"], 1);
    // Gone on with, it is who has it that does so.
    open(dir.path());
    let path = format!("/v1/executions/{id}/redrive");
    b.post(&path, &json!({})).expect(200);
    assert_eq!(ended(&b, &id)["Status"], "SUCCEEDED");
}

#[test]
fn without_takeover_nothing_of_executions_is_in_etcd() {
    let etcd = etcd();
    let a = builder(&etcd, "a").set("workflow.takeover", false).start();
    let dir = prepare_gate(&a);
    let id = start(&a, "w", json!({}));
    until_runs(dir.path(), "gate", 1);
    assert_eq!(etcd.entries(PREFIX), []);
    open(dir.path());
    assert_eq!(ended(&a, &id)["Status"], "SUCCEEDED");
    // Others find it all the same: its id says where it began.
    let b = builder(&etcd, "b").set("workflow.takeover", false).start();
    until_owned(&b, &id, "a");
}

#[test]
fn definitions_that_nobody_needs_are_removed() {
    let etcd = etcd();
    let a = joined(&etcd, "a");
    let dir = prepare_gate(&a);
    let waits = json!({"Type": "Wait", "Seconds": 86_400});
    register(&a, "waits", &then_noted(waits));
    start(&a, "waits", json!({"n": 0}));
    let id = start(&a, "w", json!({}));
    let kept = || etcd.entries(&format!("{PREFIX}definitions/")).len();
    assert_eq!(kept(), 2);
    open(dir.path());
    assert_eq!(ended(&a, &id)["Status"], "SUCCEEDED");
    eventually("the execution to be gone from etcd", || {
        (etcd.entries(&format!("{PREFIX}heads/")).len() == 1).then_some(())
    });
    assert_eq!(kept(), 2);
    let a = started(a.kill9());
    eventually("the definition to be gone", || (kept() == 1).then_some(()));
    // It is put there again when it is needed.
    let id = start(&a, "w", json!({}));
    assert_eq!(ended(&a, &id)["Status"], "SUCCEEDED");
    assert_eq!(kept(), 2);
}

#[test]
fn a_balancer_need_not_know_who_has_an_execution() {
    let etcd = etcd();
    let (a, b) = (joined(&etcd, "a"), joined(&etcd, "b"));
    let waits = json!({"Type": "Wait", "Seconds": 86_400, "End": true});
    register(
        &a,
        "waits",
        &json!({"StartAt": "First", "States": {"First": waits}}),
    );
    let balancer = balancer()
        .set("etcd.address", etcd.address())
        .set("registry.area", "ROME")
        .set("registry.node.id", "front")
        .start();
    let ids: Vec<String> = (0..6).map(|_| start(&a, "waits", json!({}))).collect();
    for id in &ids {
        let path = format!("/v1/executions/{id}/stop");
        let stopped = eventually("somebody behind the balancer to answer", || {
            let reply = balancer.post(&path, &json!({"Cause": "enough"}));
            (reply.status == 200).then(|| reply.json())
        });
        assert_eq!(stopped["Status"], "ABORTED");
        assert_eq!(stopped["Node"], "a");
    }
    // The other one has none, and asks for them as well.
    assert_eq!(execution(&b, &ids[0])["Cause"], "enough");
    let listed = b.get("/v1/executions").expect(200).json();
    assert_eq!(listed["Executions"], json!([]));
}
