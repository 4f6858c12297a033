//! The command line: the original's commands and flags, and ours.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser as NonEmpty;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

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
    /// Image of a function with the runtime `custom`
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
    /// Quality-of-service class
    #[arg(short, long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) class: i64,
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
