//! Workflows on a node: as clients of the original and of ours meet them, executions as resources,
//! and what becomes of them when the node dies.

mod client;
mod durable;
mod examples;
mod executions;
mod files;
mod fleet;
mod handover;
mod objects;
mod peer;
mod places;
mod reading;
mod routes;
mod takeover;

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Node, PATIENCE};

/// Registers a workflow.
#[track_caller]
fn register(node: &Node, name: &str, definition: &Value) {
    register_as(node, name, json!({"Definition": definition}));
}

/// Registers a workflow with options.
#[track_caller]
fn register_as(node: &Node, name: &str, spec: Value) {
    let path = format!("/v1/workflows/{name}");
    node.send("PUT", &path, spec.to_string()).expect(200);
}

/// Starts a standard execution; gives its id.
#[track_caller]
fn start(node: &Node, workflow: &str, input: Value) -> String {
    let request = json!({"Workflow": workflow, "Input": input});
    let started = node.post("/v1/executions", &request).expect(200);
    id_of(&started)
}

#[track_caller]
fn id_of(reply: &Response) -> String {
    reply.field("Id").as_str().expect("an id").to_owned()
}

/// Runs an express execution.
#[track_caller]
fn express(node: &Node, workflow: &str, input: Value) -> Value {
    let request = json!({"Workflow": workflow, "Input": input, "Type": "express"});
    node.post("/v1/executions", &request).expect(200).json()
}

/// An execution as it is.
#[track_caller]
fn execution(node: &Node, id: &str) -> Value {
    let path = format!("/v1/executions/{id}");
    node.get(&path).expect(200).json()
}

/// Waits for an execution's end: for longer than for other things, as it may be of many steps, each
/// of which is written to a busy disk.
#[track_caller]
fn ended(node: &Node, id: &str) -> Value {
    let path = format!("/v1/executions/{id}?wait=20");
    let deadline = Instant::now() + 5 * PATIENCE;
    loop {
        let reply = node.get(&path).expect(200).json();
        if reply["Status"] != "RUNNING" {
            return reply;
        }
        assert!(Instant::now() < deadline, "no end in time: {reply}");
    }
}

/// Types and states of an execution's history.
#[track_caller]
fn history(node: &Node, id: &str) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    let mut after = 0;
    loop {
        let path = format!("/v1/executions/{id}/history?limit=50&after={after}");
        let page = node.get(&path).expect(200).json();
        for event in page["Events"].as_array().expect("events") {
            let kind = event["Type"].as_str().expect("a type").to_owned();
            events.push((kind, event["State"].clone()));
        }
        match page["Next"].as_u64() {
            Some(next) => after = next,
            None => return events,
        }
    }
}

/// Types of the events of a state.
#[track_caller]
fn events_of(node: &Node, id: &str, state: &str) -> Vec<String> {
    let events = history(node, id).into_iter();
    let events = events.filter(|(_, of)| of == state);
    events.map(|(kind, _)| kind).collect()
}
