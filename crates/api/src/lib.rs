//! What goes over the wire: the original's JSON objects, how they are decoded and encoded, and a
//! client for the node's API.
//!
//! Nothing here decides anything; domain types are in `serverledge-core`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod client;
mod decode;
mod means;
mod optimizer;
#[macro_use]
mod wire;
mod executions;
mod workflow;

pub use client::{Client, ClientError, Response};
pub use decode::{DEPTH_MAX, DecodeError, decode, encode, encode_line};
pub use executions::{
    ExecutionList, ExecutionReply, FailureReason, HistoryEvent, HistoryReply, RetryRequest,
    StartRequest, TaskSuccess, WorkflowSpec,
};
pub use means::{decode_means, encode_means};
pub use optimizer::{
    DecodeProblem, Optimizer, decode_placement, decode_problem, encode_placement, encode_problem,
};
pub use wire::{
    AsyncReply, Coordinates, Field, FunctionSpec, InvokeReply, InvokeRequest, Network, Params,
    PrewarmReply, PrewarmRequest, Problem, QosClass, Signature, StatusReply,
};
pub use workflow::{
    Condition, CreateWorkflow, InvokeWorkflow, Plan, ResumeWorkflow, SerializedWorkflow,
    TaskReport, WorkflowQos, WorkflowReply, WorkflowTask, escape,
};
