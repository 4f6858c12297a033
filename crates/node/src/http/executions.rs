//! `/v1/workflows`, `/v1/executions`, `/v1/tasks`: workflows and their executions as resources.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json as object};
use serverledge_api::{
    ExecutionList, ExecutionReply, FailureReason, HistoryEvent, HistoryReply, RetryRequest,
    StartRequest, TaskSuccess, WorkflowSpec, decode,
};
use serverledge_asl::{Detail, Outcome, Record, timestamp};

use super::error::ApiError;
use super::workflows::along;
use super::{Body, JSON, Reply, allow, json, reply};
use crate::detached::Detached;
use crate::node::Node;
use crate::workflows::definition::{self, Kind, OnCrash, Options, Workflow};
use crate::workflows::executions::{self as runs, Callback, Description, Filter};
use crate::workflows::{StartOptions, Started, Status, history, start};

/// The longest wait for an execution's end in one request.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Executions or events on a page, if nobody says.
const PAGE: usize = 100;

/// A request below `/v1/workflows`, `/v1/executions` or `/v1/tasks`; `None` if there is no such
/// path.
pub(super) async fn route(
    node: &Arc<Node>,
    (method, headers): (&Method, &HeaderMap),
    path: &str,
    query: &str,
    body: Body,
) -> Option<Result<Reply, ApiError>> {
    let rest = path.strip_prefix("/v1/")?;
    let (resource, rest) = rest.split_once('/').unwrap_or((rest, ""));
    match resource {
        "workflows" => Some(workflows(node, method, rest, body).await),
        "executions" => {
            let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
            Some(executions(node, (method, headers), (id, action), query, body).await)
        }
        "tasks" => {
            let (token, action) = rest.split_once('/')?;
            Some(tasks(node, method, (token, action), body).await)
        }
        _ => None,
    }
}

async fn workflows(
    node: &Arc<Node>,
    method: &Method,
    name: &str,
    body: Body,
) -> Result<Reply, ApiError> {
    let name = percent_decode_str(name).decode_utf8_lossy().into_owned();
    if name.is_empty() {
        allow(method, Method::GET)?;
        return Ok(json(
            &node
                .workflows
                .catalog
                .names()
                .iter()
                .map(|it| &**it)
                .collect::<Vec<&str>>(),
        ));
    }
    match *method {
        Method::PUT => {
            let spec: WorkflowSpec = decode(&body.read().await?)?;
            let record = record(name, spec)?;
            let node = Arc::clone(node);
            let registered =
                Detached::new(async move { definition::register(&node, record, true).await });
            Ok(json(&shown(&*registered.await?)))
        }
        Method::GET => {
            let workflow = node.workflows.catalog.workflow(&name);
            let workflow = workflow.ok_or(ApiError::UnknownWorkflow(name))?;
            Ok(json(&shown(&workflow)))
        }
        Method::DELETE => {
            let (this, which) = (Arc::clone(node), name.clone());
            let deleted = Detached::new(async move { definition::delete(&this, &which).await });
            match deleted.await? {
                true => Ok(json(&object!({"Deleted": name}))),
                false => Err(ApiError::UnknownWorkflow(name)),
            }
        }
        _ => Err(ApiError::MethodNotAllowed),
    }
}

fn record(name: String, spec: WorkflowSpec) -> Result<definition::Record, ApiError> {
    let invalid = |what: String, hint| ApiError::Invalid { what, hint };
    let kind = match spec.kind.as_str() {
        "" => Kind::default(),
        other => Kind::parse(other).ok_or_else(|| unknown_kind(other))?,
    };
    let on_crash = match spec.on_crash.as_str() {
        "" => OnCrash::default(),
        other => OnCrash::parse(other).ok_or_else(|| {
            let what = format!("field `OnCrash`: {other:.40} is neither Retry nor Fail");
            invalid(
                what,
                "Retry runs a task again whose node died, Fail fails it",
            )
        })?,
    };
    let Some(definition) = spec.definition else {
        let hint = "a state machine, as an object or as a text";
        return Err(invalid("field `Definition`: it is missing".into(), hint));
    };
    // As it was written, so that lines and columns are those of who wrote it.
    let text: String =
        serde_json::from_str(definition.get()).unwrap_or_else(|_| definition.get().to_owned());
    Ok(definition::Record {
        name,
        text,
        options: Options { kind, on_crash },
        registered: crate::workflows::clock(),
        ..definition::Record::default()
    })
}

fn unknown_kind(kind: &str) -> ApiError {
    ApiError::Invalid {
        what: format!("field `Type`: {kind:.40} is neither standard nor express"),
        hint: "standard executions survive the node, express ones are faster",
    }
}

fn shown(workflow: &Workflow) -> Value {
    let record = &workflow.record;
    // What was given is shown as JSON, which it is.
    let definition: Value = serde_json::from_str(&record.text).unwrap_or_default();
    object!({
        "Name": record.name,
        "Type": record.options.kind.name(),
        "OnCrash": record.options.on_crash.name(),
        "Revision": record.revision,
        "UpdateDate": timestamp(record.registered),
        "Digest": workflow.digest,
        "Definition": definition,
    })
}

async fn executions(
    node: &Arc<Node>,
    (method, headers): (&Method, &HeaderMap),
    (id, action): (&str, &str),
    query: &str,
    body: Body,
) -> Result<Reply, ApiError> {
    match (id, action) {
        ("", _) if *method == Method::POST => begin(node, headers, body).await,
        ("", _) => {
            allow(method, Method::GET)?;
            list(node, query)
        }
        (id, "") => {
            allow(method, Method::GET)?;
            let time = duration(number(query, "wait")?.unwrap_or(0.0));
            Ok(json(&described(runs::wait(node, id, time).await?)))
        }
        (id, "history") => {
            allow(method, Method::GET)?;
            events(node, id, query).await
        }
        (id, "stop") => {
            allow(method, Method::POST)?;
            let FailureReason { error, cause } = decode(&body.read().await?)?;
            Ok(json(&described(runs::stop(node, id, error, cause).await?)))
        }
        (id, "redrive") => {
            allow(method, Method::POST)?;
            let (node, id) = (Arc::clone(node), id.to_owned());
            let redriven = Detached::new(async move { runs::redrive(&node, &id).await });
            Ok(json(&described(redriven.await?)))
        }
        (id, "retry") => {
            allow(method, Method::POST)?;
            let RetryRequest { name } = decode(&body.read().await?)?;
            let name = (!name.is_empty()).then_some(name);
            let started = runs::retry(node, id, name).await?;
            Ok(json(&described(runs::describe(node, &started.id)?)))
        }
        _ => Err(ApiError::NotFound),
    }
}

async fn begin(node: &Arc<Node>, headers: &HeaderMap, body: Body) -> Result<Reply, ApiError> {
    let request: StartRequest = decode(&body.read().await?)?;
    let kind = match request.kind.as_str() {
        "" => None,
        other => Some(Kind::parse(other).ok_or_else(|| unknown_kind(other))?),
    };
    let input = request.input.unwrap_or_else(|| object!({}));
    let options = StartOptions {
        name: (!request.name.is_empty()).then_some(request.name),
        kind,
        can_offload: request.can_do_offloading,
        along: along(node, request.qos, headers, false)?,
        ..StartOptions::default()
    };
    let started = start(node, &request.workflow, input, options).await?;
    if started.kind == Kind::Express {
        return Ok(json(&ended(request.workflow, started).await));
    }
    let id = started.id.clone();
    let time = duration(request.wait);
    Ok(json(&described(runs::wait(node, &id, time).await?)))
}

/// An express execution, of which nothing is kept.
async fn ended(workflow: String, started: Started) -> ExecutionReply {
    let (id, name, began) = (started.id.clone(), started.name.clone(), started.started);
    let finished = started.wait().await;
    let mut reply = ExecutionReply {
        id,
        workflow,
        name,
        kind: Kind::Express.name().to_owned(),
        started: timestamp(began),
        stopped: Some(timestamp(crate::workflows::clock())),
        ..ExecutionReply::default()
    };
    if let Some(finished) = finished {
        let status = Status::of(&finished.outcome);
        status.name().clone_into(&mut reply.status);
        add_outcome(&mut reply, &finished.outcome);
    }
    reply
}

fn described(description: Description) -> ExecutionReply {
    let mut reply = ExecutionReply {
        id: description.id,
        workflow: description.workflow,
        name: description.name,
        kind: Kind::Standard.name().to_owned(),
        status: description.status.name().to_owned(),
        started: timestamp(description.started),
        stopped: description.stopped.map(timestamp),
        input: description.input,
        redrives: description.redrives,
        retry_of: description.retry_of,
        node: description.node,
        epoch: description.epoch,
        note: description.note,
        ..ExecutionReply::default()
    };
    if let Some(outcome) = &description.outcome {
        add_outcome(&mut reply, outcome);
    }
    reply
}

fn add_outcome(reply: &mut ExecutionReply, outcome: &Outcome) {
    match outcome {
        Outcome::Succeeded(output) => reply.output = Some(Value::clone(output)),
        Outcome::Failed { error, cause } | Outcome::Aborted { error, cause } => {
            reply.error.clone_from(error);
            reply.cause.clone_from(cause);
        }
        Outcome::TimedOut => reply.error = Some("States.Timeout".to_owned()),
    }
}

fn list(node: &Node, query: &str) -> Result<Reply, ApiError> {
    let status = parameter(query, "status").filter(|status| !status.is_empty());
    let status = match status {
        None => None,
        Some(text) => Some(Status::parse(&text).ok_or_else(|| ApiError::Invalid {
            what: format!("parameter `status`: {text:.40} is no status"),
            hint: "RUNNING, SUCCEEDED, FAILED, TIMED_OUT or ABORTED",
        })?),
    };
    let filter = Filter {
        workflow: parameter(query, "workflow").filter(|workflow| !workflow.is_empty()),
        status,
        after: parameter(query, "after").filter(|after| !after.is_empty()),
        limit: number(query, "limit")?.map_or(PAGE, |limit| limit as usize),
    };
    let (found, next) = runs::list(node, filter)?;
    Ok(json(&ExecutionList {
        executions: found.into_iter().map(described).collect(),
        next,
    }))
}

async fn events(node: &Arc<Node>, id: &str, query: &str) -> Result<Reply, ApiError> {
    let after = number(query, "after")?.map_or(0, |after| after as u64);
    let limit = number(query, "limit")?.map_or(PAGE, |limit| limit as usize);
    let (records, more) = history::page(node, id, after, limit).await?;
    let next = records.last().filter(|_| more).map(|record| record.id);
    let events = records.into_iter().map(event).collect();
    Ok(json(&HistoryReply { events, next }))
}

fn event(record: Record) -> HistoryEvent {
    let mut event = HistoryEvent {
        id: record.id,
        kind: record.kind.to_owned(),
        time: timestamp(record.time),
        state: record.state,
        ..HistoryEvent::default()
    };
    match record.detail {
        Detail::None => {}
        Detail::Input(input) => event.input = Some(Value::clone(&input)),
        Detail::Output(output) => event.output = Some(Value::clone(&output)),
        Detail::Task {
            resource,
            arguments,
        } => {
            event.resource = Some(resource);
            event.input = Some(Value::clone(&arguments));
        }
        Detail::Failure { error, cause } => {
            event.error = error;
            event.cause = cause;
        }
        Detail::Index(index) => event.index = Some(index),
    }
    event
}

async fn tasks(
    node: &Arc<Node>,
    method: &Method,
    (token, action): (&str, &str),
    body: Body,
) -> Result<Reply, ApiError> {
    if !matches!(action, "success" | "failure" | "heartbeat") {
        return Err(ApiError::NotFound);
    }
    allow(method, Method::POST)?;
    let body = body.read().await?;
    let what = match action {
        "success" => Callback::Succeeded(decode::<TaskSuccess>(&body)?.output),
        "failure" => {
            let FailureReason { error, cause } = decode(&body)?;
            Callback::Failed { error, cause }
        }
        _ => Callback::Alive,
    };
    let token = percent_decode_str(token).decode_utf8_lossy();
    runs::callback(node, &token, what).await?;
    Ok(reply(StatusCode::OK, JSON, "{}\n"))
}

fn duration(seconds: f64) -> Duration {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    time.min(WAIT_MAX)
}

/// A parameter of the query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| *key == name);
    let (_, value) = values.next()?;
    let value = value.replace('+', " ");
    Some(percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

/// A parameter that is a number, not negative.
fn number(query: &str, name: &'static str) -> Result<Option<f64>, ApiError> {
    let Some(text) = parameter(query, name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let number = text.parse::<f64>().ok();
    let number = number.filter(|it| it.is_finite() && *it >= 0.0);
    number.map(Some).ok_or_else(|| ApiError::Invalid {
        what: format!("parameter `{name}`: {text:.40} is not a number"),
        hint: "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = "workflow=a%2Fb+c&limit=20&wait=";
        assert_eq!(parameter(query, "workflow").as_deref(), Some("a/b c"));
        assert_eq!(number(query, "limit").ok().flatten(), Some(20.0));
        assert_eq!(number(query, "wait").ok().flatten(), None);
        for wrong in ["limit=-1", "limit=x", "limit=inf", "limit=NaN"] {
            assert!(number(wrong, "limit").is_err(), "{wrong}");
        }
    }

    #[test]
    fn waits_are_bounded() {
        assert_eq!(duration(f64::MAX), Duration::ZERO);
        assert_eq!(duration(1e6), WAIT_MAX);
        assert_eq!(duration(-1.0), Duration::ZERO);
    }
}
