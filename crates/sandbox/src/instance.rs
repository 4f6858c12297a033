//! Loading a function into a sandbox, and calling it: what all backends with shims share.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::body::{Body, End, EndReceiver, Guard, end_of};
use crate::cgroup::Cgroup;
use crate::types::{Call, FunctionError, Reply, SandboxSpec, Shim};
use crate::wire::{Connection, Invoke, Listener, Load, Outcome, WireError, kind};
use crate::{BoxFuture, CallError, CreateError, ExitCause, Sandbox, lock};

/// How long after a lost connection the end of the process is waited for. The kernel closes the
/// connections of a dying process before its parent hears of it, and an engine that is busy tells of
/// it seconds later.
const END_AFTER_CLOSE: Duration = Duration::from_secs(5);

/// Loads the function into a sandbox whose shim is starting, and makes it ready for calls.
///
/// `prepare` gets the shim's process id when it has connected and is done before any code of the
/// function runs; `app` is where the shim sees the code.
pub(crate) async fn load<P>(
    spec: &SandboxSpec,
    app: &str,
    listener: Listener,
    body: Guard,
    end: EndReceiver,
    prepare: impl FnOnce(Option<i32>) -> P,
) -> Result<Arc<dyn Sandbox>, CreateError>
where
    P: Future<Output = Result<(), CreateError>>,
{
    let limit = Limit::of(spec.timeout_start);
    let greeted = greet(limit, listener, body, end, prepare).await?;
    greeted.load(spec, app, limit).await
}

/// How long a start may take, and until when that is.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    whole: Duration,
    until: Instant,
}

impl Limit {
    pub(crate) fn of(whole: Duration) -> Self {
        let until = Instant::now() + whole;
        Limit { whole, until }
    }

    /// The same, but no longer than this from now.
    pub(crate) fn at_most(self, whole: Duration) -> Self {
        let shorter = Limit::of(whole);
        match shorter.until < self.until {
            true => shorter,
            false => self,
        }
    }
}

/// A sandbox whose shim has connected and waits for a function.
pub(crate) struct Greeted {
    listener: Listener,
    first: Connection,
    body: Guard,
    end: EndReceiver,
}

/// Waits for the shim of a new sandbox.
pub(crate) async fn greet<P>(
    limit: Limit,
    listener: Listener,
    body: Guard,
    end: EndReceiver,
    prepare: impl FnOnce(Option<i32>) -> P,
) -> Result<Greeted, CreateError>
where
    P: Future<Output = Result<(), CreateError>>,
{
    let greeting = async {
        let (first, _) = listener.accept().await?;
        prepare(first.peer_pid()).await?;
        Ok(first)
    };
    let first = guarded(limit, &end, greeting).await?;
    Ok(Greeted {
        listener,
        first,
        body,
        end,
    })
}

impl Greeted {
    pub(crate) fn is_alive(&self) -> bool {
        self.end.borrow().is_none() && self.first.check_idle().is_ok()
    }

    pub(crate) fn body(&self) -> &Arc<Body> {
        &self.body.0
    }

    pub(crate) fn end(&self) -> EndReceiver {
        self.end.clone()
    }

    /// The process of the shim, if it is visible from here.
    pub(crate) fn shim_pid(&self) -> Option<i32> {
        self.first.peer_pid()
    }

    /// The connection on which a zygote takes orders.
    pub(crate) fn connection(&self) -> BorrowedFd<'_> {
        self.first.as_fd()
    }

    /// Makes a zygote of it, whose children put this system call filter on top of its own.
    pub(crate) async fn found(&mut self, seccomp: &[u8], limit: Limit) -> Result<(), CreateError> {
        let Greeted { first, end, .. } = self;
        let nothing = serde_json::Map::new();
        let founding = async {
            first.send(kind::ZYGOTE, &nothing, seccomp).await?;
            loaded(first).await
        };
        guarded(limit, end, founding).await
    }

    /// Has the function loaded.
    pub(crate) async fn load(
        self,
        spec: &SandboxSpec,
        app: &str,
        limit: Limit,
    ) -> Result<Arc<dyn Sandbox>, CreateError> {
        let Greeted {
            listener,
            mut first,
            body,
            end,
        } = self;
        let loading = async {
            let mut connections = connect(spec, app, &listener, &mut first).await?;
            connections.push(first);
            Ok(connections)
        };
        let connections = guarded(limit, &end, loading).await?;
        Ok(Arc::new(Instance {
            free: Mutex::new(connections),
            rest: Arc::new(Rest::new(Arc::clone(&body.0), spec.shim)),
            body,
            end,
        }))
    }
}

/// A part of a start, ended by its time limit and by the end of the sandbox.
async fn guarded<T>(
    limit: Limit,
    end: &EndReceiver,
    part: impl Future<Output = Result<T, Failed>>,
) -> Result<T, CreateError> {
    let timed = tokio::time::timeout_at(limit.until, part);
    let done = tokio::select! {
        biased;
        done = timed => done.map_err(|_| CreateError::TimedOut(limit.whole))?,
        end = end_of(end.clone()) => return Err(died(end)),
    };
    match done {
        Ok(done) => Ok(done),
        Err(Failed::Create(error)) => Err(error),
        Err(Failed::Wire(error)) => {
            let ended = tokio::time::timeout(END_AFTER_CLOSE, end_of(end.clone())).await;
            Err(match (ended, error) {
                (Ok(end), _) => died(end),
                (Err(_), WireError::Closed) => shim_broke("it closed its connection"),
                (Err(_), WireError::Invalid(how)) => shim_broke(&how),
            })
        }
    }
}

enum Failed {
    Wire(WireError),
    Create(CreateError),
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Self {
        Failed::Wire(error)
    }
}

impl From<CreateError> for Failed {
    fn from(error: CreateError) -> Self {
        Failed::Create(error)
    }
}

/// Has the handler loaded, and takes the connections of the other slots meanwhile.
async fn connect(
    spec: &SandboxSpec,
    app: &str,
    listener: &Listener,
    first: &mut Connection,
) -> Result<Vec<Connection>, Failed> {
    let head = Load {
        function: &spec.function,
        handler: &spec.handler,
        handler_dir: app,
        memory_mb: spec.memory_mb,
        slots: spec.slots.max(1),
    };
    first.send(kind::LOAD, &head, &[]).await?;
    let others = async {
        // The shim opens them before it runs the function's code, so whoever connects is the shim.
        let mut others = Vec::new();
        for _ in 1..spec.slots {
            others.push(listener.accept().await?.0);
        }
        Ok(others)
    };
    let (others, ()) = tokio::try_join!(others, loaded(first))?;
    Ok(others)
}

async fn loaded(connection: &mut Connection) -> Result<(), Failed> {
    let outcome: Outcome = connection.receive(kind::LOADED).await?.head()?;
    if outcome.ok {
        return Ok(());
    }
    let error = outcome.error.map(FunctionError::from).unwrap_or_default();
    Err(Failed::Create(CreateError::Load(error)))
}

fn died(end: End) -> CreateError {
    match end.isolation {
        Some(step) => CreateError::Isolation(step),
        None => CreateError::Died(end.cause),
    }
}

fn shim_broke(how: &str) -> CreateError {
    CreateError::Load(FunctionError {
        kind: "ProtocolError".to_owned(),
        message: format!("the function broke the protocol while it was loaded: {how}"),
        stack: String::new(),
    })
}

/// A sandbox that is ready for calls.
struct Instance {
    /// Connections without a call. One whose call was given up is never put back.
    free: Mutex<Vec<Connection>>,
    rest: Arc<Rest>,
    body: Guard,
    end: EndReceiver,
}

impl Instance {
    async fn call(&self, call: Call) -> Result<Reply, CallError> {
        let turn = self.rest.enter().await;
        let reply = self.call_awake(call).await;
        let left_running = reply.as_ref().is_ok_and(|reply| reply.left_running > 0);
        turn.leave(left_running);
        reply
    }

    async fn call_awake(&self, call: Call) -> Result<Reply, CallError> {
        let connection = lock(&self.free).pop();
        let Some(mut connection) = connection else {
            let busy = "more calls at once than it has slots".to_owned();
            return Err(CallError::Protocol(busy));
        };
        if let Err(why) = connection.check_idle() {
            return Err(CallError::Stale(why));
        }
        let error = match exchange(&mut connection, &call).await {
            Ok(reply) => {
                lock(&self.free).push(connection);
                return Ok(reply);
            }
            Err(error) => error,
        };
        if let WireError::Invalid(how) = error {
            return Err(CallError::Protocol(how));
        }
        match tokio::time::timeout(END_AFTER_CLOSE, end_of(self.end.clone())).await {
            Ok(end) => Err(CallError::Died(end.cause)),
            Err(_) => Err(CallError::Protocol("it closed its connection".to_owned())),
        }
    }
}

/// What calls leave running gets no time between calls: a sandbox with more threads or processes
/// than it had before its first call is frozen while it is idle, and thawed by the next call.
struct Rest {
    body: Arc<Body>,
    /// Threads and processes that are its own; `None` where they aren't counted.
    tasks: Option<u64>,
    /// Whether somebody looks after it in a moment.
    watched: AtomicBool,
    /// Calls that run.
    calls: AtomicUsize,
    /// Whether a freeze was ordered since the last thaw: what a call looks at instead of the lock.
    ordered: AtomicBool,
    frozen: tokio::sync::Mutex<bool>,
}

/// A running call. One that is given up counts for ever, as its sandbox is good for nothing more.
struct Turn(Arc<Rest>);

impl Rest {
    fn new(body: Arc<Body>, shim: Option<Shim>) -> Self {
        let tasks = body.cgroup().and_then(Cgroup::tasks);
        Rest {
            body,
            tasks: tasks.map(|tasks| tasks + shim.map_or(0, Shim::threads_later)),
            watched: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            ordered: AtomicBool::new(false),
            frozen: tokio::sync::Mutex::new(false),
        }
    }

    async fn enter(self: &Arc<Self>) -> Turn {
        // First this and then `ordered`; a freeze looks at them the other way round.
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.ordered.load(Ordering::SeqCst) {
            self.set(false).await;
        }
        Turn(Arc::clone(self))
    }

    /// Freezes a sandbox that has been left with more than it had. A shim tells of what it knows
    /// itself; processes, and what a runtime starts on its own, are found here.
    async fn look_after(self: Arc<Self>) {
        tokio::time::sleep(LOOK_AFTER).await;
        self.watched.store(false, Ordering::SeqCst);
        if self.calls.load(Ordering::SeqCst) > 0 {
            return; // The end of that call comes here again.
        }
        let body = Arc::clone(&self.body);
        let count = move || body.cgroup().and_then(Cgroup::tasks);
        let tasks = tokio::task::spawn_blocking(count).await.ok().flatten();
        if tasks > self.tasks {
            self.set(true).await;
        }
    }

    async fn set(&self, freeze: bool) {
        let mut frozen = self.frozen.lock().await;
        if freeze {
            self.ordered.store(true, Ordering::SeqCst);
            if self.calls.load(Ordering::SeqCst) > 0 {
                return;
            }
        }
        if *frozen != freeze {
            *frozen = freeze;
            // A matter of microseconds when idle, but in the worst case it blocks.
            let body = Arc::clone(&self.body);
            let write = move || body.freeze(freeze);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                tracing::warn!(%error, freeze, "freezing or thawing a sandbox failed");
            }
        }
        if !freeze {
            self.ordered.store(false, Ordering::SeqCst);
        }
    }
}

impl Turn {
    fn leave(self, left_running: bool) {
        let rest = self.0;
        let idle = rest.calls.fetch_sub(1, Ordering::SeqCst) == 1;
        if idle && left_running {
            rest.ordered.store(true, Ordering::SeqCst);
            tokio::spawn(async move { rest.set(true).await });
        } else if idle && rest.tasks.is_some() && !rest.watched.swap(true, Ordering::SeqCst) {
            tokio::spawn(async move { rest.look_after().await });
        }
    }
}

/// How long after a call its sandbox is looked at: counting is not for every call.
const LOOK_AFTER: Duration = Duration::from_millis(50);

async fn exchange(connection: &mut Connection, call: &Call) -> Result<Reply, WireError> {
    let head = Invoke {
        id: &call.id,
        deadline: call.deadline_unix,
        output: call.output,
    };
    connection.send(kind::INVOKE, &head, &call.params).await?;
    let frame = connection.receive(kind::RESULT).await?;
    let outcome: Outcome = frame.head()?;
    if outcome.id.as_deref() != Some(&call.id) {
        let whose = "its reply is not to the call it was sent".to_owned();
        return Err(WireError::Invalid(whose));
    }
    Ok(Reply {
        outcome: match outcome.ok {
            true => Ok(frame.body.into()),
            false => Err(outcome.error.map(FunctionError::from).unwrap_or_default()),
        },
        output: outcome.output.0,
        left_running: outcome.left.unwrap_or(0),
    })
}

impl Sandbox for Instance {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(self.call(call))
    }

    fn ended(&self) -> BoxFuture<'_, ExitCause> {
        let end = self.end.clone();
        Box::pin(async { end_of(end).await.cause })
    }

    fn destroy(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.body.0.kill();
            end_of(self.end.clone()).await;
        })
    }
}
