//! What each command sends and prints.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::CommandFactory as _;
use serde::Serialize;
use serde_json::{Map, Value};
use serverledge_api::{
    CreateWorkflow, Field, FunctionSpec, InvokeWorkflow, Network, Params, PrewarmRequest, QosClass,
    Signature, WorkflowQos, escape,
};

use crate::arguments::{self, Arguments, Command, Create, Invoke};
use crate::node::{Node, print};
use crate::{Failure, executions, params, source};

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
    class: QosClass,
    #[serde(rename = "QoSMaxRespT")]
    max_response_time: f64,
    #[serde(rename = "CanDoOffloading")]
    can_do_offloading: bool,
    #[serde(rename = "Async")]
    is_async: bool,
    #[serde(rename = "ReturnOutput")]
    return_output: bool,
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
            &format!("/poll/{}", escape(&poll.request)),
            "\n",
        ),
        Command::CreateWorkflow(create) => create_workflow(&node, create),
        Command::DeleteWorkflow(named) => {
            let deleted = node.client.delete_workflow(&named.workflow);
            node.finish("Deletion request failed", deleted)
        }
        Command::ListWorkflows => node.get("List request failed", "/workflow/list", ""),
        Command::Execution(command) => executions::run(&node, command),
        Command::Task(command) => executions::answer(&node, command),
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
    let has_image = (custom || runtime == "wasm") && create.custom_image.is_some();
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
        code_digest: String::new(),
        code_holder: String::new(),
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
        class: invoke.class.clone(),
        max_response_time: invoke.resptime,
        can_do_offloading: true,
        is_async: invoke.is_async,
        return_output: invoke.return_output,
    };
    node.post(
        "Invocation failed",
        &format!("/invoke/{}", escape(&invoke.function)),
        &body,
    )
}

fn create_workflow(node: &Node, create: &arguments::CreateWorkflow) -> Result<(), Failure> {
    let file = &create.src;
    let source = std::fs::read(file).map_err(|error| {
        Failure::source(format!("Could not read '{}': {error}", file.display()))
    })?;
    let source = STANDARD.encode(source);
    let workflow = CreateWorkflow {
        name: create.workflow.clone(),
        source,
        overwrite: create.update,
    };
    let created = node.client.create_workflow(&workflow);
    node.finish("Creation request failed", created)
}

fn invoke_workflow(node: &Node, invoke: &arguments::InvokeWorkflow) -> Result<(), Failure> {
    let request = InvokeWorkflow {
        params: Some(Params::object(&params::read(&invoke.params)?)),
        qos: WorkflowQos {
            class: invoke.class,
            max_response_time: invoke.resptime,
        },
        can_do_offloading: true,
        is_async: invoke.is_async,
    };
    let invoked = node.client.invoke_workflow(&invoke.workflow, &request);
    node.finish("Invocation failed", invoked)
}
