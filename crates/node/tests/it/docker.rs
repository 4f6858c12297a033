//! Functions in containers.

use std::path::Path;

use serde_json::json;

use crate::support::node::Builder;
use crate::support::{Node, eventually, node, python};

#[path = "../../../sandbox/tests/it/docker/image.rs"]
pub(crate) mod image;

use image::{docker, hash, image, socket};

pub(crate) fn on_docker() -> Builder {
    node()
        .set("sandbox.backend", "docker")
        .set("sandbox.docker.socket", socket().display())
        .set("sandbox.prestart", 0)
        // An engine on a busy machine takes its time.
        .set("sandbox.start_timeout", 80)
        .set("runtime.python314.image", image())
}

/// What tells the containers of the node that keeps its data here.
pub(crate) fn label(storage: &Path) -> String {
    let state_dir = storage.canonicalize().unwrap().join("sandboxes");
    format!(
        "label=serverledge.node={}",
        hash(state_dir.to_str().unwrap())
    )
}

/// Containers with this label, running or not.
pub(crate) fn containers(label: &str) -> usize {
    docker(&["ps", "-aq", "--filter", label]).lines().count()
}

pub(crate) fn register_custom(
    node: &Node,
    name: &str,
    image: &str,
) -> crate::support::http::Response {
    let body = json!({
        "Name": name, "Runtime": "custom", "MemoryMB": 128, "CPUDemand": 0.0,
        "MaxConcurrency": 1, "Handler": "", "TarFunctionCode": "", "CustomImage": image,
    });
    node.post("/create", &body)
}

#[test]
fn runtimes_and_custom_images_run_in_containers() {
    let node = on_docker().start();
    let source = "import os\ndef handler(p, c): return [p, os.getuid() >= 0x70000000]\n";
    node.create(&python("f", source));
    let mut warm = Vec::new();
    for _ in 0..2 {
        let reply = node.post("/invoke/f", &json!({"Params": {"a": 1}}));
        let reply = reply.expect(200).json();
        assert_eq!(reply["Result"], json!("[{\"a\": 1}, true]"));
        warm.push(reply["IsWarmStart"] == json!(true));
    }
    assert_eq!(warm, [false, true]);

    register_custom(&node, "own", image()).expect(200);
    let body = json!({"Params": {"x": 1}, "ReturnOutput": true});
    let reply = node.post("/invoke/own", &body).expect(200).json();
    assert!(
        reply["Result"].as_str().unwrap().contains("\"x\": 1"),
        "{reply}"
    );
    assert_eq!(reply["Output"], json!("said"));
    let reply = node.post("/invoke/own", &json!({"Params": {"fail": "why"}}));
    reply.expect(500).problem(&["why"]);

    register_custom(&node, "absent", "serverledge-test/none").expect(200);
    let reply = node.post("/invoke/absent", &json!({})).expect(500);
    reply.problem(&["docker pull serverledge-test/none"]);
    let refused = register_custom(&node, "bad", "../x").expect(400);
    refused.problem(&["CustomImage"]);

    let label = label(&node.storage());
    node.stop();
    assert_eq!(containers(&label), 0);
}

#[test]
fn containers_of_a_killed_node_are_reaped_at_its_next_start() {
    let node = on_docker().set("sandbox.prestart", 1).start();
    node.create(&python("f", "def handler(p, c): return 1\n"));
    node.post("/invoke/f", &json!({})).expect(200);
    let label = label(&node.storage());
    eventually(
        "a container waits for a function besides the warm one",
        || (containers(&label) >= 2).then_some(()),
    );
    let stopped = node.kill9();
    assert!(containers(&label) >= 2);
    let node = stopped.set("sandbox.prestart", 0).start();
    assert_eq!(containers(&label), 0);
    node.post("/invoke/f", &json!({})).expect(200);
    node.stop();
    assert_eq!(containers(&label), 0);
}

#[test]
fn custom_images_must_be_on_the_node() {
    let node = node().start();
    let refused = register_custom(&node, "own", "image").expect(400);
    let problem = refused.problem(&["docker.io/library/image:latest"]);
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.contains("serverledge image load"), "{hint}");
}
