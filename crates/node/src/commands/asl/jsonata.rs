//! `serverledge asl jsonata`: evaluates expressions, one a line, to test them without a workflow.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use serverledge_asl::jsonata::{Environment, Error, Expression, Flavour};

/// Longest line that is read.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Reads lines {\"expr\":..., \"data\":..., \"bindings\":{...}} and prints a line for each:
  {\"result\":...}, {} if the result is undefined, or
  {\"error\":{\"code\":..., \"message\":..., \"position\":...}}

Example:
  echo '{\"expr\":\"$sum(a)\",\"data\":{\"a\":[1,2]}}' | serverledge asl jsonata")]
pub(crate) struct Arguments {
    /// As in a state machine: no input document, no $eval, but $states, $partition, $range, $hash,
    /// $uuid, $parse and $random(seed).
    #[arg(long)]
    states: bool,
    /// Seed of the random functions.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The time that $now and $millis tell, in milliseconds since 1970 (default: the time of the
    /// evaluation).
    #[arg(long)]
    now_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    expr: String,
    /// Absent is JSONata's undefined, which null is not.
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    #[serde(default)]
    bindings: Option<BTreeMap<String, Value>>,
}

/// Tells a null that was given from a field that was not.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Answers every line until stdin ends. A reader who has seen enough (`| head`) is no error.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        input
            .by_ref()
            .take(BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let case = serde_json::from_slice(&line).with_context(|| format!("line {number}"))?;
        let answer = match evaluate(&case, arguments) {
            Ok(None) => json!({}),
            Ok(Some(result)) => json!({"result": result}),
            Err(Error {
                code,
                message,
                position,
            }) => json!({"error": {"code": code, "message": message, "position": position}}),
        };
        match writeln!(output, "{answer}").and_then(|()| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(())
}

fn evaluate(case: &Case, arguments: &Arguments) -> Result<Option<Value>, Error> {
    let flavour = if arguments.states {
        Flavour::States
    } else {
        Flavour::Plain
    };
    let expression = Expression::parse_as(&case.expr, flavour)?;
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_millis() as i64)
    };
    let now_ms = arguments.now_ms.unwrap_or_else(now);
    let mut environment = Environment::new(flavour, now_ms, arguments.seed);
    let none = BTreeMap::new();
    let bindings = case.bindings.as_ref().unwrap_or(&none);
    expression.evaluate_with_input(case.data.as_ref(), bindings, &mut environment)
}
