//! The client's commands for workflows against a node, and those of `docs/workflows.md`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::examples::create_workflow;
use crate::support::{Node, eventually, node, python};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Where the programs are: the client is built beside the node.
fn programs() -> PathBuf {
    let node = Path::new(env!("CARGO_BIN_EXE_serverledge"));
    let client = node.with_file_name("serverledge-cli");
    assert!(
        client.exists(),
        "no client: `cargo build --workspace` first"
    );
    node.parent().expect("a directory").to_owned()
}

fn run(node: &Node, arguments: &[&str]) -> Output {
    Command::new(programs().join("serverledge-cli"))
        .args(arguments)
        .env_remove("SERVERLEDGE_HOST")
        .env("SERVERLEDGE_PORT", node.address.port().to_string())
        .output()
        .expect("running the client")
}

/// What a command that goes well prints, as JSON.
#[track_caller]
fn said(node: &Node, arguments: &[&str]) -> Value {
    let output = run(node, arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn workflows_are_registered_and_run() {
    let node = node().start();
    node.create(&python(
        "double",
        "def handler(params, context):\n    return {'n': 2 * params['n']}\n",
    ));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("w.json");
    let definition = json!({"StartAt": "C", "States": {
        "C": {"Type": "Choice", "Default": "F", "Choices": [
            {"Variable": "$.n", "NumericEquals": 5, "Next": "A"}]},
        "A": {"Type": "Task", "Resource": "double", "End": true},
        "F": {"Type": "Fail", "Error": "NotFive", "Cause": "it isn't five"},
    }});
    std::fs::write(&file, definition.to_string()).expect("writing the definition");
    let file = file.to_string_lossy().into_owned();
    let create = ["create-workflow", "-f", "w", "-s", &file];
    assert_eq!(said(&node, &create), json!({"Created": "w"}));
    let again = run(&node, &create);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("workflow already exists"));
    said(&node, &[&create[..], &["-u"]].concat());
    assert_eq!(said(&node, &["list-workflows"]), json!(["w"]));

    // Typed values meet numbers, texts don't.
    let invoke = ["invoke-workflow", "-f", "w"];
    let five = said(&node, &[&invoke[..], &["-p", "n:=5"]].concat());
    assert_eq!(five["Result"], json!({"n": 10}));
    let text_five = run(&node, &[&invoke[..], &["-p", "n:5"]].concat());
    assert_eq!(text_five.status.code(), Some(2));
    assert!(text(&text_five.stderr).contains("NotFive"));

    let accepted = said(&node, &[&invoke[..], &["-p", "n:=5", "-a"]].concat());
    let id = accepted["ReqId"].as_str().expect("an id").to_owned();
    let result = eventually("the result", || {
        let output = run(&node, &["poll", "--request", &id]);
        output.status.success().then_some(output.stdout)
    });
    let result: Value = serde_json::from_slice(&result).expect("JSON");
    assert_eq!(result["Result"], json!({"n": 10}));
    assert_eq!(
        said(&node, &["delete-workflow", "-f", "w"]),
        json!({"Deleted": "w"})
    );
}

#[test]
fn executions_are_started_watched_and_steered() {
    let node = node().start();
    node.create(&python(
        "mended",
        "def handler(params, context):\n    raise ValueError('not yet')\n",
    ));
    create_workflow(
        &node,
        "w",
        &json!({"StartAt": "First", "States": {
            "First": {"Type": "Pass", "Next": "Second"},
            "Second": {"Type": "Task", "Resource": "mended", "End": true}}})
        .to_string(),
    );
    let failed = run(&node, &["execution", "start", "-f", "w", "--name", "one"]);
    assert_eq!(failed.status.code(), Some(5));
    let drawn = text(&failed.stderr);
    assert!(
        drawn.contains("✓ First\n✗ Second (1 failed) ValueError"),
        "{drawn}"
    );
    let execution: Value = serde_json::from_slice(&failed.stdout).expect("JSON");
    assert_eq!(execution["Status"], "FAILED");
    let id = execution["Id"].as_str().expect("an id").to_owned();

    let listed = said(
        &node,
        &["execution", "list", "-f", "w", "--status", "failed"],
    );
    assert_eq!(listed["Executions"][0]["Id"], *id);
    node.update(&python(
        "mended",
        "def handler(params, context):\n    return 1\n",
    ));
    let redriven = said(&node, &["execution", "redrive", &id]);
    assert_eq!(redriven["Output"], 1);
    let history = said(&node, &["execution", "history", &id]);
    let kinds: Vec<&Value> = history["Events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| &event["Type"])
        .collect();
    assert!(kinds.contains(&&json!("ExecutionRedriven")), "{kinds:?}");
    let retried = said(&node, &["execution", "retry", &id, "--name", "two"]);
    assert_eq!(retried["Status"], "SUCCEEDED");
    assert_ne!(retried["Id"], *id);
    let express = said(
        &node,
        &["execution", "start", "-f", "w", "--type", "express"],
    );
    assert_eq!(express["Output"], 1);
}

#[test]
fn an_execution_is_stopped() {
    let node = node().start();
    create_workflow(
        &node,
        "waits",
        &json!({"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 86400, "End": true}}})
            .to_string(),
    );
    let started = said(&node, &["execution", "start", "-f", "waits", "--async"]);
    let id = started["Id"].as_str().expect("an id").to_owned();
    assert_eq!(
        said(&node, &["execution", "describe", &id])["Status"],
        "RUNNING"
    );
    let stopped = said(&node, &["execution", "stop", &id, "--error", "Enough"]);
    assert_eq!(
        (&stopped["Status"], &stopped["Error"]),
        (&json!("ABORTED"), &json!("Enough"))
    );
}

#[test]
fn commands_in_the_document_work() {
    let node = node().memory(2048).start();
    let document = Path::new(ROOT).join("docs/workflows.md");
    let document = std::fs::read_to_string(document).expect("the document");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", programs().display());
    let mut count = 0;
    for part in document.split("```shell\n").skip(1) {
        let (script, _) = part.split_once("```").expect("the end of a block");
        let output = Command::new("timeout")
            .args(["300", "bash", "-euc", script])
            .current_dir(ROOT)
            .env("PATH", &path)
            .env_remove("SERVERLEDGE_HOST")
            .env("SERVERLEDGE_PORT", node.address.port().to_string())
            .output()
            .expect("running a shell");
        assert!(
            output.status.success(),
            "{script}{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        count += 1;
    }
    assert!(count >= 4, "only {count} blocks");
}
