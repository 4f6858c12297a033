//! The original's JSON objects of workflows, and the client's calls for them.
//!
//! Names match without regard to case, as everywhere in the original, except the four outer keys of
//! a serialized workflow, which it reads in another way.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Client, ClientError, Response};
use crate::decode::encode;
use crate::wire::{InvokeReply, Params, in_field};

wire! {
    /// A workflow to register, in the Amazon States Language.
    pub struct CreateWorkflow {
        /// Unique name.
        "Name" name: String,
        /// Base64 of the definition.
        "ASLSrc" source: String,
        /// Whether a workflow of this name gives way.
        "OverwriteIfExists" overwrite: bool,
    }
}

/// A workflow in the original's own form: tasks by id, and which of them come first and last.
///
/// The keys have exactly this case. All four must be there for the original; here the last three may
/// be missing, which is enough to delete one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SerializedWorkflow {
    /// Unique name.
    pub name: String,
    /// The first task.
    pub start: Option<WorkflowTask>,
    /// All tasks, the first and the last among them.
    pub tasks: Option<BTreeMap<String, WorkflowTask>>,
    /// The last task.
    pub end: Option<WorkflowTask>,
}

wire! {
    /// A task of a [`SerializedWorkflow`]; which fields it has depends on its type.
    #[derive(PartialEq)]
    pub struct WorkflowTask {
        /// Unique in the workflow.
        "Id" id: String,
        /// `StartTask`, `EndTask`, `FunctionTask`, `ChoiceTask`, `SuccessTask`, `Fail` or `PassTask`.
        "Type" kind: String,
        /// The function of a `FunctionTask`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Func" function: Option<String>,
        /// Of a `ChoiceTask`: the first that holds selects.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Conditions" conditions: Option<Vec<Condition>>,
        /// Of a `ChoiceTask`: where each condition leads.
        #[serde(skip_serializing_if = "Option::is_none")]
        "AlternativeNextTasks" alternatives: Option<Vec<String>>,
        /// Of a `Fail`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Error" error: Option<String>,
        /// Of a `Fail`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Cause" cause: Option<String>,
        /// Of a `PassTask`; without effect.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Result" result: Option<String>,
        /// Of a `PassTask`; without effect.
        #[serde(skip_serializing_if = "Option::is_none")]
        "ResultPath" result_path: Option<String>,
        /// What follows, for all but `EndTask` and `ChoiceTask`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "NextTask" next: Option<String>,
    }
}

wire! {
    /// A condition of a `ChoiceTask`.
    #[derive(PartialEq)]
    pub struct Condition {
        /// `And`, `Or` and `Not` (of `Sub`), `Const`, `Eq`, `Diff`, `Greater`, `Smaller`, `IsEmpty`,
        /// `IsNull`, `IsPresent`, `IsNumeric`, `IsString`, `IsBoolean`, `IsTimestamp`,
        /// `StringMatches`.
        "Type" kind: String,
        /// For each operand whether it names a parameter; otherwise it is a value.
        "Find" find: Vec<bool>,
        /// Operands.
        "Op" operands: Vec<Value>,
        /// Conditions in this one.
        "Sub" inner: Option<Vec<Condition>>,
    }
}

wire! {
    /// What the caller of a workflow wants of its quality.
    #[derive(Copy, PartialEq)]
    pub struct WorkflowQos {
        /// Class.
        "Class" class: i64,
        /// Wanted response time, seconds; nothing is wanted if it isn't positive.
        "MaxRespT" max_response_time: f64,
    }
}

wire! {
    /// A run of a workflow.
    pub struct InvokeWorkflow {
        /// An object, as raw text; `None` = null.
        "Params" params: Option<Params>,
        /// Wanted quality.
        "QoS" qos: WorkflowQos,
        /// Whether other nodes may run parts of it.
        "CanDoOffloading" can_do_offloading: bool,
        /// Whether the caller polls for the result later.
        "Async" is_async: bool,
    }
}

wire! {
    /// A wish to go on with a run that another node has begun, or that was left behind.
    pub struct ResumeWorkflow {
        /// Which run.
        "ReqId" req_id: String,
        /// What it was started with.
        "Params" params: Option<Params>,
        /// Wanted quality, of what is left.
        "QoS" qos: WorkflowQos,
        /// Whether other nodes may run parts of it.
        "CanDoOffloading" can_do_offloading: bool,
        /// Whether the caller polls for the result later.
        "Async" is_async: bool,
        /// What to run; `None` = all.
        "Plan" plan: Option<Plan>,
    }
}

wire! {
    /// Which tasks a node is to run.
    #[derive(PartialEq, Eq)]
    pub struct Plan {
        /// Their ids; `None` = all.
        "ToExecute" to_execute: Option<Vec<String>>,
        /// For which epoch of the run it was made; not in the original.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Epoch" epoch: Option<u64>,
    }
}

wire! {
    /// How one function of a run went: an [`InvokeReply`] without its success.
    #[derive(PartialEq)]
    pub struct TaskReport {
        /// JSON text of what it returned.
        "Result" result: String,
        /// From arrival to reply, seconds.
        "ResponseTime" response_time: f64,
        /// Whether the sandbox had served before.
        "IsWarmStart" is_warm_start: bool,
        /// From arrival to the start of the function, seconds.
        "InitTime" init_time: f64,
        /// Part of it spent in a queue, seconds.
        "QueueingTime" queueing_time: f64,
        /// Cost of the way to another node, seconds.
        "OffloadLatency" offload_latency: f64,
        /// Run time, seconds.
        "Duration" duration: f64,
        /// What the function printed.
        "Output" output: String,
        /// Area of the node that ran it.
        "ExecutionArea" execution_area: String,
        /// Node that ran it.
        "ExecutionNode" execution_node: String,
    }
}

impl From<InvokeReply> for TaskReport {
    fn from(reply: InvokeReply) -> Self {
        Self {
            result: reply.result,
            response_time: reply.response_time,
            is_warm_start: reply.is_warm_start,
            init_time: reply.init_time,
            queueing_time: reply.queueing_time,
            offload_latency: reply.offload_latency,
            duration: reply.duration,
            output: reply.output,
            execution_area: reply.execution_area,
            execution_node: reply.execution_node,
        }
    }
}

wire! {
    /// Reply to a run, and result of an asynchronous one.
    #[derive(PartialEq)]
    pub struct WorkflowReply {
        /// Whether it came to its end.
        "Success" success: bool,
        /// An object; null for a failure, and where a plan ended before the workflow did.
        "Result" result: Option<Value>,
        /// Of its function tasks, under `Function_<task id>`; null for a failure.
        "Reports" reports: Option<BTreeMap<String, TaskReport>>,
        /// From arrival to reply, seconds.
        "ResponseTime" response_time: f64,
        /// Part of it spent on deciding where tasks run, seconds.
        "SchedulingTime" scheduling_time: f64,
        /// Why it failed; not in the original, and only in the result of an asynchronous run.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Error" error: Option<String>,
    }
}

impl Client {
    /// Registers a workflow.
    pub async fn create_workflow(
        &self,
        workflow: &CreateWorkflow,
    ) -> Result<Response, ClientError> {
        self.post("/workflow/create", encode(workflow)).await
    }

    /// Registers a workflow in the original's form.
    pub async fn import_workflow(
        &self,
        workflow: &SerializedWorkflow,
    ) -> Result<Response, ClientError> {
        self.post("/workflow/import", encode(workflow)).await
    }

    /// Removes a workflow. The original wants a whole one, of which it uses the name.
    pub async fn delete_workflow(&self, name: &str) -> Result<Response, ClientError> {
        let workflow = SerializedWorkflow {
            name: name.to_owned(),
            ..SerializedWorkflow::default()
        };
        self.post("/workflow/delete", encode(&workflow)).await
    }

    /// The names of all workflows.
    pub async fn list_workflows(&self) -> Result<Response, ClientError> {
        self.request("GET", "/workflow/list", Vec::new()).await
    }

    /// Runs a workflow.
    pub async fn invoke_workflow(
        &self,
        name: &str,
        request: &InvokeWorkflow,
    ) -> Result<Response, ClientError> {
        let path = format!("/workflow/invoke/{}", escape(name));
        self.post(&path, encode(request)).await
    }

    /// Goes on with a run of a workflow.
    pub async fn resume_workflow(
        &self,
        name: &str,
        request: &ResumeWorkflow,
    ) -> Result<Response, ClientError> {
        let path = format!("/workflow/resume/{}", escape(name));
        self.post(&path, encode(request)).await
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<Response, ClientError> {
        self.request("POST", path, body).await
    }
}

/// A name in a path: everything but letters, digits and what paths are made of is escaped.
pub fn escape(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::decode;

    /// As the original stored a workflow of two functions.
    const STORED: &str = r#"{"Name":"wf","Start":{"Id":"s","Type":"StartTask","NextTask":"A"},"Tasks":{"A":{"Id":"A","Type":"FunctionTask","Func":"inc","NextTask":"e"},"e":{"Id":"e","Type":"EndTask"},"s":{"Id":"s","Type":"StartTask","NextTask":"A"}},"End":{"Id":"e","Type":"EndTask"}}"#;

    fn text<T: Serialize>(value: &T) -> String {
        String::from_utf8(encode(value)).unwrap()
    }

    #[test]
    fn a_stored_workflow_comes_back_as_it_was() {
        let workflow: SerializedWorkflow = decode(STORED.as_bytes()).unwrap();
        assert_eq!(text(&workflow), STORED);
    }

    #[test]
    fn only_outer_keys_of_a_serialized_workflow_have_a_case() {
        let body =
            br#"{"name":"no","Name":"wf","Start":{"ID":"s","type":"StartTask"},"Tasks":null}"#;
        let workflow: SerializedWorkflow = decode(body).unwrap();
        assert_eq!(workflow.name, "wf");
        assert_eq!(workflow.start.unwrap().kind, "StartTask");
        assert!(workflow.tasks.is_none() && workflow.end.is_none());

        let request: InvokeWorkflow =
            decode(br#"{"params":{"n":1},"qos":{"CLASS":2,"maxrespt":0.5},"ASYNC":true}"#).unwrap();
        assert_eq!(request.params.unwrap().get(), r#"{"n":1}"#);
        assert_eq!((request.qos.class, request.qos.max_response_time), (2, 0.5));
        assert!(request.is_async && !request.can_do_offloading);
        assert!(decode::<InvokeWorkflow>(br#"{"Params":[1]}"#).is_err());
    }

    #[test]
    fn conditions_nest_but_not_without_end() {
        let condition: Condition = decode(
            br#"{"Type":"Not","Find":null,"Op":null,"Sub":[{"Type":"Eq","Find":[true,false],"Op":["n",1]}]}"#,
        )
        .unwrap();
        let inner = &condition.inner.unwrap()[0];
        assert_eq!(inner.find, [true, false]);
        assert_eq!(inner.operands, [json!("n"), json!(1)]);
        let deep = "{\"Sub\":[".repeat(10_000);
        assert!(decode::<Condition>(deep.as_bytes()).is_err());
    }

    #[test]
    fn requests_are_what_the_original_sends() {
        let request = ResumeWorkflow {
            req_id: "wf-1".into(),
            params: None,
            plan: Some(Plan {
                to_execute: Some(vec!["A".into()]),
                epoch: None,
            }),
            ..ResumeWorkflow::default()
        };
        assert_eq!(
            text(&request),
            r#"{"ReqId":"wf-1","Params":null,"QoS":{"Class":0,"MaxRespT":0},"CanDoOffloading":false,"Async":false,"Plan":{"ToExecute":["A"]}}"#
        );
        let failed = text(&WorkflowReply::default());
        assert_eq!(
            failed,
            r#"{"Success":false,"Result":null,"Reports":null,"ResponseTime":0,"SchedulingTime":0}"#
        );
        assert_eq!(escape("a b/ü"), "a%20b/%C3%BC");
    }
}
