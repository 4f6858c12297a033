//! `serverledge asl`: checks workflows, runs them and evaluates their expressions, without a node.

pub(crate) mod jsonata;

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use serverledge_asl::rehearsal::{self, Options};
use serverledge_asl::{Checked, Diagnostic, Dialect, Severity, check_text};

/// Longest line that `run` reads, and longest document that `check` does.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print every problem of workflow definitions, with place and suggestion.
    Check(Check),
    /// Run executions read from stdin, one JSON object a line, in virtual time and without a node.
    Run(Run),
    /// Evaluate JSONata expressions read from stdin, one JSON object a line.
    Jsonata(jsonata::Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Definitions in the Amazon States Language; `-` is stdin.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object a file instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Definition for lines that have none.
    #[arg(long, value_name = "FILE")]
    definition: Option<PathBuf>,
    /// Whose behaviour to follow where AWS and the published specification disagree.
    #[arg(long, value_enum, default_value = "aws")]
    dialect: DialectName,
    /// Seed of jitter, `States.UUID`, `States.MathRandom` and their like.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most history events of an execution's own states, or of one branch or iteration.
    #[arg(long, default_value_t = 25_000)]
    history_limit: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DialectName {
    Aws,
    Spec,
}

/// Runs a command; fails where a definition is invalid.
pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(arguments) => check(arguments),
        Command::Run(arguments) => run_lines(arguments),
        Command::Jsonata(arguments) => jsonata::run(arguments).map(|()| ExitCode::SUCCESS),
    }
}

fn check(arguments: &Check) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut all_valid = true;
    for file in &arguments.files {
        let text = read(file)?;
        let Checked {
            machine,
            diagnostics,
        } = check_text(&text);
        let is_valid = machine.is_some();
        all_valid &= is_valid;
        if arguments.json {
            let mut answer = json!({"valid": is_valid, "diagnostics": diagnostics});
            if arguments.files.len() > 1 {
                answer["file"] = file.to_string_lossy().into();
            }
            writeln!(out, "{answer}")?;
        } else {
            print(&mut out, &file.to_string_lossy(), &diagnostics, is_valid)?;
        }
    }
    out.flush()?;
    Ok(if all_valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(
    out: &mut impl Write,
    file: &str,
    diagnostics: &[Diagnostic],
    is_valid: bool,
) -> io::Result<()> {
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (line, column) = (diagnostic.line.unwrap_or(1), diagnostic.column.unwrap_or(1));
        writeln!(
            out,
            "{file}:{line}:{column}: {severity}: {} [{}]",
            diagnostic.message, diagnostic.code
        )?;
        if !diagnostic.pointer.is_empty() {
            writeln!(out, "  at {}", diagnostic.pointer)?;
        }
        if let Some(suggestion) = &diagnostic.suggestion {
            writeln!(out, "  {suggestion}")?;
        }
    }
    match is_valid {
        true => writeln!(out, "{file}: valid"),
        false => writeln!(out, "{file}: invalid"),
    }
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let name = file.display();
    if file.as_os_str() == "-" {
        io::stdin().lock().take(BYTES_MAX).read_to_end(&mut bytes)
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("can't open {name}"))?;
        opened.take(BYTES_MAX).read_to_end(&mut bytes)
    }
    .with_context(|| format!("can't read {name}"))?;
    // What isn't UTF-8 isn't JSON: the check says so, at the place.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn run_lines(arguments: &Run) -> anyhow::Result<ExitCode> {
    let mut options = Options {
        seed: arguments.seed,
        dialect: match arguments.dialect {
            DialectName::Aws => Dialect::Aws,
            DialectName::Spec => Dialect::Specification,
        },
        ..Options::default()
    };
    options.limits.scope_events = arguments.history_limit;
    let definition = arguments.definition.as_ref().map(read).transpose()?;
    let mut input = BufReader::new(io::stdin().lock());
    let mut out = BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut input).take(BYTES_MAX).read_until(b'\n', &mut line)?;
        if count == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        let text = match &definition {
            Some(definition) => with_definition(&text, definition),
            None => text,
        };
        let report = rehearsal::line(&text, &options);
        serde_json::to_writer(&mut out, &report)?;
        out.write_all(b"\n")?;
        // Whoever sends lines one by one waits for the answer.
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The line with this definition, if it has none.
fn with_definition<'a>(line: &'a str, definition: &str) -> Cow<'a, str> {
    match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(mut fields) if !fields.contains_key("definition") => {
            fields.insert("definition".to_owned(), definition.into());
            Cow::Owned(Value::Object(fields).to_string())
        }
        // What is wrong with a line is said where it is run.
        _ => Cow::Borrowed(line),
    }
}
