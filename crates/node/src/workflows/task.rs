//! One task: a function is called, an execution is started, and what comes of it becomes the task's
//! result.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use serverledge_api::{InvokeReply, Signature};
use serverledge_asl::resource::{Resource, function_name};
use serverledge_asl::{Invocation as Task, Purpose, TaskId};
use serverledge_sandbox::{CreateError, FunctionError};
use tracing::{debug, warn};

use super::definition::OnCrash;
use super::handover::functions::Function as Wanted;
use super::journal::{AppendError, Entry, Journal};
use super::signature::{self, Misfit};
use super::takeover::CopyError;
use super::{Context, files, nested};
use crate::async_calls::run_call;
use crate::catalog::Function;
use crate::invoke::{Fault, Invocation, InvokeError};
use crate::node::Node;

/// Error of a task whose node died.
pub(crate) const NODE_DIED: &str = "Serverledge.NodeDied";

/// What became of a task.
#[derive(Debug)]
pub(crate) enum Done {
    /// Its result, and the function's reply if it was one.
    Ended(Result<(Value, Option<Box<InvokeReply>>), TaskError>),
    /// It awaits its callback.
    Submitted,
    /// The node stops: it is run at the next start.
    Left {
        /// Whether the journal says that it was sent, and that isn't to count.
        was_sent: bool,
    },
}

impl Done {
    pub(crate) fn failed(error: TaskError) -> Self {
        Self::Ended(Err(error))
    }
}

/// Why a task failed, in the terms of workflows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskError {
    pub(crate) error: String,
    pub(crate) cause: String,
}

impl TaskError {
    pub(crate) fn new(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            cause: cause.into(),
        }
    }

    /// The node's fault: trying again may help.
    pub(crate) fn platform(cause: impl Into<String>) -> Self {
        Self::new("Lambda.ServiceException", cause)
    }

    /// Data don't fit a function's signature.
    fn misfit(misfit: &Misfit) -> Self {
        Self::new("Serverledge.SignatureMismatch", misfit.to_string())
    }

    /// The task asks for what can't be.
    pub(crate) fn runtime(cause: impl Into<String>) -> Self {
        Self::new("States.Runtime", cause)
    }

    /// An error of a call, named as AWS names it.
    fn of(error: &InvokeError) -> Self {
        let cause = crate::chain(error);
        let name = match error {
            InvokeError::Function(failure) => return Self::of_function(failure),
            InvokeError::StartFailed(start) => match &**start {
                CreateError::Load(failure) => return Self::of_function(failure),
                CreateError::Died(_) => "Runtime.ExitError",
                _ => "Lambda.ServiceException",
            },
            InvokeError::TimedOut(_) => "States.Timeout",
            InvokeError::Died(_) => "Runtime.ExitError",
            InvokeError::Protocol(_) => "Lambda.Unknown",
            InvokeError::Dropped(_) | InvokeError::Unplaced { .. } => {
                "Lambda.TooManyRequestsException"
            }
            InvokeError::Elsewhere { problem, .. } if problem.status == 504 => "States.Timeout",
            other => match other.fault() {
                Fault::Function => "States.TaskFailed",
                Fault::Platform => "Lambda.ServiceException",
            },
        };
        Self::new(name, cause)
    }

    /// The type of the exception, and what AWS says of one.
    fn of_function(failure: &FunctionError) -> Self {
        let name = match failure.kind.as_str() {
            "" => "States.TaskFailed",
            kind => kind,
        };
        let mut cause = json!({"errorMessage": failure.message, "errorType": failure.kind});
        if !failure.stack.is_empty() {
            cause["stackTrace"] = failure.stack.lines().collect();
        }
        Self::new(name, cause.to_string())
    }
}

/// A function whose signature says what it is called with and what goes on of its result.
struct Signed<'a> {
    signature: &'a Signature,
    params: &'a Value,
}

impl<'a> Signed<'a> {
    /// If the task's state leaves that to the signature, and its data are an object.
    fn of(task: &'a Task, function: &'a Function) -> Option<Self> {
        let params = task.plain.as_deref()?;
        let signature = signature::of(&function.record.signature)?;
        task.arguments
            .is_object()
            .then_some(Self { signature, params })
    }

    fn inputs(&self, data: &Value) -> Result<Value, Misfit> {
        signature::inputs(self.signature, data, self.params)
    }

    fn outputs(&self, result: &str) -> Result<Value, Misfit> {
        signature::outputs(self.signature, result)
    }
}

/// One attempt at a task.
pub(crate) struct Attempt {
    pub(crate) node: Arc<Node>,
    pub(crate) context: Arc<Context>,
    /// None in an express execution.
    pub(crate) journal: Option<Arc<Journal>>,
    /// Whether the journal is to say that the task has been sent, before it is.
    pub(crate) is_marked: bool,
    /// Whether it waits for room for as long as that takes.
    pub(crate) is_patient: bool,
}

impl Attempt {
    pub(crate) async fn run(self, task: Task) -> Done {
        if task.purpose != Purpose::Task {
            return files::run(&self.node, &self.context, &task).await;
        }
        let awaits_callback = task.token.is_some();
        if awaits_callback && self.journal.is_none() {
            let cause = "only a standard execution can wait for a callback";
            return Done::failed(TaskError::runtime(cause));
        }
        let done = match Resource::parse(&task.resource) {
            Resource::Function(name) => {
                let name = name.to_owned();
                self.call(&task, &name, Value::clone(&task.arguments), false)
                    .await
            }
            Resource::Invoke { .. } => self.invoke(&task).await,
            Resource::StartExecution(waiting) => {
                nested::run(&self.node, &self.context, &task, waiting).await
            }
            Resource::Unknown => {
                let cause = format!("'{}' is a service that isn't here", task.resource);
                Done::failed(TaskError::runtime(cause))
            }
        };
        match done {
            Done::Ended(Ok(_)) if awaits_callback => Done::Submitted,
            done => done,
        }
    }

    /// `lambda:invoke`.
    async fn invoke(&self, task: &Task) -> Done {
        let name = task.arguments.get("FunctionName").and_then(Value::as_str);
        let Some(name) = name else {
            let cause = "the arguments of lambda:invoke have no FunctionName";
            return Done::failed(TaskError::runtime(cause));
        };
        let payload = task.arguments.get("Payload").cloned();
        let payload = payload.unwrap_or_else(|| json!({}));
        self.call(task, function_name(name), payload, true).await
    }

    /// Calls a function: the one place where arguments become parameters and results outputs.
    async fn call(&self, task: &Task, name: &str, params: Value, is_wrapped: bool) -> Done {
        let Some(function) = self.function(name).await else {
            let cause = format!("there is no function '{name}' any more");
            return Done::failed(TaskError::new("Lambda.ResourceNotFoundException", cause));
        };
        let permits = &self.node.workflows.permits;
        // It is never closed.
        let _permit = permits.acquire().await;
        let mut was_sent = false;
        let signature = Signed::of(task, &function);
        let params = match signature.as_ref().map(|it| it.inputs(&params)) {
            Some(Err(misfit)) => return Done::failed(TaskError::misfit(&misfit)),
            Some(Ok(inputs)) => inputs,
            None => params,
        };
        if let Some(inputs) = &self.node.workflows.inputs {
            inputs
                .save((name, &task.state, &self.context.name), &params)
                .await;
        }
        if self.may_act().await.is_err() {
            return Done::Left { was_sent: false };
        }
        let invocation = Invocation {
            request_id: self.request_id(task.task),
            params: params.to_string().into_bytes().into(),
            return_output: self.context.reports,
            patient: self.is_patient,
            arrival: Instant::now(),
        };
        let mark = async {
            if self.is_marked
                && let Some(journal) = &self.journal
            {
                was_sent = self.mark(journal, task.task).await;
            }
            if self.may_act().await.is_err() {
                never().await;
            }
        };
        let reply = match self.run_somewhere(task, &function, invocation, mark).await {
            Ok(reply) => reply,
            Err(InvokeError::ShuttingDown) if self.journal.is_some() => {
                // What may run once, and was sent, is not to be run again.
                let was_sent = was_sent && self.context.on_crash == OnCrash::Retry;
                return Done::Left { was_sent };
            }
            Err(error) => return Done::failed(TaskError::of(&error)),
        };
        if let Some(signature) = signature {
            return match signature.outputs(&reply.result) {
                Ok(outputs) => Done::Ended(Ok((outputs, Some(Box::new(reply))))),
                Err(misfit) => Done::failed(TaskError::misfit(&misfit)),
            };
        }
        // What is no JSON is a text.
        let result = serde_json::from_str(&reply.result);
        let result = result.unwrap_or_else(|_| reply.result.as_str().into());
        let output = match is_wrapped {
            true => json!({"ExecutedVersion": "$LATEST", "Payload": result, "StatusCode": 200}),
            false => result,
        };
        Done::Ended(Ok((output, Some(Box::new(reply)))))
    }

    /// Runs a call where the policy for tasks wants it, or where the one for calls does. `mark` is
    /// awaited before it begins.
    async fn run_somewhere(
        &self,
        task: &Task,
        function: &Arc<Function>,
        invocation: Invocation,
        mark: impl Future<Output = ()>,
    ) -> Result<InvokeReply, InvokeError> {
        let along = self.context.along();
        let places = &self.node.workflows.places;
        let name = &function.record.name;
        let placed = match &self.context.placing {
            Some(placing) => {
                let wanted = Wanted {
                    workflow: &self.context.workflow,
                    state: &task.state,
                    input_bytes: invocation.params.len(),
                    deadline: along.response_time_max,
                };
                let placed = placing.place(&self.node, &wanted).await;
                placed.map(|(key, member)| (placing, key, member))
            }
            None => None,
        };
        let fleet = self.node.federation.as_ref();
        let mut mark = Some(mark);
        if let (Some((placing, key, member)), Some(fleet)) = (placed, fleet) {
            if let Some(mark) = mark.take() {
                mark.await;
            }
            match fleet
                .send_to(&self.node, &member, function, &invocation, &along)
                .await?
            {
                Ok(reply) => {
                    placing.ran(&task.state);
                    places.ran(&self.node, name, &reply);
                    return Ok(reply);
                }
                Err(reason) => {
                    debug!(function = name, node = key, %reason, "not begun there: it runs here");
                    placing.shun(&key);
                }
            }
        }
        let mark = async {
            if let Some(mark) = mark {
                mark.await;
            }
        };
        let sending = (self.context.can_offload, along);
        let reply = run_call(&self.node, function, invocation, mark, sending).await?;
        if let Some(placing) = &self.context.placing {
            placing.ran(&task.state);
        }
        if places.is_on() {
            places.ran(&self.node, name, &reply);
        }
        Ok(reply)
    }

    async fn function(&self, name: &str) -> Option<Arc<Function>> {
        if let Some(function) = self.node.catalog.function(name) {
            return Some(function);
        }
        if let Some(federation) = &self.node.federation {
            federation.fetch_function(&self.node, name).await;
        }
        self.node.catalog.function(name)
    }

    /// The same each time the task is run, so that a function can tell.
    fn request_id(&self, task: TaskId) -> String {
        format!("{}-{task}", self.context.id)
    }

    /// Waits until this node may call functions for the execution, and is sure that it is its own.
    async fn may_act(&self) -> Result<(), CopyError> {
        match self.journal.as_ref().and_then(|journal| journal.copy()) {
            Some(copy) => copy.may_act().await,
            None => Ok(()),
        }
    }

    /// Has the journal say that the task is sent. If it can't, the task is sent all the same, unless
    /// it is other nodes that can't be told: they would send it again.
    async fn mark(&self, journal: &Journal, task: TaskId) -> bool {
        let sent = [Entry::Sent(task)];
        let written = journal.append(&mut None, &sent, None).await;
        match &written {
            Ok(()) => {}
            Err(AppendError::Copy(_)) => never().await,
            Err(error) => warn!(
                execution = self.context.id,
                error = %crate::chain(error),
                "the journal doesn't say that a task was sent"
            ),
        }
        written.is_ok()
    }
}

/// Of an execution that is lost, or at the node's end: who drives it ends its tasks.
async fn never() {
    std::future::pending::<()>().await;
}
