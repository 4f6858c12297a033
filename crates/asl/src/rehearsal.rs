//! Running a machine without a node: virtual time, and tasks that answer what they are told to.
//!
//! This is `serverledge asl run`, and how people test workflows. It is as pure as the interpreter:
//! the same line and options give the same answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::context::About;
use crate::diagnostic::Diagnostic;
use crate::execution::{
    Effect, Event, Execution, Invocation, Limits, Outcome, Purpose, Start, TaskId,
};
use crate::failure::Dialect;
use crate::machine::Machine;
use crate::parse::{self, Checked};
use crate::timestamp;

/// 2025-01-01T00:00:00Z, when all rehearsals begin unless told otherwise.
const START_MS: i64 = 1_735_689_600_000;
/// Executions that start executions, in each other.
const NESTING_MAX: usize = 8;

/// What holds for all lines.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whose behaviour is followed.
    pub dialect: Dialect,
    /// Seed of all randomness.
    pub seed: u64,
    /// When executions begin, in milliseconds since the epoch.
    pub start_ms: i64,
    /// Bounds of an execution.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dialect: Dialect::Aws,
            seed: 0,
            start_ms: START_MS,
            limits: Limits::default(),
        }
    }
}

/// One execution to rehearse.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    definition: &'a RawValue,
    #[serde(default = "empty_object")]
    input: Value,
    #[serde(default)]
    mocks: BTreeMap<String, Answers>,
    /// Definitions by the ARN that `startExecution` names.
    #[serde(default)]
    machines: BTreeMap<String, Value>,
    #[serde(default)]
    context: Value,
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

/// Answers of a resource, one an invocation; the last is given again and again.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answers {
    Many(Vec<Answer>),
    One(Answer),
}

/// What a task answers.
#[derive(Debug, Clone, Default, Deserialize)]
struct Answer {
    #[serde(default, rename = "return")]
    output: Option<Value>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    cause: Option<String>,
    #[serde(default, rename = "delaySeconds")]
    delay_seconds: f64,
}

/// What became of a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `SUCCEEDED`, `FAILED`, `TIMED_OUT`, `ABORTED`, or `INVALID`.
    pub status: &'static str,
    /// The output of a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Name of the error of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Types of the history's events.
    pub history: Vec<&'static str>,
    /// What is wrong with an invalid definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    fn invalid(cause: Option<String>, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            status: "INVALID",
            output: None,
            error: None,
            cause,
            history: Vec::new(),
            diagnostics,
        }
    }
}

/// Rehearses the execution that a line of JSON describes.
pub fn line(text: &str, options: &Options) -> Report {
    let line: Line<'_> = match serde_json::from_str(text) {
        Ok(line) => line,
        Err(error) => {
            let cause = format!("the line can't be read: {error}");
            return Report::invalid(Some(cause), Vec::new());
        }
    };
    let definition = line.definition.get();
    let Checked {
        machine,
        diagnostics,
    } = match serde_json::from_str::<String>(definition) {
        Ok(inner) => parse::check_text(&inner),
        Err(_) => parse::check_text(definition),
    };
    let Some(machine) = machine else {
        let cause = "the definition is not valid".to_owned();
        return Report::invalid(Some(cause), diagnostics);
    };
    let mut stage = Stage {
        options,
        mocks: line
            .mocks
            .into_iter()
            .map(|(resource, answers)| {
                let answers = match answers {
                    Answers::Many(answers) => answers,
                    Answers::One(answer) => vec![answer],
                };
                (resource, (0, answers))
            })
            .collect(),
        machines: line.machines,
        depth: 0,
    };
    let about = about(&line.context);
    let start_ms = line
        .context
        .pointer("/Execution/StartTime")
        .and_then(Value::as_str)
        .and_then(timestamp::parse)
        .and_then(|time| i64::try_from(time / 1_000_000).ok());
    stage.rehearse(
        &machine,
        line.input,
        about,
        start_ms.unwrap_or(options.start_ms),
    )
}

/// What the line's `context` says of the execution.
fn about(context: &Value) -> About {
    let mut about = About::default();
    for (pointer, field) in [
        ("/Execution/Id", &mut about.id),
        ("/Execution/Name", &mut about.name),
        ("/Execution/RoleArn", &mut about.role),
        ("/StateMachine/Id", &mut about.machine_id),
        ("/StateMachine/Name", &mut about.machine_name),
    ] {
        if let Some(text) = context.pointer(pointer).and_then(Value::as_str) {
            text.clone_into(field);
        }
    }
    about
}

/// Who answers tasks.
struct Stage<'a> {
    options: &'a Options,
    /// How many answers have been given, and all there are.
    mocks: BTreeMap<String, (usize, Vec<Answer>)>,
    machines: BTreeMap<String, Value>,
    depth: usize,
}

impl Stage<'_> {
    fn rehearse(&mut self, machine: &Machine, input: Value, about: About, start: i64) -> Report {
        let mut execution = Execution::new(Start {
            about,
            input,
            dialect: self.options.dialect,
            limits: self.options.limits,
            seed: self.options.seed,
            tokens: String::new(),
        });
        let mut history = Vec::new();
        let mut answers: BTreeMap<(i64, TaskId), Answer> = BTreeMap::new();
        let mut now = start;
        let mut event = Event::Started;
        let outcome = loop {
            let mut outcome = None;
            for effect in execution.step(machine, event, now) {
                match effect {
                    Effect::Record(record) => history.push(record.kind),
                    Effect::Invoke(invocation) => {
                        let answer = self.answer(&invocation, now);
                        let delay = (answer.delay_seconds * 1_000.0) as i64;
                        let when = now.saturating_add(delay.max(0));
                        answers.insert((when, invocation.task), answer);
                    }
                    // Late answers change nothing.
                    Effect::Cancel(_) => {}
                    Effect::Finished(end) => outcome = Some(end),
                }
            }
            if let Some(outcome) = outcome {
                break outcome;
            }
            let answered = answers.first_key_value().map(|((when, _), _)| *when);
            event = match (answered, execution.wake_at()) {
                (Some(when), wake) if wake.is_none_or(|wake| when <= wake) => {
                    now = now.max(when);
                    match answers.pop_first() {
                        Some(((_, task), answer)) => answer.event(task),
                        None => Event::Woken,
                    }
                }
                (_, Some(wake)) => {
                    now = now.max(wake);
                    Event::Woken
                }
                // Nothing will ever happen: this can't be, but must not hang.
                (_, None) => Event::Stopped {
                    error: None,
                    cause: Some("nothing is left to wait for".to_owned()),
                },
            };
        };
        report(outcome, history)
    }

    fn answer(&mut self, invocation: &Invocation, now: i64) -> Answer {
        let function = invocation
            .arguments
            .get("FunctionName")
            .and_then(Value::as_str);
        let names = [
            Some(invocation.resource.as_str()),
            Some(invocation.state.as_str()),
            function,
        ];
        for name in names.into_iter().flatten() {
            if let Some((given, answers)) = self.mocks.get_mut(name) {
                let answer = answers.get(*given).or(answers.last()).cloned();
                *given += 1;
                return answer.unwrap_or_else(|| unanswered(invocation));
            }
        }
        match invocation.purpose {
            Purpose::ResultWriter => written(invocation),
            _ => self
                .nested(invocation, now)
                .unwrap_or_else(|| unanswered(invocation)),
        }
    }

    /// Runs the execution that a task starts.
    fn nested(&mut self, invocation: &Invocation, now: i64) -> Option<Answer> {
        let rest = invocation.resource.split_once(":states:startExecution")?.1;
        let arn = invocation.arguments.get("StateMachineArn")?.as_str()?;
        let definition = self.machines.get(arn)?;
        if self.depth >= NESTING_MAX {
            return None;
        }
        let checked = match definition {
            Value::String(text) => parse::check_text(text),
            other => parse::check_value(other),
        };
        let Some(machine) = checked.machine else {
            return Some(Answer {
                error: Some("States.TaskFailed".to_owned()),
                cause: Some(format!("the definition of '{arn}' is not valid")),
                ..Answer::default()
            });
        };
        let input = invocation.arguments.get("Input").cloned();
        let input = match input {
            Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            Some(other) => other,
            None => empty_object(),
        };
        let name = invocation.arguments.get("Name").and_then(Value::as_str);
        let name = name.map_or_else(|| format!("execution-{}", invocation.task), str::to_owned);
        let about = About {
            id: format!("{arn}:{name}").replace(":stateMachine:", ":execution:"),
            name: name.clone(),
            machine_id: arn.to_owned(),
            machine_name: arn.rsplit(':').next().unwrap_or(arn).to_owned(),
            ..About::default()
        };
        let id = about.id.clone();
        let arn = arn.to_owned();
        self.depth += 1;
        let report = self.rehearse(&machine, input.clone(), about, now);
        self.depth -= 1;
        Some(started(rest, &id, &arn, &name, &input, now, report))
    }
}

/// What a task that started an execution gives.
fn started(
    form: &str,
    id: &str,
    arn: &str,
    name: &str,
    input: &Value,
    now: i64,
    report: Report,
) -> Answer {
    let time = timestamp::text(now);
    let output = match form {
        ".sync:2" => report.output.clone(),
        _ => report
            .output
            .as_ref()
            .map(|output| output.to_string().into()),
    };
    let mut description = json!({
        "ExecutionArn": id,
        "Input": if form == ".sync:2" { input.clone() } else { input.to_string().into() },
        "Name": name,
        "StartDate": time,
        "StateMachineArn": arn,
        "Status": report.status,
        "StopDate": time,
    });
    if !form.starts_with(".sync") {
        description = json!({"ExecutionArn": id, "StartDate": time});
    } else if report.status != "SUCCEEDED" {
        if let Some(map) = description.as_object_mut() {
            map.extend(report.error.map(|error| ("Error".to_owned(), error.into())));
            map.extend(report.cause.map(|cause| ("Cause".to_owned(), cause.into())));
        }
        return Answer {
            error: Some("States.TaskFailed".to_owned()),
            cause: Some(description.to_string()),
            ..Answer::default()
        };
    } else if let (Some(map), Some(output)) = (description.as_object_mut(), output) {
        map.insert("Output".to_owned(), output);
    }
    Answer {
        output: Some(description),
        ..Answer::default()
    }
}

/// Where results have gone, for a writer that nobody plays.
fn written(invocation: &Invocation) -> Answer {
    let part = |name: &str| invocation.arguments.get(name).cloned().unwrap_or_default();
    let prefix = part("Prefix").as_str().unwrap_or_default().to_owned();
    Answer {
        output: Some(json!({
            "MapRunArn": "arn:aws:states:us-east-1:123456789012:mapRun:machine/map:run",
            "ResultWriterDetails": {
                "Bucket": part("Bucket"),
                "Key": format!("{prefix}/run/manifest.json"),
            },
        })),
        ..Answer::default()
    }
}

fn unanswered(invocation: &Invocation) -> Answer {
    let (resource, state) = (&invocation.resource, &invocation.state);
    Answer {
        error: Some("States.TaskFailed".to_owned()),
        cause: Some(format!(
            "no mock is given for the resource '{resource}' of the state '{state}'"
        )),
        ..Answer::default()
    }
}

impl Answer {
    fn event(self, task: TaskId) -> Event {
        match (self.output, self.error, self.cause) {
            (Some(output), None, _) => Event::TaskSucceeded { task, output },
            (None, None, None) => Event::TaskSucceeded {
                task,
                output: Value::Null,
            },
            (_, error, cause) => Event::TaskFailed { task, error, cause },
        }
    }
}

fn report(outcome: Outcome, history: Vec<&'static str>) -> Report {
    let (status, output, error, cause) = match outcome {
        Outcome::Succeeded(output) => {
            let output = std::sync::Arc::unwrap_or_clone(output);
            ("SUCCEEDED", Some(output), None, None)
        }
        Outcome::Failed { error, cause } => ("FAILED", None, error, cause),
        Outcome::TimedOut => ("TIMED_OUT", None, Some("States.Timeout".to_owned()), None),
        Outcome::Aborted { error, cause } => ("ABORTED", None, error, cause),
    };
    Report {
        status,
        output,
        error,
        cause,
        history,
        diagnostics: Vec::new(),
    }
}
