//! `serverledge asl jsonata`: a line for each line, whatever it is.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str], lines: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .args(["asl", "jsonata"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    child.wait_with_output().unwrap()
}

#[test]
fn expressions_are_answered_line_by_line() {
    let lines = r#"{"expr": "$sum(a) + $x", "data": {"a": [1, 2]}, "bindings": {"x": 3}}

{"expr": "a", "data": {"b": 1}}
{"expr": "a", "data": {"a": null}}
{"expr": "$", "data": null}
{"expr": "$"}
{"expr": "{\"z\": 1, \"a\": 0.1 + 0.2}"}
{"expr": "1 + 'a'"}
{"expr": "1 +"}
{"expr": "($f := function($n){1 + $f($n)}; $f(1))"}
{"expr": "$eval(\"$now()\")"}
"#;
    let expected = r#"{"result":6}
{}
{"result":null}
{"result":null}
{}
{"result":{"z":1,"a":0.30000000000000004}}
{"error":{"code":"T2002"
{"error":{"code":"S0207"
{"error":{"code":"U1001"
{"result":"1970-01-01T00:00:01.000Z"}"#;
    let output = run(&["--now-ms", "1000"], lines);
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.lines().count(), expected.lines().count(), "{output}");
    for (line, expected) in output.lines().zip(expected.lines()) {
        assert!(line.starts_with(expected), "{line} is not {expected}");
        let complete = serde_json::from_str::<serde_json::Value>(line);
        assert!(complete.is_ok(), "{line}");
    }
}

#[test]
fn states_have_another_flavour() {
    let lines = r#"{"expr": "a", "data": {"a": 1}}
{"expr": "$partition($states.input, 1)", "bindings": {"states": {"input": [1, 2]}}}
"#;
    let output = run(&["--states"], lines);
    let output = String::from_utf8(output.stdout).unwrap();
    let (first, second) = output.split_once('\n').unwrap();
    assert!(first.starts_with(r#"{"error":{"code":"S0501""#), "{first}");
    assert_eq!(second, "{\"result\":[[1],[2]]}\n");
}

#[test]
fn what_is_no_case_is_an_error() {
    for line in [
        "nonsense",
        "{\"data\": 1}",
        "{\"expr\": \"1\", \"expression\": 1}",
    ] {
        let output = run(&[], line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("line 1"), "{message}");
    }
}
