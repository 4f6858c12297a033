//! `serverledge asl`: what `docs/workflows.md` shows is what happens.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SERVERLEDGE: &str = env!("CARGO_BIN_EXE_serverledge");

/// Commands of the document with what it shows as their output: each `sh` block has one command,
/// and the `text` block after it what that prints.
fn commands() -> Vec<(String, String)> {
    let path = Path::new(ROOT).join("docs/workflows.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut commands = Vec::new();
    for part in text.split("```sh\n").skip(1) {
        let (command, rest) = part.split_once("```").unwrap();
        let (_, shown) = rest.split_once("```text\n").unwrap();
        let (shown, _) = shown.split_once("```").unwrap();
        commands.push((command.trim().to_owned(), shown.to_owned()));
    }
    commands
}

#[test]
fn the_document_shows_what_happens() {
    let commands = commands();
    assert!(commands.len() >= 4);
    for (command, shown) in commands {
        let typed = command.replace("serverledge asl", &format!("{SERVERLEDGE} asl"));
        let output = Command::new("sh")
            .args(["-c", &typed])
            .current_dir(ROOT)
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), shown, "{command}");
    }
}

fn asl(arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let mut child = Command::new(SERVERLEDGE)
        .arg("asl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), said)
}

#[test]
fn a_line_that_cannot_be_run_stops_nothing() {
    let good =
        r#"{"definition":{"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}},"input":1}"#;
    let input = format!("nonsense\n{{\"definition\":{{}}}}\n\n{good}");
    let (code, said) = asl(&["run"], &input);
    let statuses: Vec<String> = said
        .lines()
        .map(|line| {
            let report: serde_json::Value = serde_json::from_str(line).unwrap();
            report["status"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(statuses, ["INVALID", "INVALID", "SUCCEEDED"]);
    assert_eq!(code, Some(0));
}

#[test]
fn dialects_and_seeds_are_heard() {
    let line = r#"{"definition":{"StartAt":"A","States":{"A":{"Type":"Pass","Parameters":{"x.$":"$.x"},"End":true}}}}"#;
    let (_, said) = asl(&["run", "--dialect", "spec"], line);
    assert!(said.contains("States.ParameterPathFailure"), "{said}");
    let line = r#"{"definition":{"StartAt":"A","States":{"A":{"Type":"Pass","Parameters":{"x.$":"States.UUID()"},"End":true}}}}"#;
    let (_, first) = asl(&["run", "--seed", "1"], line);
    assert_eq!(asl(&["run", "--seed", "1"], line).1, first);
    assert_ne!(asl(&["run", "--seed", "2"], line).1, first);
}

#[test]
fn check_reads_stdin_and_says_by_its_code_what_it_found() {
    let (code, said) = asl(&["check", "--json", "-"], "{\"StartAt\": }");
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, Some(1));
    assert_eq!(answer["valid"], false);
    let diagnostic = &answer["diagnostics"][0];
    assert_eq!(diagnostic["code"], "INVALID_JSON_DESCRIPTION");
    assert_eq!(
        (&diagnostic["line"], &diagnostic["column"]),
        (&1.into(), &13.into())
    );
}
