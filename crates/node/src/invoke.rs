//! The one way in: every call of a function, whoever asked for it, ends in [`invoke`].
//!
//! It reads from top to bottom: take a sandbox (one short lock, no I/O), run, give it back, report.
//! No store, no log line and no file is on this path.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serverledge_core::{DropReason, Outcome, Snapshot};
use serverledge_sandbox::{Call, CallError, CreateError, ExitCause, FunctionError};

use crate::catalog::Function;
use crate::node::Node;
use crate::pool::{Lease, Refusal};

/// One call of a function.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Identity of the call, shown to the function and in errors.
    pub request_id: String,
    /// Parameters: the raw JSON text of an object, or `null`.
    pub params: Arc<[u8]>,
    /// Whether the caller wants what the function prints.
    pub return_output: bool,
    /// Whether the call may wait for room for as long as it takes (asynchronous calls).
    pub patient: bool,
    /// When it arrived.
    pub arrival: Instant,
}

/// How a call went.
#[derive(Debug)]
pub struct Report {
    /// What the function returned: JSON text.
    pub result: String,
    /// What it printed, if asked for.
    pub output: String,
    /// Whether the sandbox had served a call before.
    pub warm: bool,
    /// From arrival to the start of the function.
    pub init: Duration,
    /// Part of `init` spent waiting for somebody else's sandbox.
    pub queueing: Duration,
    /// Run time of the function.
    pub duration: Duration,
    /// From arrival to reply.
    pub response: Duration,
    /// Resources in use after the call.
    pub snapshot: Snapshot,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// No room, or too long a wait.
    #[error("the call was not accepted: {0}")]
    Dropped(DropReason),
    /// The node stops.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The sandbox could not be started, or the function not loaded.
    #[error("the function could not be started")]
    StartFailed(#[source] Arc<CreateError>),
    /// The function raised or returned a failure.
    #[error("{}: {}", .0.kind, .0.message)]
    Function(FunctionError),
    /// The sandbox died under the call.
    #[error("the function did not survive the call: {0}")]
    Died(ExitCause),
    /// The function spoke nonsense on its connection.
    #[error("the function broke the protocol with its sandbox: {0}")]
    Protocol(String),
    /// The function ran for longer than it may.
    #[error("the function ran for longer than its limit of {} s and was stopped", .0.as_secs_f64())]
    TimedOut(Duration),
    /// Neither this node nor another took it.
    #[error("the call was not accepted: {why}")]
    Unplaced {
        /// Which policy looked for a place.
        policy: &'static str,
        /// What it tried, and what became of that.
        why: String,
    },
    /// It failed on another node.
    #[error("on the node {node}: {}", .problem.detail)]
    Elsewhere {
        /// Which.
        node: String,
        /// What that says.
        problem: Box<serverledge_api::Problem>,
    },
    /// It was sent to another node, which gave no (true) answer.
    #[error("the node {node}, where the call was sent, broke off")]
    Lost {
        /// Which.
        node: String,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Whose doing an error is; statuses, retries and metrics follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The function's code.
    Function,
    /// This node: a retry may help.
    Platform,
}

impl InvokeError {
    /// Whose fault it was.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Function(_) | Self::Died(_) | Self::Protocol(_) | Self::TimedOut(_) => {
                Fault::Function
            }
            Self::StartFailed(error) => match **error {
                CreateError::Load(_) | CreateError::Died(_) => Fault::Function,
                _ => Fault::Platform,
            },
            // Others answer 500 for what a function has done.
            Self::Elsewhere { problem, .. } if problem.status == 500 => Fault::Function,
            Self::Dropped(_)
            | Self::ShuttingDown
            | Self::Unplaced { .. }
            | Self::Elsewhere { .. }
            | Self::Lost { .. } => Fault::Platform,
        }
    }
}

impl From<Refusal> for InvokeError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Dropped(reason) => Self::Dropped(reason),
            Refusal::StartFailed(error) => Self::StartFailed(error),
            Refusal::ShuttingDown => Self::ShuttingDown,
        }
    }
}

/// Runs one call of `function` on this node. `before_sending` is awaited once, when the call has
/// a sandbox and is about to be sent there.
///
/// Not cancel safe by intent: run it in a task of its own. Dropped half-way, it destroys the
/// sandbox it holds.
pub async fn invoke(
    node: &Node,
    function: &Arc<Function>,
    invocation: Invocation,
    before_sending: impl Future<Output = ()>,
) -> Result<Report, InvokeError> {
    let arrival = invocation.arrival;
    let mut before_sending = Some(before_sending);
    let mut attempts = 0;
    let (lease, started, reply) = loop {
        let lease = node.pool.acquire(function, invocation.patient).await?;
        if let Some(before_sending) = before_sending.take() {
            before_sending.await;
        }
        let started = Instant::now();
        let reply = run(&lease, function.timeout, &invocation).await;
        attempts += 1;
        // A sandbox that broke while it was idle is dropped here, and with that destroyed.
        if attempts >= STALE_MAX || !matches!(reply, Err(Attempt::Stale(_))) {
            break (lease, started, reply);
        }
    };
    let duration = started.elapsed();
    let reply = match reply.map_err(InvokeError::from) {
        // Not of its own doing: all sandboxes are being destroyed.
        Err(InvokeError::Died(_) | InvokeError::Protocol(_)) if node.pool.is_closed() => {
            Err(InvokeError::ShuttingDown)
        }
        reply => reply,
    };

    let outcome = match &reply {
        Ok(_) | Err(InvokeError::Function(_)) => Outcome::Done,
        Err(InvokeError::TimedOut(_)) => Outcome::TimedOut,
        Err(_) => Outcome::Broken,
    };
    let (cold, queueing) = (lease.cold(), lease.queueing());
    let snapshot = lease.finish(outcome);
    let (result, output) = reply?;
    Ok(Report {
        result,
        output,
        warm: !cold,
        init: started.duration_since(arrival),
        queueing,
        duration,
        response: arrival.elapsed(),
        snapshot,
    })
}

/// Sandboxes that a call tries, should they turn out to be unusable before it is sent.
const STALE_MAX: usize = 3;

/// Why one try failed.
enum Attempt {
    /// The call was not sent: another sandbox can run it.
    Stale(String),
    Failed(InvokeError),
}

impl From<InvokeError> for Attempt {
    fn from(error: InvokeError) -> Self {
        Self::Failed(error)
    }
}

impl From<Attempt> for InvokeError {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::Stale(why) => Self::Protocol(why),
            Attempt::Failed(error) => error,
        }
    }
}

async fn run(
    lease: &Lease,
    limit: Duration,
    invocation: &Invocation,
) -> Result<(String, String), Attempt> {
    let call = Call {
        id: invocation.request_id.clone(),
        deadline_unix: unix_now() + limit.as_secs_f64(),
        output: invocation.return_output,
        params: Arc::clone(&invocation.params),
    };
    let reply = match tokio::time::timeout(limit, lease.sandbox().invoke(call)).await {
        Err(_) => return Err(InvokeError::TimedOut(limit).into()),
        Ok(Err(CallError::Stale(why))) => return Err(Attempt::Stale(why)),
        Ok(Err(CallError::Died(cause))) => return Err(InvokeError::Died(cause).into()),
        Ok(Err(CallError::Protocol(what))) => return Err(InvokeError::Protocol(what).into()),
        Ok(Ok(reply)) => reply,
    };
    let result = reply.outcome.map_err(InvokeError::Function)?;
    let result = String::from_utf8(result.into_vec())
        .map_err(|_| InvokeError::Protocol("its result is not UTF-8".into()))?;
    Ok((result, reply.output))
}

/// Seconds since 1970, as functions and the wire see time.
pub(crate) fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
