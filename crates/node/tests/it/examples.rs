//! The examples that need no compiler, each in every backend that can run it. Those that are compiled
//! are in `compiled`, `java` and `wasm`; the one for machine learning is in `preload`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::docker::image::{docker, hash, import, libraries, python_root, run};
use crate::docker::{on_docker, register_custom};
use crate::support::{Node, node, python};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

struct Example {
    file: &'static str,
    params: Value,
    result: Value,
}

fn example(file: &'static str, params: Value, result: Value) -> Example {
    Example {
        file,
        params,
        result,
    }
}

fn text(file: &str) -> String {
    std::fs::read_to_string(Path::new(EXAMPLES).join(file)).unwrap()
}

fn input(file: &str) -> Value {
    serde_json::from_str(&text(file)).unwrap()
}

/// All that are functions in Python or JavaScript.
fn functions() -> Vec<Example> {
    let sha = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    vec![
        example(
            "hello.py",
            input("input2.json"),
            json!({"message": "Hello from Serverledge!", "a": 2, "b": 3, "sum": 5}),
        ),
        example("noop.py", json!({}), json!(null)),
        example("sleeper.py", json!({"n": 0.01}), json!({"slept": 0.01})),
        example("inc.py", input("input.json"), json!(18)),
        example("double.py", input("input.json"), json!(34)),
        example("isprime.py", input("input.json"), json!(true)),
        example(
            "isprimeWithNumber.py",
            json!({"n": "15"}),
            json!({"IsPrime": false, "n": 15}),
        ),
        example(
            "fibonacci.py",
            json!({"n": 8}),
            json!([0, 1, 1, 2, 3, 5, 8, 13]),
        ),
        example("fibonacciNout.py", json!({"n": 8}), json!("done")),
        example("hash_string.py", json!({"n": "x"}), json!(sha)),
        example(
            "grep.py",
            input("grepInput.json"),
            json!({"Count": 2, "Lines": [
                "At the edge, a node is small.",
                "Work moves from the edge to the cloud when that is faster.",
            ]}),
        ),
        example(
            "summarize.py",
            input("summarizeInput.json"),
            json!({"Summary": "An edge node is small and near. A function that is called at the edge \
                               should run at the edge node while the edge node has room."}),
        ),
        example(
            "hello.js",
            json!({"name": "Ada"}),
            json!({"message": "Hello from Ada!"}),
        ),
        example("noop.js", json!({}), json!(null)),
        example("inc.js", input("input.json"), json!(18)),
        example(
            "sieve.js",
            json!({"n": 20}),
            json!({"Count": 8, "Primes": [2, 3, 5, 7, 11, 13, 17, 19]}),
        ),
        example(
            "wordCount.js",
            input("wordCountInput.json"),
            json!({"the": 3, "edge": 1, "and": 2, "cloud": 1, "constructor": 1}),
        ),
    ]
}

/// Runs them on this node, the second time warm.
#[track_caller]
fn run_functions(node: &Node) {
    for Example {
        file,
        params,
        result,
    } in functions()
    {
        let (name, language) = file.split_once('.').unwrap();
        let (runtime, handler) = match language {
            "py" => ("python314", format!("{name}.handler")),
            _ => ("nodejs17ng", file.to_owned()),
        };
        let function = python(&file.replace('.', "-"), "")
            .file(file, &text(file))
            .runtime(runtime)
            .handler(&handler);
        node.create(&function);
        for _ in 0..2 {
            let came = node.invoke(&function.name, params.clone()).expect(200);
            assert_eq!(came.result(), result, "{file}");
        }
    }
}

/// Registers a program that is a single file of code.
fn register_program(node: &Node, name: &str, file: &str, handler: &str) {
    let base = file.rsplit('/').next().unwrap();
    let program = python(name, "").file(base, &text(file));
    node.create(&program.runtime("custom").handler(handler));
}

#[track_caller]
fn greets(node: &Node) {
    register_program(node, "custom", "custom_hello/hello.py", "hello.py");
    let reply = node.invoke("custom", json!({"name": "Ada"})).expect(200);
    assert_eq!(reply.result(), json!({"message": "Hello, Ada!"}));
}

#[track_caller]
fn checks_documents(node: &Node) {
    let mut params = input("jsonschemaInput.json");
    let result = node.invoke("jsonschema", params.clone()).result();
    let errors = json!([
        {"At": [], "Message": "'name' is a required property"},
        {"At": ["age"], "Message": "-1 is less than the minimum of 0"},
    ]);
    assert_eq!(result, json!({"Valid": false, "Errors": errors}));
    params["Document"] = json!({"name": "Ada", "age": 36});
    let result = node.invoke("jsonschema", params.clone()).result();
    assert_eq!(result, json!({"Valid": true, "Errors": []}));
    params["Schema"] = json!({"type": "no such"});
    let failed = node.invoke("jsonschema", params).expect(500);
    failed.problem(&["`Schema` is no schema"]);
}

#[test]
fn examples_run_in_the_built_in_sandbox() {
    let node = node().start();
    run_functions(&node);
    greets(&node);
    let handler = "server:/usr/bin/python3 executor.py";
    register_program(&node, "jsonschema", "jsonschema/executor.py", handler);
    checks_documents(&node);
}

#[test]
fn examples_run_as_plain_processes() {
    // The one that is a server would take a port of the machine's.
    let node = node().set("sandbox.isolation", "process").start();
    run_functions(&node);
    greets(&node);
}

#[test]
fn examples_run_in_containers() {
    let node = on_docker()
        .set("runtime.nodejs17ng.image", node_image())
        .start();
    run_functions(&node);
    register_custom(&node, "jsonschema", jsonschema_image()).expect(200);
    checks_documents(&node);
}

/// An image of this machine's Node.js.
fn node_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let version = run("/usr/bin/node", &["--version"]);
        made(
            &format!("node:{}", hash(&version)),
            &["CMD [\"node\"]"],
            |dir| {
                let mut files = libraries(&["/usr/bin/node"]);
                files.push("/usr/bin/node".to_owned());
                // Where a distribution has taken modules out of the program.
                let modules = "/usr/share/nodejs".to_owned();
                files.extend(Some(modules).filter(|path| Path::new(path).is_dir()));
                pack(dir, &dir.join("node.tar"), "-cf", &files)
            },
        )
    })
}

/// An image as the example's Dockerfile makes it.
fn jsonschema_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let source = text("jsonschema/executor.py");
        let command = "CMD [\"/usr/bin/python3\", \"/executor.py\"]";
        made(
            &format!("jsonschema:{}", hash(&source)),
            &[command],
            |dir| {
                let archive = python_root(dir);
                let packages = ["python3-jsonschema", "python3-attr", "python3-pyrsistent"];
                let listed = run("dpkg", &[&["-L"][..], &packages].concat());
                let is_module =
                    |file: &&str| file.contains("/dist-packages/") && Path::new(file).is_file();
                let mut files: Vec<String> = listed
                    .lines()
                    .filter(is_module)
                    .map(str::to_owned)
                    .collect();
                std::fs::write(dir.join("executor.py"), &source).unwrap();
                files.push("executor.py".to_owned());
                pack(dir, &archive, "-rf", &files)
            },
        )
    })
}

/// Makes an image, once an engine.
fn made(name: &str, changes: &[&str], archive: impl FnOnce(&Path) -> PathBuf) -> String {
    let name = format!("serverledge-test-{name}");
    if docker(&["images", "-q", &name]).is_empty() {
        let dir = tempfile::tempdir().unwrap();
        import(&archive(dir.path()), &name, changes);
    }
    name
}

/// Puts files of the machine, and those of `dir` whose path is relative, into an archive.
fn pack(dir: &Path, archive: &Path, how: &str, files: &[String]) -> PathBuf {
    let (machine, own): (Vec<&String>, Vec<_>) =
        files.iter().partition(|file| file.starts_with('/'));
    let mut tar = Command::new("tar");
    tar.args(["--dereference", how])
        .arg(archive)
        .args(["-C", "/"]);
    tar.args(machine.iter().map(|file| &file[1..]));
    if !own.is_empty() {
        tar.arg("-C").arg(dir).args(own);
    }
    assert!(tar.status().unwrap().success());
    archive.to_owned()
}
