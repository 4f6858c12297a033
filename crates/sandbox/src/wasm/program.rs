//! From a module's bytes to something of which an instance is made in microseconds.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use tokio::task::spawn_blocking;
use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Module, ModuleExport, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::cache::Key;
use super::code;
use super::compiler::Compiled;
use super::engine::Machine;
use super::handler::{self, FunctionPre};
use super::host::Host;
use crate::types::FunctionError;
use crate::{CreateError, lock};

/// How many modules are remembered that can't be compiled.
const FAULTS_MAX: usize = 256;
/// How many of a component's exports are named when it has none that is known.
const EXPORTS_SHOWN_MAX: usize = 3;

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
    /// A component with our own interface.
    Handler(FunctionPre<Host>),
}

/// The programs that are in use.
#[derive(Default)]
pub(super) struct Programs {
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
    /// Modules that can't be compiled, and why, the latest last.
    faults: Mutex<VecDeque<(Key, FunctionError)>>,
}

#[derive(Default)]
struct Entry {
    program: Mutex<Weak<Program>>,
    /// Held while it is compiled, so that others wait rather than do the same.
    compiling: tokio::sync::Mutex<()>,
}

/// Where code is, and what is in it.
#[derive(Clone)]
struct Source {
    path: PathBuf,
    key: Key,
}

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
            let path = code::find(&code_dir, &handler)?;
            let key = Key::of(&code::read(&path)?, &found_by.compatibility());
            let found = programs.find(&found_by, &key)?;
            Ok((found, Source { path, key }))
        };
        let (found, source) = blocking(find).await?;
        if let Some(program) = found {
            return Ok(program);
        }
        // Of its own, so that whoever waits can leave; it ends with the node.
        let making = tokio::spawn(Arc::clone(self).make(machine, source));
        match making.await {
            Ok(made) => made,
            Err(error) => Err(CreateError::Isolation(error.to_string())),
        }
    }

    /// The program if that takes no compiler.
    fn find(
        &self,
        machine: &Arc<Machine>,
        key: &Key,
    ) -> Result<Option<Arc<Program>>, FunctionError> {
        let entry = self.entry(key);
        let mut program = lock(&entry.program);
        if let Some(program) = program.upgrade() {
            return Ok(Some(program));
        }
        let faults = lock(&self.faults);
        if let Some((_, fault)) = faults.iter().find(|(faulty, _)| faulty == key) {
            return Err(fault.clone());
        }
        drop(faults);
        // What is of no use is made anew.
        let kept = machine.cache.get(key);
        let kept = kept.and_then(|kept| loaded(machine, &kept).ok());
        kept.map(|kept| linked(machine, &kept, &mut program))
            .transpose()
    }

    /// The program, whatever it takes.
    async fn make(
        self: Arc<Self>,
        machine: Arc<Machine>,
        source: Source,
    ) -> Result<Arc<Program>, CreateError> {
        let entry = self.entry(&source.key);
        let _compiling = entry.compiling.lock().await;
        let (programs, found_by, key) =
            (Arc::clone(&self), Arc::clone(&machine), source.key.clone());
        if let Some(program) = blocking(move || programs.find(&found_by, &key)).await? {
            return Ok(program);
        }
        // What is compiled already never waits for what is not.
        let permit = machine.compiling.acquire().await;
        let _permit = permit.map_err(|_| CreateError::Isolation("the node stops".to_owned()))?;
        let path = source.path.clone();
        let module = blocking(move || code::read(&path)).await?;
        let compiled = machine.compiler.compile(&module).await?;
        drop(module);
        let code = match compiled {
            Compiled::Code(code) => code,
            Compiled::Fault(fault) => {
                self.remember(source.key, &fault);
                return Err(CreateError::Load(fault));
            }
        };
        let (machine, entry) = (Arc::clone(&machine), Arc::clone(&entry));
        let link = move || {
            // A module for which the node has no room, or a compiler that is not this one.
            let loaded = loaded(&machine, &code).map_err(|error| explained(&error))?;
            machine.cache.put(&source.key, &code);
            linked(&machine, &loaded, &mut lock(&entry.program))
        };
        blocking(link).await
    }

    /// Not to try again what can't be done: each try takes all that one may take.
    fn remember(&self, key: Key, fault: &FunctionError) {
        let mut faults = lock(&self.faults);
        if faults.len() >= FAULTS_MAX {
            faults.pop_front();
        }
        faults.push_back((key, fault.clone()));
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        // Those that nobody uses or waits for.
        let is_used = |entry: &Arc<Entry>| {
            Arc::strong_count(entry) > 1 || lock(&entry.program).strong_count() > 0
        };
        entries.retain(|_, entry| is_used(entry));
        Arc::clone(entries.entry(key.clone()).or_default())
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

/// Machine code, ready to be linked.
enum Loaded {
    Module(Module),
    Component(Component),
}

fn loaded(machine: &Machine, code: &[u8]) -> wasmtime::Result<Loaded> {
    let engine = &machine.engine;
    // SAFETY: it comes from a compiler of ours by a pipe that nobody else has, or from the cache,
    // whose directory is this user's alone and whose files are what was written.
    // JUSTIFICATION: there is no other way to machine code than to take somebody's word for it.
    unsafe {
        match Engine::detect_precompiled(code) {
            Some(Precompiled::Module) => Module::deserialize(engine, code).map(Loaded::Module),
            Some(Precompiled::Component) => {
                Component::deserialize(engine, code).map(Loaded::Component)
            }
            None => Err(wasmtime::Error::msg("it is no machine code")),
        }
    }
}

/// Links it and lets others find it.
fn linked(
    machine: &Arc<Machine>,
    loaded: &Loaded,
    place: &mut Weak<Program>,
) -> Result<Arc<Program>, FunctionError> {
    let form = match loaded {
        Loaded::Module(module) => command(machine, module),
        Loaded::Component(component) => of_component(machine, component),
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
    if let Ok(handler) = FunctionPre::new(pre.clone()) {
        return Ok(Form::Handler(handler));
    }
    if let Ok(proxy) = ProxyPre::new(pre.clone()) {
        return Ok(Form::Http(proxy));
    }
    if let Ok(command) = CommandPre::new(pre) {
        return Ok(Form::Command(command));
    }
    let component_type = component.component_type();
    let exports = component_type.exports(&machine.engine);
    let exports: Vec<String> = exports
        .take(EXPORTS_SHOWN_MAX)
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let exports = match exports.is_empty() {
        true => "nothing".to_owned(),
        false => exports.join(", "),
    };
    Err(wasmtime::format_err!(
        "it exports {exports}, but none of what makes a component a function: `{}` \
         (sdk/wasm/serverledge.wit), or `wasi:cli/run` or `wasi:http/incoming-handler` of WASI 0.2",
        handler::EXPORT
    ))
}

fn explained(error: &wasmtime::Error) -> FunctionError {
    code::load(&format!("{error:#}"))
}
