//! Configuration files and the environment, as an operator meets them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::support::function::echo;
use crate::support::node;

/// Runs the program to its end in `directory`, which it must reach soon: the configuration is bad.
fn refused(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    // `timeout` ends a node that starts against all expectation.
    let Output { status, stderr, .. } = Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_serverledge")])
        .args(arguments)
        .current_dir(directory)
        .env("SERVERLEDGE_API_PORT", "0")
        .env("SERVERLEDGE_STORAGE_PATH", directory.join("storage"))
        .envs(environment.iter().copied())
        .output()
        .expect("running the node");
    let words = String::from_utf8_lossy(&stderr).into_owned();
    assert!(
        !status.success() && status.code() != Some(124),
        "it started: {words}"
    );
    words
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_a_hint() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cases = [
        ("contaner.pool.memory: 4096\n", "container.pool.memory"),
        (
            "container:\n  pool:\n    memroy: 4096\n",
            "container.pool.memory",
        ),
        ("container.pool.memory: lots\n", "container.pool.memory"),
        ("api.port: 70000\n", "api.port"),
        ("api.port: [\n", "line"),
        ("scheduler.queue.capacity: -1\n", "scheduler.queue.capacity"),
    ];
    for (yaml, word) in cases {
        std::fs::write(directory.path().join("node.yaml"), yaml).expect("writing a file");
        let words = refused(directory.path(), &["node.yaml"], &[]);
        assert!(words.contains(word), "{yaml:?} is answered: {words}");
    }
    let words = refused(directory.path(), &["nowhere.yaml"], &[]);
    assert!(words.contains("nowhere.yaml"), "{words}");
    let words = refused(
        directory.path(),
        &[],
        &[("SERVERLEDGE_CONTAINER_POOL_MEMORY", "lots")],
    );
    assert!(words.to_lowercase().contains("container"), "{words}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let yaml = "container.pool.memory: 300\nregistry:\n  area: MILAN\n  node.id: from-file\n";
    let node = node().memory(700).config(yaml).start();
    assert_eq!(node.status()["TotalMemory"], 700);
    node.create(&echo("echo"));
    let reply = node.invoke("echo", json!({})).expect(200);
    assert_eq!(reply.field("ExecutionArea"), "MILAN");
    assert_eq!(reply.field("ExecutionNode"), "from-file");
}
