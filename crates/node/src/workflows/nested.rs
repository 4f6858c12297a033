//! Tasks that start executions.

use std::sync::Arc;

use serde_json::{Value, json};
use serverledge_asl::resource::{Resource, Waiting, workflow_name};
use serverledge_asl::{Invocation as Task, Outcome, timestamp};
use tokio::sync::oneshot;

use super::definition::Kind;
use super::error::StartError;
use super::run::{Finished, Message};
use super::summary::Status;
use super::task::{Done, TaskError};
use super::{Context, StartOptions, Started, clock, executions, start};
use crate::node::Node;

/// Starts the execution that a task asks for, and waits for it if that is asked for.
pub(crate) async fn run(
    node: &Arc<Node>,
    context: &Arc<Context>,
    task: &Task,
    waiting: Waiting,
) -> Done {
    let arn = task
        .arguments
        .get("StateMachineArn")
        .and_then(Value::as_str);
    let Some(arn) = arn else {
        let cause = "the arguments of startExecution have no StateMachineArn";
        return Done::failed(TaskError::runtime(cause));
    };
    let input = match task.arguments.get("Input") {
        Some(Value::String(text)) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
        }
        Some(other) => other.clone(),
        None => json!({}),
    };
    let name = task.arguments.get("Name").and_then(Value::as_str);
    // The same one if the task is run again.
    let name = name.map_or_else(|| child_name(context, task), str::to_owned);
    let options = StartOptions {
        name: Some(name),
        kind: Some(Kind::Standard),
        can_offload: context.can_offload,
        depth: context.depth + 1,
        along: context.along(),
        group: Some(context.group),
        ..StartOptions::default()
    };
    // As a box: executions start executions.
    let starting = start(node, workflow_name(arn), input.clone(), options);
    let starting: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(starting);
    let started: Started = match starting.await {
        Ok(started) => started,
        Err(StartError::ShuttingDown) => return Done::Left { was_sent: false },
        Err(error) => return Done::failed(not_started(&error)),
    };
    let (id, name, began) = (started.id.clone(), started.name.clone(), started.started);
    if matches!(waiting, Waiting::None | Waiting::Callback) {
        let output = json!({"ExecutionArn": id, "StartDate": timestamp(began)});
        return Done::Ended(Ok((output, None)));
    }
    let stopping = node.stopping();
    let ended = stopping.run_until_cancelled(started.wait()).await;
    let Some(ended) = ended else {
        return Done::Left { was_sent: false };
    };
    let Some(finished) = ended else {
        // As is the one that waits for it, usually, which then has no need of this.
        let cause = format!("another node goes on with the execution '{name}'");
        return Done::failed(TaskError::platform(cause));
    };
    let about = json!({
        "ExecutionArn": id,
        "Input": as_text(input, waiting),
        "Name": name,
        "StartDate": timestamp(began),
        "StateMachineArn": arn,
        "Status": Status::of(&finished.outcome).name(),
        "StopDate": timestamp(clock()),
    });
    result(about, &finished, waiting)
}

/// Stops the execution that a task has waited for, unless it is somebody else's as well. Nobody waits
/// for that.
pub(crate) fn stop(node: &Arc<Node>, context: &Context, task: &Task) {
    let waiting = match Resource::parse(&task.resource) {
        Resource::StartExecution(waiting) => waiting,
        _ => return,
    };
    let arn = task
        .arguments
        .get("StateMachineArn")
        .and_then(Value::as_str);
    let is_named = task.arguments.get("Name").is_some();
    let (Some(arn), false) = (arn, is_named) else {
        return;
    };
    if !matches!(waiting, Waiting::Text | Waiting::Json) {
        return;
    }
    let (name, workflow) = (child_name(context, task), workflow_name(arn).to_owned());
    let node = Arc::clone(node);
    tokio::spawn(async move {
        // It may be about to be started.
        let _guard = node.workflows.name_lock(&workflow, &name).await;
        let Ok(Some(id)) = node.store.execution_named(&workflow, &name) else {
            return;
        };
        let (answer, _) = oneshot::channel();
        let message = Message::Stop {
            error: None,
            cause: Some("the execution that started it has gone on without it".to_owned()),
            answer,
        };
        executions::send(&node, id, message);
    });
}

/// The name of a child that was given none.
pub(crate) fn child_name(context: &Context, task: &Task) -> String {
    format!("{}-{}", context.id, task.task)
}

fn not_started(error: &StartError) -> TaskError {
    let name = match error {
        StartError::UnknownWorkflow(_) => "StepFunctions.StateMachineDoesNotExistException",
        StartError::Conflict { .. } => "StepFunctions.ExecutionAlreadyExistsException",
        StartError::Name(_) => "StepFunctions.InvalidNameException",
        StartError::TooMany(_) => "StepFunctions.ExecutionLimitExceededException",
        StartError::Nesting(_) => "States.Runtime",
        StartError::Store(_)
        | StartError::Chance(_)
        | StartError::Existing(_)
        | StartError::ShuttingDown => "StepFunctions.AWSStepFunctionsException",
    };
    TaskError::new(name, crate::chain(error))
}

fn as_text(value: Value, waiting: Waiting) -> Value {
    match waiting {
        Waiting::Json => value,
        _ => value.to_string().into(),
    }
}

fn result(mut about: Value, finished: &Finished, waiting: Waiting) -> Done {
    let (error, cause) = match &finished.outcome {
        Outcome::Succeeded(output) => {
            about["Output"] = as_text(Value::clone(output), waiting);
            return Done::Ended(Ok((about, None)));
        }
        Outcome::Failed { error, cause } | Outcome::Aborted { error, cause } => (error, cause),
        Outcome::TimedOut => (&None, &None),
    };
    if let Some(error) = error {
        about["Error"] = error.as_str().into();
    }
    if let Some(cause) = cause {
        about["Cause"] = cause.as_str().into();
    }
    Done::failed(TaskError::new("States.TaskFailed", about.to_string()))
}
