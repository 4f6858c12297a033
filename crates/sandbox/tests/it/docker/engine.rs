//! A backend on the engine that the tests use.

use std::path::Path;
use std::time::Duration;

use serverledge_sandbox::docker::{DockerBackend, DockerConfig, Engine};
use serverledge_sandbox::{SandboxSpec, Shim};

use super::image::{docker, hash, image, socket};
use crate::harness::Machine;

pub(super) async fn engine() -> Engine {
    Engine::connect(&socket())
        .await
        .unwrap_or_else(|error| panic!("{error} `cargo xtask ci` starts one."))
}

pub(super) fn config(state_dir: &Path) -> DockerConfig {
    let mut config = DockerConfig::new(state_dir);
    config.helper = vec![env!("CARGO_BIN_EXE_serverledge-sandbox-helper").into()];
    config
}

pub(super) async fn machine() -> Containers {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let backend = DockerBackend::start(engine().await, config(&state))
        .await
        .unwrap();
    Containers(Machine::new(backend, dir))
}

/// A running backend. Removes its containers if the test fails.
pub(super) struct Containers(pub(super) Machine);

impl Containers {
    /// A function in a container with the interpreter `python3`.
    pub(super) fn spec(&self, source: &str) -> SandboxSpec {
        SandboxSpec {
            image: Some(image().to_owned()),
            interpreter: "python3".into(),
            // An engine on a busy machine takes its time.
            timeout_start: Duration::from_secs(60),
            ..self.0.spec(Shim::Python, source)
        }
    }

    /// A function that is the image's own.
    pub(super) fn own(&self) -> SandboxSpec {
        let spec = self.spec("");
        std::fs::remove_file(spec.code_dir.join("f.py")).unwrap();
        SandboxSpec {
            shim: Some(Shim::Bridge),
            ..spec
        }
    }

    /// Names of its containers, running or not.
    pub(super) fn containers(&self) -> Vec<String> {
        containers(&self.0.dir.path().join("state"))
    }

    pub(super) fn directories(&self) -> usize {
        std::fs::read_dir(self.0.dir.path().join("state/sandboxes"))
            .map_or(0, |entries| entries.count())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for name in self.containers() {
            docker(&["rm", "-f", &name]);
        }
    }
}

/// Names of the containers of the node with this state directory.
pub(super) fn containers(state_dir: &Path) -> Vec<String> {
    let mounted = docker(&["ps", "-a", "--format", "{{.Names}}", "--no-trunc"]);
    let prefix = format!("serverledge-{}-", name_of(state_dir));
    let ours = mounted.lines().filter(|name| name.starts_with(&prefix));
    ours.map(str::to_owned).collect()
}

/// A node's name with the engine, as is documented nowhere else: FNV-1a of the path.
fn name_of(state_dir: &Path) -> String {
    hash(std::fs::canonicalize(state_dir).unwrap().to_str().unwrap())
}
