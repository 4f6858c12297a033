//! The workflows in `examples/workflows`, as people would try them: without a node, with the mocks
//! of their cases, and on a node with their functions. Both must give what the cases expect.
//!
//! A directory has `definition.asl.json`, its functions (`NAME.py`, `NAME.js`), `cases.jsonl`, and
//! where needed `signatures.json` and definitions of workflows that it starts (`NAME.asl.json`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::support::{Node, eventually, javascript, node, python};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/workflows");

/// What an ARN of a workflow begins with; on a node only the name after it counts.
const ARN: &str = "arn:aws:states:us-east-1:123456789012:stateMachine:";

/// A directory of the examples.
struct Example {
    name: String,
    path: PathBuf,
}

/// All of them, by name.
fn examples() -> Vec<Example> {
    let entries = fs::read_dir(EXAMPLES).expect("the examples");
    let mut found: Vec<Example> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .map(|path| Example {
            name: text(path.file_name()),
            path,
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() >= 10, "only {} examples", found.len());
    found
}

fn text(name: Option<&std::ffi::OsStr>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Example {
    fn files(&self, ending: &str) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.path).expect("the example");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter_map(|path| {
                let name = text(path.file_name());
                let stem = name.strip_suffix(ending)?.to_owned();
                Some((stem, path))
            })
            .collect();
        files.sort();
        files
    }

    /// Workflows that it starts, by name.
    fn others(&self) -> BTreeMap<String, String> {
        let files = self.files(".asl.json").into_iter();
        let files = files.filter(|(name, _)| name != "definition");
        files.map(|(name, path)| (name, read(&path))).collect()
    }

    fn cases(&self) -> Vec<Value> {
        let text = read(&self.path.join("cases.jsonl"));
        let cases = text.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}", self.name))
        });
        cases.collect()
    }
}

/// Fails if an end isn't as a case expects it.
fn check(example: &Example, case: &Value, end: &Value) {
    for (key, wanted) in case["expect"].as_object().expect("what is expected") {
        assert_eq!(
            &end[key], wanted,
            "{}, {}: {key} of {end}",
            example.name, case["name"]
        );
    }
}

#[test]
fn examples_do_in_rehearsal_what_they_say() {
    for example in examples() {
        let path = example.path.join("definition.asl.json");
        let mut run = Command::new(env!("CARGO_BIN_EXE_serverledge"))
            .args(["asl", "run", "--definition"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("running the node's program");
        let machines: BTreeMap<String, Value> = example
            .others()
            .into_iter()
            .map(|(name, definition)| (format!("{ARN}{name}"), definition.into()))
            .collect();
        let cases = example.cases();
        let mut lines = String::new();
        for case in &cases {
            let mut case = case.clone();
            case["machines"] = json!(machines);
            lines.push_str(&format!("{case}\n"));
        }
        let mut stdin = run.stdin.take().expect("stdin is a pipe");
        stdin
            .write_all(lines.as_bytes())
            .expect("writing the cases");
        drop(stdin);
        let output = run.wait_with_output().expect("its output");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(said.lines().count(), cases.len(), "{}", example.name);
        for (case, line) in cases.iter().zip(said.lines()) {
            let end: Value = serde_json::from_str(line).expect("a report");
            check(&example, case, &end);
        }
    }
}

/// The functions of an example, as they are created.
fn functions(example: &Example) -> Vec<Value> {
    let signatures = example.path.join("signatures.json");
    let signatures: Value = match signatures.exists() {
        true => serde_json::from_str(&read(&signatures)).expect("signatures"),
        false => Value::Null,
    };
    let mut bodies = Vec::new();
    for (name, path) in example.files(".py") {
        let file = format!("{name}.py");
        let function = python(&name, "").handler(&format!("{name}.handler"));
        bodies.push((name, function.file(&file, &read(&path)).body()));
    }
    for (name, path) in example.files(".js") {
        let file = format!("{name}.js");
        let function = javascript(&name, "").handler(&file);
        bodies.push((name, function.file(&file, &read(&path)).body()));
    }
    assert!(!bodies.is_empty(), "{} has no functions", example.name);
    let signed = bodies.into_iter().map(|(name, mut body)| {
        if let Some(signature) = signatures.get(&name) {
            body["Signature"] = signature.clone();
        }
        body
    });
    signed.collect()
}

pub(super) fn create_workflow(node: &Node, name: &str, definition: &str) {
    let source = BASE64.encode(definition);
    let body = json!({ "Name": name, "ASLSrc": source });
    node.post("/workflow/create", &body).expect(200);
}

/// Answers the task of an execution that waits for somebody, with the token that its function was
/// given: it is in the history.
fn answer(node: &Node, id: &str, answer: &Value) {
    let history = format!("/v1/executions/{id}/history");
    let token = eventually("a task that waits", || {
        let events = node.get(&history).expect(200).json();
        let events = events["Events"].as_array()?.clone();
        let token = events
            .iter()
            .find_map(|event| event["Input"].pointer("/Payload/token").cloned())?;
        token.as_str().map(str::to_owned)
    });
    let (path, body) = match answer.get("success") {
        Some(output) => ("success", json!({ "Output": output })),
        None => {
            let failure = &answer["failure"];
            let body = json!({"Error": failure["error"], "Cause": failure["cause"]});
            ("failure", body)
        }
    };
    // Until its function has ended, too.
    eventually("the answer to be taken", || {
        let reply = node.post(&format!("/v1/tasks/{token}/{path}"), &body);
        (reply.status == 200).then_some(())
    });
}

#[test]
fn examples_do_on_a_node_what_they_say() {
    let node = node().memory(4096).start();
    for example in examples() {
        for body in functions(&example) {
            node.post("/create", &body).expect(200);
        }
        for (name, definition) in example.others() {
            create_workflow(&node, &name, &definition);
        }
        create_workflow(
            &node,
            &example.name,
            &read(&example.path.join("definition.asl.json")),
        );
        for case in example.cases() {
            if case["only"] == "rehearsal" {
                continue;
            }
            let body = json!({"Workflow": example.name, "Input": case["input"]});
            let started = node.post("/v1/executions", &body).expect(200).json();
            let id = started["Id"].as_str().expect("an id").to_owned();
            if let Some(with) = case.get("answer") {
                answer(&node, &id, with);
            }
            let ended = eventually("the execution's end", || {
                let path = format!("/v1/executions/{id}?wait=20");
                let execution = node.get(&path).expect(200).json();
                (execution["Status"] != "RUNNING").then_some(execution)
            });
            let end = json!({
                "status": ended["Status"], "output": ended["Output"],
                "error": ended["Error"], "cause": ended["Cause"],
            });
            check(&example, &case, &end);
        }
    }
}
