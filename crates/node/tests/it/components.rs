//! Functions in WebAssembly as `docs/webassembly.md` has them made: each command there is run in order
//! against one node, and what came of it is called. What has an interpreter in it takes a compiler
//! without optimisations long, so nothing is made twice.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::documents::{ROOT, WEBASSEMBLY, blocks, run, typed};
use crate::support::http::Response;
use crate::support::wasm::artifact;
use crate::support::{Node, node};

/// How long the node may take to compile, seconds.
const COMPILING_MAX: u32 = 1200;

fn invoke(node: &Node, name: &str, params: Value) -> Response {
    let request = json!({ "Params": params, "ReturnOutput": true });
    node.post(&format!("/invoke/{name}"), &request)
}

#[test]
fn functions_are_made_as_the_document_says() {
    let node = node()
        .set("sandbox.start_timeout", COMPILING_MAX)
        .set("scheduler.queue.timeout", COMPILING_MAX)
        .set("wasm.compile_time_max", COMPILING_MAX)
        .start();
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    for command in blocks(WEBASSEMBLY, "sh") {
        let Some(typed) = typed(&command) else {
            installs_what_is_locked(&command);
            continue;
        };
        let output = run(&typed, node.address.port(), elsewhere.path());
        assert!(output.status.success(), "`{command}`: {output:?}");
    }
    for (name, language) in [("hello-c", "C"), ("hello-rust", "Rust")] {
        let reply = invoke(&node, name, json!({"a": "ü"})).expect(200);
        let expected = json!({"message": format!("Hello from {language}!"), "params": {"a": "ü"}});
        assert_eq!(reply.result(), expected);
    }
    for made in &MADE {
        made.greets(&node, made.name);
        // What nobody caught.
        let failed = invoke(&node, made.name, json!({"a": 1})).expect(500);
        failed.problem(&[made.error]);
    }
    runs_as_an_artifact(&node);
}

/// It is on this machine already, as a lock says: of the same versions.
#[track_caller]
fn installs_what_is_locked(command: &str) {
    let locks = ["package.json", "requirements.txt"].map(|lock| {
        let path = Path::new(ROOT).join("examples/wasm").join(lock);
        std::fs::read_to_string(path).expect("a lock")
    });
    for package in command.split_whitespace() {
        let (name, version) = package.split_at(package.rfind(['@', '=']).unwrap_or_default());
        let said = match name.strip_suffix('=') {
            Some(_) => format!("{package} \\"),
            None if name.is_empty() => continue,
            None => format!("\"{name}\": \"{}\"", &version[1..]),
        };
        let is_locked = locks.iter().any(|lock| lock.contains(&said));
        assert!(
            is_locked,
            "`{command}` installs {package}, which no lock has"
        );
    }
}

/// A function with the project's interface.
struct Made {
    name: &'static str,
    memory_mb: u64,
    /// What it is to find no name.
    error: &'static str,
    /// What its output is for one of these names.
    output: fn(&str) -> String,
}

const MADE: [Made; 3] = [
    Made {
        name: "hello-quickjs",
        memory_mb: 128,
        error: "cannot read property 'trim'",
        // It has no console.
        output: |_| String::new(),
    },
    Made {
        name: "hello-javascript",
        memory_mb: 256,
        error: "TypeError: ",
        output: |name| format!("greeting {name} for "),
    },
    Made {
        name: "hello-python",
        memory_mb: 256,
        error: "KeyError: 'name'",
        output: |name| format!("greeting {name} for "),
    },
];

impl Made {
    /// Calls it under a name that it may have got.
    #[track_caller]
    fn greets(&self, node: &Node, function: &str) {
        for name in ["Zoë", "Ada"] {
            let reply = invoke(node, function, json!({"name": format!(" {name} ")})).expect(200);
            let expected = json!({
                "message": format!("Hello, {name}!"),
                "functionName": function,
                "memoryMb": self.memory_mb,
            });
            assert_eq!(reply.result(), expected);
            let output = reply.field("Output");
            // Before the request's id.
            let output = output.as_str().expect("text");
            let output = output.split(function).next().unwrap_or_default();
            assert_eq!(output, (self.output)(name));
        }
        let failed = invoke(node, function, json!({"name": ""})).expect(500);
        failed.problem(&["NoName: the parameter `name` is empty"]);
    }
}

/// A component of the third form, too, may come from a registry or an archive.
fn runs_as_an_artifact(node: &Node) {
    let component = Path::new(ROOT).join("target/hello-quickjs.wasm");
    let component = std::fs::read(component).expect("what was made");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("hello.tar");
    std::fs::write(&path, artifact(&component, "wasip2")).expect("a file");
    let loaded = Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .args(["image", "load", "--name", "test/hello"])
        .arg(&path)
        .env("SERVERLEDGE_STORAGE_PATH", node.storage())
        .output()
        .expect("starting serverledge");
    assert!(loaded.status.success(), "{loaded:?}");
    let body = json!({
        "Name": "artifact", "Runtime": "wasm", "MemoryMB": MADE[0].memory_mb, "CPUDemand": 0.0,
        "MaxConcurrency": 1, "Handler": "", "TarFunctionCode": "", "CustomImage": "test/hello",
    });
    node.post("/create", &body).expect(200);
    let [quickjs, ..] = MADE;
    quickjs.greets(node, "artifact");
}
