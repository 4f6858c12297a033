//! Runs of workflows as the original's clients ask for them: one request, one reply, with a report of
//! every function.
//!
//! A run that somebody waits for is an express execution, unless its progress is to be saved or it
//! has tasks that wait for a callback. One that is polled for is a standard execution, named after
//! the request, so that it is the same one however often it is begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use serverledge_api::{TaskReport, WorkflowReply};
use serverledge_asl::Outcome;

use super::definition::{Kind, Workflow};
use super::error::{RunError, StartError};
use super::executions::{self, redrive};
use super::handover::{self, HandoverError};
use super::run::Finished;
use super::{StartOptions, Status, start, text_of};
use crate::detached::Detached;
use crate::federation::offload::Along;
use crate::node::Node;

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// It did not begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It can't be gone on with.
    #[error(transparent)]
    Resume(#[from] RunError),
    /// It could not go on here or on another node.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// There was no room for one of its functions.
    #[error("there was no room for a function: {0}")]
    NoRoom(String),
    /// It failed.
    #[error("failed wflow execution: {0}")]
    Failed(String),
    /// The node stops; a standard execution goes on after its next start.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// What an error of a function that found no room is called.
const NO_ROOM: &str = "Lambda.TooManyRequestsException";

/// Runs a workflow to its end.
pub(crate) async fn invoke(
    node: &Arc<Node>,
    workflow: &Workflow,
    params: Value,
    (can_offload, along): (bool, Along),
    arrival: Instant,
) -> Result<WorkflowReply, InvokeError> {
    let is_saved = node.config.workflow.always_save_progress || awaits_callbacks(workflow);
    let options = StartOptions {
        kind: Some(match is_saved {
            true => Kind::Standard,
            false => Kind::Express,
        }),
        reports: true,
        can_offload,
        along,
        ..StartOptions::default()
    };
    let started = start(node, &workflow.record.name, params, options).await?;
    let finished = started.wait().await.ok_or(InvokeError::ShuttingDown)?;
    reply(&finished, arrival.elapsed())
}

/// Runs a workflow that may go from node to node, from its beginning or from where it is.
pub(crate) async fn travel(
    node: &Arc<Node>,
    workflow: &Arc<Workflow>,
    request: handover::Request,
) -> Result<WorkflowReply, InvokeError> {
    let arrival = request.arrival;
    let (node, workflow) = (Arc::clone(node), Arc::clone(workflow));
    // It goes on if the client goes away: what is stored of it must come to an end.
    let executed = Detached::new(async move { handover::execute(&node, &workflow, request).await });
    let executed = executed.await?;
    Ok(WorkflowReply {
        success: true,
        result: executed.result.map(wrapped),
        reports: Some(executed.reports),
        response_time: arrival.elapsed().as_secs_f64(),
        scheduling_time: executed.scheduling.as_secs_f64(),
        error: None,
    })
}

/// Begins, or goes on with, the run of a workflow that the request `id` asked for, and waits for its
/// end.
pub(crate) async fn invoke_named(
    node: &Arc<Node>,
    workflow: &str,
    params: Value,
    id: &str,
    (can_offload, along): (bool, Along),
) -> Result<WorkflowReply, InvokeError> {
    let options = StartOptions {
        name: Some(execution_name(id)),
        kind: Some(Kind::Standard),
        reports: true,
        can_offload,
        along,
        call: Some(id.to_owned()),
        ..StartOptions::default()
    };
    let started = start(node, workflow, params, options).await?;
    let began = started.started;
    let stopping = node.stopping();
    let ended = stopping.run_until_cancelled(started.wait()).await;
    let finished = ended.flatten().ok_or(InvokeError::ShuttingDown)?;
    // Since its beginning, which may have been before a restart.
    let took = super::clock().saturating_sub(began);
    reply(
        &finished,
        Duration::from_millis(u64::try_from(took).unwrap_or(0)),
    )
}

/// Goes on with the run that the request `id` asked for, if it failed, and waits for its end.
pub async fn resume(
    node: &Arc<Node>,
    workflow: &str,
    id: &str,
) -> Result<WorkflowReply, InvokeError> {
    let arrival = Instant::now();
    let name = execution_name(id);
    let known = node.store.execution_named(workflow, &name);
    let known = known.map_err(RunError::from)?.ok_or(RunError::Unknown)?;
    let execution = text_of(known);
    let status = executions::describe(node, &execution)?.status;
    if matches!(status, Status::Failed | Status::TimedOut | Status::Aborted) {
        redrive(node, &execution).await?;
    }
    let waiting = node.workflows.live.wait(known);
    let finished = match waiting {
        Some(ended) => {
            let stopping = node.stopping();
            let ended = stopping.run_until_cancelled(ended).await;
            ended
                .and_then(Result::ok)
                .ok_or(InvokeError::ShuttingDown)?
        }
        // It has ended, maybe a moment ago.
        None => executions::ended(node, known)?.ok_or(RunError::Unknown)?,
    };
    reply(&finished, arrival.elapsed())
}

/// What the execution of a request is called: by its number, as the rest may have any characters.
fn execution_name(id: &str) -> String {
    let rest = id.trim_end_matches(|c: char| c.is_ascii_digit());
    format!("request-{}", &id[rest.len()..])
}

fn awaits_callbacks(workflow: &Workflow) -> bool {
    workflow.record.text.contains(".waitForTaskToken")
}

/// What a call is answered whose run went so.
pub(crate) fn answer(ran: Result<WorkflowReply, InvokeError>) -> Vec<u8> {
    let reply = ran.unwrap_or_else(|error| WorkflowReply {
        error: Some(crate::chain(&error)),
        ..WorkflowReply::default()
    });
    serverledge_api::encode(&reply)
}

/// The reply to a run that has ended.
pub(crate) fn reply(finished: &Finished, took: Duration) -> Result<WorkflowReply, InvokeError> {
    match &finished.outcome {
        Outcome::Succeeded(output) => Ok(WorkflowReply {
            success: true,
            result: Some(wrapped(Value::clone(output))),
            reports: Some(
                finished
                    .reports
                    .iter()
                    .map(|(state, reply)| {
                        (format!("Function_{state}"), TaskReport::from(reply.clone()))
                    })
                    .collect(),
            ),
            response_time: took.as_secs_f64(),
            scheduling_time: 0.0,
            error: None,
        }),
        Outcome::Failed { error, cause } => {
            let said: Vec<&str> = [error, cause]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            let said = said.join(": ");
            Err(match error.as_deref() {
                Some(NO_ROOM) => InvokeError::NoRoom(said),
                _ => InvokeError::Failed(said),
            })
        }
        Outcome::TimedOut => Err(InvokeError::Failed("States.Timeout".to_owned())),
        Outcome::Aborted { error, cause } => {
            let said = [error.as_deref(), cause.as_deref()];
            let said: Vec<&str> = said.into_iter().flatten().collect();
            Err(InvokeError::Failed(format!(
                "the execution was stopped{}{}",
                if said.is_empty() { "" } else { ": " },
                said.join(": ")
            )))
        }
    }
}

/// Results are objects in the original: anything else is put into one.
fn wrapped(output: Value) -> Value {
    match output {
        Value::Object(_) => output,
        other => json!({"Result": other}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_named_after_the_numbers_of_requests() {
        assert_eq!(execution_name("a b/ü-ode-a123"), "request-123");
        assert_eq!(execution_name("odd"), "request-");
    }

    #[test]
    fn replies_are_objects() {
        let finished = |outcome| Finished {
            outcome,
            reports: Vec::new(),
        };
        let ended = |outcome| reply(&finished(outcome), Duration::ZERO);
        let five = ended(Outcome::Succeeded(Arc::new(json!(5)))).unwrap();
        assert_eq!(five.result, Some(json!({"Result": 5})));
        let failed = |error: &str| {
            ended(Outcome::Failed {
                error: Some(error.to_owned()),
                cause: Some("why".to_owned()),
            })
        };
        assert!(matches!(failed(NO_ROOM), Err(InvokeError::NoRoom(_))));
        let error = failed("E").unwrap_err().to_string();
        assert_eq!(error, "failed wflow execution: E: why");
    }
}
