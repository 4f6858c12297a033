//! `serverledge`: the node and its commands.
//!
//! `serverledge [CONFIG]` runs a node. The sandbox helper and the compiler of WebAssembly are this
//! program too, started by the node itself; the helper must stay single-threaded, so they leave before
//! anything else is set up. So do the hosts of an emulated network.

#![forbid(unsafe_code)]

mod commands;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serverledge::config::Files;

/// A node of the Serverledge function platform.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file (default: serverledge-conf.* in /etc/serverledge, $HOME or the working
    /// directory).
    config: Option<PathBuf>,
    /// Classes of calls (default: serverledge-classes.json in the same places); qos.class.* in the
    /// configuration does the same.
    classes: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  serverledge                                       run a node with the default configuration
  serverledge node.yaml                             run a node with this configuration
  serverledge dev examples/hello.py -p a:2 -p b:3   deploy a file on a throw-away node and call it
  serverledge lb balancer.yaml                      run a load balancer with this configuration
  serverledge doctor                                what this machine can isolate";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a throw-away node, deploy a function on it, invoke it once and keep serving.
    Dev(commands::dev::Arguments),
    /// Show a fleet on this machine: nodes, delays between them, and what becomes of calls.
    #[command(subcommand)]
    Demo(commands::demo::Command),
    /// Pass calls on to the nodes of an area, each to the one where it is best served.
    Lb {
        /// Configuration file (default: as for a node).
        config: Option<PathBuf>,
    },
    /// Print what this machine can isolate, what is missing and how to get it.
    Doctor,
    /// List, load, pull and remove the images of the built-in sandbox.
    Image(commands::image::Arguments),
    /// Print every configuration key with its default and meaning.
    Config,
    /// Test workflows and their expressions without a node.
    #[command(subcommand)]
    Asl(commands::asl::Command),
}

fn main() -> ExitCode {
    match std::env::args_os()
        .nth(1)
        .as_deref()
        .and_then(OsStr::to_str)
    {
        Some("sandbox-helper") => serverledge_sandbox::helper_main(),
        Some("wasm-compile") => serverledge_sandbox::wasm::compiler_main(),
        _ => {}
    }
    if let Some(address) = testbed_host() {
        return serverledge_testbed::host_main(&address);
    }
    let arguments = Arguments::parse();
    let result = match arguments.command {
        None => commands::serve::run(Files {
            config: arguments.config.as_deref(),
            classes: arguments.classes.as_deref(),
        }),
        Some(Command::Dev(arguments)) => commands::dev::run(&arguments),
        Some(Command::Demo(command)) => commands::demo::run(&command),
        Some(Command::Lb { config }) => commands::lb::run(config.as_deref()),
        Some(Command::Doctor) => return commands::doctor::run(),
        Some(Command::Image(arguments)) => commands::image::run(&arguments),
        Some(Command::Config) => commands::config::run(),
        Some(Command::Asl(command)) => match commands::asl::run(&command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serverledge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The address of the host that this process is to be, if it is one of a testbed.
fn testbed_host() -> Option<String> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next()? == serverledge_testbed::HOST_COMMAND).then(|| arguments.next())?
}
