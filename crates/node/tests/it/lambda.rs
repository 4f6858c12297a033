//! Functions for AWS Lambda in languages with an interpreter, with Amazon's own clients of its runtime
//! interface, as they come from npm and PyPI: nothing in them is changed. The one in Go is in `compiled`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::docker::image::{docker, hash, import, libraries};
use crate::docker::{on_docker, register_custom};
use crate::support::{Node, node, python};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// An example, and where the set-up (`cargo xtask ci`) has put what it needs.
struct Example {
    name: &'static str,
    handler: &'static str,
    packages: &'static str,
    /// What of that belongs to the function.
    members: &'static str,
    error: &'static str,
}

const NODEJS: Example = Example {
    name: "nodejs",
    handler: "index.handler",
    packages: "target/lambda-nodejs",
    members: "./node_modules",
    error: "RangeError",
};

const PYTHON: Example = Example {
    name: "python",
    handler: "function.handler",
    packages: "target/lambda-python",
    members: ".",
    error: "ValueError",
};

impl Example {
    /// The function and its packages, in a directory of the archive or at its top.
    fn archive(&self, directory: &str) -> Vec<u8> {
        let packages = Path::new(ROOT).join(self.packages);
        assert!(packages.is_dir(), "no {}: `cargo xtask ci`", self.packages);
        let output = Command::new("tar")
            .args(["-cf", "-", "--exclude=__pycache__"])
            .arg(format!("--transform=s,^\\./,./{directory},"))
            .arg("-C")
            .arg(packages)
            .arg(self.members)
            .arg("-C")
            .arg(Path::new(ROOT).join("examples/lambda").join(self.name))
            .arg(".")
            .output()
            .expect("starting tar");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        output.stdout
    }

    #[track_caller]
    fn runs(&self, node: &Node) {
        let function = python(self.name, "").runtime("provided.al2023");
        let function = function.handler(self.handler).memory(256);
        node.post("/create", &function.body_with(self.archive("")))
            .expect(200);
        self.serves(node);
    }

    #[track_caller]
    fn serves(&self, node: &Node) {
        let path = format!("/invoke/{}", self.name);
        let call = |params: Value| {
            let body = json!({"Params": params, "ReturnOutput": true});
            node.post(&path, &body)
        };
        for name in ["Ada", "Zoë", "Ada"] {
            let reply = call(json!({ "name": name })).expect(200);
            let result = reply.result();
            assert_eq!(result["message"], format!("Hello, {name}!"));
            assert_eq!(result["function"], self.name);
            let id = result["request_id"].as_str().unwrap_or_default().to_owned();
            assert!(id.starts_with(self.name), "{result}");
            let output = reply.field("Output");
            let output = output.as_str().unwrap_or_default();
            assert!(output.ends_with(&format!("greeting {name}\n")), "{output}");
        }
        let failed = call(json!({})).expect(500);
        failed.problem(&[self.error, "the event has no `name`"]);
    }
}

#[test]
fn functions_for_lambda_in_nodejs_run_with_amazons_client() {
    for isolation in ["auto", "process"] {
        NODEJS.runs(&node().set("sandbox.isolation", isolation).start());
    }
}

#[test]
fn functions_for_lambda_in_python_run_with_amazons_client() {
    for isolation in ["auto", "process"] {
        PYTHON.runs(&node().set("sandbox.isolation", isolation).start());
    }
}

/// An image as its documentation has one made, with this machine's Node.js.
#[test]
fn an_image_for_lambda_in_nodejs_runs_in_a_container() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    let function = NODEJS.archive("function/");
    std::fs::write(&archive, &function).unwrap();
    let mut files = libraries(&["/usr/bin/node"]);
    files.push("/usr/bin/node".to_owned());
    // Where a distribution has taken modules out of the program.
    let modules = "/usr/share/nodejs".to_owned();
    files.extend(Some(modules).filter(|path| Path::new(path).is_dir()));
    let mut tar = Command::new("tar");
    tar.args(["--dereference", "-rf"]).arg(&archive);
    tar.args(["-C", "/"])
        .args(files.iter().map(|file| &file[1..]));
    assert!(tar.status().unwrap().success());
    let version = hash(&format!("{} {files:?}", function.len()));
    let image = format!(
        "serverledge-test-lambda-node:{version}-{}",
        std::process::id()
    );
    let changes = [
        "WORKDIR /function",
        "ENV LAMBDA_TASK_ROOT=/function",
        "ENTRYPOINT [\"/usr/bin/node\", \"node_modules/aws-lambda-ric/index.mjs\"]",
        "CMD [\"index.handler\"]",
    ];
    import(&archive, &image, &changes);
    let node = on_docker().start();
    register_custom(&node, NODEJS.name, &image).expect(200);
    NODEJS.serves(&node);
    node.stop();
    docker(&["rmi", &image]);
}
