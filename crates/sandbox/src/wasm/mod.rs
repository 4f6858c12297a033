//! Functions compiled to WebAssembly, run within this process by Wasmtime.
//!
//! Three forms of code. A *WASI command* (a core module for `wasm32-wasip1` with `_start`, or a
//! component that exports `wasi:cli/run`) gets the parameters on its standard input and answers on
//! its standard output; what it writes to standard error is its output. A component that exports
//! `wasi:http/incoming-handler` gets a `POST /` with the parameters and answers with the body of
//! its response. A component that exports our own interface (`handler`) has one function for it.
//! Each call has an instance of its own, whatever the form: nothing survives a call, and a function
//! that fails takes nothing with it.
//!
//! A module is compiled once, in a process with limits (`compiler`; `Cache` keeps the result on disk),
//! and shared by all sandboxes of its code, so a sandbox is little more than limits. A call begins on the thread of its caller;
//! one that computes for long goes on elsewhere (`engine`). Functions reach whom their policy names
//! (`network`), with sockets of WASI 0.2 and with requests over HTTP.
//!
//! Left out on purpose: files, which WASI would let us give; limits of CPU, as threads are shared.

mod cache;
mod call;
mod code;
mod compiler;
mod engine;
mod handler;
mod host;
mod image;
mod network;
mod program;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;

use self::cache::Cache;
use self::call::Limits;
use self::compiler::Compiler;
pub use self::compiler::{CompileLimits, main as compiler_main};
use self::engine::Machine;
use self::host::Budget;
use self::network::Reach;
use self::program::{Program, Programs};
use crate::image::{ImageError, ImageStore};
use crate::types::FunctionError;
use crate::{
    Backend, BoxFuture, Call, CallError, CreateError, Exit, ExitCause, ImageUse, NetworkConfig,
    NetworkSupport, Pull, Reply, Sandbox, SandboxSpec, lock,
};

/// How WebAssembly is compiled and run.
#[derive(Clone, Debug)]
pub struct WasmConfig {
    /// Where compiled code is kept. Nobody but this user may write to it: what is in there is run as
    /// it is. Made when it is needed.
    pub dir: PathBuf,
    /// What compiling one module may take.
    pub compile: CompileLimits,
    /// Command that runs [`compiler_main`]. Default: this program with `wasm-compile`.
    pub compiler: Vec<OsString>,
    /// What functions reach.
    pub network: NetworkConfig,
    /// Where modules are that are artifacts, if there are to be any.
    pub images: Option<Arc<ImageStore>>,
}

impl WasmConfig {
    /// The defaults.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        WasmConfig {
            dir: dir.into(),
            compile: CompileLimits::default(),
            compiler: vec!["/proc/self/exe".into(), "wasm-compile".into()],
            network: NetworkConfig::default(),
            images: None,
        }
    }
}

/// Makes sandboxes of WebAssembly.
pub struct WasmBackend {
    config: WasmConfig,
    /// Made when it is needed: most nodes have no such function, and it takes memory.
    machine: Mutex<Option<Arc<Machine>>>,
    programs: Arc<Programs>,
    sandboxes: Mutex<Vec<Weak<WasmSandbox>>>,
}

impl WasmBackend {
    /// A backend that does nothing until it is needed.
    pub fn new(config: WasmConfig) -> Self {
        WasmBackend {
            config,
            machine: Mutex::default(),
            programs: Arc::default(),
            sandboxes: Mutex::default(),
        }
    }

    fn machine(&self) -> Result<Arc<Machine>, CreateError> {
        let mut machine = lock(&self.machine);
        if let Some(machine) = &*machine {
            return Ok(Arc::clone(machine));
        }
        let config = &self.config;
        let cache = Cache::open(&config.dir)
            .map_err(|error| CreateError::io(format!("opening {}", config.dir.display()), error))?;
        let compiler = Compiler {
            command: config.compiler.clone(),
            limits: config.compile.clone(),
        };
        let made = Arc::new(Machine::new(cache, compiler)?);
        Ok(Arc::clone(machine.insert(made)))
    }

    /// Compiles the code that `handler` names, or what is in `image`, if it isn't yet, so that its first
    /// sandbox need not.
    pub async fn prepare(
        &self,
        image: Option<&str>,
        code_dir: &Path,
        handler: &str,
    ) -> Result<(), CreateError> {
        self.load(image, code_dir, handler).await.map(drop)
    }

    async fn load(
        &self,
        image: Option<&str>,
        code_dir: &Path,
        handler: &str,
    ) -> Result<Arc<Program>, CreateError> {
        let machine = self.machine()?;
        match image {
            Some(image) => {
                // Kept from those who remove images until it is loaded.
                let (layer, _used) = self.open_image(image).await?;
                self.programs.load(machine, &layer, "").await
            }
            None => self.programs.load(machine, code_dir, handler).await,
        }
    }

    async fn start(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let trust = Arc::clone(&self.machine()?.trust);
        let limit = spec.timeout_start;
        let load = self.load(spec.image.as_deref(), &spec.code_dir, &spec.handler);
        let program = match tokio::time::timeout(limit, load).await {
            Ok(program) => program?,
            Err(_) => return Err(CreateError::TimedOut(limit)),
        };
        let sandbox = Arc::new(WasmSandbox {
            program,
            slots: spec.slots.max(1),
            busy: AtomicU32::new(0),
            limits: Arc::new(Limits {
                function: spec.function,
                handler: spec.handler,
                memory_mb: spec.memory_mb,
                memory: Budget::of_mb(spec.memory_mb),
                reach: Reach::new(spec.network, self.config.network.clone(), trust),
            }),
            end: watch::Sender::new(None),
        });
        let mut sandboxes = lock(&self.sandboxes);
        sandboxes.retain(|sandbox| sandbox.strong_count() > 0);
        sandboxes.push(Arc::downgrade(&sandbox));
        Ok(sandbox)
    }
}

/// Whether `handler` names code in this directory that looks like WebAssembly: what can be told
/// before it is compiled. File work: call it off the async threads.
pub fn check(code_dir: &Path, handler: &str) -> Result<(), FunctionError> {
    code::find(code_dir, handler).and_then(|path| code::check_magic(&path))
}

impl Backend for WasmBackend {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn image_use(&self) -> ImageUse {
        match self.config.images {
            Some(_) => ImageUse::Possible,
            None => ImageUse::Never,
        }
    }

    fn provide_image(&self, image: String, pull: Pull) -> BoxFuture<'_, Result<(), ImageError>> {
        Box::pin(async move { self.image(&image, pull).await.map(drop) })
    }

    fn collect_images(&self, keep: HashSet<String>) -> BoxFuture<'_, ()> {
        Box::pin(self.collect(keep))
    }

    fn network(&self) -> NetworkSupport {
        NetworkSupport::Enforced
    }

    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(self.start(spec))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let sandboxes = std::mem::take(&mut *lock(&self.sandboxes));
            for sandbox in sandboxes.iter().filter_map(Weak::upgrade) {
                sandbox.end();
            }
        })
    }
}

struct WasmSandbox {
    program: Arc<Program>,
    slots: u32,
    busy: AtomicU32,
    limits: Arc<Limits>,
    end: watch::Sender<Option<ExitCause>>,
}

/// A call that runs, until this is dropped.
struct Slot<'a>(&'a AtomicU32);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WasmSandbox {
    fn end(&self) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(ExitCause::new(Exit::Destroyed));
            first
        });
    }

    async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let before = self.busy.fetch_add(1, Ordering::SeqCst);
        let _slot = Slot(&self.busy);
        if before >= self.slots {
            return Err(CallError::Protocol("no free slot".to_owned()));
        }
        let mut end = self.end.subscribe();
        tokio::select! {
            biased;
            end = end.wait_for(Option::is_some) => {
                let cause = end.ok().and_then(|end| end.clone());
                Err(CallError::Died(cause.unwrap_or(ExitCause::new(Exit::Destroyed))))
            }
            reply = call::run(&self.program, &self.limits, call) => reply,
        }
    }
}

impl Sandbox for WasmSandbox {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(self.call(call))
    }

    fn ended(&self) -> BoxFuture<'_, ExitCause> {
        let mut end = self.end.subscribe();
        Box::pin(async move {
            match end.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(cause)) => cause.clone(),
                _ => ExitCause::new(Exit::Destroyed),
            }
        })
    }

    fn destroy(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.end() })
    }
}
