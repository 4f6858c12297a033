//! The examples do what their first lines say. They run on the machine's own interpreters, without
//! a node: what a node adds is tested elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

const PYTHON: &str = "\
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
handler = importlib.import_module(sys.argv[2]).handler
print(json.dumps(handler(json.loads(sys.argv[3]), {})))";

const NODE: &str = "\
const [directory, file, params] = process.argv.slice(1);
Promise.resolve(require(`${directory}/${file}`)(JSON.parse(params), {}))
  .then((result) => console.log(JSON.stringify(result)));";

/// What an example returns.
fn run(file: &str, params: &Value) -> Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut command = match file.split_once('.').unwrap() {
        (module, "py") => {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-I", "-B", "-c", PYTHON]);
            command.arg(&directory).arg(module);
            command
        }
        _ => {
            let mut command = Command::new("/usr/bin/node");
            command.args(["-e", NODE]).arg(&directory).arg(file);
            command
        }
    };
    let output = command.arg(params.to_string()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}: {told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn input(file: &str) -> Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let text = std::fs::read(directory.join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn hello_adds_what_spells_a_number() {
    let message = "Hello from Serverledge!";
    for (params, expected) in [
        (json!(null), json!({ "message": message })),
        (
            json!({"a": "2", "b": "3"}),
            json!({"message": message, "a": "2", "b": "3", "sum": 5}),
        ),
        (
            json!({"a": 2.5, "b": 3}),
            json!({"message": message, "a": 2.5, "b": 3, "sum": 5.5}),
        ),
        (
            json!({"a": "inf", "b": true}),
            json!({"message": message, "a": "inf", "b": true}),
        ),
    ] {
        assert_eq!(run("hello.py", &params), expected);
    }
}

#[test]
fn examples_do_what_they_say() {
    let n = |n: u32| json!({ "n": n });
    let text = |n: &str| json!({ "n": n });
    let cases = [
        (
            "hello.js",
            json!({}),
            json!({"message": "Hello from Serverledge!"}),
        ),
        ("noop.py", json!(null), json!(null)),
        ("noop.js", json!(null), json!(null)),
        ("sleeper.py", n(0), json!({"slept": 0.0})),
        ("inc.py", text("41"), json!(42)),
        ("inc.js", text("41"), json!(42)),
        ("double.py", n(21), json!(42)),
        ("isprime.py", text("17"), json!(true)),
        ("isprime.py", n(1), json!(false)),
        ("isprime.py", n(4), json!(false)),
        (
            "isprimeWithNumber.py",
            n(2),
            json!({"IsPrime": true, "n": 2}),
        ),
        ("fibonacci.py", n(7), json!([0, 1, 1, 2, 3, 5, 8])),
        ("fibonacciNout.py", n(7), json!("done")),
        (
            "sieve.js",
            n(11),
            json!({"Count": 5, "Primes": [2, 3, 5, 7, 11]}),
        ),
        ("sieve.js", n(0), json!({"Count": 0, "Primes": []})),
    ];
    for (file, params, expected) in cases {
        assert_eq!(run(file, &params), expected, "{file} {params}");
    }
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(run("hash_string.py", &text("abc")), json!(abc));
}

#[test]
fn examples_take_their_input_files() {
    assert_eq!(run("isprime.py", &input("input.json")), json!(true));
    assert_eq!(run("hello.py", &input("input2.json"))["sum"], json!(5));
    assert_eq!(run("grep.py", &input("grepInput.json"))["Count"], json!(2));
    let counts = json!({"the": 3, "edge": 1, "and": 2, "cloud": 1, "constructor": 1});
    assert_eq!(run("wordCount.js", &input("wordCountInput.json")), counts);
    let summary = run("summarize.py", &input("summarizeInput.json"));
    let summary = summary["Summary"].as_str().unwrap();
    assert_eq!(summary.matches('.').count(), 2, "{summary}");
    assert!(!summary.contains("Rain"), "{summary}");
}

#[test]
fn machine_learning_finds_the_line_that_was_drawn() {
    let found = run("ml.py", &json!({"Samples": 100}));
    assert_eq!(
        (&found["Slope"], &found["Intercept"]),
        (&json!(3.0), &json!(2.0))
    );
    let sizes = found["Clusters"].as_array().unwrap();
    assert_eq!(sizes.iter().filter_map(Value::as_u64).sum::<u64>(), 100);
}
