//! Asynchronous calls: on disk before they are acknowledged, run at least once, kept until polled.
//!
//! Only identifiers are held in memory; parameters wait in the store. A call that was accepted and
//! has no result when the node starts is run (again): a function called this way should be
//! idempotent. A call that was running at so many crashes that it may be their cause is given up;
//! that it waited at a crash, or that the node was told to stop, doesn't count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serverledge_api::{InvokeReply, QosClass};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::catalog::Function;
use crate::federation::offload::{Along, left};
use crate::federation::route::route;
use crate::invoke::{Fault, Invocation, InvokeError, invoke, unix_now};
use crate::node::Node;
use crate::store::{Store, StoreError};
use crate::workflows::error::StartError;
use crate::workflows::invoke as workflows;

/// Limits of asynchronous calls.
#[derive(Debug, Clone)]
pub struct AsyncConfig {
    /// How long a result is kept.
    pub retention: Duration,
    /// Accepted calls without a result, at most.
    pub pending_max: usize,
    /// Calls run at once, at most.
    pub concurrency: usize,
    /// Runs of one call, at most, when the platform is at fault.
    pub attempts_max: u32,
}

/// What the store keeps of an accepted call.
#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    function: String,
    params: Box<serde_json::value::RawValue>,
    return_output: bool,
    /// Whether another node may run it.
    #[serde(default)]
    can_offload: bool,
    #[serde(default)]
    qos_class: QosClass,
    /// Wanted response time, seconds since it was accepted; 0 or less: none.
    #[serde(default)]
    response_time_max: f64,
    /// Headers of the trace that it belongs to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    trace: BTreeMap<String, String>,
    accepted_unix: f64,
    /// Whether `function` is a workflow.
    #[serde(default)]
    is_workflow: bool,
}

impl Accepted {
    /// What goes along with it: its deadline has been running since it was accepted.
    fn along(&self, node: &Node) -> Along {
        let remaining = left(self.response_time_max, unix_now() - self.accepted_unix);
        // A class that is configured no more is the default one.
        let along = node.qos.along(&self.qos_class, remaining, true);
        Along {
            response_time_max: remaining,
            trace: Along::trace_from(&self.trace),
            ..along.unwrap_or_default()
        }
    }
}

/// A result as it is kept: the reply, and for a failure its reason.
#[derive(Debug, Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    reply: InvokeReply,
    #[serde(rename = "Error", skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Why a call was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Too many wait already.
    #[error("{0} asynchronous calls wait already (async.pending_max)")]
    TooMany(usize),
    /// The store refused.
    #[error("the call could not be written to the store")]
    Store(#[source] StoreError),
}

/// Accepts asynchronous calls and runs them.
pub struct AsyncCalls {
    config: AsyncConfig,
    store: Arc<Store>,
    queue: mpsc::UnboundedSender<Queued>,
    pending: AtomicUsize,
}

/// The receiving end of the queue; handed to [`run`].
pub type Queue = mpsc::UnboundedReceiver<Queued>;

/// A call in the queue.
#[derive(Debug)]
pub struct Queued {
    id: String,
    recovered: bool,
}

impl AsyncCalls {
    /// With the calls that were accepted before the last stop at the head of the queue.
    pub fn open(config: AsyncConfig, store: Arc<Store>) -> Result<(Self, Queue), StoreError> {
        // Unbounded, but not without a bound: `pending` is checked before anything is queued.
        let (queue, receiver) = mpsc::unbounded_channel();
        let unfinished = store.pending()?;
        let pending = AtomicUsize::new(unfinished.len());
        for id in unfinished {
            let _ = queue.send(Queued {
                id,
                recovered: true,
            });
        }
        Ok((
            Self {
                config,
                store,
                queue,
                pending,
            },
            receiver,
        ))
    }

    /// Writes the call to the store; once this returns, it will be run.
    pub(crate) async fn accept(
        &self,
        id: &str,
        function: &str,
        params: &[u8],
        return_output: bool,
        (can_offload, along): (bool, &Along),
    ) -> Result<(), AcceptError> {
        let accepted = Accepted {
            function: function.to_owned(),
            params: raw(params)?,
            return_output,
            can_offload,
            qos_class: along.qos_class.clone(),
            response_time_max: along.response_time_max,
            trace: along.kept_trace(),
            accepted_unix: unix_now(),
            is_workflow: false,
        };
        self.write(id, &accepted).await
    }

    /// As [`AsyncCalls::accept`], for a run of a workflow.
    pub(crate) async fn accept_workflow(
        &self,
        id: &str,
        workflow: &str,
        params: &serde_json::Value,
        (can_offload, along): (bool, &Along),
    ) -> Result<(), AcceptError> {
        let accepted = Accepted {
            function: workflow.to_owned(),
            params: raw(params.to_string().as_bytes())?,
            return_output: false,
            can_offload,
            qos_class: along.qos_class.clone(),
            response_time_max: along.response_time_max,
            trace: along.kept_trace(),
            accepted_unix: unix_now(),
            is_workflow: true,
        };
        self.write(id, &accepted).await
    }

    async fn write(&self, id: &str, accepted: &Accepted) -> Result<(), AcceptError> {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        if before >= self.config.pending_max {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return Err(AcceptError::TooMany(before));
        }
        let written = match serde_json::to_vec(accepted) {
            Ok(record) => self.store.accept_call(id, record).await,
            Err(error) => Err(StoreError::encoding(&error)),
        };
        if let Err(error) = written {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return Err(AcceptError::Store(error));
        }
        let _ = self.queue.send(Queued {
            id: id.to_owned(),
            recovered: false,
        });
        Ok(())
    }

    /// Forgets a call that another node answers.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), StoreError> {
        if self.store.forget_call(id).await? {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Stores the result of a call that another node has accepted, for all nodes.
    pub(crate) async fn answer(
        &self,
        node: &Node,
        id: &str,
        reply: Vec<u8>,
    ) -> Result<(), StoreError> {
        let expires = unix_now() + self.config.retention.as_secs_f64();
        self.store.finish_call(id, reply, expires as u64).await?;
        if let Some(federation) = &node.federation {
            federation.share_result(id);
        }
        Ok(())
    }

    /// The result of a call, as JSON text.
    pub fn result(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.result(id)
    }

    /// Whether the call was accepted and has no result yet.
    pub fn is_pending(&self, id: &str) -> Result<bool, StoreError> {
        self.store.is_pending(id)
    }
}

fn raw(params: &[u8]) -> Result<Box<serde_json::value::RawValue>, AcceptError> {
    let text = String::from_utf8_lossy(params).into_owned();
    let raw = serde_json::value::RawValue::from_string(text);
    raw.map_err(|error| AcceptError::Store(StoreError::encoding(&error)))
}

/// Takes calls from the queue and runs them, `concurrency` at a time, until the node stops and those
/// that run have ended.
pub async fn run(node: Arc<Node>, mut queue: Queue) {
    let permits = Arc::new(Semaphore::new(node.async_calls.config.concurrency));
    let running = TaskTracker::new();
    let dispatch = async {
        while let Some(queued) = queue.recv().await {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let node = Arc::clone(&node);
            running.spawn(async move { run_one(&node, queued, permit).await });
        }
    };
    node.stopping().run_until_cancelled(dispatch).await;
    running.close();
    running.wait().await;
}

/// Runs a call while it has a permit, which a workflow needs only to be begun.
async fn run_one(node: &Arc<Node>, queued: Queued, permit: OwnedSemaphorePermit) {
    let Queued { id, recovered } = queued;
    let calls = &node.async_calls;
    let reply = match attempt(node, &id, recovered, permit).await {
        Ok(Some(reply)) => reply,
        // Stays in the store: the next start runs it.
        Ok(None) => return,
        Err(error) => {
            error!(call = id, error = %crate::chain(&error), "asynchronous call stays pending");
            return;
        }
    };
    let expires = unix_now() + calls.config.retention.as_secs_f64();
    let mut pauses = Pauses::new(node);
    while let Err(error) = calls
        .store
        .finish_call(&id, reply.clone(), expires as u64)
        .await
    {
        warn!(call = id, error = %crate::chain(&error), "result could not be stored");
        if pauses.next().await.is_none() {
            return;
        }
    }
    calls.pending.fetch_sub(1, Ordering::Relaxed);
    if let Some(federation) = &node.federation {
        federation.share_result(&id);
    }
}

/// Runs the call until it has an answer; `None` when the node stops first.
async fn attempt(
    node: &Arc<Node>,
    id: &str,
    recovered: bool,
    permit: OwnedSemaphorePermit,
) -> Result<Option<Vec<u8>>, StoreError> {
    let calls = &node.async_calls;
    let Some((record, crashes)) = calls.store.pending_call(id)? else {
        return Ok(None);
    };
    let accepted: Accepted =
        serde_json::from_slice(&record).map_err(|error| StoreError::encoding(&error))?;
    if accepted.is_workflow {
        // What runs has limits of its own, and may take days.
        drop(permit);
        return run_workflow(node, id, &accepted).await;
    }
    let attempts_max = calls.config.attempts_max;
    if crashes >= attempts_max {
        let reason = format!("given up: the node died {crashes} times while it ran");
        return Ok(Some(failure(&reason)));
    }
    let mut pauses = Pauses::new(node);
    let mut attempts = 0;
    let mut counted = false;
    loop {
        let Some(function) = node.catalog.function(&accepted.function) else {
            return Ok(Some(failure(
                "the function was deleted before the call ran",
            )));
        };
        attempts += 1;
        let invocation = Invocation {
            request_id: id.to_owned(),
            params: accepted.params.get().as_bytes().into(),
            return_output: accepted.return_output,
            patient: true,
            arrival: Instant::now(),
        };
        // Counted on disk only after a crash: that is when the call itself may be the reason.
        let count = async {
            if recovered && !counted {
                counted = count(&calls.store, id).await;
            }
        };
        let sending = (accepted.can_offload, accepted.along(node));
        let error = match run_call(node, &function, invocation, count, sending).await {
            Ok(reply) => {
                return Ok(Some(stored(Stored { reply, error: None })));
            }
            Err(InvokeError::ShuttingDown) => break,
            Err(error) => error,
        };
        if error.fault() == Fault::Function || attempts >= attempts_max {
            return Ok(Some(failure(&crate::chain(&error))));
        }
        if pauses.next().await.is_none() {
            break;
        }
    }
    if counted {
        calls.store.withdraw_attempt(id).await?;
    }
    Ok(None)
}

/// Runs a workflow to its end; `None` when the node stops first. An execution that was begun before a
/// crash is the one that is waited for.
async fn run_workflow(
    node: &Arc<Node>,
    id: &str,
    accepted: &Accepted,
) -> Result<Option<Vec<u8>>, StoreError> {
    let params = serde_json::from_str(accepted.params.get());
    let params = params.map_err(|error| StoreError::encoding(&error))?;
    let workflow = &accepted.function;
    let sending = (accepted.can_offload, accepted.along(node));
    let ran = workflows::invoke_named(node, workflow, params, id, sending).await;
    match ran {
        // The next start goes on, or another node has.
        Err(
            workflows::InvokeError::ShuttingDown
            | workflows::InvokeError::Start(StartError::ShuttingDown),
        ) => Ok(None),
        ran => Ok(Some(workflows::answer(ran))),
    }
}

/// Runs the call where the policy wants it. `count` is awaited before it begins.
pub(crate) async fn run_call(
    node: &Arc<Node>,
    function: &Arc<Function>,
    invocation: Invocation,
    count: impl Future<Output = ()>,
    sending: (bool, Along),
) -> Result<InvokeReply, InvokeError> {
    let fleet = node.federation.as_ref();
    let Some((fleet, policy)) = fleet.and_then(|it| Some((it, it.policy()?))) else {
        let report = invoke(node, function, invocation, count).await?;
        return Ok(node.reply(report));
    };
    count.await;
    match route(node, fleet, policy, function, invocation, sending).await {
        Ok(routed) => Ok(routed.reply),
        Err(unrouted) => Err(unrouted.error),
    }
}

/// Whether it could be written. If not (the disk is full, say), the call is run all the same.
async fn count(store: &Store, id: &str) -> bool {
    let written = store.attempt_call(id).await;
    if let Err(error) = &written {
        warn!(call = id, error = %crate::chain(error), "the attempt could not be counted");
    }
    written.is_ok()
}

/// Longer and longer pauses between tries.
struct Pauses<'a> {
    node: &'a Node,
    next: Duration,
}

impl<'a> Pauses<'a> {
    fn new(node: &'a Node) -> Self {
        let next = PAUSE_FIRST;
        Self { node, next }
    }

    /// `None` if the node stops: no time for another try.
    async fn next(&mut self) -> Option<()> {
        let pause = tokio::time::sleep(self.next);
        self.next = (self.next * 2).min(PAUSE_MAX);
        self.node.stopping().run_until_cancelled(pause).await
    }
}

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

fn failure(reason: &str) -> Vec<u8> {
    stored(Stored {
        reply: InvokeReply::default(),
        error: Some(reason),
    })
}

fn stored(value: Stored<'_>) -> Vec<u8> {
    serverledge_api::encode(&value)
}
