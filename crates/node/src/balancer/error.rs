//! What the balancer says itself, where no node has an answer: why not, and whether to try again.

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serverledge_api::Problem;
use serverledge_core::balancer::NoTarget;

use super::body::{AnswerBody, BodyError};

/// Why a request was not passed on, or its answer not passed back.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0} requests are under way (lb.inflight_max)")]
    Overloaded(usize),
    #[error("{0}")]
    NoTarget(#[from] NoTarget),
    #[error("the request has been here before: balancers send to each other in a circle")]
    Loop,
    #[error("this method is not passed on")]
    Method,
    #[error("{0}")]
    Body(#[from] BodyError),
    #[error("node {node} broke off")]
    Broken {
        node: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("node {node} did not begin to answer within {limit:?} (lb.response_timeout)")]
    TimedOut { node: String, limit: Duration },
    #[error("the change is made, but not on {missed}")]
    Partly { missed: String },
    #[error("the change could not be made on any node: {missed}")]
    Nowhere { missed: String },
}

impl Refusal {
    /// For metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Overloaded(_) => "overloaded",
            Self::NoTarget(why) => why.name(),
            Self::Loop => "loop",
            Self::Method => "malformed",
            Self::Body(_) => "body",
            Self::Broken { .. } => "broken",
            Self::TimedOut { .. } => "timeout",
            Self::Partly { .. } => "partly",
            Self::Nowhere { .. } => "nowhere",
        }
    }

    pub(super) fn into_answer(self) -> Response<AnswerBody> {
        let (status, title, hint) = match &self {
            Self::Overloaded(_) => (503, "overloaded", "try again later"),
            Self::NoTarget(NoTarget::Unfit) => {
                (503, "no node", "add a node of the function's architecture")
            }
            Self::NoTarget(_) => (503, "no node", "try again later"),
            Self::Loop => (
                508,
                "loop",
                "see lb.targets: a balancer is not its own target",
            ),
            Self::Method => (405, "method not allowed", ""),
            Self::Body(BodyError::TooLarge(_)) => (413, "too large", "see api.body_max"),
            Self::Body(BodyError::Stalled(_)) => (408, "too slow", "see lb.stall_timeout"),
            Self::Body(BodyError::Broken(_)) => (400, "request broke off", ""),
            Self::Broken { .. } => (
                502,
                "node broke off",
                "whether the call ran is not known: it is not made again",
            ),
            Self::TimedOut { .. } => (
                504,
                "time limit exceeded",
                "whether the call ran is not known: it is not made again",
            ),
            Self::Partly { .. } => (
                502,
                "partly changed",
                "make it again when the others are back",
            ),
            Self::Nowhere { .. } => (503, "not changed", "try again later"),
        };
        let mut problem = Problem::new(status, title, crate::chain(&self));
        problem.hint = (!hint.is_empty()).then(|| hint.to_owned());
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Response::new(AnswerBody::of(serverledge_api::encode_line(&problem)));
        *answer.status_mut() = status;
        const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
        answer.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            const SOON: HeaderValue = HeaderValue::from_static("1");
            answer.headers_mut().insert(RETRY_AFTER, SOON);
        }
        answer
    }
}
