//! What each command sends and prints.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::CommandFactory as _;
use serde::Serialize;
use serde_json::{Map, Value};
use serverledge_api::{
    Client, ClientError, Field, FunctionSpec, Network, PrewarmRequest, Problem, Response, Signature,
};

use crate::arguments::{Arguments, Command, Create, CreateWorkflow, Invoke, InvokeWorkflow};
use crate::indent::indent;
use crate::{Failure, params, source, target};

/// Types that a signature may name.
const TYPES: [&str; 11] = [
    "Int",
    "Float",
    "Text",
    "Bool",
    "ArrayInt",
    "ArrayFloat",
    "ArrayBool",
    "ArrayText",
    "ArrayArrayInt",
    "ArrayArrayFloat",
    "Void",
];

#[derive(Serialize)]
struct InvokeBody {
    #[serde(rename = "Params")]
    params: Map<String, Value>,
    #[serde(rename = "QoSClass")]
    class: i64,
    #[serde(rename = "QoSMaxRespT")]
    max_response_time: f64,
    #[serde(rename = "CanDoOffloading")]
    can_do_offloading: bool,
    #[serde(rename = "Async")]
    is_async: bool,
    #[serde(rename = "ReturnOutput")]
    return_output: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WorkflowQos {
    class: i64,
    max_resp_t: f64,
}

#[derive(Serialize)]
struct InvokeWorkflowBody {
    #[serde(rename = "Params")]
    params: Map<String, Value>,
    #[serde(rename = "QoS")]
    qos: WorkflowQos,
    #[serde(rename = "CanDoOffloading")]
    can_do_offloading: bool,
    #[serde(rename = "Async")]
    is_async: bool,
}

#[derive(Serialize)]
struct CreateWorkflowBody<'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "ASLSrc")]
    source: String,
    #[serde(rename = "OverwriteIfExists")]
    overwrite: bool,
}

/// The original sends a whole workflow, of which only the name is set.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteWorkflowBody<'a> {
    name: &'a str,
    start: (),
    tasks: (),
    end: (),
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Command::Completion { shell } = arguments.command {
        let mut command = Arguments::command();
        // Through memory: the generator panics when its reader leaves.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "serverledge-cli", &mut script);
        return print(&String::from_utf8_lossy(&script));
    }
    let node = Node::of(&arguments)?;
    match &arguments.command {
        Command::Create(create) => create_function(&node, create),
        Command::Invoke(invoke) => invoke_function(&node, invoke),
        Command::Prewarm(prewarm) => {
            let request = PrewarmRequest {
                function: prewarm.function.clone(),
                instances: prewarm.count,
                force_image_pull: prewarm.force_pull,
            };
            node.post("Prewarming request failed", "/prewarm", &request)
        }
        Command::Delete(named) => {
            let spec = FunctionSpec {
                name: named.function.clone(),
                ..FunctionSpec::default()
            };
            node.post("Deletion request failed", "/delete", &spec)
        }
        Command::List => node.get("List request failed", "/function", ""),
        Command::Status => node.get("Status request failed", "/status", ""),
        Command::Poll(poll) => node.get(
            "Polling request failed",
            &format!("/poll/{}", path(&poll.request)),
            "\n",
        ),
        Command::CreateWorkflow(create) => create_workflow(&node, create),
        Command::DeleteWorkflow(named) => {
            let body = DeleteWorkflowBody {
                name: &named.workflow,
                start: (),
                tasks: (),
                end: (),
            };
            node.post("Deletion request failed", "/workflow/delete", &body)
        }
        Command::ListWorkflows => node.get("List request failed", "/workflow/list", ""),
        Command::InvokeWorkflow(invoke) => invoke_workflow(&node, invoke),
        Command::Completion { .. } => Ok(()),
    }
}

fn create_function(node: &Node, create: &Create) -> Result<(), Failure> {
    let suggestion = create.src.as_deref().and_then(source::suggestion);
    let runtime = create
        .runtime
        .clone()
        .or(suggestion.as_ref().map(|(name, _)| (*name).to_owned()));
    let Some(runtime) = runtime else {
        return Err(Failure::arguments(
            "A runtime is required: --runtime python314 or --runtime nodejs17ng, for instance",
        ));
    };
    let custom = runtime == "custom";
    let suggested = suggestion.map(|(_, handler)| handler).filter(|_| !custom);
    let signature = Signature {
        inputs: fields(&create.input)?,
        outputs: fields(&create.output)?,
    };
    // An image has its own code.
    let has_image = custom && create.custom_image.is_some();
    let code = match &create.src {
        _ if has_image => String::new(),
        Some(src) => source::encode(src)?,
        None if custom => {
            return Err(Failure::arguments(
                "A custom function needs --src FILE or, with Docker, --custom_image",
            ));
        }
        None => return Err(Failure::arguments("The code is required: --src FILE")),
    };
    if !signature.inputs.is_empty() || !signature.outputs.is_empty() {
        let list = |fields: &[Field]| {
            let names = fields
                .iter()
                .map(|field| format!("{}:{}", field.name, field.kind));
            names.collect::<Vec<_>>().join(" ")
        };
        let (inputs, outputs) = (list(&signature.inputs), list(&signature.outputs));
        print(&format!(
            "Parsed signature: Inputs: [{inputs}] Outputs: [{outputs}]\n"
        ))?;
    }
    if let Some(url) = create
        .src
        .as_deref()
        .filter(|src| !has_image && source::is_url(src))
    {
        print(&format!("{url}\n"))?;
    }
    let spec = FunctionSpec {
        name: create.function.clone(),
        runtime,
        memory_mb: create.memory,
        cpu_demand: create.cpu,
        max_concurrency: create.max_concurrency,
        handler: create.handler.clone().or(suggested).unwrap_or_default(),
        code,
        custom_image: create.custom_image.clone().unwrap_or_default(),
        supported_archs: None,
        signature: Some(signature),
        timeout_seconds: create.timeout,
        preload: create.preload.clone(),
        network: create.network.as_deref().map(network),
    };
    let path = if create.update { "/update" } else { "/create" };
    node.post("Creation request failed", path, &spec)
}

/// One word, or rules with commas between them. What they mean is the node's to say.
fn network(argument: &str) -> Network {
    let words: Vec<String> = argument
        .split(',')
        .map(|word| word.trim().to_owned())
        .collect();
    match <[String; 1]>::try_from(words) {
        Ok([word]) if word == "none" || word == "egress" => Network::Word(word),
        Ok([rule]) => Network::Rules(vec![rule]),
        Err(rules) => Network::Rules(rules),
    }
}

fn fields(arguments: &[String]) -> Result<Vec<Field>, Failure> {
    let mut fields = Vec::new();
    for argument in arguments {
        for (name, kind) in params::named(argument).map_err(|f| Failure::signature(f.message))? {
            if !TYPES.contains(&kind.as_str()) {
                return Err(Failure::signature(format!(
                    "'{name}:{kind}': '{kind}' is not a type; there are {}",
                    TYPES.join(", ")
                )));
            }
            fields.push(Field { name, kind });
        }
    }
    Ok(fields)
}

fn invoke_function(node: &Node, invoke: &Invoke) -> Result<(), Failure> {
    let body = InvokeBody {
        params: params::read(&invoke.params)?,
        class: invoke.class,
        max_response_time: invoke.resptime,
        can_do_offloading: true,
        is_async: invoke.is_async,
        return_output: invoke.return_output,
    };
    node.post(
        "Invocation failed",
        &format!("/invoke/{}", path(&invoke.function)),
        &body,
    )
}

fn create_workflow(node: &Node, create: &CreateWorkflow) -> Result<(), Failure> {
    let file = &create.src;
    let source = std::fs::read(file).map_err(|error| {
        Failure::source(format!("Could not read '{}': {error}", file.display()))
    })?;
    let source = STANDARD.encode(source);
    let body = CreateWorkflowBody {
        name: &create.workflow,
        source,
        overwrite: create.update,
    };
    node.post("Creation request failed", "/workflow/create", &body)
}

fn invoke_workflow(node: &Node, invoke: &InvokeWorkflow) -> Result<(), Failure> {
    let body = InvokeWorkflowBody {
        params: params::read(&invoke.params)?,
        qos: WorkflowQos {
            class: invoke.class,
            max_resp_t: invoke.resptime,
        },
        can_do_offloading: true,
        is_async: invoke.is_async,
    };
    node.post(
        "Invocation failed",
        &format!("/workflow/invoke/{}", path(&invoke.workflow)),
        &body,
    )
}

/// A name in a path: everything but letters, digits and what paths are made of is escaped.
fn path(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    // A reader that has seen enough is no failure.
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::node(format!("writing the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The node, for a program that does one thing at a time.
struct Node {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn of(arguments: &Arguments) -> Result<Self, Failure> {
        let client = target::client(arguments)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Failure::node(format!("starting: {error}")))?;
        Ok(Self { client, runtime })
    }

    fn post<T: Serialize>(&self, what: &str, path: &str, body: &T) -> Result<(), Failure> {
        let response = self.request(what, "POST", path, serverledge_api::encode(body))?;
        self.show(what, &response, "")
    }

    fn get(&self, what: &str, path: &str, end: &str) -> Result<(), Failure> {
        let response = self.request(what, "GET", path, Vec::new())?;
        self.show(what, &response, end)
    }

    fn request(
        &self,
        what: &str,
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response, Failure> {
        self.runtime
            .block_on(self.client.request(method, path, body))
            .map_err(|error| {
                let hint = match &error {
                    ClientError::Connect { .. } => {
                        "\nhint: is a node running there? --host and --port choose another"
                    }
                    _ => "",
                };
                let mut text = format!("{what}: {error}");
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                Failure::node(format!("{text}{hint}"))
            })
    }

    fn show(&self, what: &str, response: &Response, end: &str) -> Result<(), Failure> {
        let body = String::from_utf8_lossy(&response.body);
        if response.status == 200 {
            return print(&format!("{}{end}", indent(&body)));
        }
        let Response { status, reason, .. } = response;
        let text = format!("{what}: Server response: {status} {reason}");
        Err(Failure::node(format!("{text}{}", explain(&body))))
    }
}

/// What the node says about a refusal, for people.
fn explain(body: &str) -> String {
    let Ok(problem) = serde_json::from_str::<Problem>(body) else {
        let text = body.trim().trim_matches(['"', '{', '}']);
        return if text.is_empty() {
            String::new()
        } else {
            format!("\n{text}")
        };
    };
    format!("\n{problem}")
}
