//! A backend in a directory of its own, and functions written to files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use serverledge_core::NetworkPolicy;
use serverledge_sandbox::oci::{OciBackend, OciConfig};
use serverledge_sandbox::{
    Backend, Call, CallError, CreateError, FunctionError, Sandbox, SandboxSpec, Shim,
};

pub(crate) const PYTHON: &str = "/usr/bin/python3";
pub(crate) const NODE: &str = "/usr/bin/node";

pub(crate) fn config(state_dir: &Path) -> OciConfig {
    let mut config = OciConfig::new(state_dir);
    config.helper = vec![env!("CARGO_BIN_EXE_serverledge-sandbox-helper").into()];
    config
}

/// A running backend.
pub(crate) struct Machine {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) dir: tempfile::TempDir,
    ids: AtomicU64,
}

pub(crate) async fn machine() -> (Machine, Arc<OciBackend>) {
    let dir = tempfile::tempdir().unwrap();
    let backend = OciBackend::start(config(&dir.path().join("state")))
        .await
        .unwrap();
    (Machine::new(backend.clone(), dir), backend)
}

impl Drop for Machine {
    /// A test that has failed hasn't shut down.
    fn drop(&mut self) {
        let _ = serverledge_sandbox::oci::reap(&self.dir.path().join("state"));
    }
}

impl Machine {
    pub(crate) fn new(backend: Arc<dyn Backend>, dir: tempfile::TempDir) -> Self {
        let ids = AtomicU64::new(1);
        Machine { backend, dir, ids }
    }

    /// A function of this source, with the usual limits.
    pub(crate) fn spec(&self, shim: Shim, source: &str) -> SandboxSpec {
        let id = self.ids.fetch_add(1, Ordering::SeqCst);
        let code_dir = self.dir.path().join(format!("code-{id}"));
        std::fs::create_dir(&code_dir).unwrap();
        let (file, interpreter) = match shim {
            Shim::Python => ("f.py", PYTHON),
            Shim::Node => ("f.js", NODE),
            Shim::Bridge => ("f.sh", ""),
            Shim::Java { .. } => panic!("it has to be compiled: see the node's tests"),
        };
        std::fs::write(code_dir.join(file), source).unwrap();
        SandboxSpec {
            id,
            function: "test".to_owned(),
            interpreter: PathBuf::from(interpreter),
            shim: Some(shim),
            image: None,
            code_dir,
            handler: "f.handler".to_owned(),
            preload: Vec::new(),
            network: NetworkPolicy::None,
            memory_mb: 128,
            cpu: 0.0,
            slots: 1,
            timeout_start: Duration::from_secs(60),
        }
    }

    pub(crate) async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        self.backend.create(spec).await
    }

    pub(crate) async fn python(&self, source: &str) -> Arc<dyn Sandbox> {
        self.create(self.spec(Shim::Python, source)).await.unwrap()
    }
}

pub(crate) fn call(params: Value) -> Call {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Call {
        id: "test-1".to_owned(),
        deadline_unix: now.as_secs_f64() + 60.0,
        output: false,
        params: params.to_string().into_bytes().into(),
    }
}

/// Calls a function, not for long.
pub(crate) async fn invoke(
    sandbox: &Arc<dyn Sandbox>,
    params: Value,
) -> Result<Result<Value, FunctionError>, CallError> {
    let reply = tokio::time::timeout(Duration::from_secs(60), sandbox.invoke(call(params)));
    let reply = reply.await.expect("the call takes too long")?;
    Ok(reply
        .outcome
        .map(|json| serde_json::from_slice(&json).unwrap()))
}
