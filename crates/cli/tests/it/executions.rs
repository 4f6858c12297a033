//! `execution` and `task`: what is asked of the node, what is shown, how it ends.
//!
//! The node is a list of answers, given one after the other, whatever is asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};

use serde_json::{Value, json};

use super::{client, text};

/// A request: its line without the version, and its body.
type Request = (String, String);

/// Gives these answers, each to a connection of its own.
fn node(answers: Vec<(u16, Value)>) -> (u16, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    // Ends with the process if fewer requests come.
    std::thread::spawn(move || {
        for (status, answer) in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if header.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
            let _ = sender.send((line, String::from_utf8(body).unwrap()));
            let body = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            reader.get_mut().write_all(head.as_bytes()).unwrap();
            reader.get_mut().write_all(body.as_bytes()).unwrap();
        }
    });
    (port, receiver)
}

fn execution(status: &str) -> Value {
    let mut execution = json!({"Id": "w/x:1", "Workflow": "w/x", "Status": status});
    if status == "FAILED" {
        execution["Error"] = "Busy".into();
        execution["Cause"] = "try later".into();
    }
    execution
}

fn event(id: u64, kind: &str, state: Option<&str>) -> Value {
    let mut event = json!({"Id": id, "Type": kind});
    if let Some(state) = state {
        event["State"] = state.into();
    }
    event
}

#[test]
fn a_start_is_watched_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    for (end, status) in [("SUCCEEDED", 0), ("FAILED", 5)] {
        let last = match end {
            "SUCCEEDED" => event(4, "TaskStateExited", Some("Charge")),
            _ => event(4, "ExecutionFailed", None),
        };
        let (port, requests) = node(vec![
            (201, execution("RUNNING")),
            (200, execution("RUNNING")),
            (
                200,
                json!({"Events": [event(1, "ExecutionStarted", None)], "Next": 1}),
            ),
            (
                200,
                json!({"Events": [event(2, "TaskStateEntered", Some("Charge"))]}),
            ),
            (200, execution(end)),
            (200, json!({"Events": [last]})),
        ]);
        let arguments = [
            "execution",
            "start",
            "-f",
            "w/x",
            "-p",
            "n:=1",
            "--name",
            "1",
        ];
        let output = client(directory.path(), port, &arguments, "");
        assert_eq!(
            output.status.code(),
            Some(status),
            "{}",
            text(&output.stderr)
        );
        let lines: Vec<_> = requests.iter().take(6).collect();
        let asked: Vec<&str> = lines.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(
            asked,
            [
                "POST /v1/executions",
                "GET /v1/executions/w%2Fx%3A1?wait=1",
                "GET /v1/executions/w%2Fx%3A1/history?after=0",
                "GET /v1/executions/w%2Fx%3A1/history?after=1",
                "GET /v1/executions/w%2Fx%3A1?wait=1",
                "GET /v1/executions/w%2Fx%3A1/history?after=2",
            ]
        );
        assert_eq!(
            lines[0].1,
            r#"{"Workflow":"w/x","Input":{"n":1},"Name":"1"}"#
        );
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["Status"], end);
        let said = text(&output.stderr);
        match end {
            "SUCCEEDED" => assert_eq!(said, "✓ Charge\n"),
            _ => assert_eq!(said, "✗ Charge\nFAILED: Busy: try later\n"),
        }
    }
}

#[test]
fn an_execution_without_a_history_is_watched_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (port, _requests) = node(vec![
        (200, execution("RUNNING")),
        (200, execution("SUCCEEDED")),
        (
            404,
            json!({"title": "unknown", "status": 404, "detail": "no history"}),
        ),
    ]);
    let arguments = ["execution", "redrive", "w/x:1"];
    let output = client(directory.path(), port, &arguments, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[test]
fn what_has_ended_at_once_is_not_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (port, requests) = node(vec![(200, execution("FAILED"))]);
    let arguments = ["execution", "start", "-f", "w", "--type", "express"];
    let output = client(directory.path(), port, &arguments, "");
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "FAILED: Busy: try later\n");
    assert_eq!(requests.iter().count(), 1);
}

/// Checks what a command asks the node for.
fn check(cases: &[(&[&str], &str, &str)]) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("out.json"), "[1, 2]").unwrap();
    for (arguments, line, body) in cases {
        let (port, requests) = node(vec![(200, json!({"n": 1}))]);
        let output = client(directory.path(), port, arguments, "");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(
            requests.recv().unwrap(),
            ((*line).to_owned(), (*body).to_owned()),
            "{arguments:?}"
        );
        assert_eq!(text(&output.stdout), "{\n\t\"n\": 1\n}");
    }
}

#[test]
fn commands_ask_for_executions() {
    let none = "";
    check(&[
        (
            &["execution", "start", "-f", "w", "--type", "express", "-a"][..],
            "POST /v1/executions",
            r#"{"Workflow":"w","Input":{},"Type":"express"}"#,
        ),
        (&["execution", "list"], "GET /v1/executions", none),
        (
            &[
                "execution",
                "list",
                "-f",
                "a b",
                "--status",
                "failed",
                "--limit",
                "3",
            ],
            "GET /v1/executions?workflow=a%20b&status=FAILED&limit=3",
            none,
        ),
        (
            &["execution", "describe", "i"],
            "GET /v1/executions/i",
            none,
        ),
        (
            &["execution", "describe", "i", "--wait", "9"],
            "GET /v1/executions/i?wait=9",
            none,
        ),
        (
            &["execution", "history", "i", "--after", "5"],
            "GET /v1/executions/i/history?after=5",
            none,
        ),
        (
            &["execution", "stop", "i", "--cause", "mistake"],
            "POST /v1/executions/i/stop",
            r#"{"Cause":"mistake"}"#,
        ),
        (
            &["execution", "redrive", "i", "--async"],
            "POST /v1/executions/i/redrive",
            "{}",
        ),
        (
            &["execution", "retry", "i", "--name", "n", "-a"],
            "POST /v1/executions/i/retry",
            r#"{"Name":"n"}"#,
        ),
    ]);
}

#[test]
fn commands_answer_tasks() {
    check(&[
        (
            &["task", "success", "a/b+c"],
            "POST /v1/tasks/a%2Fb%2Bc/success",
            r#"{"Output":{}}"#,
        ),
        (
            &["task", "success", "t", "-d", "@out.json"],
            "POST /v1/tasks/t/success",
            r#"{"Output":[1,2]}"#,
        ),
        (
            &["task", "failure", "t", "--error", "No", "--cause", "why"],
            "POST /v1/tasks/t/failure",
            r#"{"Error":"No","Cause":"why"}"#,
        ),
        (
            &["task", "heartbeat", "t"],
            "POST /v1/tasks/t/heartbeat",
            "{}",
        ),
    ]);
}

#[test]
fn what_is_wrong_or_refused_is_said() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, status) in [
        (&["execution", "start"][..], 1),
        (&["execution", "start", "-f", "w", "--type", "slow"], 1),
        (&["execution", "list", "--status", "LATE"], 1),
        (&["execution", "stop", ""], 1),
        (&["task", "success", "t", "-d", "{no"], 1),
        (&["task", "success", "t", "-d", "@missing"], 1),
        (&["execution"], 1),
    ] {
        let output = client(directory.path(), 1, arguments, "");
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let problem = json!({"title": "unknown execution", "status": 404, "detail": "no 'i'"});
    for arguments in [
        &["execution", "start", "-f", "w"][..],
        &["execution", "describe", "i"],
        &["task", "heartbeat", "t"],
    ] {
        let (port, _requests) = node(vec![(404, problem.clone())]);
        let output = client(directory.path(), port, arguments, "");
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("unknown execution: no 'i'"));
    }
}
