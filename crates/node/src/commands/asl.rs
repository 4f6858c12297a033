//! `serverledge asl`: workflows and their expressions without a node.

pub(crate) mod jsonata;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Evaluate JSONata expressions read from stdin, one JSON object a line.
    Jsonata(jsonata::Arguments),
}

/// Runs a command.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Jsonata(arguments) => jsonata::run(arguments),
    }
}
