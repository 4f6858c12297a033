//! The client as a process, against a recorder that answers what the original's recorder answered.
//!
//! `data/cli.jsonl` holds what the original's client sent and printed; `data/DIFFERENCES.md` says
//! where ours differs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod executions;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};

use base64::Engine as _;
use serde_json::Value;

const REPLY: &str = r#"{"Created":"x","Result":"r","n":1}"#;

/// Answers one request with `status` and `body`; hands out the request's line and body.
fn recorder(status: &str, body: &str) -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    let (status, body) = (status.to_owned(), body.to_owned());
    // Ends with the process if no request comes.
    std::thread::spawn(move || {
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
        let mut request = vec![0; length];
        reader.read_exact(&mut request).unwrap();
        // A test that doesn't look at the request has dropped the receiver.
        let _ = sender.send((line.trim().to_owned(), String::from_utf8(request).unwrap()));
        let size = body.len();
        let reply = format!("HTTP/1.1 {status}\r\ncontent-length: {size}\r\n\r\n{body}");
        reader.get_mut().write_all(reply.as_bytes()).unwrap();
    });
    (port, receiver)
}

fn client(directory: &Path, port: u16, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_serverledge-cli"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("SERVERLEDGE_HOST")
        .env("HOME", directory)
        .env("SERVERLEDGE_PORT", port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A client that doesn't read its input has closed it: no matter.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The working directory in which the transcript was recorded.
fn working_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path().join("w");
    let write = |name: &str, text: &str| {
        std::fs::write(work.join(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(work.join(name), mode).unwrap();
    };
    std::fs::create_dir_all(work.join("dir/pkg")).unwrap();
    write("hello.py", "def handler(params, context):\n    return 1\n");
    write(
        "dir/main.py",
        "def handler(params, context):\n    return 1\n",
    );
    write("dir/pkg/__init__.py", "");
    write("dir/pkg/x.py", "x=1\n");
    write("p.json", r#"{"a": 1, "b": {"c": [1, 2]}}"#);
    write("bad.json", "{bad");
    write(
        "wf.json",
        r#"{"StartAt":"A","States":{"A":{"Type":"Task","Resource":"hello","End":true}}}"#,
    );
    directory
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Names, types and modes of what is in a base64 archive.
fn tar_entries(encoded: &str) -> Vec<(String, String, String)> {
    let tar = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let entries = archive.entries().unwrap();
    let mut entries: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let (name, header) = (entry.path().unwrap().display().to_string(), entry.header());
            let kind = char::from(header.entry_type().as_byte()).to_string();
            (name, kind, format!("0o{:o}", header.mode().unwrap()))
        })
        .collect();
    entries.sort();
    entries
}

fn tar_names(encoded: &str) -> Vec<String> {
    let entries = tar_entries(encoded);
    entries.into_iter().map(|(name, _, _)| name).collect()
}

fn check_body(case: &Value, body: &str) {
    let sent = &case["sent"][0];
    let expected = sent["body"].as_str().unwrap();
    let Some((before, after)) = expected.split_once("${tar}") else {
        assert_eq!(body, expected, "{case}");
        return;
    };
    assert!(
        body.starts_with(before) && body.ends_with(after),
        "{body}\n{case}"
    );
    let packed = tar_entries(&body[before.len()..body.len() - after.len()]);
    let entries = sent["tar_entries"].as_array().unwrap();
    let part = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let mut expected: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                part(entry, "name"),
                part(entry, "type"),
                part(entry, "mode"),
            )
        })
        .collect();
    expected.sort();
    assert_eq!(packed, expected, "{case}");
}

#[test]
fn the_originals_commands_send_and_print_the_same() {
    let directory = working_directory();
    let work = directory.path().join("w");
    let transcript = include_str!("../data/cli.jsonl");
    let mut replayed = 0;
    for line in transcript.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        // Its server refused: tested below, as the output differs on purpose.
        if case.get("note").is_some() {
            continue;
        }
        let arguments: Vec<&str> = case["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect();
        let (port, requests) = recorder("200 OK", REPLY);
        let output = client(&work, port, &arguments, "");
        let status = i64::from(output.status.code().unwrap());
        assert_eq!(
            status,
            case["exit"].as_i64().unwrap(),
            "{case}\n{}",
            text(&output.stderr)
        );
        if status == 0 {
            let (line, body) = requests.recv().unwrap();
            assert_eq!(line, case["sent"][0]["line"].as_str().unwrap());
            check_body(&case, &body);
            assert_eq!(
                text(&output.stdout),
                case["stdout"].as_str().unwrap(),
                "{case}"
            );
        } else {
            assert!(requests.try_recv().is_err(), "sent although wrong: {case}");
            assert!(!output.stderr.is_empty(), "no explanation: {case}");
        }
        replayed += 1;
    }
    assert!(replayed > 30, "only {replayed} cases");
}

#[test]
fn a_refusal_is_explained_and_exits_with_2() {
    let directory = working_directory();
    let problem = r#"{"title":"function failed","status":500,"detail":"ValueError: boom","stack":"Traceback ...","hint":"mend it"}"#;
    for arguments in [
        &["invoke", "-f", "x"][..],
        &["poll", "--request", "x"],
        &["list"],
    ] {
        let (port, _requests) = recorder("500 Internal Server Error", problem);
        let output = client(directory.path(), port, arguments, "");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        for part in [
            "Server response: 500",
            "ValueError: boom",
            "Traceback",
            "mend it",
        ] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }
}

#[test]
fn nobody_listening_is_said_with_a_hint() {
    let directory = working_directory();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let output = client(directory.path(), free, &["list"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is a node running there?"));
}

#[test]
fn parameters_come_from_input_files_and_typed_values() {
    let directory = working_directory();
    let work = directory.path().join("w");
    for (arguments, input, params) in [
        (&["-p", "n:=5", "-p", "s:5"][..], "", r#"{"n":5,"s":"5"}"#),
        (&["-d", "-"], r#"{"a": [1]}"#, r#"{"a":[1]}"#),
        (&["-d", "@p.json"], "", r#"{"a":1,"b":{"c":[1,2]}}"#),
        (&["--data", r#"{"x": null}"#], "", r#"{"x":null}"#),
    ] {
        let (port, requests) = recorder("200 OK", REPLY);
        let all = [&["invoke", "-f", "a b/ü"], arguments].concat();
        let output = client(&work, port, &all, input);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (line, body) = requests.recv().unwrap();
        assert_eq!(line, "POST /invoke/a%20b/%C3%BC HTTP/1.1");
        assert!(
            body.starts_with(&format!("{{\"Params\":{params},")),
            "{body}"
        );
    }
}

#[test]
fn runtime_handler_and_time_limit_are_found() {
    let directory = working_directory();
    let (port, requests) = recorder("200 OK", REPLY);
    let arguments = [
        "create",
        "-f",
        "h",
        "--src",
        "./hello.py",
        "--timeout",
        "2.5",
    ];
    let output = client(&directory.path().join("w"), port, &arguments, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let body: Value = serde_json::from_str(&requests.recv().unwrap().1).unwrap();
    assert_eq!(body["Runtime"], "python314");
    assert_eq!(body["Handler"], "hello.handler");
    assert_eq!(body["TimeoutSeconds"], 2.5);
    assert_eq!(
        tar_names(body["TarFunctionCode"].as_str().unwrap()),
        ["hello.py"]
    );
}

#[test]
fn a_program_is_sent_as_code_unless_there_is_an_image() {
    let directory = working_directory();
    let work = directory.path().join("w");
    let create = ["create", "-f", "p", "--runtime", "custom"];
    let output = client(&work, 1, &create, "");
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("--src FILE"),
        "{said}"
    );
    let (port, requests) = recorder("200 OK", REPLY);
    let program = ["--src", "hello.py", "--handler", "hello.py -v"];
    let output = client(&work, port, &[&create[..], &program].concat(), "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let body: Value = serde_json::from_str(&requests.recv().unwrap().1).unwrap();
    assert_eq!(body["Handler"], "hello.py -v");
    let names = tar_names(body["TarFunctionCode"].as_str().unwrap());
    assert_eq!(names, ["hello.py"]);
}

#[test]
fn a_wrong_signature_exits_with_4_and_a_missing_source_with_3() {
    let directory = working_directory();
    let create = ["create", "-f", "x", "--runtime", "python314"];
    let with = |more: &[&str]| client(directory.path(), 1, &[&create, more].concat(), "");
    assert_eq!(
        with(&["--src", "w/hello.py", "-i", "n:Array[Int]"])
            .status
            .code(),
        Some(4)
    );
    assert_eq!(with(&["--src", "missing.py"]).status.code(), Some(3));
}

#[test]
fn help_and_completion_go_to_standard_output() {
    let directory = working_directory();
    for arguments in [
        &["--help"][..],
        &["invoke", "--help"],
        &["completion", "bash"],
    ] {
        let output = client(directory.path(), 1, arguments, "");
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("serverledge-cli"));
    }
}

#[test]
fn names_in_the_archive_are_sane() {
    let directory = working_directory();
    let work = directory.path().join("w");
    std::fs::create_dir(work.join("new")).unwrap();
    std::fs::write(work.join("new/v2.py"), "x=1\n").unwrap();
    std::os::unix::fs::symlink("new/v2.py", work.join("link.py")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", work.join("dir/skipped")).unwrap();
    // A hole would make a special entry of it.
    let sparse = std::fs::File::create(work.join("new/sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    let whole = ["dir/main.py", "dir/pkg/__init__.py", "dir/pkg/x.py"];
    for (source, names) in [
        ("./hello.py", &["hello.py"][..]),
        ("link.py", &["link.py"]),
        ("dir", &whole),
        ("./dir", &whole),
        ("dir/", &["main.py", "pkg/__init__.py", "pkg/x.py"]),
        ("./dir/pkg", &["pkg/__init__.py", "pkg/x.py"]),
        ("new", &["new/sparse", "new/v2.py"]),
    ] {
        let (port, requests) = recorder("200 OK", REPLY);
        let arguments = [
            "create",
            "-f",
            "x",
            "--runtime",
            "python314",
            "--src",
            source,
        ];
        let output = client(&work, port, &arguments, "");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let body: Value = serde_json::from_str(&requests.recv().unwrap().1).unwrap();
        let entries = tar_entries(body["TarFunctionCode"].as_str().unwrap());
        assert!(
            entries.iter().all(|(_, kind, _)| kind == "0"),
            "{entries:?}"
        );
        let packed: Vec<&str> = entries.iter().map(|(name, _, _)| name.as_str()).collect();
        assert_eq!(packed, names, "{source}");
    }
}

#[test]
fn an_archive_is_sent_unchanged() {
    let directory = working_directory();
    std::fs::write(directory.path().join("code.tar"), "any bytes").unwrap();
    let (port, requests) = recorder("200 OK", REPLY);
    let arguments = [
        "create",
        "-f",
        "x",
        "--runtime",
        "python314",
        "--src",
        "code.tar",
    ];
    assert!(
        client(directory.path(), port, &arguments, "")
            .status
            .success()
    );
    let body: Value = serde_json::from_str(&requests.recv().unwrap().1).unwrap();
    let code = body["TarFunctionCode"].as_str().unwrap();
    let code = base64::engine::general_purpose::STANDARD.decode(code);
    assert_eq!(code.unwrap(), b"any bytes");
}

#[test]
fn empty_names_and_special_files_are_not_sent() {
    let directory = working_directory();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let create = ["create", "-f", "x", "--runtime", "python314", "--src"];
    for (arguments, status) in [
        (&["invoke", "-f", ""][..], 1),
        (&["poll", "--request", ""], 1),
        (&["delete-workflow", "-f", ""], 1),
        (&[&create[..], &[""]].concat(), 1),
        (&[&create[..], &["socket"]].concat(), 3),
    ] {
        let (port, requests) = recorder("200 OK", REPLY);
        let output = client(directory.path(), port, arguments, "");
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(
            requests.try_recv().is_err(),
            "sent although wrong: {arguments:?}"
        );
    }
}

#[test]
fn flags_are_taken_as_the_original_takes_them() {
    let directory = working_directory();
    let (port, requests) = recorder("200 OK", "plain, text: here\n");
    let arguments = [
        "invoke",
        "-f",
        "a",
        "-f",
        "b",
        "-c",
        "-1",
        "--return-output",
    ];
    let output = client(directory.path(), port, &arguments, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (line, body) = requests.recv().unwrap();
    assert_eq!(line, "POST /invoke/b HTTP/1.1");
    assert!(body.contains("\"QoSClass\":-1,") && body.contains("\"ReturnOutput\":true"));
    assert_eq!(text(&output.stdout), "plain, text: here\n");
}

#[test]
fn a_class_has_a_number_or_a_name() {
    let directory = working_directory();
    for (class, sent) in [("7", "\"QoSClass\":7,"), ("gold", "\"QoSClass\":\"gold\",")] {
        let (port, requests) = recorder("200 OK", "{}\n");
        let arguments = ["invoke", "-f", "a", "--class", class];
        let output = client(directory.path(), port, &arguments, "");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (_, body) = requests.recv().unwrap();
        assert!(body.contains(sent), "{body}");
    }
}

#[test]
fn the_target_comes_from_flags_then_the_environment_then_the_configuration() {
    let directory = working_directory();
    let run = |environment: Option<&str>, configured: u16, flags: &[&str]| {
        let config = format!("api:\n  port: {configured}\n");
        std::fs::write(directory.path().join("serverledge-conf.yaml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_serverledge-cli"));
        command.arg("list").args(flags).current_dir(&directory);
        command
            .env("HOME", directory.path())
            .env_remove("SERVERLEDGE_HOST");
        match environment {
            Some(port) => command.env("SERVERLEDGE_PORT", port),
            None => command.env_remove("SERVERLEDGE_PORT"),
        };
        command.output().unwrap().status.code()
    };
    let port = || recorder("200 OK", REPLY).0;
    // Nobody listens on port 1.
    assert_eq!(run(None, port(), &[]), Some(0));
    assert_eq!(run(Some(&port().to_string()), 1, &[]), Some(0));
    assert_eq!(run(Some("1"), 1, &["-P", &port().to_string()]), Some(0));
    assert_eq!(run(Some("many"), port(), &[]), Some(1));
}
