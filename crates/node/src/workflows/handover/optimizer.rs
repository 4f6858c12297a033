//! Asking for a placement: an optimiser outside, if one is configured, or the one built in.
//!
//! Whatever goes wrong, late or nonsense answers included, is a [`NoAnswer`], and tasks run locally.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serverledge_api::{Optimizer, decode_placement, encode_problem};
use serverledge_core::placement::{Effort, NoPlan, Placement, Problem, heftless, ilp};
use tokio::sync::Semaphore;

/// How long an optimiser outside may take; the original's limit.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the one built in may take: tasks are waiting.
const PLAN_TIME_MAX: Duration = Duration::from_secs(2);

/// Problems being solved here at once. More would take the time of what is to be placed.
const PLANS_MAX: usize = 2;

/// Largest answer, bytes: a line for each task.
const ANSWER_MAX: usize = 1 << 20;

/// Why there is no placement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// There is none, or it is worthless.
    #[error("the optimiser has no plan")]
    NoPlan(#[from] NoPlan),
    /// It takes too long.
    #[error("the optimiser gave no answer within {0:?}")]
    Late(Duration),
    /// Others are being solved.
    #[error("{PLANS_MAX} problems are being solved already")]
    Busy,
    /// The solver failed, which it doesn't.
    #[error("the optimiser built in failed")]
    Failed(#[source] tokio::task::JoinError),
    /// It isn't there, or broke off.
    #[error("the optimiser at {endpoint} can't be asked")]
    Unreachable {
        /// Host and port.
        endpoint: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It says no.
    #[error("the optimiser at {endpoint} answered {status}")]
    Refused {
        /// Host and port.
        endpoint: String,
        /// Of HTTP.
        status: StatusCode,
    },
}

/// Where placements come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A program outside.
    Outside {
        client: Client<HttpConnector, Full<Bytes>>,
        endpoint: String,
    },
    /// Ours.
    BuiltIn { solving: Arc<Semaphore> },
}

impl Source {
    /// An optimiser at `endpoint` (`host:port`), or the one built in.
    pub(crate) fn new(endpoint: Option<String>) -> Self {
        let Some(endpoint) = endpoint else {
            let solving = Arc::new(Semaphore::new(PLANS_MAX));
            return Self::BuiltIn { solving };
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(ANSWER_TIME_MAX));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self::Outside { client, endpoint }
    }

    /// A placement for `problem`.
    pub(crate) async fn solve(
        &self,
        optimizer: Optimizer,
        problem: Problem,
    ) -> Result<Placement, NoAnswer> {
        match self {
            Self::BuiltIn { solving } => built_in(Arc::clone(solving), optimizer, problem).await,
            Self::Outside { client, endpoint } => {
                // What makes no sense isn't worth asking.
                problem.check()?;
                let body = encode_problem(&problem, optimizer);
                let asked = ask(client, endpoint, optimizer, body);
                let answer = tokio::time::timeout(ANSWER_TIME_MAX, asked).await;
                let answer = answer.map_err(|_| NoAnswer::Late(ANSWER_TIME_MAX))??;
                Ok(problem.accept(answer)?)
            }
        }
    }
}

async fn built_in(
    solving: Arc<Semaphore>,
    optimizer: Optimizer,
    problem: Problem,
) -> Result<Placement, NoAnswer> {
    let permit = solving.try_acquire_owned().map_err(|_| NoAnswer::Busy)?;
    // Its work is bounded, so that the thread is free again some time even if nobody waits for it.
    let solved = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let nodes = match optimizer {
            Optimizer::Ilp => ilp(&problem, Effort::default())?.nodes,
            Optimizer::Heftless => heftless(&problem)?,
        };
        Ok::<_, NoPlan>(problem.named(&nodes))
    });
    match tokio::time::timeout(PLAN_TIME_MAX, solved).await {
        Err(_) => Err(NoAnswer::Late(PLAN_TIME_MAX)),
        Ok(Err(error)) => Err(NoAnswer::Failed(error)),
        Ok(Ok(placement)) => Ok(placement?),
    }
}

async fn ask(
    client: &Client<HttpConnector, Full<Bytes>>,
    endpoint: &str,
    optimizer: Optimizer,
    body: Vec<u8>,
) -> Result<Placement, NoAnswer> {
    let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| NoAnswer::Unreachable {
        endpoint: endpoint.to_owned(),
        source,
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{endpoint}{}", optimizer.path()))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unreachable(error.into()))?;
    let response = client.request(request).await;
    let response = response.map_err(|error| unreachable(error.into()))?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(NoAnswer::Refused {
            endpoint: endpoint.to_owned(),
            status,
        });
    }
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    let body = body.map_err(unreachable)?.to_bytes();
    decode_placement(&body).map_err(|error| unreachable(error.into()))
}
