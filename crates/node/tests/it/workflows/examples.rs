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

use serde_json::{Value, json};

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
