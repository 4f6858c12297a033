//! Workflows as resources, and their executions: `/v1/workflows`, `/v1/executions`, `/v1/tasks`.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::wire::in_field;
use crate::workflow::WorkflowQos;

wire! {
    /// A workflow to be registered.
    pub struct WorkflowSpec {
        /// Its definition: an object, or its text.
        "Definition" definition: Option<Box<RawValue>>,
        /// `standard` (also if empty) or `express`.
        "Type" kind: String,
        /// What becomes of tasks when their node dies: `Retry` (also if empty) or `Fail`.
        "OnCrash" on_crash: String,
    }
}

wire! {
    /// An execution to be started.
    pub struct StartRequest {
        /// Of which workflow.
        "Workflow" workflow: String,
        /// Its input; `{}` if there is none.
        "Input" input: Option<Value>,
        /// Its name: starting one again by the same name gives the same execution.
        "Name" name: String,
        /// `standard` or `express`; as the workflow declares if empty.
        "Type" kind: String,
        /// Whether its tasks may run on other nodes.
        "CanDoOffloading" can_do_offloading: bool,
        /// Wanted quality.
        "QoS" qos: WorkflowQos,
        /// How long to wait for its end, seconds.
        "Wait" wait: f64,
    }
}

wire! {
    /// Why an execution is stopped, or a task has failed.
    pub struct FailureReason {
        /// Name of the error.
        "Error" error: Option<String>,
        /// Explanation.
        "Cause" cause: Option<String>,
    }
}

wire! {
    /// An execution to be repeated.
    pub struct RetryRequest {
        /// Name of the new one.
        "Name" name: String,
    }
}

wire! {
    /// Result of a task that ends by callback.
    pub struct TaskSuccess {
        /// Any JSON.
        "Output" output: Value,
    }
}

wire! {
    /// An execution.
    pub struct ExecutionReply {
        /// Its id.
        "Id" id: String,
        /// Of which workflow.
        "Workflow" workflow: String,
        /// Its name: its id, if it was given none.
        "Name" name: String,
        /// `STANDARD` or `EXPRESS`.
        "Type" kind: String,
        /// `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT` or `ABORTED`.
        "Status" status: String,
        /// When it began, RFC 3339.
        "StartDate" started: String,
        /// When it ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        "StopDate" stopped: Option<String>,
        /// What it began with; not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Input" input: Option<Value>,
        /// What it ended with, if it succeeded; not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Output" output: Option<Value>,
        /// Name of the error it ended with; not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Error" error: Option<String>,
        /// Explanation of it; not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Cause" cause: Option<String>,
        /// How often it was redriven.
        "RedriveCount" redrives: u32,
        /// The execution that it repeats.
        #[serde(skip_serializing_if = "Option::is_none")]
        "RetryOf" retry_of: Option<String>,
        /// The node that runs it, or has ended it.
        #[serde(skip_serializing_if = "String::is_empty")]
        "Node" node: String,
        /// How often it was taken up by a node after another, or the same, had died.
        #[serde(skip_serializing_if = "is_none")]
        "Epoch" epoch: u64,
        /// Why it stands still, or doesn't go on elsewhere when its node dies; for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Note" note: Option<String>,
    }
}

/// Whether a count need not be told.
fn is_none(count: &u64) -> bool {
    *count == 0
}

wire! {
    /// A page of executions, the newest first.
    pub struct ExecutionList {
        /// They.
        "Executions" executions: Vec<ExecutionReply>,
        /// What to give as `after` for the next page; none if this is the last.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Next" next: Option<String>,
    }
}

wire! {
    /// One event of an execution's history.
    pub struct HistoryEvent {
        /// From 1, without gaps.
        "Id" id: u64,
        /// As AWS names it, such as `TaskStateEntered`.
        "Type" kind: String,
        /// When, RFC 3339.
        "Time" time: String,
        /// The state concerned.
        #[serde(skip_serializing_if = "Option::is_none")]
        "State" state: Option<String>,
        /// Input of the execution, of the state, or of the task.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Input" input: Option<Value>,
        /// Output of the same.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Output" output: Option<Value>,
        /// Resource of a task.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Resource" resource: Option<String>,
        /// Name of an error.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Error" error: Option<String>,
        /// Explanation of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Cause" cause: Option<String>,
        /// Number of a Map's iteration.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Index" index: Option<usize>,
    }
}

wire! {
    /// A page of a history.
    pub struct HistoryReply {
        /// In order.
        "Events" events: Vec<HistoryEvent>,
        /// What to give as `after` for the next page; none if there is no more yet.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Next" next: Option<u64>,
    }
}
