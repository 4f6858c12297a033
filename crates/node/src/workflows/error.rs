//! What can go wrong with workflows and their executions.

use std::time::Duration;

use serverledge_asl::Diagnostic;

use crate::federation::ShareError;
use crate::federation::etcd::EtcdError;
use crate::store::StoreError;

/// Why a workflow was not registered or removed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Its name can't be one.
    #[error("a workflow's name has 1 to {0} bytes and no control characters")]
    Name(usize),
    /// Its definition is too large.
    #[error("the definition is larger than {0} bytes (workflow.definition_max)")]
    TooLarge(usize),
    /// Its definition is not valid.
    #[error("the definition is not valid{}", first(.0))]
    Invalid(Vec<Diagnostic>),
    /// There is one of that name.
    #[error("the workflow '{0}' exists already")]
    Exists(String),
    /// There are as many as there may be.
    #[error("there are {0} workflows already (workflow.definitions_max)")]
    TooMany(usize),
    /// It could not be stored.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The fleet could not be told.
    #[error("the workflow was not changed")]
    Share(#[source] ShareError),
}

impl From<ShareError> for RegisterError {
    fn from(error: ShareError) -> Self {
        Self::Share(error)
    }
}

impl From<EtcdError> for RegisterError {
    fn from(error: EtcdError) -> Self {
        Self::Share(ShareError::Etcd(error))
    }
}

/// The first problem of a definition that counts.
fn first(diagnostics: &[Diagnostic]) -> String {
    let problem = diagnostics.iter().find(|one| one.is_error());
    problem.map_or_else(String::new, |one| {
        let line = one.line.map(|line| format!(" (line {line})"));
        let suggestion = one.suggestion.as_ref().map(|text| format!("; {text}"));
        format!(
            ": {} at {}{}{}",
            one.message,
            one.pointer,
            line.unwrap_or_default(),
            suggestion.unwrap_or_default()
        )
    })
}

/// Why an execution was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such workflow.
    #[error("function workflow '{0}' does not exist")]
    UnknownWorkflow(String),
    /// The name given can't be one.
    #[error("an execution's name has 1 to {0} characters: letters, digits, '-', '_' and '.'")]
    Name(usize),
    /// An execution of that name has another input.
    #[error("the execution '{name}' of '{workflow}' exists already, with another input")]
    Conflict {
        /// Of which workflow.
        workflow: String,
        /// What it is called.
        name: String,
    },
    /// Too many have not ended.
    #[error("{0} executions have not ended yet (workflow.executions_max)")]
    TooMany(usize),
    /// Executions start each other without end.
    #[error("executions are nested more than {0} deep")]
    Nesting(usize),
    /// It could not be written to its journal.
    #[error("the execution could not be written to the store")]
    Store(#[from] StoreError),
    /// The machine gives no random numbers.
    #[error("/dev/urandom can't be read")]
    Chance(#[source] std::io::Error),
    /// What there is of that name can't be read.
    #[error("the execution of that name can't be read")]
    Existing(#[source] RunError),
    /// The node stops.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why an execution can't be found, changed or shown.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is none.
    #[error("there is no such execution")]
    Unknown,
    /// No task waits for this token.
    #[error("no task waits for this token: it has ended, timed out, or never was")]
    UnknownToken,
    /// It can't go on after its end.
    #[error("{0}")]
    NotRedrivable(&'static str),
    /// Its definition is gone or no longer understood.
    #[error("the execution's definition can't be read")]
    Definition,
    /// Its journal says what can't be.
    #[error("the execution's journal can't be read: {0}")]
    Journal(String),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// It gave no answer.
    #[error("the execution did not answer within {0:?}")]
    Silent(Duration),
    /// etcd doesn't tell whether another node goes on with it.
    #[error("etcd doesn't tell whether another node goes on with the execution")]
    Away,
    /// It is at a node that doesn't answer.
    #[error("the execution is at the node '{node}', which can't be asked: {reason}")]
    Elsewhere {
        /// Its key.
        node: String,
        /// Why not.
        reason: String,
    },
    /// The node stops.
    #[error("the node is shutting down")]
    ShuttingDown,
}
