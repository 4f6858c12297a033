//! Sandboxes that are closures in this process: for tests of the node, no isolation.
//!
//! What a handler does is given by its name with [`FakeBackend::handler`]; an unknown name echoes
//! its parameters. Starts can be made slow or failing, and sandboxes can be made to die.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::{
    Backend, BoxFuture, Call, CallError, CreateError, Exit, ExitCause, FunctionError, Reply,
    Sandbox, SandboxSpec, lock,
};

/// What a fake handler does with a call.
#[derive(Clone, Debug)]
pub enum Act {
    /// Reply with this JSON text after this time.
    Return(Vec<u8>, Duration),
    /// Reply with this reply after this time.
    Reply(Reply, Duration),
    /// Raise this error.
    Raise(FunctionError),
    /// End the sandbox in this way instead of replying.
    Die(Exit),
    /// Never reply.
    Hang,
}

type Handler = Arc<dyn Fn(&Call) -> Act + Send + Sync>;

/// Makes fake sandboxes. Share it in an `Arc`; everything can be changed while it is in use.
#[derive(Default)]
pub struct FakeBackend {
    state: Mutex<State>,
    created: AtomicUsize,
    live: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    handlers: HashMap<String, Handler>,
    start_delay: Duration,
    failures: Vec<CreateError>,
    sandboxes: HashMap<u64, Weak<FakeSandbox>>,
}

impl FakeBackend {
    /// A backend whose handlers echo their parameters at once.
    pub fn new() -> Self {
        FakeBackend::default()
    }

    /// Sets what the handler of this name does.
    pub fn handler(
        &self,
        handler: impl Into<String>,
        act: impl Fn(&Call) -> Act + Send + Sync + 'static,
    ) -> &Self {
        lock(&self.state)
            .handlers
            .insert(handler.into(), Arc::new(act));
        self
    }

    /// Sets how long each start takes from now on.
    pub fn start_delay(&self, delay: Duration) -> &Self {
        lock(&self.state).start_delay = delay;
        self
    }

    /// Makes one coming start fail with this error. Several are used in the order given.
    pub fn fail_start(&self, error: CreateError) -> &Self {
        lock(&self.state).failures.push(error);
        self
    }

    /// Ends the sandbox of this id, as if its process had died. False if there is none.
    pub fn kill(&self, id: u64, exit: Exit) -> bool {
        let found = lock(&self.state).sandboxes.get(&id).and_then(Weak::upgrade);
        found.inspect(|sandbox| sandbox.end(exit)).is_some()
    }

    /// How many sandboxes were started so far, failed starts included.
    pub fn created(&self) -> usize {
        self.created.load(Ordering::SeqCst)
    }

    /// How many sandboxes are alive now.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

impl Backend for FakeBackend {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(async move {
            self.created.fetch_add(1, Ordering::SeqCst);
            let delay = lock(&self.state).start_delay;
            if !delay.is_zero() {
                let limit = spec.timeout_start;
                tokio::time::sleep(delay.min(limit)).await;
                if delay > limit {
                    return Err(CreateError::TimedOut(limit));
                }
            }
            let mut state = lock(&self.state);
            if !state.failures.is_empty() {
                return Err(state.failures.remove(0));
            }
            let echo: Handler = Arc::new(|call| Act::Return(call.params.to_vec(), Duration::ZERO));
            let handler = state.handlers.get(&spec.handler).cloned().unwrap_or(echo);
            let sandbox = Arc::new(FakeSandbox::new(handler, spec.slots, self.live.clone()));
            state
                .sandboxes
                .retain(|_, sandbox| sandbox.strong_count() > 0);
            state.sandboxes.insert(spec.id, Arc::downgrade(&sandbox));
            Ok(sandbox as Arc<dyn Sandbox>)
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let sandboxes = std::mem::take(&mut lock(&self.state).sandboxes);
            for sandbox in sandboxes.values().filter_map(Weak::upgrade) {
                sandbox.end(Exit::Destroyed);
            }
        })
    }
}

struct FakeSandbox {
    handler: Handler,
    slots: u32,
    busy: AtomicU32,
    end: watch::Sender<Option<ExitCause>>,
    live: Arc<AtomicUsize>,
}

impl FakeSandbox {
    fn new(handler: Handler, slots: u32, live: Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        FakeSandbox {
            handler,
            slots: slots.max(1),
            busy: AtomicU32::new(0),
            end: watch::Sender::new(None),
            live,
        }
    }

    fn end(&self, exit: Exit) {
        let first = self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(ExitCause::new(exit));
            }
            first
        });
        if first {
            self.live.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn run(&self, call: Call) -> Result<Reply, CallError> {
        let (reply, after) = match (self.handler)(&call) {
            Act::Return(json, after) => (reply(Ok(json.into_boxed_slice())), after),
            Act::Reply(reply, after) => (reply, after),
            Act::Raise(error) => (reply(Err(error)), Duration::ZERO),
            Act::Die(exit) => {
                self.end(exit);
                return std::future::pending().await;
            }
            Act::Hang => return std::future::pending().await,
        };
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        Ok(reply)
    }
}

impl Drop for FakeSandbox {
    fn drop(&mut self) {
        self.end(Exit::Destroyed);
    }
}

impl Sandbox for FakeSandbox {
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Reply, CallError>> {
        Box::pin(async move {
            if self.busy.fetch_add(1, Ordering::SeqCst) >= self.slots {
                self.busy.fetch_sub(1, Ordering::SeqCst);
                return Err(CallError::Protocol("no free slot".to_owned()));
            }
            let result = tokio::select! {
                biased;
                cause = self.ended() => Err(CallError::Died(cause)),
                result = self.run(call) => match result {
                    Ok(_) if self.end.borrow().is_some() => Err(CallError::Died(self.ended().await)),
                    result => result,
                },
            };
            self.busy.fetch_sub(1, Ordering::SeqCst);
            result
        })
    }

    fn ended(&self) -> BoxFuture<'_, ExitCause> {
        let mut end = self.end.subscribe();
        Box::pin(async move {
            match end.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(cause)) => cause.clone(),
                _ => ExitCause::new(Exit::Unknown),
            }
        })
    }

    fn destroy(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.end(Exit::Destroyed) })
    }
}

fn reply(outcome: Result<Box<[u8]>, FunctionError>) -> Reply {
    Reply {
        outcome,
        output: String::new(),
        left_running: 0,
    }
}
