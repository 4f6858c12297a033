//! Executions survive their node: killed at every write to the journal, or told to stop.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{ended, execution, history, register, register_as, start};
use crate::support::http;
use crate::support::node::Builder;
use crate::support::{Node, eventually, node, python};

/// A node whose functions may write files, so that the test sees how often they run.
fn open_node() -> Builder {
    node().set("sandbox.isolation", "process")
}

/// A function that notes each of its runs in a file, and fails at a state's first attempt if told
/// to.
pub(super) fn noting(file: &Path) -> crate::support::Function {
    let source = format!(
        "def handler(params, context):\n    \
         with open({:?}, 'a') as file:\n        \
         file.write(params['state'] + '\\n')\n    \
         if params.get('fails') and params['attempt'] == 0:\n        \
         raise IOError('the first attempt')\n    \
         return {{'n': params['n'] + 1}}\n",
        file.display()
    );
    python("note", &source)
}

pub(super) fn runs(file: &Path) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    runs
}

pub(super) fn noted(fails: bool) -> Value {
    let mut state = json!({
        "Type": "Task",
        "Resource": "note",
        "Parameters": {
            "state.$": "$$.State.Name", "attempt.$": "$$.State.RetryCount",
            "n.$": "$.n", "fails": fails,
        },
    });
    if fails {
        state["Retry"] = json!([{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1}]);
    }
    state
}

/// Twenty states: tasks, one of which is tried twice, branches, items, a choice, a wait.
pub(super) fn twenty_states() -> Value {
    let pass = |value: &str| json!({"Type": "Pass", "Result": value, "ResultPath": "$.note"});
    let apart = |path: &str| {
        let mut state = noted(false);
        state["ResultPath"] = json!(path);
        state
    };
    let branch = |name: &str| json!({"StartAt": name, "States": {name: noted_end()}});
    let fork = json!({
        "Type": "Parallel",
        "Branches": [
            branch("B1"),
            {"StartAt": "B2", "States": {"B2": {"Type": "Pass", "End": true}}},
        ],
        "OutputPath": "$[0]",
    });
    let items = json!({
        "Type": "Pass",
        "Parameters": {"n.$": "$.n", "items": [{"n": 10}, {"n": 20}]},
    });
    let map = json!({
        "Type": "Map",
        "ItemsPath": "$.items",
        "MaxConcurrency": 1,
        "ItemProcessor": branch("M1"),
        "ResultPath": "$.items",
    });
    let in_order = [
        ("P1", pass("begun"), "T1"),
        ("T1", noted(false), "T2"),
        ("T2", noted(true), "C1"),
        ("T3", noted(false), "Fork"),
        ("Fork", fork, "Items"),
        ("Items", items, "Map"),
        ("Map", map, "W1"),
        ("W1", json!({"Type": "Wait", "Seconds": 1}), "T4"),
        ("T4", apart("$.n4"), "P2"),
        ("P2", pass("nearly"), "T5"),
        ("T5", apart("$.n5"), "P3"),
        ("P3", pass("done"), "P4"),
        ("P4", json!({"Type": "Pass"}), "P5"),
        ("P5", json!({"Type": "Pass"}), "S"),
    ];
    let mut states = serde_json::Map::new();
    for (name, mut state, next) in in_order {
        state["Next"] = json!(next);
        states.insert(name.to_owned(), state);
    }
    states.insert("S".into(), json!({"Type": "Succeed"}));
    states.insert("Never".into(), json!({"Type": "Fail", "Error": "Never"}));
    states.insert(
        "C1".into(),
        json!({"Type": "Choice", "Default": "Never", "Choices": [
            {"Variable": "$.n", "NumericEquals": 2, "Next": "T3"},
        ]}),
    );
    json!({"StartAt": "P1", "States": states})
}

fn noted_end() -> Value {
    let mut state = noted(false);
    state["End"] = json!(true);
    state
}

/// Starts the execution called `run` and waits for its end, if the node lives.
fn try_run(node: &Node) -> Option<Value> {
    let request = json!({"Workflow": "w", "Name": "run", "Input": {"n": 0}, "Wait": 60});
    let body = request.to_string();
    let reply = http::request(node.address, "POST", "/v1/executions", &[], body.as_bytes()).ok()?;
    (reply.status == 200).then(|| reply.json())
}

/// What an execution left: output, history, runs of each state's function.
type Left = (Value, Vec<(String, Value)>, BTreeMap<String, usize>);

/// Runs the workflow on a node that dies at a write, and then on one that doesn't. `None` if the
/// first got to the end.
fn dying_at(write: &str) -> (Left, bool) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("runs");
    let mut prepared = open_node().start();
    prepared.create(&noting(&file));
    register(&prepared, "w", &twenty_states());
    let (_, builder) = prepared.stop();
    prepared = builder.dies_at(write).start();
    let survived = try_run(&prepared).is_some_and(|it| it["Status"] != "RUNNING");
    if !survived {
        prepared.wait();
        prepared = prepared.builder().dies_not().start();
    }
    let reply = eventually("an answer", || try_run(&prepared));
    let id = reply["Id"].as_str().unwrap().to_owned();
    let reply = ended(&prepared, &id);
    assert_eq!(reply["Status"], "SUCCEEDED", "{write}: {reply}");
    let left = (
        reply["Output"].clone(),
        history(&prepared, &id),
        runs(&file),
    );
    (left, survived)
}

#[test]
fn killed_at_any_write_an_execution_ends_as_if_nothing_had_been() {
    let ((output, events, once), survived) = dying_at("before:1000");
    assert!(survived);
    assert_eq!(output["n5"], json!({"n": 5}), "{output}");
    assert!(events.len() > 60, "{events:?}");
    let check = |write: &str| {
        let ((same, history, runs), survived) = dying_at(write);
        assert_eq!(same, output, "{write}");
        assert_eq!(history, events, "{write}");
        // Only what was under way when the node died may have run twice.
        let more: usize = runs.values().sum::<usize>() - once.values().sum::<usize>();
        assert!(more <= 1, "{write}: {runs:?}, undisturbed {once:?}");
        !survived
    };
    let mut deaths = 0;
    for number in 1.. {
        let died = std::thread::scope(|scope| {
            let before = scope.spawn(|| check(&format!("before:{number}")));
            let died = check(&format!("after:{number}"));
            before.join().expect("its own failure is shown") || died
        });
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 10, "the node died at {deaths} writes only");
}

/// A node with an execution whose task runs for as long as the file `gate` isn't there.
fn with_gate(on_crash: &str) -> (Node, tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let node = open_node().set("shutdown.drain", 0).start();
    let source = format!(
        "import os, time\ndef handler(params, context):\n    \
         with open({0:?} + '/runs', 'a') as file:\n        \
         file.write('run\\n')\n    \
         while not os.path.exists({0:?} + '/gate'):\n        \
         time.sleep(0.01)\n    \
         return 'through'\n",
        dir.path().display()
    );
    node.create(&python("gate", &source).timeout(600.0));
    let definition = json!({"StartAt": "Gate", "States": {
        "Gate": {"Type": "Task", "Resource": "gate", "End": true},
    }});
    register_as(
        &node,
        "w",
        json!({"Definition": definition, "OnCrash": on_crash}),
    );
    let id = start(&node, "w", json!({}));
    until_runs(dir.path(), 1);
    (node, dir, id)
}

#[track_caller]
fn until_runs(dir: &Path, count: usize) {
    eventually(&format!("the task runs for the {count}th time"), || {
        let runs = runs(&dir.join("runs"));
        (runs.get("run").copied().unwrap_or(0) >= count).then_some(())
    });
}

fn open(dir: &Path) {
    std::fs::write(dir.join("gate"), "").unwrap();
}

#[test]
fn a_task_that_ran_when_its_node_died_runs_again() {
    let (node, dir, id) = with_gate("Retry");
    let node = node.kill9().start();
    until_runs(dir.path(), 2);
    open(dir.path());
    assert_eq!(ended(&node, &id)["Output"], "through");
}

#[test]
fn a_task_that_may_run_once_fails_when_its_node_dies() {
    let (node, dir, id) = with_gate("Fail");
    let node = node.kill9().start();
    let reply = ended(&node, &id);
    assert_eq!(reply["Error"], "Serverledge.NodeDied", "{reply}");
    assert_eq!(runs(&dir.path().join("runs"))["run"], 1);
}

#[test]
fn a_task_that_kills_its_node_again_and_again_is_given_up() {
    let (mut node, dir, id) = with_gate("Retry");
    for run in 2..=4 {
        node = node.kill9().start();
        until_runs(dir.path(), run);
    }
    node = node.kill9().start();
    let reply = ended(&node, &id);
    assert_eq!(reply["Error"], "Serverledge.NodeDied", "{reply}");
    assert_eq!(runs(&dir.path().join("runs"))["run"], 4);
}

#[test]
fn a_task_that_may_run_once_is_not_run_again_after_an_orderly_stop() {
    let (node, dir, id) = with_gate("Fail");
    let (_, stopped) = node.stop();
    let node = stopped.start();
    assert_eq!(ended(&node, &id)["Error"], "Serverledge.NodeDied");
    assert_eq!(runs(&dir.path().join("runs"))["run"], 1);
}

#[test]
fn an_orderly_stop_is_no_crash() {
    let (node, dir, id) = with_gate("Retry");
    let mut node = node;
    // More often than a node may die.
    for run in 2..=6 {
        let (status, stopped) = node.stop();
        assert_eq!(status.code(), Some(0));
        node = stopped.start();
        until_runs(dir.path(), run);
    }
    open(dir.path());
    assert_eq!(ended(&node, &id)["Output"], "through");
}

#[test]
fn what_waits_survives_its_node() {
    const EACH: usize = 20;
    let node = node().start();
    let definition = json!({"StartAt": "Wait", "States": {
        "Wait": {"Type": "Wait", "SecondsPath": "$.s", "Next": "Done"},
        "Done": {"Type": "Pass", "End": true},
    }});
    register(&node, "w", &definition);
    let soon: Vec<String> = (0..EACH)
        .map(|_| start(&node, "w", json!({"s": 3})))
        .collect();
    let late: Vec<String> = (0..EACH)
        .map(|_| start(&node, "w", json!({"s": 86400})))
        .collect();
    let node = node.kill9().start();
    for id in &soon {
        assert_eq!(ended(&node, id)["Output"], json!({"s": 3}));
    }
    for id in &late {
        assert_eq!(execution(&node, id)["Status"], "RUNNING");
    }
    let path = format!("/v1/executions/{}/stop", late[0]);
    assert_eq!(
        node.post(&path, &json!({})).expect(200).field("Status"),
        "ABORTED"
    );
    let running = node
        .get("/v1/executions?status=RUNNING&limit=1000")
        .expect(200)
        .json();
    assert_eq!(
        running["Executions"].as_array().map(Vec::len),
        Some(EACH - 1)
    );
}
