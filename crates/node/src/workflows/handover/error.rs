//! What can go wrong with executions that go from node to node.

use std::time::Duration;

use serverledge_api::Problem;

use crate::federation::etcd::EtcdError;
use crate::workflows::error::StartError;

/// Why an execution did not go on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There is no etcd.
    #[error(
        "executions go from node to node by way of etcd (etcd.address), and this node has none"
    )]
    NoFleet,
    /// Other nodes couldn't go on with it.
    #[error("the workflow has no form that goes from node to node")]
    NoForm,
    /// Its id can't be a part of keys.
    #[error("the id of an execution has 1 to 1024 bytes, no slashes and no control characters")]
    Id,
    /// There is no progress of that id.
    #[error("there is no progress of an execution '{0}'")]
    Unknown(String),
    /// It is over, or was never right.
    #[error("nothing is ready in the execution '{0}'")]
    NothingReady(String),
    /// The definition has changed, or the nodes don't have the same.
    #[error("the execution is of another registration of the workflow: it has no task '{0}'")]
    OtherForm(String),
    /// What is stored makes no sense.
    #[error("the progress can't be read: {0}")]
    Unreadable(String),
    /// Another node has taken it up.
    #[error("the execution '{0}' is another node's by now")]
    Superseded(String),
    /// More than etcd takes.
    #[error("an output of {0} bytes is too large for etcd")]
    TooLarge(usize),
    /// A task failed.
    #[error("the task '{task}' failed: {error}: {cause}")]
    Task {
        /// Which.
        task: String,
        /// Name of the error.
        error: String,
        /// Explanation.
        cause: String,
    },
    /// The node that carries out a plan has no room.
    #[error("the node {node} has no room")]
    Full {
        /// Which.
        node: String,
    },
    /// The node that carries out a plan failed.
    #[error("on the node {node}: {}", .problem.detail)]
    Elsewhere {
        /// Which.
        node: String,
        /// What it says.
        problem: Box<Problem>,
    },
    /// It gave no (true) answer. It may have begun.
    #[error("the node {node}, to which the execution was handed, broke off")]
    Lost {
        /// Which.
        node: String,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It gave no answer. It may have begun.
    #[error("the node {node}, to which the execution was handed, gave no answer in {limit:?}")]
    Silent {
        /// Which.
        node: String,
        /// How long was waited.
        limit: Duration,
    },
    /// etcd was of no help.
    #[error("the progress could not be read or written")]
    Store(#[from] EtcdError),
    /// A task could not be begun.
    #[error("a task could not be begun")]
    Start(#[from] StartError),
    /// The node stops.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl HandoverError {
    /// Whether there is no room, here or elsewhere.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Task { error, .. } => error == "Lambda.TooManyRequestsException",
            _ => false,
        }
    }
}
