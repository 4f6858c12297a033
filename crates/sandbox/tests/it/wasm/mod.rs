//! WebAssembly. The modules are written here, as text.

mod component;
mod ends;
mod handler;
mod hello;
mod hostile;
mod kept;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use serverledge_sandbox::wasm::{WasmBackend, WasmConfig};
use serverledge_sandbox::{
    Backend as _, CallError, CreateError, FunctionError, Reply, Sandbox, SandboxSpec,
};
use tempfile::TempDir;

use crate::harness::call;

/// A backend in a directory of its own, and code in files.
struct Wasm {
    backend: WasmBackend,
    dir: TempDir,
    ids: AtomicU64,
}

pub(crate) fn config(dir: &Path) -> WasmConfig {
    WasmConfig {
        compiler: vec![
            env!("CARGO_BIN_EXE_serverledge-sandbox-helper").into(),
            "wasm-compile".into(),
        ],
        ..WasmConfig::new(dir.join("compiled"))
    }
}

fn wasm() -> Wasm {
    let dir = tempfile::tempdir().unwrap();
    Wasm {
        backend: WasmBackend::new(config(dir.path())),
        dir,
        ids: AtomicU64::new(1),
    }
}

impl Wasm {
    /// A function of this text or these bytes, with the usual limits.
    fn spec(&self, source: impl AsRef<[u8]>) -> SandboxSpec {
        let id = self.ids.fetch_add(1, Ordering::SeqCst);
        let code_dir = self.dir.path().join(format!("code-{id}"));
        std::fs::create_dir(&code_dir).unwrap();
        let module = wat::parse_bytes(source.as_ref()).unwrap();
        std::fs::write(code_dir.join("f.wasm"), module).unwrap();
        SandboxSpec {
            id,
            function: "test".to_owned(),
            interpreter: "".into(),
            shim: None,
            image: None,
            code_dir,
            handler: "f.wasm".to_owned(),
            preload: Vec::new(),
            network: serverledge_core::NetworkPolicy::None,
            memory_mb: 32,
            cpu: 0.0,
            slots: 1,
            // The compiler comes after everything else on the machine.
            timeout_start: Duration::from_secs(600),
        }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        self.backend.create(spec).await
    }

    async fn start(&self, source: impl AsRef<[u8]>) -> Arc<dyn Sandbox> {
        self.create(self.spec(source)).await.unwrap()
    }

    /// Why a function can't be loaded.
    async fn load_error(&self, source: impl AsRef<[u8]>) -> String {
        match self.create(self.spec(source)).await.map(drop) {
            Err(CreateError::Load(error)) => error.message,
            other => panic!("{other:?}"),
        }
    }

    fn compiled(&self) -> std::path::PathBuf {
        let mut files = std::fs::read_dir(self.dir.path().join("compiled")).unwrap();
        files.next().unwrap().unwrap().path()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Calls a function, with its output, not for long.
async fn reply(sandbox: &Arc<dyn Sandbox>, params: Value) -> Result<Reply, CallError> {
    let mut call = call(params);
    call.output = true;
    let reply = tokio::time::timeout(Duration::from_secs(60), sandbox.invoke(call));
    reply.await.expect("the call takes too long")
}

/// What a function returns.
async fn result(sandbox: &Arc<dyn Sandbox>, params: Value) -> Value {
    let outcome = reply(sandbox, params).await.unwrap().outcome;
    serde_json::from_slice(&outcome.unwrap()).unwrap()
}

/// How a function fails.
async fn error(sandbox: &Arc<dyn Sandbox>) -> FunctionError {
    let outcome = reply(sandbox, Value::Null).await.unwrap().outcome;
    outcome.expect_err("the function fails")
}

/// A WASI command with a page of memory that does this. `$read` fills memory from 1024 on from
/// standard input and returns how much, `$write` takes a descriptor, an address and a length.
fn command(body: &str) -> String {
    with_memory("1", body)
}

fn with_memory(pages: &str, body: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get"
    (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get"
    (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") {pages})
  (data (i32.const 16) "words")
  (func $read (result i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") (local $n i32) {body}))"#
    )
}

const ECHO: &str = "(call $write (i32.const 1) (i32.const 1024) (call $read))";
const LOOP: &str = "(loop $forever (br $forever))";
