//! From a module's bytes to something of which an instance is made in microseconds.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Module, ModuleExport, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::cache::Key;
use super::code;
use super::engine::{self, Machine};
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

/// Its lock is held while the program is made, so that others wait rather than do the same.
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
        let (code_dir, handler) = (code_dir.to_owned(), handler.to_owned());
        let (programs, found_by) = (Arc::clone(self), Arc::clone(&machine));
        let find = move || {
            let module = code::find(&code_dir, &handler).and_then(|path| code::read(&path))?;
            let key = Key::of(&module, &found_by.compatibility());
            let found = programs.find(&found_by, &key)?;
            Ok((found, module, key))
        };
        let (found, module, key) = blocking(find).await?;
        if let Some(program) = found {
            return Ok(program);
        }
        // What is compiled already never waits for what is not.
        let permit = Arc::clone(&machine.compiling).acquire_owned().await;
        let permit = permit.map_err(|_| CreateError::Isolation("the node stops".to_owned()))?;
        let programs = Arc::clone(self);
        let make = move || {
            let _permit = permit;
            programs.make(&machine, &module, &key)
        };
        on_a_thread(make).await
    }

    /// The program if that takes no compiler.
    fn find(
        &self,
        machine: &Arc<Machine>,
        key: &Key,
    ) -> Result<Option<Arc<Program>>, FunctionError> {
        let entry = self.entry(key);
        let Ok(mut program) = entry.0.try_lock() else {
            // Somebody is making it.
            return Ok(None);
        };
        if let Some(program) = program.upgrade() {
            return Ok(Some(program));
        }
        match compiled(machine, key) {
            Some(compiled) => linked(machine, &compiled, &mut program).map(Some),
            None => Ok(None),
        }
    }

    /// The program, whatever it takes.
    fn make(
        &self,
        machine: &Arc<Machine>,
        module: &[u8],
        key: &Key,
    ) -> Result<Arc<Program>, FunctionError> {
        let entry = self.entry(key);
        let mut program = lock(&entry.0);
        if let Some(program) = program.upgrade() {
            return Ok(program);
        }
        let compiled = compile(machine, module, key).map_err(|error| explained(&error));
        give_back_memory();
        let compiled = compiled?;
        linked(machine, &compiled, &mut program)
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        let mut entries = lock(&self.0);
        // Those that nobody uses or waits for.
        entries
            .retain(|_, entry| Arc::strong_count(entry) > 1 || lock(&entry.0).strong_count() > 0);
        Arc::clone(entries.entry(key.clone()).or_default())
    }
}

/// The compiler leaves hundreds of megabytes in the allocator, which would keep them.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it moves nothing that is in use, and may be called at any time from any thread.
    // JUSTIFICATION: there is no safe way to it, and the memory is worth more than the call.
    unsafe {
        libc::malloc_trim(0);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FunctionError> + Send + 'static,
) -> Result<T, CreateError> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(CreateError::Load),
        Err(panic) => Err(CreateError::Isolation(panic.to_string())),
    }
}

/// On a thread of its own, after all others: compiling may take a minute, and a node that stops
/// waits for what is on the blocking threads.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FunctionError> + Send + 'static,
) -> Result<T, CreateError> {
    let (sender, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("wasm-compiler".to_owned());
    let begun = thread.spawn(move || {
        engine::stand_back();
        let _ = sender.send(work());
    });
    begun.map_err(|error| CreateError::io("starting a thread for the compiler", error))?;
    match result.await {
        Ok(result) => result.map_err(CreateError::Load),
        Err(_) => Err(CreateError::Isolation("the compiler failed".to_owned())),
    }
}

enum Compiled {
    Module(Module),
    Component(Component),
}

fn compile(machine: &Machine, bytes: &[u8], key: &Key) -> wasmtime::Result<Compiled> {
    let (engine, cache) = (&machine.engine, &machine.cache);
    if bytes.get(4..8) == Some(&COMPONENT_VERSION) {
        let component = Component::from_binary(engine, bytes)?;
        cache.put(key, &component.serialize()?);
        return Ok(Compiled::Component(component));
    }
    let module = Module::from_binary(engine, bytes)?;
    cache.put(key, &module.serialize()?);
    Ok(Compiled::Module(module))
}

/// What was compiled before.
fn compiled(machine: &Machine, key: &Key) -> Option<Compiled> {
    let kept = machine.cache.get(key)?;
    let engine = &machine.engine;
    // SAFETY: the cache's directory is this user's alone, and the file is what was written.
    // JUSTIFICATION: compiling takes seconds where this takes milliseconds.
    let compiled = unsafe {
        match Engine::detect_precompiled(&kept)? {
            Precompiled::Module => Module::deserialize(engine, kept).map(Compiled::Module),
            Precompiled::Component => Component::deserialize(engine, kept).map(Compiled::Component),
        }
    };
    compiled.ok()
}

/// Links it and lets others find it.
fn linked(
    machine: &Arc<Machine>,
    compiled: &Compiled,
    place: &mut Weak<Program>,
) -> Result<Arc<Program>, FunctionError> {
    let form = match compiled {
        Compiled::Module(module) => command(machine, module),
        Compiled::Component(component) => of_component(machine, component),
    };
    let program = Arc::new(Program {
        machine: Arc::clone(machine),
        form: form.map_err(|error| explained(&error))?,
    });
    *place = Arc::downgrade(&program);
    Ok(program)
}

fn command(machine: &Machine, module: &Module) -> wasmtime::Result<Form> {
    let start = module.get_export_index("_start").ok_or_else(|| {
        let why = "it has no function `_start`: it is a library, not a WASI command";
        wasmtime::Error::msg(why)
    })?;
    let pre = machine.linker.instantiate_pre(module)?;
    Ok(Form::Module { pre, start })
}

fn of_component(machine: &Machine, component: &Component) -> wasmtime::Result<Form> {
    let pre = machine.component_linker.instantiate_pre(component)?;
    if let Ok(proxy) = ProxyPre::new(pre.clone()) {
        return Ok(Form::Http(proxy));
    }
    CommandPre::new(pre).map(Form::Command).map_err(|error| {
        let why = "it exports neither `wasi:cli/run` nor `wasi:http/incoming-handler` of WASI 0.2";
        error.context(why)
    })
}

fn explained(error: &wasmtime::Error) -> FunctionError {
    code::load(&format!("{error:#}"))
}
