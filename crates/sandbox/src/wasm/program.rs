//! From a module's bytes to something of which an instance is made in microseconds.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use tokio::task::spawn_blocking;
use wasmtime::component::Component;
use wasmtime::{InstancePre, Module, ModuleExport};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::cache::Key;
use super::code;
use super::engine::Machine;
use super::host::Host;
use crate::types::FunctionError;
use crate::{CreateError, lock};

/// What a component begins with, where a module has version 1.
const COMPONENT_VERSION: [u8; 4] = [0x0d, 0, 1, 0];

/// Compiled code, linked as far as it goes without an instance.
pub(super) struct Program {
    pub(super) machine: Arc<Machine>,
    pub(super) form: Form,
}

/// How a program is called.
pub(super) enum Form {
    /// A core module with `_start`.
    Module {
        pre: InstancePre<Host>,
        start: ModuleExport,
    },
    /// A component with `wasi:cli/run`.
    Command(CommandPre<Host>),
    /// A component with `wasi:http/incoming-handler`.
    Http(ProxyPre<Host>),
}

/// The programs that are in use.
#[derive(Default)]
pub(super) struct Programs(Mutex<HashMap<Key, Arc<Entry>>>);

/// Its lock is held while the program is compiled, so that others wait rather than do the same.
#[derive(Default)]
struct Entry(Mutex<Weak<Program>>);

impl Programs {
    /// The program that `handler` names. When this is dropped, a compilation that was begun goes on
    /// and is kept on disk.
    pub(super) async fn load(
        self: &Arc<Self>,
        machine: Arc<Machine>,
        code_dir: &Path,
        handler: &str,
    ) -> Result<Arc<Program>, CreateError> {
        let closed = |_| CreateError::Isolation("the node stops".to_owned());
        let permit = Arc::clone(&machine.compiling).acquire_owned().await;
        let permit = permit.map_err(closed)?;
        let programs = Arc::clone(self);
        let (code_dir, handler) = (code_dir.to_owned(), handler.to_owned());
        let load = move || {
            let _permit = permit;
            let module = code::find(&code_dir, &handler).and_then(|path| code::read(&path))?;
            programs.program(&machine, &module)
        };
        match spawn_blocking(load).await {
            Ok(program) => program.map_err(CreateError::Load),
            Err(panic) => Err(CreateError::Isolation(panic.to_string())),
        }
    }

    fn program(
        &self,
        machine: &Arc<Machine>,
        module: &[u8],
    ) -> Result<Arc<Program>, FunctionError> {
        let key = Key::of(module, &machine.compatibility());
        let entry = self.entry(&key);
        let mut program = lock(&entry.0);
        if let Some(program) = program.upgrade() {
            return Ok(program);
        }
        let form = form(machine, module, &key).map_err(|error| explained(&error))?;
        let machine = Arc::clone(machine);
        let made = Arc::new(Program { machine, form });
        *program = Arc::downgrade(&made);
        Ok(made)
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        let mut entries = lock(&self.0);
        // Those that nobody uses or waits for.
        entries
            .retain(|_, entry| Arc::strong_count(entry) > 1 || lock(&entry.0).strong_count() > 0);
        Arc::clone(entries.entry(key.clone()).or_default())
    }
}

fn form(machine: &Machine, module: &[u8], key: &Key) -> wasmtime::Result<Form> {
    if module.get(4..8) == Some(&COMPONENT_VERSION) {
        return component(machine, &compiled_component(machine, module, key)?);
    }
    let module = compiled_module(machine, module, key)?;
    let start = module.get_export_index("_start").ok_or_else(|| {
        let why = "it has no function `_start`: it is a library, not a WASI command";
        wasmtime::Error::msg(why)
    })?;
    let pre = machine.linker.instantiate_pre(&module)?;
    Ok(Form::Module { pre, start })
}

fn component(machine: &Machine, component: &Component) -> wasmtime::Result<Form> {
    let pre = machine.component_linker.instantiate_pre(component)?;
    if let Ok(proxy) = ProxyPre::new(pre.clone()) {
        return Ok(Form::Http(proxy));
    }
    CommandPre::new(pre).map(Form::Command).map_err(|error| {
        let why = "it exports neither `wasi:cli/run` nor `wasi:http/incoming-handler` of WASI 0.2";
        error.context(why)
    })
}

fn compiled_module(machine: &Machine, bytes: &[u8], key: &Key) -> wasmtime::Result<Module> {
    let (engine, cache) = (&machine.engine, &machine.cache);
    if let Some(kept) = cache.get(key) {
        // SAFETY: the cache's directory is this user's alone, and the file is what was written.
        // JUSTIFICATION: compiling takes seconds where this takes milliseconds.
        if let Ok(module) = unsafe { Module::deserialize(engine, kept) } {
            return Ok(module);
        }
    }
    let module = Module::from_binary(engine, bytes)?;
    cache.put(key, &module.serialize()?);
    Ok(module)
}

fn compiled_component(machine: &Machine, bytes: &[u8], key: &Key) -> wasmtime::Result<Component> {
    let (engine, cache) = (&machine.engine, &machine.cache);
    if let Some(kept) = cache.get(key) {
        // SAFETY: the cache's directory is this user's alone, and the file is what was written.
        // JUSTIFICATION: compiling takes seconds where this takes milliseconds.
        if let Ok(component) = unsafe { Component::deserialize(engine, kept) } {
            return Ok(component);
        }
    }
    let component = Component::from_binary(engine, bytes)?;
    cache.put(key, &component.serialize()?);
    Ok(component)
}

fn explained(error: &wasmtime::Error) -> FunctionError {
    code::load(&format!("{error:#}"))
}
