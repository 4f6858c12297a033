//! The examples that are programs, built as their first lines say and run by a node: a package of
//! this project for Go, AWS's own for Lambda, and commands in Rust, C++ and Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::docker::image::{docker, import};
use crate::docker::{on_docker, register_custom};
use crate::support::{Function, Node, node, python, zip};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// A place for what is built.
struct Build(tempfile::TempDir);

impl Build {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Builds an example in Go, without the network.
    fn go(&self, example: &str, name: &str, architecture: &str) -> Vec<u8> {
        let mut command = Command::new("go");
        command
            .args(["build", "-trimpath", "-ldflags=-s -w", "-buildvcs=false"])
            .current_dir(Path::new(EXAMPLES).join(example))
            .env("CGO_ENABLED", "0")
            .env("GOARCH", architecture)
            .env("GOPROXY", "off")
            .env("GOFLAGS", "-mod=readonly");
        self.output(command, name)
    }

    fn output(&self, mut command: Command, name: &str) -> Vec<u8> {
        let path = self.path(name);
        let output = command.arg("-o").arg(&path).output().expect("a compiler");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        std::fs::read(path).expect("what was built")
    }

    fn compiled(&self, program: &str, source: &str) -> Vec<u8> {
        let mut command = Command::new(program);
        command.arg(Path::new(EXAMPLES).join(source));
        self.output(command, "hello")
    }
}

/// A tar of programs, with mode bits or as systems without them write it.
fn tar(files: &[(&str, &[u8])], mode: u32) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, path, *content)
            .expect("writing to memory");
    }
    archive.into_inner().expect("writing to memory")
}

fn function(name: &str, runtime: &'static str, handler: &str) -> Function {
    python(name, "").runtime(runtime).handler(handler)
}

/// Go's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// The result of a call with its output, which must be as expected.
#[track_caller]
fn call(node: &Node, name: &str, params: Value, output: &str) -> Value {
    let body = json!({"Params": params, "ReturnOutput": true});
    let reply = node.post(&format!("/invoke/{name}"), &body).expect(200);
    assert_eq!(reply.field("Output"), output);
    reply.result()
}

#[track_caller]
fn failure(node: &Node, name: &str, params: Value, said: &[&str]) -> Value {
    let reply = node.invoke(name, params);
    assert_eq!(reply.status, 500, "{}", reply.shown());
    reply.problem(said)
}

#[test]
fn go_functions_run_with_the_package_of_this_project() {
    let (node, build) = (node().start(), Build::new());
    let program = build.go("go", "handler", architecture());
    let name = format!("handler_{}", architecture());
    let files = [(&*name, &*program)];
    // Several calls at once, and no mode bits.
    let plain = function("plain", "go125", "").concurrency(4);
    let body = plain.body_with(tar(&files, 0o644));
    node.post("/create", &body).expect(200);
    let greeting = json!({"message": "Hello, Ada!"});
    for _ in 0..3 {
        let result = call(&node, "plain", json!({"name": "Ada"}), "greeting Ada\n");
        assert_eq!(result, greeting);
    }
    failure(&node, "plain", json!({}), &["`name` must be a text"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let result = call(&node, "plain", json!({"name": "Ada"}), "greeting Ada\n");
                assert_eq!(result, greeting);
            });
        }
    });
    // The original's package: a zip within the archive, which has the programs.
    let package = zip(&files).expect("writing to memory");
    let body = function("fat", "go125", "").body_with(tar(&[("fat.zip", &package)], 0o644));
    node.post("/create", &body).expect(200);
    let result = call(&node, "fat", json!({"name": "Ada"}), "greeting Ada\n");
    assert_eq!(result, greeting);
}

/// Nodes with sandboxes of the two kinds that take programs as code.
fn nodes() -> [Node; 2] {
    ["auto", "process"].map(|isolation| node().set("sandbox.isolation", isolation).start())
}

#[test]
fn functions_for_lambda_run_with_the_package_of_its_maker() {
    let program = Build::new().go("lambda", "bootstrap", architecture());
    for node in nodes() {
        serves_lambda(&node, &program);
    }
}

#[track_caller]
fn serves_lambda(node: &Node, program: &[u8]) {
    let f = function("f", "provided.al2023", "");
    node.post(
        "/create",
        &f.body_with(tar(&[("bootstrap", program)], 0o755)),
    )
    .expect(200);
    for _ in 0..3 {
        let result = call(node, "f", json!({"name": "Ada"}), "greeting Ada\n");
        assert_eq!(result["message"], "Hello, Ada!");
        assert_eq!(result["function"], "f");
        assert!(!result["request_id"].as_str().unwrap().is_empty());
    }
    failure(
        node,
        "f",
        json!({}),
        &["errorString", "the event has no `name`"],
    );
    // The package reports a panic and ends the program.
    let problem = failure(node, "f", json!({"name": "nobody"}), &["nobody to greet"]);
    let stack = problem["stack"].as_str().unwrap();
    assert!(stack.contains("main.go"), "{stack}");
}

#[test]
fn commands_run_in_any_language() {
    let build = Build::new();
    let script = std::fs::read(Path::new(EXAMPLES).join("custom_hello/hello.py")).unwrap();
    let rust = build.compiled("rustc", "rust/hello.rs");
    let cpp = build.compiled("g++", "c++/hello.cpp");
    let programs = [
        ("rust", "hello", &*rust),
        ("cpp", "./hello", &*cpp),
        ("python", "hello.py", &*script),
    ];
    for node in nodes() {
        runs_commands(&node, &programs);
    }
}

#[track_caller]
fn runs_commands(node: &Node, programs: &[(&str, &str, &[u8])]) {
    for &(name, handler, program) in programs {
        let file = handler.trim_start_matches("./");
        let archive = tar(&[(file, program)], 0o755);
        let body = function(name, "custom", handler).body_with(archive);
        node.post("/create", &body).expect(200);
    }
    let params = json!({"name": "Ada"});
    let result = call(node, "rust", params.clone(), "counted\n");
    assert_eq!(result, json!({"bytes": params.to_string().len()}));
    let read = format!("read {} bytes\n", params.to_string().len());
    let result = call(node, "cpp", params.clone(), &read);
    assert_eq!(result, json!({"got": params}));
    let result = call(node, "python", params, "greeting Ada\n");
    assert_eq!(result, json!({"message": "Hello, Ada!"}));
    let said = ["exit status 1", "the parameter `name` is missing"];
    failure(node, "python", json!({}), &said);
}

/// A program that needs nothing beside it, as an image.
fn image(build: &Build, name: &str, program: &[u8], changes: &[&str]) -> String {
    let archive = build.path(&format!("{name}.tar"));
    std::fs::write(&archive, tar(&[("program", program)], 0o755)).unwrap();
    let image = format!("serverledge-test-{name}:{}", std::process::id());
    let changes = [&["ENTRYPOINT [\"/program\"]"], changes].concat();
    import(&archive, &image, &changes);
    image
}

#[test]
fn programs_in_images_run_in_containers() {
    let (node, build) = (on_docker().start(), Build::new());
    let server = build.go("go", "server", architecture());
    let lambda = build.go("lambda", "lambda", architecture());
    let images = [
        image(&build, "go", &server, &[]),
        image(&build, "lambda-go", &lambda, &["ENV LAMBDA_TASK_ROOT=/"]),
    ];
    for (name, image) in ["go", "lambda"].iter().zip(&images) {
        register_custom(&node, name, image).expect(200);
        for _ in 0..2 {
            let result = call(&node, name, json!({"name": "Ada"}), "greeting Ada\n");
            assert_eq!(result["message"], "Hello, Ada!");
        }
        failure(&node, name, json!({}), &["`name`"]);
    }
    node.stop();
    docker(&[&["rmi"][..], &images.each_ref().map(|name| &**name)].concat());
}
