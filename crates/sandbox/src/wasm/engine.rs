//! Wasmtime, set up once, and what drives it: the clock that interrupts and the threads for what
//! takes long.
//!
//! The node has few threads, and they must be free for the next request: a call that is still
//! computing after [`TICK`]s of its own goes on on threads that only compute. There it gives way to
//! other calls every [`SLICE_TICKS`], which is also when it can be stopped.

use std::future::poll_fn;
use std::hash::{Hash as _, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tracing::warn;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component, format_err,
};

use super::cache::Cache;
use super::compiler::Compiler;
use super::host::Host;
use super::network::{self, Trust};
use crate::{CallError, CreateError};

/// Calls that have an instance at once, on the whole node; others wait for one to end.
const CALLS_MAX: u32 = 256;
/// Core modules in one component: what Python is compiled to has some twenty.
pub(super) const MODULES_PER_COMPONENT_MAX: u32 = 64;
/// Memories and tables in one component.
pub(super) const MEMORIES_PER_COMPONENT_MAX: u32 = 8;
pub(super) const TABLES_PER_COMPONENT_MAX: u32 = 32;
/// Memories and tables of all instances: most have one of each, and a few have many.
const MEMORIES_MAX: u32 = 2 * CALLS_MAX;
const TABLES_MAX: u32 = 4 * CALLS_MAX;
/// Functions in one table.
pub(super) const TABLE_ELEMENTS_MAX: usize = 1 << 16;
/// What one instance may need of the node's own memory, bytes.
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Stack of a function, bytes, and of what it calls of ours above that.
const STACK_BYTES_MAX: usize = 1 << 20;
const HOST_STACK_BYTES: usize = 1 << 20;
/// What a memory and a table keep from one instance for the next, to be cleared by writing zeros:
/// asking the kernel for fresh pages takes longer.
const KEPT_BYTES: usize = 128 << 10;
const TABLE_KEPT_BYTES: usize = 32 << 10;
/// Modules that are compiled at once. Others wait.
const COMPILING_MAX: usize = 2;

/// The unit of interruption.
const TICK: Duration = Duration::from_millis(1);
/// Ticks until a call goes elsewhere: one or two of them pass.
const FIRST_TICKS: u64 = 2;
/// Ticks between two points at which a call that takes long gives way.
const SLICE_TICKS: u64 = 5;
/// The clock stops when there has been no call for so many ticks.
const IDLE_TICKS: u32 = 100;

/// Everything that all functions share.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) linker: wasmtime::Linker<Host>,
    pub(super) component_linker: component::Linker<Host>,
    pub(super) cache: Cache,
    pub(super) compiler: Compiler,
    pub(super) compiling: Semaphore,
    pub(super) instances: Semaphore,
    pub(super) trust: Arc<Trust>,
    clock: Clock,
    /// Only taken when this is dropped.
    long: Option<Runtime>,
}

impl Machine {
    pub(super) fn new(cache: Cache, compiler: Compiler) -> Result<Self, CreateError> {
        let failed = |error: wasmtime::Error| {
            CreateError::Isolation(format!("WebAssembly can't be run: {error:#}"))
        };
        let engine = engine().map_err(failed)?;
        let mut linker = wasmtime::Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut linker, Host::preview1).map_err(failed)?;
        let mut component_linker = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component_linker)
            .and_then(|()| {
                wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component_linker)
            })
            .and_then(|()| network::add_to_linker(&mut component_linker))
            .map_err(failed)?;
        let clock = Clock::start(&engine)
            .map_err(|error| CreateError::io("starting the clock of WebAssembly", error))?;
        let long = runtime()
            .map_err(|error| CreateError::io("starting threads for WebAssembly", error))?;
        Ok(Machine {
            engine,
            linker,
            component_linker,
            cache,
            compiler,
            compiling: Semaphore::new(COMPILING_MAX),
            instances: Semaphore::new(CALLS_MAX as usize),
            trust: Arc::default(),
            clock,
            long: Some(long),
        })
    }

    /// What compiled code depends on besides the module.
    pub(super) fn compatibility(&self) -> Vec<u8> {
        struct Bytes(Vec<u8>);
        impl Hasher for Bytes {
            fn write(&mut self, bytes: &[u8]) {
                self.0.extend_from_slice(bytes);
            }
            fn finish(&self) -> u64 {
                0
            }
        }
        let mut bytes = Bytes(Vec::new());
        self.engine.precompile_compatibility_hash().hash(&mut bytes);
        bytes.0
    }

    /// Has a new store give way as calls should.
    pub(super) fn interrupt(&self, store: &mut wasmtime::Store<Host>, long: &Arc<AtomicBool>) {
        store.data_mut().ticking = Some(self.clock.tick());
        store.set_epoch_deadline(FIRST_TICKS);
        let long = Arc::clone(long);
        store.epoch_deadline_callback(move |_| {
            long.store(true, Ordering::Relaxed);
            let give_way = Box::pin(tokio::task::yield_now());
            Ok(wasmtime::UpdateDeadline::YieldCustom(SLICE_TICKS, give_way))
        });
    }

    /// Runs a call here, and elsewhere from when `long` is set. Dropping this ends the call.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: Pin<Box<dyn Future<Output = T> + Send>>,
        long: &AtomicBool,
    ) -> Result<T, CallError> {
        let mut call = Some(call);
        let first = poll_fn(|context| {
            let Some(future) = call.as_mut() else {
                return Poll::Ready(None);
            };
            match future.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if long.load(Ordering::Relaxed) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(result) = first.await {
            return Ok(result);
        }
        let gone = |what: &str| CallError::Protocol(format!("its call was lost: {what}"));
        let (Some(call), Some(runtime)) = (call, &self.long) else {
            return Err(gone("the node stops"));
        };
        let task = runtime.spawn(call);
        let _abort = Abort(task.abort_handle());
        task.await.map_err(|error| gone(&error.to_string()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The usual way would wait, which an async thread may not.
        if let Some(runtime) = self.long.take() {
            runtime.shutdown_background();
        }
    }
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What code is compiled for and run with.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(STACK_BYTES_MAX)
        .async_stack_size(STACK_BYTES_MAX + HOST_STACK_BYTES);
    config
}

/// An engine whose code the node's takes, and that runs none: it needs no pool, which would need
/// terabytes of addresses.
pub(super) fn for_compiling() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

fn engine() -> wasmtime::Result<Engine> {
    let mut config = config();
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(CALLS_MAX)
        .total_core_instances(CALLS_MAX * MODULES_PER_COMPONENT_MAX)
        .total_stacks(CALLS_MAX)
        .total_memories(MEMORIES_MAX)
        .total_tables(TABLES_MAX)
        .max_core_instances_per_component(MODULES_PER_COMPONENT_MAX)
        .max_memories_per_component(MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(TABLES_PER_COMPONENT_MAX)
        .max_tables_per_module(TABLES_PER_COMPONENT_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEPT_BYTES)
        .table_keep_resident(TABLE_KEPT_BYTES);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).or_else(|error| {
        // It reserves terabytes of addresses, which some kernels don't have.
        warn!(%error, "no room to reserve memory for WebAssembly: calls will take longer");
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config).map_err(|other| format_err!("{error:#}; without a pool: {other:#}"))
    })
}

/// Threads that only compute, as many as there are cores, after those that serve.
fn runtime() -> std::io::Result<Runtime> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .max_blocking_threads(1)
        .thread_name("wasm")
        .on_thread_start(stand_back)
        .enable_all()
        .build()
}

/// Has this thread come after those that serve. Linux has priorities of threads, not of processes;
/// where it doesn't allow it, all are equal.
fn stand_back() {
    /// As `nice` has it, where 0 is usual and 19 is last.
    const NICE: i32 = 5;
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// A thread that counts the engine's epochs while there are calls.
struct Clock {
    state: Arc<ClockState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ClockState {
    running: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// A call for which the clock runs.
pub(super) struct Ticking(Arc<ClockState>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clock {
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let state = Arc::new(ClockState::default());
        let (shared, engine) = (Arc::clone(&state), engine.weak());
        let tick = move || {
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        };
        let thread = thread::Builder::new().name("wasm-clock".to_owned());
        let thread = Some(thread.spawn(move || shared.run(tick))?);
        Ok(Clock { state, thread })
    }

    fn tick(&self) -> Ticking {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        if self.state.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
        Ticking(Arc::clone(&self.state))
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl ClockState {
    fn run(&self, tick: impl Fn()) {
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            idle = if self.is_idle() { idle + 1 } else { 0 };
            if idle <= IDLE_TICKS {
                thread::sleep(TICK);
                tick();
                continue;
            }
            // Said before it is looked at again, as who begins a call does it the other way round.
            self.asleep.store(true, Ordering::SeqCst);
            while self.is_idle() && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
    }

    fn is_idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }
}
