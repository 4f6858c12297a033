//! Functions compiled to WebAssembly, beside others on the same node.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::Response;
use crate::support::wasm::{EXAMPLES, artifact, body, compile, http_example};
use crate::support::{Node, eventually, node, python};

/// A WASI command that copies its input to its output, up to 4 KB.
const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

const ENDLESS: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start") (loop $forever (br $forever))))"#;

const HOG: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start")
    (loop $more
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (br $more))))"#;

fn text(name: &str, source: &str) -> Value {
    body(name, &wat::parse_str(source).expect("a module"))
}

fn create(node: &Node, body: &Value) {
    node.post("/create", body).expect(200);
}

fn invoke(node: &Node, name: &str, params: Value) -> Response {
    let request = json!({ "Params": params, "ReturnOutput": true });
    node.post(&format!("/invoke/{name}"), &request)
}

/// A directory, and a file in it for a compiler to make.
fn room() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let made = dir.path().join("hello.wasm");
    (dir, made)
}

#[test]
fn calls_have_results_errors_and_limits() {
    let node = node().start();
    create(&node, &text("echo", ECHO));
    let mut warm = Vec::new();
    for n in 0..2 {
        let reply = node.invoke("echo", json!({ "n": n })).expect(200);
        warm.push(reply.field("IsWarmStart") == json!(true));
        assert_eq!(reply.result(), json!({ "n": n }));
    }
    assert_eq!(warm, [false, true]);
    let id = node.invoke_async("echo", json!({"later": true}));
    assert_eq!(node.poll(&id).result(), json!({"later": true}));

    create(&node, &text("hog", HOG));
    let failed = node.invoke("hog", json!({})).expect(500);
    failed.problem(&["ran out of its 64 MB of memory"]);

    let mut endless = text("endless", ENDLESS);
    endless["TimeoutSeconds"] = json!(0.3);
    create(&node, &endless);
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| node.invoke("endless", json!({})));
        // The node answers others meanwhile.
        for n in 0..50 {
            let reply = node.invoke("echo", json!({ "n": n }));
            assert_eq!(reply.result(), json!({ "n": n }));
        }
        let reply = endless.join().expect("no panic").expect(504);
        reply.problem(&["0.3 s"]);
    });
    eventually("the endless call gives back its memory", || {
        (node.busy_memory() == 0).then_some(())
    });
    let (status, _) = node.stop();
    assert!(status.success());
}

#[test]
fn they_run_beside_others_and_are_found_again() {
    let node = node().start();
    create(&node, &text("echo", ECHO));
    let source = "import os\ndef handler(p, c): return os.listdir('/app')\n";
    node.create(&python("p", source));
    assert_eq!(node.invoke("p", json!({})).result(), json!(["f.py"]));
    assert_eq!(node.invoke("echo", json!({})).result(), json!({}));

    // An update takes effect at once.
    let silent = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    node.post("/update", &text("echo", silent)).expect(200);
    assert_eq!(node.invoke("echo", json!({})).result(), json!(null));
    node.post("/update", &text("echo", ECHO)).expect(200);

    let compiled = node.storage().join("wasm");
    let files = || std::fs::read_dir(&compiled).expect("compiled code").count();
    assert_eq!(files(), 2);
    let node = node.kill9().start();
    assert_eq!(node.invoke("echo", json!([1])).status, 400);
    assert_eq!(
        node.invoke("echo", json!({"a": 1})).result(),
        json!({"a": 1})
    );
    assert_eq!(files(), 2);
}

/// The process of a node that compiles.
fn compiler(node: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("processes");
    let mut numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.find(|process: &u32| {
        let read = |what: &str| std::fs::read_to_string(format!("/proc/{process}/{what}"));
        let is_child = read("status").is_ok_and(|it| it.contains(&format!("PPid:\t{node}\n")));
        is_child && read("cmdline").is_ok_and(|it| it.contains("\0wasm-compile\0"))
    })
}

#[test]
fn a_node_that_stops_does_not_wait_for_the_compiler() {
    // Takes the compiler far longer than a node takes to stop.
    let work = "(local.set 0 (i32.mul (local.get 0) (i32.xor (local.get 0) (i32.const 3))))";
    let function = format!(
        "(func (param i32) (result i32) {} (local.get 0))",
        work.repeat(200)
    );
    let functions = function.repeat(200);
    let large =
        format!("(module (memory (export \"memory\") 1) (func (export \"_start\")) {functions})");
    let node = node().start();
    create(&node, &text("large", &large));
    let process = eventually("the compiler runs", || compiler(node.pid()));
    let compiled = node.storage().join("wasm");
    let (status, stopped) = node.stop();
    assert!(status.success());
    assert_eq!(std::fs::read_dir(compiled).expect("a directory").count(), 0);
    let has_ended = |process: u32| {
        let path = format!("/proc/{process}/cmdline");
        let left = std::fs::read_to_string(path).unwrap_or_default();
        (!left.contains("wasm-compile")).then_some(())
    };
    eventually("the compiler ends with the node", || has_ended(process));
    // A node that is killed has no time to see to that.
    let node = stopped.start();
    node.post("/update", &text("large", &large)).expect(200);
    let process = eventually("the compiler runs again", || compiler(node.pid()));
    let _killed = node.kill9();
    eventually("the compiler ends all the same", || has_ended(process));
}

#[test]
fn an_artifact_that_a_command_loaded_runs() {
    let module = wat::parse_str(ECHO).expect("a module");
    let (dir, _) = room();
    let path = dir.path().join("echo.tar");
    std::fs::write(&path, artifact(&module, "wasip1")).expect("a file");

    let node = node().start();
    let body = json!({
        "Name": "echo", "Runtime": "wasm", "MemoryMB": 64, "CPUDemand": 0.0,
        "MaxConcurrency": 1, "Handler": "", "TarFunctionCode": "", "CustomImage": "test/echo",
    });
    node.post("/create", &body)
        .expect(400)
        .problem(&["test/echo"]);
    let loaded = Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .args(["image", "load", "--name", "test/echo"])
        .arg(&path)
        .env("SERVERLEDGE_STORAGE_PATH", node.storage())
        .output()
        .expect("starting serverledge");
    assert!(loaded.status.success(), "{loaded:?}");
    create(&node, &body);
    let reply = node.invoke("echo", json!({"a": 1}));
    assert_eq!(reply.expect(200).result(), json!({"a": 1}));
    let mut both = body;
    both["TarFunctionCode"] = text("echo", ECHO)["TarFunctionCode"].clone();
    node.post("/update", &both)
        .expect(400)
        .problem(&["not both"]);
    let node = node.kill9().start();
    let reply = node.invoke("echo", json!({"a": 2}));
    assert_eq!(reply.expect(200).result(), json!({"a": 2}));
}

#[test]
fn they_need_no_isolation_of_the_machine() {
    let node = node().set("sandbox.isolation", "process").start();
    create(&node, &text("echo", ECHO));
    assert_eq!(
        node.invoke("echo", json!({"a": 1})).result(),
        json!({"a": 1})
    );
}

#[test]
fn what_is_no_module_is_refused_when_it_is_registered() {
    let node = node().start();
    let refused = node.post("/create", &body("f", b"\x7fELF and so on"));
    let problem = refused
        .expect(400)
        .problem(&["`f.wasm` is not WebAssembly"]);
    assert!(
        problem["hint"]
            .as_str()
            .expect("a hint")
            .contains("handler")
    );
    let mut none = body("f", b"");
    none["TarFunctionCode"] = json!("");
    let refused = node.post("/create", &none).expect(400);
    refused.problem(&["needs a module"]);
    assert!(node.functions().is_empty());

    // What only a compiler can see is told by the first call.
    create(&node, &text("library", "(module (func (export \"f\")))"));
    let failed = node.invoke("library", json!({})).expect(500);
    failed.problem(&["library", "_start"]);
}

#[test]
fn the_c_example_says_hello() {
    let (_dir, made) = room();
    let mut clang = Command::new("clang");
    clang
        .args(["--target=wasm32-wasi", "-Os", "-o"])
        .arg(&made)
        .arg(Path::new(EXAMPLES).join("hello.c"));
    let node = node().start();
    create(&node, &body("hello", &compile(&mut clang, &made)));
    let reply = invoke(&node, "hello", json!({"a": "ü"})).expect(200);
    let expected = json!({"message": "Hello from C!", "params": {"a": "ü"}});
    assert_eq!(reply.result(), expected);
    let output = reply.field("Output");
    let output = output.as_str().expect("text");
    assert!(output.starts_with("hello runs for hello-"), "{output}");
}

#[test]
fn the_rust_example_says_hello() {
    let (_dir, made) = room();
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--target", "wasm32-wasip1", "--edition", "2024", "-O", "-o"])
        .arg(&made)
        .arg(Path::new(EXAMPLES).join("hello.rs"));
    let node = node().start();
    create(&node, &body("hello", &compile(&mut rustc, &made)));
    let reply = invoke(&node, "hello", json!({"a": [1]})).expect(200);
    let expected = json!({"message": "Hello from Rust!", "params": {"a": [1]}});
    assert_eq!(reply.result(), expected);
    assert_eq!(reply.field("Output"), json!("9 bytes of parameters\n"));
}

#[test]
fn the_http_example_answers() {
    let node = node().start();
    create(&node, &body("hello", http_example()));
    for n in 0..3 {
        let reply = invoke(&node, "hello", json!({ "n": n })).expect(200);
        let expected = json!({"message": "Hello over HTTP!", "params": {"n": n}});
        assert_eq!(reply.result(), expected);
        let output = reply.field("Output");
        let output = output.as_str().expect("text");
        assert!(output.starts_with("request hello-"), "{output}");
    }
    let failed = invoke(&node, "hello", json!({"fail": 1})).expect(500);
    failed.problem(&["answered 422", "not with {\"fail\":1}"]);
    // The node itself is never reached.
    let own = node.address;
    let reply = invoke(&node, "hello", json!({ "get": format!("{own}/status") })).expect(200);
    let expected = json!({"error": "ErrorCode::DestinationIpProhibited"});
    assert_eq!(reply.result(), expected);
}
