//! The command line: the original's commands and flags, and ours.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser as NonEmpty;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serverledge_api::QosClass;

/// Client of a Serverledge node.
#[derive(Debug, Parser)]
#[command(name = "serverledge-cli", version, after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Arguments {
    /// Host of the node [env: SERVERLEDGE_HOST] [default: 127.0.0.1]
    #[arg(short = 'H', long, global = true)]
    pub(crate) host: Option<String>,
    /// Port of the node [env: SERVERLEDGE_PORT] [default: api.port of the configuration, or 1323]
    #[arg(short = 'P', long, global = true)]
    pub(crate) port: Option<u16>,
    /// Say more (kept for scripts that pass it)
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  serverledge-cli create -f hello --src hello.py
  serverledge-cli invoke -f hello -p name:World -p count:=3
  serverledge-cli invoke -f hello -d @input.json --async
  serverledge-cli poll --request REQUEST_ID";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a function, or replace it with --update
    #[command(after_help = "\
Examples:
  serverledge-cli create -f hello --src hello.py
  serverledge-cli create -f hello --runtime python314 --handler hello.handler --memory 256 --src dir/
  serverledge-cli create -f inc --src inc.py -i n:Int -o n:Int --update")]
    Create(Create),
    /// Call a function
    #[command(after_help = "\
Examples:
  serverledge-cli invoke -f hello -p a:2 -p b:3        parameters are strings
  serverledge-cli invoke -f hello -p n:=5 -p l:='[1]'  parameters are JSON
  echo '{\"n\": 5}' | serverledge-cli invoke -f hello -d -")]
    Invoke(Invoke),
    /// Start sandboxes ahead of calls
    #[command(after_help = "Example: serverledge-cli prewarm -f hello -c 4")]
    Prewarm(Prewarm),
    /// Remove a function
    #[command(after_help = "Example: serverledge-cli delete -f hello")]
    Delete(Named),
    /// List the functions
    #[command(after_help = "Example: serverledge-cli list")]
    List,
    /// Show what the node has and uses
    #[command(after_help = "Example: serverledge-cli status --host 192.168.1.7")]
    Status,
    /// Get the result of an asynchronous call
    #[command(after_help = "Example: serverledge-cli poll --request hello-ode-a123456789")]
    Poll(Poll),
    /// Register a workflow
    #[command(after_help = "Example: serverledge-cli create-workflow -f order -s order.json")]
    CreateWorkflow(CreateWorkflow),
    /// Remove a workflow
    #[command(after_help = "Example: serverledge-cli delete-workflow -f order")]
    DeleteWorkflow(NamedWorkflow),
    /// List the workflows
    #[command(after_help = "Example: serverledge-cli list-workflows")]
    ListWorkflows,
    /// Run a workflow
    #[command(after_help = "Example: serverledge-cli invoke-workflow -f order -p n:=1")]
    InvokeWorkflow(InvokeWorkflow),
    /// Start, watch and steer executions of workflows
    #[command(subcommand)]
    Execution(Execution),
    /// Answer a task that waits for somebody, by its token
    #[command(subcommand)]
    Task(Task),
    /// Print a completion script
    #[command(
        after_help = "Example: serverledge-cli completion bash > /etc/bash_completion.d/serverledge"
    )]
    Completion {
        /// For which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of the function
    #[arg(short, long, value_parser = NonEmpty::new())]
    pub(crate) function: String,
}

#[derive(Debug, Args)]
pub(crate) struct NamedWorkflow {
    /// Name of the workflow
    #[arg(short = 'f', long, value_parser = NonEmpty::new())]
    pub(crate) workflow: String,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the function
    #[arg(short, long, value_parser = NonEmpty::new())]
    pub(crate) function: String,
    /// Runtime, such as python314 or nodejs17ng [default: by the source's ending]
    #[arg(long, value_parser = NonEmpty::new())]
    pub(crate) runtime: Option<String>,
    /// Handler: module.function for Python, a file for Node.js [default: by the source's name]
    #[arg(long)]
    pub(crate) handler: Option<String>,
    /// Memory of a sandbox, MB
    #[arg(long, default_value_t = 128)]
    pub(crate) memory: i64,
    /// Calls that one sandbox serves at once
    #[arg(
        short = 'C',
        long = "max_concurrency",
        alias = "max-concurrency",
        default_value_t = 1
    )]
    pub(crate) max_concurrency: i16,
    /// Cores of a sandbox; 0 means no limit
    #[arg(long, default_value_t = 0.0)]
    pub(crate) cpu: f64,
    /// Time limit of a call, seconds [default: the node's]
    #[arg(long)]
    pub(crate) timeout: Option<f64>,
    /// Python module to import before the function is known, for faster cold starts; may be repeated
    #[arg(long, value_name = "MODULE")]
    pub(crate) preload: Vec<String>,
    /// Whom the function may talk to: none, egress (the world), or rules with commas between them,
    /// such as 10.0.0.0/8,10.1.2.3:443,dns [default: the node's]
    #[arg(long, value_name = "none|egress|RULES", value_parser = NonEmpty::new())]
    pub(crate) network: Option<String>,
    /// Code: a file, a directory, a .tar archive, or a URL for the node to fetch
    #[arg(long, value_parser = NonEmpty::new())]
    pub(crate) src: Option<String>,
    /// Image of a function with the runtime `custom`, or artifact of one with `wasm`
    #[arg(long = "custom_image", alias = "custom-image", value_parser = NonEmpty::new())]
    pub(crate) custom_image: Option<String>,
    /// Declared input, name:type; may be repeated
    #[arg(short, long)]
    pub(crate) input: Vec<String>,
    /// Declared output, name:type; may be repeated
    #[arg(short, long)]
    pub(crate) output: Vec<String>,
    /// Replace the function if it exists
    #[arg(short, long)]
    pub(crate) update: bool,
}

/// Parameters of a call, given in one of three ways.
#[derive(Debug, Args)]
pub(crate) struct Params {
    /// Parameter, name:text or name:=json; may be repeated
    #[arg(short, long = "param", value_name = "NAME:VALUE")]
    pub(crate) params: Vec<String>,
    /// File with the parameters, a JSON object
    #[arg(short = 'j', long = "params_file", alias = "params-file")]
    pub(crate) params_file: Option<PathBuf>,
    /// The parameters, a JSON object: text, @FILE, or - for standard input
    #[arg(short, long)]
    pub(crate) data: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// Name of the function
    #[arg(short, long, value_parser = NonEmpty::new())]
    pub(crate) function: String,
    #[command(flatten)]
    pub(crate) params: Params,
    /// Wanted response time, seconds
    #[arg(long, default_value_t = -1.0, allow_hyphen_values = true)]
    pub(crate) resptime: f64,
    /// Quality-of-service class, by number or name
    #[arg(short, long, default_value = "0", allow_negative_numbers = true, value_parser = qos_class)]
    pub(crate) class: QosClass,
    /// Return at once; the result is polled for
    #[arg(short = 'a', long = "async")]
    pub(crate) is_async: bool,
    /// Show what the function prints
    #[arg(short = 'o', long = "return_output", alias = "return-output")]
    pub(crate) return_output: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prewarm {
    /// Name of the function
    #[arg(short, long, value_parser = NonEmpty::new())]
    pub(crate) function: String,
    /// How many sandboxes
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) count: i64,
    /// Fetch the image again
    #[arg(long = "force_pull", alias = "force-pull")]
    pub(crate) force_pull: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Poll {
    /// Id of the call
    #[arg(long, value_parser = NonEmpty::new())]
    pub(crate) request: String,
}

#[derive(Debug, Args)]
pub(crate) struct CreateWorkflow {
    /// Name of the workflow
    #[arg(short = 'f', long, value_parser = NonEmpty::new())]
    pub(crate) workflow: String,
    /// File with its definition in the Amazon States Language
    #[arg(short, long)]
    pub(crate) src: PathBuf,
    /// Replace the workflow if it exists
    #[arg(short, long)]
    pub(crate) update: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InvokeWorkflow {
    /// Name of the workflow
    #[arg(short = 'f', long, value_parser = NonEmpty::new())]
    pub(crate) workflow: String,
    #[command(flatten)]
    pub(crate) params: Params,
    /// Wanted response time, seconds
    #[arg(short, long, default_value_t = -1.0, allow_hyphen_values = true)]
    pub(crate) resptime: f64,
    /// Quality-of-service class
    #[arg(short, long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) class: i64,
    /// Return at once; the result is polled for
    #[arg(short = 'a', long = "async")]
    pub(crate) is_async: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Execution {
    /// Start an execution and wait for its end
    #[command(after_help = "\
Examples:
  serverledge-cli execution start -f order -p cents:=995
  serverledge-cli execution start -f order -d @order.json --name order-17 --async")]
    Start(StartExecution),
    /// List executions, the latest first
    #[command(after_help = "Example: serverledge-cli execution list -f order --status FAILED")]
    List(ListExecutions),
    /// Show an execution
    #[command(after_help = "Example: serverledge-cli execution describe order:order-17 --wait 60")]
    Describe {
        /// Id of the execution
        #[arg(value_parser = NonEmpty::new())]
        id: String,
        /// How long to wait for its end, seconds
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// Show what has happened in an execution
    #[command(after_help = "Example: serverledge-cli execution history order:order-17")]
    History {
        /// Id of the execution
        #[arg(value_parser = NonEmpty::new())]
        id: String,
        /// Only what came after this event
        #[arg(long, value_name = "EVENT")]
        after: Option<u64>,
        /// So many events at most
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Stop an execution
    #[command(
        after_help = "Example: serverledge-cli execution stop order:order-17 --cause mistake"
    )]
    Stop {
        /// Id of the execution
        #[arg(value_parser = NonEmpty::new())]
        id: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// Go on with a failed execution from the state that failed
    #[command(after_help = "Example: serverledge-cli execution redrive order:order-17")]
    Redrive {
        /// Id of the execution
        #[arg(value_parser = NonEmpty::new())]
        id: String,
        /// Return at once
        #[arg(short = 'a', long = "async")]
        is_async: bool,
    },
    /// Start an execution again from the beginning, as a new one
    #[command(after_help = "Example: serverledge-cli execution retry order:order-17")]
    Retry {
        /// Id of the execution
        #[arg(value_parser = NonEmpty::new())]
        id: String,
        /// Name of the new one [default: made up]
        #[arg(long, value_parser = NonEmpty::new())]
        name: Option<String>,
        /// Return at once
        #[arg(short = 'a', long = "async")]
        is_async: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartExecution {
    /// Name of the workflow
    #[arg(short = 'f', long, value_parser = NonEmpty::new())]
    pub(crate) workflow: String,
    #[command(flatten)]
    pub(crate) params: Params,
    /// Name of the execution: starting it again under the same name starts nothing
    #[arg(long, value_parser = NonEmpty::new())]
    pub(crate) name: Option<String>,
    /// standard survives crashes, express is faster [default: the workflow's]
    #[arg(long = "type", value_name = "TYPE", value_parser = ["standard", "express"])]
    pub(crate) kind: Option<String>,
    /// Return at once
    #[arg(short = 'a', long = "async")]
    pub(crate) is_async: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListExecutions {
    /// Only of this workflow
    #[arg(short = 'f', long, value_parser = NonEmpty::new())]
    pub(crate) workflow: Option<String>,
    /// Only those that are RUNNING, SUCCEEDED, FAILED, TIMED_OUT or ABORTED
    #[arg(long, value_parser = ["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"],
        ignore_case = true)]
    pub(crate) status: Option<String>,
    /// So many at most
    #[arg(long)]
    pub(crate) limit: Option<u64>,
    /// Go on after a list that ended with this Next
    #[arg(long)]
    pub(crate) after: Option<String>,
}

/// Why something ends.
#[derive(Debug, Args)]
pub(crate) struct Reason {
    /// Name of the error
    #[arg(long)]
    pub(crate) error: Option<String>,
    /// Explanation
    #[arg(long)]
    pub(crate) cause: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// The task is done
    #[command(after_help = "\
Example: serverledge-cli task success TOKEN -d '{\"approved\": true}'")]
    Success {
        /// Token that the task was given
        #[arg(value_parser = NonEmpty::new())]
        token: String,
        /// Its output, JSON: text, @FILE, or - for standard input
        #[arg(short, long, default_value = "{}")]
        data: String,
    },
    /// The task has failed
    #[command(after_help = "Example: serverledge-cli task failure TOKEN --error Rejected")]
    Failure {
        /// Token that the task was given
        #[arg(value_parser = NonEmpty::new())]
        token: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// The task is still being worked on
    #[command(after_help = "Example: serverledge-cli task heartbeat TOKEN")]
    Heartbeat {
        /// Token that the task was given
        #[arg(value_parser = NonEmpty::new())]
        token: String,
    },
}

/// Whatever is no number is a name; which there are, the node knows.
fn qos_class(text: &str) -> Result<QosClass, std::convert::Infallible> {
    let number = text.trim().parse().map(QosClass::Number);
    Ok(number.unwrap_or_else(|_| QosClass::Name(text.to_owned())))
}
