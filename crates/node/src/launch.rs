//! Starting and destroying sandboxes: from a function's record to a running sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serverledge_core::{Language, SandboxId};
use serverledge_sandbox::{Backend, CreateError, Sandbox, SandboxSpec, Shim};
use tokio_util::task::TaskTracker;

use crate::catalog::Function;
use crate::code::{CodeStore, Digest};

/// Makes sandboxes for functions and remembers those that are still being destroyed.
pub struct Launcher {
    backend: Arc<dyn Backend>,
    code: Arc<CodeStore>,
    start_timeout: Duration,
    destroying: TaskTracker,
}

impl Launcher {
    /// A launcher that gives up a start after `start_timeout`.
    pub fn new(backend: Arc<dyn Backend>, code: Arc<CodeStore>, start_timeout: Duration) -> Self {
        Self {
            backend,
            code,
            start_timeout,
            destroying: TaskTracker::new(),
        }
    }

    /// Starts a sandbox with the function loaded in it.
    pub async fn create(
        &self,
        id: SandboxId,
        function: &Function,
    ) -> Result<Arc<dyn Sandbox>, CreateError> {
        let record = &function.record;
        let shim = match function.language {
            Language::Python => Shim::Python,
            Language::Node => Shim::Node,
            other => {
                return Err(CreateError::Isolation(format!(
                    "no backend of this node runs {other:?} functions"
                )));
            }
        };
        let spec = SandboxSpec {
            id: id.0,
            function: record.name.clone(),
            interpreter: function.interpreter.clone(),
            shim,
            code_dir: self.code_dir(record.code.clone()).await?,
            handler: record.handler.clone(),
            memory_mb: record.memory_mb,
            cpu: record.cpu,
            slots: record.max_concurrency,
            timeout_start: self.start_timeout,
        };
        self.backend.create(spec).await
    }

    /// Destroys in the background; [`Launcher::close`] waits for it.
    pub fn destroy(&self, sandbox: Arc<dyn Sandbox>) {
        self.destroying
            .spawn(async move { sandbox.destroy().await });
    }

    /// Waits for what is being destroyed, then stops the backend.
    pub async fn close(&self) {
        self.destroying.close();
        self.destroying.wait().await;
        self.backend.shutdown().await;
    }

    /// Unpacking is file work, done once per version: off the async threads.
    async fn code_dir(&self, digest: Option<String>) -> Result<PathBuf, CreateError> {
        let code = Arc::clone(&self.code);
        let unpack = move || match digest {
            Some(digest) => code.dir(&Digest::parse(&digest)?),
            None => code.empty_dir(),
        };
        match tokio::task::spawn_blocking(unpack).await {
            Ok(Ok(dir)) => Ok(dir),
            Ok(Err(error)) => Err(unreadable(&error)),
            Err(panic) => Err(unreadable(&panic)),
        }
    }
}

fn unreadable(error: &dyn std::error::Error) -> CreateError {
    CreateError::Io {
        doing: "reading the function's code".into(),
        source: std::io::Error::other(crate::chain(error)),
    }
}
