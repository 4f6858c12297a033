//! Starting and destroying sandboxes: from a function's record to a running sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serverledge_core::{Language, SandboxId};
use serverledge_sandbox::oci::Zygote;
use serverledge_sandbox::wasm::WasmBackend;
use serverledge_sandbox::{
    Backend, CreateError, Exit, Kind, Prestarted, Sandbox, SandboxSpec, Shim,
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::catalog::Function;
use crate::code::{CodeStore, Digest};

/// Makes sandboxes for functions and remembers those that are still being destroyed.
pub struct Launcher {
    backend: Arc<dyn Backend>,
    wasm: Arc<WasmBackend>,
    code: Arc<CodeStore>,
    start_timeout: Duration,
    destroying: TaskTracker,
}

impl Launcher {
    /// A launcher that gives up a start after `start_timeout`. What is WebAssembly runs on `wasm`,
    /// everything else on `backend`.
    pub fn new(
        backend: Arc<dyn Backend>,
        wasm: Arc<WasmBackend>,
        code: Arc<CodeStore>,
        start_timeout: Duration,
    ) -> Self {
        Self {
            backend,
            wasm,
            code,
            start_timeout,
            destroying: TaskTracker::new(),
        }
    }

    /// What a sandbox must be to take the function, if it can be made ahead.
    pub(crate) fn kind(function: &Function) -> Option<Kind> {
        let shim = shim(function)?;
        let interpreter = function.interpreter.clone();
        Some(Kind {
            interpreter,
            shim,
            image: function.image.clone(),
            preload: function.record.preload.clone(),
        })
    }

    /// Whether sandboxes of this kind can be made ahead.
    pub(crate) fn makes_ahead(&self, kind: &Kind) -> bool {
        self.backend.makes_ahead(kind)
    }

    /// Starts a sandbox without a function; `None` if that can't be had.
    pub(crate) async fn prestart(&self, id: SandboxId, kind: &Kind) -> Option<Box<dyn Prestarted>> {
        let started = self
            .backend
            .prestart(kind.clone(), id.0, self.start_timeout);
        match started.await {
            Ok(started) => started,
            // The node stops.
            Err(CreateError::Died(cause)) if cause.exit == Exit::Destroyed => None,
            Err(error) => {
                warn!(
                    interpreter = %kind.interpreter.display(),
                    error = %crate::chain(&error),
                    "a sandbox could not be started ahead"
                );
                None
            }
        }
    }

    /// Whether there are zygotes of this kind.
    pub(crate) fn has_zygotes(&self, kind: &Kind) -> bool {
        self.backend.has_zygotes(kind)
    }

    /// Starts a zygote, from which sandboxes of this kind are made; `None` if that can't be had.
    pub(crate) async fn zygote(&self, id: SandboxId, kind: &Kind) -> Option<Zygote> {
        let started = self.backend.zygote(kind.clone(), id.0, self.start_timeout);
        match started.await {
            Ok(started) => {
                let pid = started.as_ref().and_then(Zygote::pid);
                info!(preload = ?kind.preload, pid, "a zygote is ready");
                started
            }
            // The node stops.
            Err(CreateError::Died(cause)) if cause.exit == Exit::Destroyed => None,
            Err(error) => {
                // As it is with what can't be imported: each function that wants it is told.
                let (preload, error) = (&kind.preload, crate::chain(&error));
                info!(?preload, error, "sandboxes are made without a zygote");
                None
            }
        }
    }

    /// Starts a sandbox with the function loaded in it, out of one that was made ahead if possible.
    pub async fn create(
        &self,
        id: SandboxId,
        function: &Function,
        ahead: Option<Box<dyn Prestarted>>,
    ) -> Result<Arc<dyn Sandbox>, CreateError> {
        let record = &function.record;
        let shim = shim(function);
        let is_wasm = function.language == Language::Wasm;
        let spec = SandboxSpec {
            id: id.0,
            function: record.name.clone(),
            interpreter: function.interpreter.clone(),
            shim,
            image: function.image.clone(),
            code_dir: self.code_dir(record.code.clone()).await?,
            handler: record.handler.clone(),
            preload: record.preload.clone(),
            network: function.network.clone(),
            memory_mb: record.memory_mb,
            cpu: record.cpu,
            slots: record.max_concurrency,
            timeout_start: self.start_timeout,
        };
        if let Some(ahead) = ahead {
            match ahead.load(spec.clone()).await {
                // No fault of the function: a new one may do.
                Err(error @ (CreateError::Isolation(_) | CreateError::Io { .. })) => {
                    warn!(
                        function = record.name,
                        error = %crate::chain(&error),
                        "a sandbox that was started ahead was of no use"
                    );
                }
                loaded => return loaded,
            }
        }
        match is_wasm {
            true => self.wasm.create(spec).await,
            false => self.backend.create(spec).await,
        }
    }

    /// Does what of a start can be done when the function is registered.
    pub(crate) async fn prepare(&self, function: &Function) {
        if function.language != Language::Wasm {
            return;
        }
        let record = &function.record;
        let prepared = match self.code_dir(record.code.clone()).await {
            Ok(code_dir) => {
                let image = function.image.as_deref();
                self.wasm.prepare(image, &code_dir, &record.handler).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = prepared {
            // Each call will say so, too.
            let (function, error) = (&record.name, crate::chain(&error));
            warn!(function, error, "the function could not be compiled");
        }
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
        self.wasm.shutdown().await;
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

fn shim(function: &Function) -> Option<Shim> {
    match function.language {
        Language::Python => Some(Shim::Python),
        Language::Node => Some(Shim::Node),
        Language::Go | Language::Custom => Some(Shim::Bridge),
        // An image has a server of its own, as the original's.
        Language::Java if function.image.is_some() => Some(Shim::Bridge),
        Language::Java => Some(Shim::Java {
            memory_mb: function.record.memory_mb,
        }),
        Language::Wasm => None,
    }
}

fn unreadable(error: &dyn std::error::Error) -> CreateError {
    CreateError::Io {
        doing: "reading the function's code".into(),
        source: std::io::Error::other(crate::chain(error)),
    }
}
