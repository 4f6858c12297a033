//! `/workflow/…`: the original's interface to workflows. What it can't say is at `/v1/workflows` and
//! `/v1/executions`.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::{Value, json as object};
use serverledge_api::{
    AsyncReply, CreateWorkflow, InvokeWorkflow, Params, QosClass, ResumeWorkflow,
    SerializedWorkflow, WorkflowQos, decode,
};

use super::error::{ApiError, WorkflowError};
use super::invocations::NODE_NAME;
use super::{Body, Reply, allow, json, path};
use crate::detached::Detached;
use crate::federation::ShareError;
use crate::federation::offload::Along;
use crate::node::Node;
use crate::workflows::definition::{self, Record, Workflow};
use crate::workflows::error::RegisterError;
use crate::workflows::error::RunError::Unknown;
use crate::workflows::handover::{self, HandoverError};
use crate::workflows::invoke::InvokeError as RunError;
use crate::workflows::{invoke as runs, original, plain, signature};

/// A request below `/workflow/`; `None` if there is no such path.
pub(super) async fn route(
    node: &Arc<Node>,
    (method, headers): (&Method, &HeaderMap),
    path: &str,
    body: Body,
) -> Option<Result<Reply, ApiError>> {
    let arrival = Instant::now();
    let rest = path.strip_prefix("/workflow/")?;
    let wanted = match rest {
        "list" => Method::GET,
        _ => Method::POST,
    };
    let (action, name) = rest.split_once('/').unwrap_or((rest, ""));
    let answered = async {
        match (action, name) {
            ("create", "") => create(node, body).await,
            ("import", "") => import(node, body).await,
            ("delete", "") => delete(node, body).await,
            ("list", "") => Ok(list(node)),
            ("invoke", name) => invoke(node, name, headers, body, arrival).await,
            ("resume", name) => resume(node, name, headers, body, arrival).await,
            _ => Err(ApiError::NotFound),
        }
    };
    let is_known = match action {
        "create" | "import" | "delete" | "list" => name.is_empty(),
        "invoke" | "resume" => !name.is_empty(),
        _ => false,
    };
    if !is_known {
        return None;
    }
    match allow(method, wanted) {
        Ok(()) => Some(answered.await),
        Err(error) => Some(Err(error)),
    }
}

async fn create(node: &Arc<Node>, body: Body) -> Result<Reply, ApiError> {
    let request: CreateWorkflow = decode(&body.read().await?)?;
    let hint = "ASLSrc is the standard base64 of a definition in the Amazon States Language";
    let invalid = |what: String| ApiError::Invalid { what, hint };
    let text = STANDARD.decode(request.source.as_bytes());
    let text = text.map_err(|error| invalid(format!("field `ASLSrc`: not base64: {error}")))?;
    let text = String::from_utf8(text);
    let text = text.map_err(|error| invalid(format!("field `ASLSrc`: not UTF-8: {error}")))?;
    let record = Record {
        name: request.name,
        text,
        registered: crate::workflows::clock(),
        ..Record::default()
    };
    register(node, record, request.overwrite).await
}

async fn import(node: &Arc<Node>, body: Body) -> Result<Reply, ApiError> {
    let serialized = serialized(body).await?;
    let definition = original::definition(&serialized);
    let definition = definition.map_err(|error| ApiError::Invalid {
        what: error.to_string(),
        hint: "a workflow as `/workflow/<name>` has it in etcd",
    })?;
    for (_, function) in plain::plain_tasks(&definition) {
        let function = known(node, &function).await?;
        if signature::of(&function.record.signature).is_none() {
            return Err(WorkflowError::NoSignature(function.record.name.clone()).into());
        }
    }
    let record = Record {
        name: serialized.name.clone(),
        text: format!("{definition:#}"),
        original: serde_json::to_value(&serialized).ok(),
        registered: crate::workflows::clock(),
        ..Record::default()
    };
    register(node, record, false).await
}

async fn known(node: &Arc<Node>, name: &str) -> Result<Arc<crate::catalog::Function>, ApiError> {
    if node.catalog.function(name).is_none()
        && let Some(federation) = &node.federation
    {
        federation.fetch_function(node, name).await;
    }
    let function = node.catalog.function(name);
    function.ok_or_else(|| WorkflowError::NoFunction.into())
}

async fn register(node: &Arc<Node>, record: Record, overwrite: bool) -> Result<Reply, ApiError> {
    let created = record.name.clone();
    let node = Arc::clone(node);
    let registered =
        Detached::new(async move { definition::register(&node, record, overwrite).await });
    match registered.await {
        Ok(_) => Ok(json(&object!({"Created": created}))),
        Err(RegisterError::Exists(_) | RegisterError::Share(ShareError::Exists)) => {
            Err(WorkflowError::Exists.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A workflow in the original's form, of which the name suffices to delete one.
async fn serialized(body: Body) -> Result<SerializedWorkflow, ApiError> {
    Ok(decode(&body.read().await?)?)
}

async fn delete(node: &Arc<Node>, body: Body) -> Result<Reply, ApiError> {
    let SerializedWorkflow { name, .. } = serialized(body).await?;
    let (this, which) = (Arc::clone(node), name.clone());
    let deleted = Detached::new(async move { definition::delete(&this, &which).await });
    match deleted.await? {
        true => Ok(json(&object!({"Deleted": name}))),
        false => Err(WorkflowError::UnknownDeletion.into()),
    }
}

fn list(node: &Node) -> Reply {
    let names = node.workflows.catalog.names();
    json(&names.iter().map(|name| &**name).collect::<Vec<&str>>())
}

/// The workflow, which another node may have registered a moment ago.
async fn workflow(node: &Arc<Node>, raw_name: &str) -> Result<Arc<Workflow>, ApiError> {
    let find = || path::names(raw_name).find_map(|name| node.workflows.catalog.workflow(&name));
    if let Some(workflow) = find() {
        return Ok(workflow);
    }
    if let Some(federation) = &node.federation {
        for name in path::names(raw_name) {
            federation.fetch_workflow(node, &name).await;
        }
    }
    let name = path::names(raw_name).last().unwrap_or_default();
    find().ok_or_else(|| WorkflowError::Unknown(name.into_owned()).into())
}

async fn invoke(
    node: &Arc<Node>,
    raw_name: &str,
    headers: &HeaderMap,
    body: Body,
    arrival: Instant,
) -> Result<Reply, ApiError> {
    let workflow = workflow(node, raw_name).await?;
    let request: InvokeWorkflow = decode(&body.read().await?)?;
    let params = parameters(request.params.as_ref())?;
    let can_offload = request.can_do_offloading;
    let along = along(node, request.qos, headers, false)?;
    if request.is_async {
        let name = &workflow.record.name;
        let id = node.request_id(name);
        let calls = &node.async_calls;
        calls
            .accept_workflow(&id, name, &params, (can_offload, &along))
            .await?;
        return Ok(json(&AsyncReply { req_id: id }));
    }
    let ran = match handover::applies(node, &workflow, can_offload) {
        true => {
            let request = handover::Request {
                req_id: node.request_id(&workflow.record.name).replace('/', "_"),
                params,
                along,
                can_offload,
                arrival,
                resume: None,
            };
            runs::travel(node, &workflow, request).await
        }
        false => runs::invoke(node, &workflow, params, (can_offload, along), arrival).await,
    };
    Ok(json(&ran.map_err(WorkflowError::from)?))
}

/// What goes along with the calls of a run; one that another node has begun may be of a class that
/// isn't known here.
pub(super) fn along(
    node: &Node,
    wanted: WorkflowQos,
    headers: &HeaderMap,
    is_sent_on: bool,
) -> Result<Along, ApiError> {
    let class = QosClass::Number(wanted.class);
    let found = node.qos.along(&class, wanted.max_response_time, is_sent_on);
    let found = found.map_err(|unknown| ApiError::Invalid {
        what: unknown.to_string(),
        hint: "classes are configured: qos.class.<name>.*",
    })?;
    Ok(Along {
        trace: Along::trace_of(headers),
        ..found
    })
}

/// Goes on with a run: one whose progress is in etcd, or one that was accepted here and failed.
async fn resume(
    node: &Arc<Node>,
    raw_name: &str,
    headers: &HeaderMap,
    body: Body,
    arrival: Instant,
) -> Result<Reply, ApiError> {
    let workflow = workflow(node, raw_name).await?;
    let request: ResumeWorkflow = decode(&body.read().await?)?;
    let travelling = handover::Request {
        params: parameters(request.params.as_ref())?,
        along: along(node, request.qos, headers, true)?,
        can_offload: request.can_do_offloading,
        arrival,
        resume: Some(request.plan.unwrap_or_default()),
        req_id: request.req_id,
    };
    let id = travelling.req_id.clone();
    let resumed = match runs::travel(node, &workflow, travelling).await {
        Err(error) if is_kept_here(&error) => {
            let resumed = runs::resume(node, &workflow.record.name, &id).await;
            resumed.map_err(|own| match own {
                RunError::Resume(Unknown) if node.federation.is_some() => error,
                own => own,
            })
        }
        resumed => resumed,
    };
    // Who has handed it over sees that it was to a node that takes executions over before it begins.
    let mut reply = match resumed {
        Ok(resumed) => json(&resumed),
        Err(error) => WorkflowError::from(error).into_reply(),
    };
    let name = node.identity.header.clone();
    reply.headers_mut().insert(NODE_NAME, name);
    Ok(reply)
}

/// Whether there is nothing of a run in etcd, so that it may be in the journal.
fn is_kept_here(error: &RunError) -> bool {
    use HandoverError::{Id, NoFleet, NoForm, Unknown};
    matches!(
        error,
        RunError::Handover(NoFleet | NoForm | Id | Unknown(_))
    )
}

/// What a run is started with; nothing is an object with nothing in it.
fn parameters(params: Option<&Params>) -> Result<Value, ApiError> {
    let text = params.map_or("{}", Params::get);
    serde_json::from_str(text).map_err(|error| ApiError::Invalid {
        what: format!("field `Params`: {error}"),
        hint: "",
    })
}
