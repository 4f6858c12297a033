//! Statuses, decided last and in one place: what went wrong, as the caller sees it.
//!
//! Where the original's clients know a body (`Function unknown`), it is kept to the letter. All
//! other errors are `application/problem+json` (RFC 9457): what was wrong, where, what to do.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER};
use serverledge_api::{DecodeError, Problem};
use serverledge_core::DropReason;
use serverledge_sandbox::image::ImageError;
use serverledge_sandbox::{CreateError, Exit, ExitCause};
use tracing::error;

use super::{JSON, Reply, TEXT, reply};
use crate::async_calls::AcceptError;
use crate::code::CodeError;
use crate::federation::etcd::EtcdError;
use crate::federation::{PullError, ShareError};
use crate::fetch::{Blame, FetchError};
use crate::invoke::InvokeError;
use crate::store::StoreError;
use crate::workflows::error::{RegisterError, RunError, StartError};
use crate::workflows::executions::RetryError;
use crate::workflows::handover::HandoverError;
use crate::workflows::invoke::InvokeError as RunWorkflowError;

/// Everything a request can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("no such path")]
    NotFound,
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("the request body is larger than the limit of {0} bytes")]
    BodyTooLarge(usize),
    #[error("the request body did not arrive within {0:?}")]
    BodyTimeout(Duration),
    #[error("the request body could not be read: {0}")]
    BodyUnreadable(String),
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("{what}")]
    Invalid { what: String, hint: &'static str },
    #[error("Invalid memory limit")]
    InvalidMemory,
    #[error("Invalid runtime.")]
    InvalidRuntime,
    #[error("the function '{0}' exists already")]
    Exists(String),
    #[error("Function unknown")]
    UnknownFunction,
    #[error("Unknown function")]
    UnknownDeletion,
    #[error("no result of '{id}'{}", if *.pending { " yet" } else { "" })]
    NoResult { id: String, pending: bool },
    #[error("the code was refused")]
    Code(#[source] CodeError),
    #[error("the code was not fetched")]
    Fetch(#[source] FetchError),
    #[error("the code was not pulled")]
    Pull(#[source] PullError),
    #[error("code is for the nodes of this fleet, and this request is not signed by one")]
    Unsigned,
    #[error("this node has no code {0}")]
    NoCode(String),
    // Not found, for the node that has sent the call: it has not begun here.
    #[error("the function that is meant could not be got from the node that sent the call: {0}")]
    NotCopied(Arc<str>),
    #[error("the image {image} can't be had: {}", error.chain())]
    Image { image: String, error: ImageError },
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the function was not changed")]
    Share(#[source] ShareError),
    #[error("the fleet's registry can't be asked")]
    Registry(#[from] EtcdError),
    #[error("the call was not accepted")]
    Accept(#[from] AcceptError),
    #[error("there is no workflow '{0}'")]
    UnknownWorkflow(String),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
    #[error("{error}")]
    Invoke {
        request_id: String,
        error: InvokeError,
    },
}

/// What the original's interface to workflows answers with a text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkflowError {
    #[error("workflow already exists")]
    Exists,
    #[error("function workflow '{0}' does not exist")]
    Unknown(String),
    #[error("the request function workflow to delete does not exist")]
    UnknownDeletion,
    #[error("workflow with non-existing function")]
    NoFunction,
    #[error("workflow with function '{0}' that has no signature")]
    NoSignature(String),
    #[error(transparent)]
    Run(#[from] RunWorkflowError),
}

fn handover_status(error: &HandoverError) -> StatusCode {
    match error {
        error if error.is_full() => StatusCode::TOO_MANY_REQUESTS,
        HandoverError::Unknown(_) => StatusCode::NOT_FOUND,
        HandoverError::NoFleet | HandoverError::NoForm | HandoverError::Id => {
            StatusCode::BAD_REQUEST
        }
        HandoverError::NothingReady(_)
        | HandoverError::OtherForm(_)
        | HandoverError::Superseded(_) => StatusCode::CONFLICT,
        HandoverError::Store(_) | HandoverError::Start(_) | HandoverError::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl WorkflowError {
    fn status(&self) -> StatusCode {
        use crate::workflows::error::RunError::Unknown;
        use crate::workflows::invoke::InvokeError as Run;
        match self {
            Self::Exists => StatusCode::CONFLICT,
            Self::Unknown(_) | Self::UnknownDeletion => StatusCode::NOT_FOUND,
            Self::NoFunction | Self::NoSignature(_) => StatusCode::BAD_REQUEST,
            Self::Run(Run::Start(error)) => match error {
                StartError::UnknownWorkflow(_) => StatusCode::NOT_FOUND,
                StartError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
                StartError::Name(_) | StartError::Nesting(_) => StatusCode::BAD_REQUEST,
                StartError::Conflict { .. } => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Run(Run::Resume(Unknown)) => StatusCode::NOT_FOUND,
            Self::Run(Run::Resume(_) | Run::Failed(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Run(Run::NoRoom(_)) => StatusCode::TOO_MANY_REQUESTS,
            Self::Run(Run::Handover(error)) => handover_status(error),
            Self::Run(Run::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// A text as JSON; where there is no room, nothing.
    pub(super) fn into_reply(self) -> Reply {
        let status = self.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return reply(status, TEXT, "");
        }
        reply(
            status,
            JSON,
            serverledge_api::encode_line(&crate::chain(&self)),
        )
    }
}

impl From<RetryError> for ApiError {
    fn from(error: RetryError) -> Self {
        match error {
            RetryError::Run(error) => Self::Run(error),
            RetryError::Start(error) => Self::Start(error),
        }
    }
}

impl ApiError {
    /// The reply for the caller; what only the operator can mend goes to the log as well.
    pub(crate) fn into_reply(self) -> Reply {
        match self {
            Self::NotFound => message(StatusCode::NOT_FOUND, "Not Found"),
            Self::MethodNotAllowed => message(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
            Self::InvalidRuntime | Self::UnknownFunction | Self::UnknownDeletion => {
                reply(StatusCode::NOT_FOUND, TEXT, self.to_string())
            }
            Self::InvalidMemory => reply(StatusCode::UNPROCESSABLE_ENTITY, TEXT, self.to_string()),
            Self::Invoke { request_id, error } => invoke_failure(request_id, &error),
            Self::Workflow(error) => error.into_reply(),
            other => {
                let problem = other.problem();
                let theirs = match &other {
                    // A URL that doesn't answer is for its sender to mend.
                    Self::Fetch(error) => error.blame() != Blame::Node,
                    // Said before, by who has met it first.
                    Self::Run(RunError::Away | RunError::Elsewhere { .. }) => true,
                    _ => false,
                };
                if problem.status >= 500 && !theirs {
                    error!(error = crate::chain(&other), "request failed");
                }
                problem_reply(&problem)
            }
        }
    }

    fn problem(&self) -> Problem {
        let (status, title, hint) = match self {
            Self::BodyTooLarge(_) => (413, "body too large", "see api.body_max"),
            Self::BodyTimeout(_) => (408, "request timeout", ""),
            Self::BodyUnreadable(_) => (400, "unreadable body", ""),
            Self::Decode(_) => (400, "malformed request", ""),
            Self::Invalid { hint, .. } => (400, "invalid request", *hint),
            Self::Exists(_) => (409, "function exists", "use /update to replace it"),
            Self::NoResult { pending: true, .. } => (404, "not finished", "poll again later"),
            Self::NoResult { .. } => (
                404,
                "unknown request",
                "results are kept for async.retention seconds",
            ),
            Self::Code(error) if error.is_caller() => (
                400,
                "invalid code",
                "TarFunctionCode is the base64 of a tar, tar.gz or zip",
            ),
            Self::Fetch(error) => fetch_status(error),
            Self::Share(ShareError::TooLarge) => (
                413,
                "too large to share",
                "what describes functions of a fleet goes through etcd: make it shorter",
            ),
            Self::Pull(_) => (503, "code not pulled", "try again later"),
            Self::Unsigned => (403, "not for you", "see federation.secret"),
            Self::NoCode(_) => (404, "no such code", ""),
            Self::NotCopied(_) => (404, "function not copied", ""),
            Self::Share(ShareError::Etcd(_)) => (
                503,
                "etcd is away",
                "functions can be called, but not changed until it is back; see etcd.address",
            ),
            Self::Registry(_) => (503, "etcd is away", "try again later; see etcd.address"),
            Self::Image { error, .. } => image_status(error),
            Self::Accept(AcceptError::TooMany(_)) => (429, "too many calls", "try again later"),
            Self::UnknownWorkflow(_) => (404, "unknown workflow", ""),
            Self::Register(error) => register_status(error),
            Self::Start(error) => start_status(error),
            Self::Run(error) => run_status(error),
            _ => (
                503,
                "storage failure",
                "the node's log says more; check its disk",
            ),
        };
        let mut problem = Problem::new(status, title, crate::chain(self));
        problem.hint = (!hint.is_empty()).then(|| hint.to_owned());
        problem.diagnostics = self.diagnostics();
        problem
    }

    fn diagnostics(&self) -> Option<serde_json::Value> {
        match self {
            Self::Register(RegisterError::Invalid(all)) => serde_json::to_value(all).ok(),
            _ => None,
        }
    }
}

/// Status, title and hint.
type Said = (u16, &'static str, &'static str);

const DISK: &str = "the node's log says more; check its disk";

fn fetch_status(error: &FetchError) -> (u16, &'static str, &str) {
    let (status, title) = match error.blame() {
        Blame::Caller => (400, "invalid code"),
        Blame::Server => (502, "code not available"),
        Blame::Slowness => (504, "code not available in time"),
        Blame::Node => (503, "code not fetched"),
    };
    (status, title, error.hint())
}

fn image_status(error: &ImageError) -> Said {
    let (status, title) = match error {
        ImageError::Registry { transient, .. } if *transient => (502, "image not available"),
        ImageError::Io { .. } => (503, "image not stored"),
        _ => (400, "invalid image"),
    };
    let hint = "put it on the node with `serverledge image pull` or `serverledge image load`";
    (status, title, hint)
}

fn register_status(error: &RegisterError) -> Said {
    match error {
        RegisterError::Name(_) => (400, "invalid name", ""),
        RegisterError::TooLarge(_) => (413, "definition too large", "see workflow.definition_max"),
        RegisterError::Invalid(_) => (
            400,
            "invalid definition",
            "`serverledge asl check FILE` says the same, but for functions",
        ),
        RegisterError::Exists(_) => (409, "workflow exists", ""),
        RegisterError::TooMany(_) => (429, "too many workflows", "delete some"),
        RegisterError::Store(_) => (503, "storage failure", DISK),
        RegisterError::Share(ShareError::Exists) => (409, "workflow exists", ""),
        RegisterError::Share(ShareError::TooLarge | ShareError::Code(_)) => (
            413,
            "too large to share",
            "workflows of a fleet go through etcd: make its definition smaller",
        ),
        RegisterError::Share(ShareError::Etcd(_)) => (
            503,
            "etcd is away",
            "workflows can be run, but not changed until it is back; see etcd.address",
        ),
    }
}

fn start_status(error: &StartError) -> Said {
    match error {
        StartError::UnknownWorkflow(_) => (404, "unknown workflow", ""),
        StartError::Name(_) => (400, "invalid name", ""),
        StartError::Conflict { .. } => (
            409,
            "execution exists",
            "give another name, or none, for another execution",
        ),
        StartError::TooMany(_) => (429, "too many executions", "try again later"),
        StartError::Nesting(_) => (400, "nested too deeply", ""),
        StartError::Store(_) | StartError::Chance(_) | StartError::Existing(_) => {
            (503, "storage failure", DISK)
        }
        StartError::ShuttingDown => (503, "shutting down", ""),
    }
}

fn run_status(error: &RunError) -> Said {
    match error {
        RunError::Unknown => (
            404,
            "unknown execution",
            "executions are kept for workflow.retention seconds after their end",
        ),
        RunError::UnknownToken => (404, "unknown token", ""),
        RunError::NotRedrivable(_) => (409, "not redrivable", "retry starts it anew"),
        RunError::Silent(_) => (504, "no answer in time", "try again"),
        RunError::Away => (503, "etcd is away", "try again later; see etcd.address"),
        RunError::Elsewhere { .. } => (
            503,
            "node not available",
            "if it is gone, another node goes on after workflow.takeover.lease; try again later",
        ),
        RunError::ShuttingDown => (503, "shutting down", ""),
        RunError::Definition | RunError::Journal(_) | RunError::Store(_) => {
            (503, "storage failure", DISK)
        }
    }
}

/// The JSON that the original's HTTP library answers by itself.
fn message(status: StatusCode, text: &str) -> Reply {
    reply(status, JSON, format!("{{\"message\":\"{text}\"}}\n"))
}

fn invoke_failure(request_id: String, error: &InvokeError) -> Reply {
    let (status, title) = match error {
        InvokeError::Dropped(_) => (429, "no room"),
        InvokeError::ShuttingDown => (503, "shutting down"),
        InvokeError::TimedOut(_) => (504, "time limit exceeded"),
        InvokeError::Function(_) => (500, "function failed"),
        InvokeError::Died(_) => (500, "function died"),
        InvokeError::Protocol(_) => (500, "function misbehaved"),
        InvokeError::StartFailed(_) => (500, "start failed"),
        InvokeError::Unplaced { .. } => (429, "no room"),
        InvokeError::Lost { .. } => (502, "lost elsewhere"),
        InvokeError::Elsewhere { problem, .. } => {
            // As the function's caller would have seen it there.
            let status = if problem.status < 500 {
                502
            } else {
                problem.status
            };
            (status, problem.title.as_str())
        }
    };
    let mut problem = Problem::new(status, title, crate::chain(error));
    problem.request_id = Some(request_id);
    problem.hint = hint(error).map(str::to_owned);
    problem.stack = stack(error);
    let mut reply = problem_reply(&problem);
    let may_help = match error {
        InvokeError::Dropped(reason) => !matches!(reason, DropReason::TooLarge { .. }),
        InvokeError::Unplaced { .. } => true,
        _ => false,
    };
    if may_help {
        reply
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

fn hint(error: &InvokeError) -> Option<&'static str> {
    match error {
        InvokeError::Dropped(DropReason::TooLarge { .. }) => {
            Some("lower the function's memory or CPU, or enlarge container.pool.memory / .cpus")
        }
        InvokeError::Dropped(_) => {
            Some("try again later, or let calls wait: scheduler.queue.capacity")
        }
        InvokeError::TimedOut(_) => Some("raise the function's TimeoutSeconds (--timeout)"),
        InvokeError::Died(cause) => memory_hint(cause),
        InvokeError::StartFailed(error) => match &**error {
            CreateError::Died(cause) => memory_hint(cause),
            _ => None,
        },
        _ => None,
    }
}

fn memory_hint(cause: &ExitCause) -> Option<&'static str> {
    matches!(cause.exit, Exit::OutOfMemory { .. })
        .then_some("raise the function's memory (--memory)")
}

fn stack(error: &InvokeError) -> Option<String> {
    if let InvokeError::Elsewhere { problem, .. } = error {
        return problem.stack.clone();
    }
    let failure = match error {
        InvokeError::Function(failure) => failure,
        InvokeError::StartFailed(start) => match &**start {
            CreateError::Load(failure) => failure,
            _ => return None,
        },
        _ => return None,
    };
    (!failure.stack.is_empty()).then(|| failure.stack.clone())
}

fn problem_reply(problem: &Problem) -> Reply {
    const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply(status, PROBLEM, serverledge_api::encode_line(problem))
}
