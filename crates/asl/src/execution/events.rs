//! The history, in AWS's names.

use super::thread::Thread;
use super::{Effect, Stepper};
use crate::failure::{self, Failure};
use crate::machine::{Kind, State};
use crate::template::Data;

/// One event of an execution's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// From 1, without gaps.
    pub id: u64,
    /// Type, such as `PassStateEntered`.
    pub kind: &'static str,
    /// The state concerned.
    pub state: Option<String>,
    /// When, in milliseconds since the epoch.
    pub time: i64,
    /// What else there is to say.
    pub detail: Detail,
}

/// What an event of the history is about, besides its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// Nothing else.
    None,
    /// What a state or the execution begins with.
    Input(Data),
    /// What it ends with.
    Output(Data),
    /// A task that is handed out.
    Task {
        /// `Resource` of the state.
        resource: String,
        /// The effective input.
        arguments: Data,
    },
    /// Why it failed.
    Failure {
        /// Name of the error.
        error: Option<String>,
        /// Explanation.
        cause: Option<String>,
    },
    /// The iteration of a Map.
    Index(usize),
}

impl Detail {
    pub(super) fn failure(failure: &Failure) -> Self {
        let error = match &failure.kind {
            failure::Kind::Named(name) => name.clone(),
            failure::Kind::Fault(_) => None,
        };
        Self::Failure {
            error,
            cause: failure.cause.clone(),
        }
    }
}

impl Stepper<'_> {
    /// Adds an event; gives its id.
    pub(super) fn record(&mut self, thread: &mut Thread, kind: &'static str) -> u64 {
        self.record_with(thread, kind, || Detail::None)
    }

    pub(super) fn record_with(
        &mut self,
        thread: &mut Thread,
        kind: &'static str,
        detail: impl FnOnce() -> Detail,
    ) -> u64 {
        thread.events += 1;
        if thread.is_silent() {
            self.x.events += 1;
            return thread.events;
        }
        self.note_with(Some(thread.state), kind, detail())
    }

    pub(super) fn note(&mut self, state: Option<usize>, kind: &'static str) -> u64 {
        self.note_with(state, kind, Detail::None)
    }

    pub(super) fn note_with(
        &mut self,
        state: Option<usize>,
        kind: &'static str,
        detail: Detail,
    ) -> u64 {
        self.x.events += 1;
        let state = state.map(|state| self.machine.states[state].name.clone());
        self.effects.push(Effect::Record(Record {
            id: self.x.events,
            kind,
            state,
            time: self.now,
            detail,
        }));
        self.x.events
    }
}

/// Names of a state's own events.
pub(super) fn entered(state: &State) -> &'static str {
    match state.kind {
        Kind::Pass { .. } => "PassStateEntered",
        Kind::Task(_) => "TaskStateEntered",
        Kind::Choice { .. } => "ChoiceStateEntered",
        Kind::Wait(_) => "WaitStateEntered",
        Kind::Succeed => "SucceedStateEntered",
        Kind::Fail { .. } => "FailStateEntered",
        Kind::Parallel { .. } => "ParallelStateEntered",
        Kind::Map(_) => "MapStateEntered",
    }
}

pub(super) fn exited(state: &State) -> &'static str {
    match state.kind {
        Kind::Pass { .. } => "PassStateExited",
        Kind::Task(_) => "TaskStateExited",
        Kind::Choice { .. } => "ChoiceStateExited",
        Kind::Wait(_) => "WaitStateExited",
        Kind::Succeed => "SucceedStateExited",
        Kind::Fail { .. } => "FailStateExited",
        Kind::Parallel { .. } => "ParallelStateExited",
        Kind::Map(_) => "MapStateExited",
    }
}

/// Events of a task, by what its resource is.
pub(super) struct TaskEvents {
    pub(super) scheduled: &'static str,
    pub(super) started: &'static str,
    /// Where the service only takes the job on.
    pub(super) submitted: Option<&'static str>,
    pub(super) succeeded: &'static str,
    pub(super) failed: &'static str,
    pub(super) timed_out: &'static str,
}

pub(super) fn of_task(resource: &str) -> TaskEvents {
    let parts: Vec<&str> = resource.splitn(7, ':').collect();
    match parts.as_slice() {
        ["arn", _, "lambda", ..] => TaskEvents {
            scheduled: "LambdaFunctionScheduled",
            started: "LambdaFunctionStarted",
            submitted: None,
            succeeded: "LambdaFunctionSucceeded",
            failed: "LambdaFunctionFailed",
            timed_out: "LambdaFunctionTimedOut",
        },
        ["arn", _, "states", _, _, "activity", ..] => TaskEvents {
            scheduled: "ActivityScheduled",
            started: "ActivityStarted",
            submitted: None,
            succeeded: "ActivitySucceeded",
            failed: "ActivityFailed",
            timed_out: "ActivityTimedOut",
        },
        _ => TaskEvents {
            scheduled: "TaskScheduled",
            started: "TaskStarted",
            submitted: is_submitted(resource).then_some("TaskSubmitted"),
            succeeded: "TaskSucceeded",
            failed: "TaskFailed",
            timed_out: "TaskTimedOut",
        },
    }
}

fn is_submitted(resource: &str) -> bool {
    resource.ends_with(".waitForTaskToken")
        || resource.ends_with(".sync")
        || resource.ends_with(".sync:2")
}
