//! Why a state, and in the end an execution, fails.

use serde::{Deserialize, Serialize};

/// Whose behaviour is followed where AWS Step Functions and the published specification disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Dialect {
    /// As AWS Step Functions does.
    #[default]
    Aws,
    /// As the specification says.
    Specification,
}

/// Kinds of failure that the interpreter itself raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A path that selects nothing, or not what its field needs.
    Path,
    ResultPath,
    Intrinsic,
    NoChoice,
    Query,
    Runtime,
    DataLimit,
    Timeout,
    HeartbeatTimeout,
    ItemReader,
    ExceedTolerated,
}

/// A failure on its way to a retrier, a catcher or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) cause: Option<String>,
}

/// Raised by the interpreter, or named by a task or a Fail state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Fault(Fault),
    Named(Option<String>),
}

impl Failure {
    pub(crate) fn new(fault: Fault, cause: impl Into<String>) -> Self {
        Self {
            kind: Kind::Fault(fault),
            cause: Some(cause.into()),
        }
    }

    pub(crate) fn named(error: Option<String>, cause: Option<String>) -> Self {
        Self {
            kind: Kind::Named(error),
            cause,
        }
    }
}

impl Fault {
    /// The error's name.
    pub(crate) fn name(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::Path | Self::Intrinsic | Self::NoChoice, Dialect::Aws) | (Self::Runtime, _) => {
                "States.Runtime"
            }
            (Self::Path, _) => "States.ParameterPathFailure",
            (Self::Intrinsic, _) => "States.IntrinsicFailure",
            (Self::NoChoice, _) => "States.NoChoiceMatched",
            (Self::ResultPath, _) => "States.ResultPathMatchFailure",
            (Self::Query, _) => "States.QueryEvaluationError",
            (Self::DataLimit, _) => "States.DataLimitExceeded",
            (Self::Timeout, _) => "States.Timeout",
            (Self::HeartbeatTimeout, _) => "States.HeartbeatTimeout",
            (Self::ItemReader, _) => "States.ItemReaderFailed",
            (Self::ExceedTolerated, _) => "States.ExceedToleratedFailureThreshold",
        }
    }

    /// Whether AWS says in which state it happened, before the cause itself.
    pub(crate) fn names_its_state(self) -> bool {
        matches!(
            self,
            Self::Path
                | Self::ResultPath
                | Self::Intrinsic
                | Self::NoChoice
                | Self::Query
                | Self::Runtime
        )
    }
}
