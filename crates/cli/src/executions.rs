//! Executions of workflows: started, watched while they run, steered; and answers to their tasks.

use std::io::{IsTerminal as _, Write as _};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use serverledge_api::Response;

use crate::Failure;
use crate::arguments::{Execution, ListExecutions, Reason, StartExecution, Task};
use crate::node::{Node, accepted, show};
use crate::params;
use crate::tree::{Event, Tree};

/// How long the node may wait for an execution's end before it answers, seconds: as long as the tree
/// on the screen may be behind.
const LOOK_EVERY: u64 = 1;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StartBody<'a> {
    workflow: &'a str,
    input: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(rename = "Type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReasonBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

impl<'a> From<&'a Reason> for ReasonBody<'a> {
    fn from(reason: &'a Reason) -> Self {
        Self {
            error: reason.error.as_deref(),
            cause: reason.cause.as_deref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RetryBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OutputBody {
    output: Value,
}

/// What is looked at of an execution.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Seen {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    cause: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct History {
    #[serde(default)]
    events: Vec<Event>,
    #[serde(default)]
    next: Option<Value>,
}

/// Runs `serverledge-cli execution …`.
pub(crate) fn run(node: &Node, command: &Execution) -> Result<(), Failure> {
    match command {
        Execution::Start(start) => {
            let StartExecution {
                workflow,
                name,
                kind,
                ..
            } = start;
            let body = StartBody {
                workflow,
                input: params::read(&start.params)?,
                name: name.as_deref(),
                kind: kind.as_deref(),
            };
            begun(node, "/v1/executions", &body, start.is_async)
        }
        Execution::List(list) => node.get("List request failed", &list_path(list), ""),
        Execution::Describe { id, wait } => {
            let path = match wait {
                0 => path(id, ""),
                wait => path(id, &format!("?wait={wait}")),
            };
            node.get("Request failed", &path, "")
        }
        Execution::History { id, after, limit } => {
            let query = [("after", after), ("limit", limit)];
            let query = query.map(|(name, value)| (name, value.map(|value| value.to_string())));
            let path = format!("{}{}", path(id, "/history"), self::query(&query));
            node.get("Request failed", &path, "")
        }
        Execution::Stop { id, reason } => node.post(
            "Request failed",
            &path(id, "/stop"),
            &ReasonBody::from(reason),
        ),
        Execution::Redrive { id, is_async } => {
            begun(node, &path(id, "/redrive"), &Map::new(), *is_async)
        }
        Execution::Retry { id, name, is_async } => {
            let name = name.as_deref();
            begun(node, &path(id, "/retry"), &RetryBody { name }, *is_async)
        }
    }
}

/// Runs `serverledge-cli task …`.
pub(crate) fn answer(node: &Node, command: &Task) -> Result<(), Failure> {
    let at = |token: &str, what: &str| format!("/v1/tasks/{}/{what}", segment(token));
    let what = "Request failed";
    match command {
        Task::Success { token, data } => {
            let output = params::value(data)?;
            node.post(what, &at(token, "success"), &OutputBody { output })
        }
        Task::Failure { token, reason } => {
            node.post(what, &at(token, "failure"), &ReasonBody::from(reason))
        }
        Task::Heartbeat { token } => node.post(what, &at(token, "heartbeat"), &Map::new()),
    }
}

fn list_path(list: &ListExecutions) -> String {
    let status = list.status.as_ref().map(|status| status.to_uppercase());
    let query = query(&[
        ("workflow", list.workflow.clone()),
        ("status", status),
        ("limit", list.limit.map(|limit| limit.to_string())),
        ("after", list.after.clone()),
    ]);
    format!("/v1/executions{query}")
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/executions/{}{rest}", segment(id))
}

fn query(parts: &[(&str, Option<String>)]) -> String {
    let given = parts
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_deref()?))));
    let given: Vec<String> = given.collect();
    match given.is_empty() {
        true => String::new(),
        false => format!("?{}", given.join("&")),
    }
}

/// One part of a path, or a value of a query.
fn segment(text: &str) -> String {
    serverledge_api::escape(text).replace('/', "%2F")
}

/// Starts something and, unless it goes on by itself, waits for its end.
fn begun<T: Serialize>(node: &Node, path: &str, body: &T, is_async: bool) -> Result<(), Failure> {
    let what = "Start failed";
    let request = node
        .client
        .request("POST", path, serverledge_api::encode(body));
    let started = node.request(what, request)?;
    let text = accepted(what, &started)?;
    if is_async {
        return show(what, &started, "");
    }
    let Seen { id, status, .. } = seen(&text)?;
    let ended = match status.as_str() {
        "RUNNING" => watch(node, &id)?,
        // Of an express execution nothing is left to ask for.
        _ => started,
    };
    let text = accepted(what, &ended)?;
    show(what, &ended, "")?;
    let Seen {
        status,
        error,
        cause,
        ..
    } = seen(&text)?;
    if status == "SUCCEEDED" {
        return Ok(());
    }
    let why: Vec<String> = [error, cause].into_iter().flatten().collect();
    Err(Failure::execution(format!("{status}: {}", why.join(": "))))
}

fn seen(text: &str) -> Result<Seen, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::node(format!("the node's answer is no execution: {error}")))
}

/// Waits for the end of an execution, and shows on standard error how it goes.
fn watch(node: &Node, id: &str) -> Result<Response, Failure> {
    let what = "Request failed";
    let mut screen = Screen::new();
    let mut tree = Tree::default();
    let mut after = 0;
    loop {
        let path = path(id, &format!("?wait={LOOK_EVERY}"));
        let execution = node.request(what, node.client.request("GET", &path, Vec::new()))?;
        let has_ended = seen(&accepted(what, &execution)?)?.status != "RUNNING";
        after = follow(node, id, after, &mut tree);
        screen.draw(&tree, has_ended);
        if has_ended {
            return Ok(execution);
        }
    }
}

/// Adds to the tree what has happened since the event `after`; the last event since. Executions
/// without a history have a tree without branches, and nothing else is the worse for it.
fn follow(node: &Node, id: &str, mut after: u64, tree: &mut Tree) -> u64 {
    loop {
        let path = path(id, &format!("/history?after={after}"));
        let request = node.client.request("GET", &path, Vec::new());
        let Ok(response) = node.request("", request) else {
            return after;
        };
        let Ok(history) = serde_json::from_slice::<History>(&response.body) else {
            return after;
        };
        let before = after;
        for event in &history.events {
            after = after.max(event.id);
            tree.add(event);
        }
        if history.next.is_none() || after == before {
            return after;
        }
    }
}

/// Standard error: where people look it is drawn again and again in place, elsewhere once.
struct Screen {
    is_terminal: bool,
    drawn: usize,
}

impl Screen {
    fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            drawn: 0,
        }
    }

    fn draw(&mut self, tree: &Tree, is_last: bool) {
        if !self.is_terminal && !is_last {
            return;
        }
        let lines = tree.lines();
        let mut text = match self.drawn {
            0 => String::new(),
            // Up to the first line, and everything below it away.
            drawn => format!("\x1b[{drawn}A\x1b[J"),
        };
        // More than fits on a screen can't be drawn over: then only its end is shown, until the last.
        let from = match is_last {
            true => 0,
            false => lines.len().saturating_sub(LINES_MAX),
        };
        for line in &lines[from..] {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len() - from;
        // Nobody may be listening there.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// Lines of a tree that is still growing.
const LINES_MAX: usize = 20;
