//! What a client of the Go original sends, replayed: `tests/data/http.jsonl` was recorded from it.
//!
//! Every reply must be the recorded one but for the deliberate differences listed below and
//! explained in `tests/data/DIFFERENCES.md`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::support::http::{self, Response};
use crate::support::{Node, function, node};

const TRANSCRIPT: &str = include_str!("../data/http.jsonl");

/// How our reply to a request differs from the original's.
enum Difference {
    /// This status, and a problem whose detail says these words.
    Problem(u16, &'static [&'static str]),
    /// As [`Difference::Problem`], with the stack of the function's error.
    FunctionError(u16, &'static [&'static str]),
    /// This status, and this text as JSON.
    Words(u16, &'static str),
    /// The recorded reply with some text replaced: what the original says, what we say.
    Text(&'static [(&'static str, &'static str)]),
}

use Difference::{FunctionError, Problem, Text, Words};

const DIFFERENCES: &[(&str, Difference)] = &[
    ("create again", Problem(409, &["echo"])),
    ("create, body not JSON", Problem(400, &["line 1"])),
    ("create, field of wrong type", Problem(400, &["MemoryMB"])),
    (
        "invoke, warm",
        Text(&[(
            r#"{\"a\": 1.5, \"l\": [1, 2], \"n\": null, \"o\": {\"k\": \"v\"}, \"t\": true}"#,
            r#"{\"a\": 1.5, \"n\": null, \"t\": true, \"l\": [1, 2], \"o\": {\"k\": \"v\"}}"#,
        )]),
    ),
    ("invoke, big integer", Problem(400, &["number"])),
    (
        "invoke, integer beyond 2^53",
        Text(&[("9007199254740992", "9007199254740993")]),
    ),
    ("invoke, params not an object", Problem(400, &["Params"])),
    ("invoke, not JSON", Problem(400, &["line 1"])),
    ("invoke failing function", FunctionError(500, &["boom"])),
    ("poll unknown", Problem(404, &["nope"])),
    ("invoke too big for the pool", Problem(429, &["1000000"])),
    (
        "poll of failed call",
        Text(&[(
            r#""ExecutionNode":""}"#,
            r#""ExecutionNode":"","Error":"ValueError: boom"}"#,
        )]),
    ),
    ("status", Text(&[(r#""huge":0,"#, "")])),
    ("workflow create, bad base64", Problem(400, &["base64"])),
    ("workflow create, not ASL", Problem(400, &["StartAt"])),
    (
        "workflow invoke, missing input",
        Words(
            500,
            "failed wflow execution: Serverledge.SignatureMismatch: the input 'n' is missing",
        ),
    ),
    (
        "choice to Fail",
        Words(500, "failed wflow execution: E: why"),
    ),
    ("status at the end", Text(&[(r#""huge":0,"#, "")])),
];

#[derive(Deserialize)]
struct Exchange {
    note: String,
    request: Request,
    response: Recorded,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    body: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    tar: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Recorded {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

#[test]
fn the_originals_clients_get_the_replies_they_know() {
    let node = node()
        .memory(2048)
        .cpus(2.0)
        .config("registry.node.id: node-a\nregistry:\n  area: ROME\n")
        .start();
    let mut replay = Replay::default();
    for line in TRANSCRIPT.lines() {
        let exchange: Exchange = serde_json::from_str(line).expect("a line of the transcript");
        replay.play(&node, &exchange);
    }
    assert_eq!(replay.played, TRANSCRIPT.lines().count());
    assert_eq!(
        replay.differences,
        DIFFERENCES.len(),
        "a difference of no request"
    );
    assert!(
        replay.failures.is_empty(),
        "{}",
        replay.failures.join("\n\n")
    );
}

#[derive(Default)]
struct Replay {
    played: usize,
    differences: usize,
    failures: Vec<String>,
    /// The ids we gave, by those that the original gave.
    ids: BTreeMap<String, String>,
}

impl Replay {
    fn play(&mut self, node: &Node, exchange: &Exchange) {
        self.played += 1;
        let reply = self.send(node, &exchange.request);
        let difference = DIFFERENCES.iter().find(|(note, _)| *note == exchange.note);
        self.differences += usize::from(difference.is_some());
        let checked = check(
            exchange,
            &reply,
            difference.map(|(_, difference)| difference),
        );
        if let Err(failure) = checked {
            self.failures.push(format!(
                "{}: {failure}\n  recorded: status {}, {:?}\n  got: {}",
                exchange.note,
                exchange.response.status,
                exchange.response.body,
                reply.shown()
            ));
        }
        if let (Some(recorded), Some(ours)) =
            (id(exchange.response.body.as_bytes()), id(&reply.body))
        {
            self.ids.insert(recorded, ours);
        }
    }

    fn send(&self, node: &Node, request: &Request) -> Response {
        let files: Vec<_> = request.tar.clone().into_iter().collect();
        let code = base64::engine::general_purpose::STANDARD.encode(function::tar(&files));
        let body = request
            .body
            .as_deref()
            .unwrap_or_default()
            .replace("${tar}", &code);
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        // A recorded id stands for ours; the original was polled when the call had surely ended.
        match request
            .path
            .strip_prefix("/poll/")
            .and_then(|id| self.ids.get(id))
        {
            Some(id) => node.poll(id),
            None => http::request(
                node.address,
                &request.method,
                &request.path,
                &headers,
                body.as_bytes(),
            )
            .unwrap_or_else(|error| panic!("{}: {error}", request.path)),
        }
    }
}

fn id(body: &[u8]) -> Option<String> {
    let reply: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(reply.get("ReqId")?.as_str()?.to_owned())
}

type Checked = Result<(), String>;

fn check(exchange: &Exchange, reply: &Response, difference: Option<&Difference>) -> Checked {
    // What an async call takes of the node when it is acknowledged is a matter of luck; and the
    // original counts a call that failed as still running.
    let body = exchange.request.body.as_deref().unwrap_or_default();
    let is_async = body.contains("\"Async\": true");
    let free_varies = is_async || matches!(difference, Some(FunctionError(..)));
    headers_match(&exchange.response.headers, reply, free_varies)?;
    match difference {
        Some(Problem(status, words)) => problem(reply, *status, words, false),
        Some(FunctionError(status, words)) => problem(reply, *status, words, true),
        Some(Words(status, words)) => {
            let words = serde_json::to_string(words).map_err(|error| error.to_string())?;
            let is_same = reply.status == *status && reply.body == format!("{words}\n").as_bytes();
            ensure(is_same, || format!("not {status} {words}"))
        }
        Some(Text(replacements)) => {
            let mut body = exchange.response.body.clone();
            for (theirs, ours) in *replacements {
                ensure(body.contains(theirs), || {
                    format!("{theirs} isn't in the transcript")
                })?;
                body = body.replace(theirs, ours);
            }
            same(&exchange.response, &body, reply)
        }
        None => same(&exchange.response, &exchange.response.body, reply),
    }
}

/// The node's own headers are those recorded, apart from the time, and from what is free where
/// that varies.
fn headers_match(
    recorded: &BTreeMap<String, String>,
    reply: &Response,
    free_varies: bool,
) -> Checked {
    let is_ours = |name: &str| name.to_lowercase().starts_with("serverledge-");
    for (name, value) in recorded.iter().filter(|(name, _)| is_ours(name)) {
        let got = reply
            .header(name)
            .ok_or_else(|| format!("no header {name}"))?;
        let varies = name == "Serverledge-Timestamp"
            || (free_varies && name.starts_with("Serverledge-Free-"));
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let value = if name == "Serverledge-Node-Arch" {
            arch
        } else {
            value
        };
        if varies {
            ensure(got.parse::<f64>().is_ok(), || {
                format!("{name} is {got:?}, not a number")
            })?;
        } else {
            ensure(got == value, || format!("{name} is {got:?}, not {value:?}"))?;
        }
    }
    for (name, _) in reply.headers.iter().filter(|(name, _)| is_ours(name)) {
        let known = recorded.keys().any(|key| key.eq_ignore_ascii_case(name));
        ensure(known, || format!("header {name} isn't in the transcript"))?;
    }
    Ok(())
}

fn problem(reply: &Response, status: u16, words: &[&str], with_stack: bool) -> Checked {
    ensure(reply.status == status, || format!("status is not {status}"))?;
    let kind = reply.header("Content-Type").unwrap_or_default();
    ensure(
        kind.starts_with("application/") && kind.contains("json"),
        || format!("Content-Type is {kind:?}"),
    )?;
    let problem: serde_json::Value =
        serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    ensure(problem["status"] == status, || {
        "status in the body differs".into()
    })?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    for word in words {
        ensure(detail.contains(word), || {
            format!("the detail doesn't say {word:?}")
        })?;
    }
    let stack = problem["stack"].as_str().unwrap_or_default();
    ensure(stack.contains("f.py") == with_stack, || {
        format!("the stack is {stack:?}")
    })
}

fn same(recorded: &Recorded, body: &str, reply: &Response) -> Checked {
    ensure(reply.status == recorded.status, || "another status".into())?;
    if let Some(kind) = recorded.headers.get("Content-Type") {
        let got = reply.header("Content-Type").unwrap_or_default();
        ensure(got == kind, || format!("Content-Type is {got:?}"))?;
    }
    let text = std::str::from_utf8(&reply.body).map_err(|error| error.to_string())?;
    let (Ok(Fields(theirs)), Ok(Fields(ours))) =
        (serde_json::from_str(body), serde_json::from_str(text))
    else {
        return ensure(text == body, || "another body".into());
    };
    ensure(text.ends_with('\n') == body.ends_with('\n'), || {
        "another end of line".into()
    })?;
    let names = |fields: &[(String, Box<RawValue>)]| -> Vec<String> {
        fields.iter().map(|(name, _)| name.clone()).collect()
    };
    ensure(names(&theirs) == names(&ours), || {
        "other keys, or in another order".into()
    })?;
    for ((name, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        let (theirs, ours) = (theirs.get(), ours.get());
        ensure(alike(name, theirs, ours), || {
            format!("{name} is {ours}, not {theirs}")
        })?;
    }
    let times = ["InitTime", "Duration", "ResponseTime"].map(|name| number(&ours, name));
    if let [Some(init), Some(duration), Some(response)] = times {
        ensure(response >= duration && response >= init, || {
            "the times don't add up".into()
        })?;
        ensure(
            (duration > 0.0) == text.contains("\"Success\":true"),
            || "a Duration of 0".into(),
        )?;
    }
    Ok(())
}

/// Whether the values are the same, or of the same kind where they vary from run to run.
fn alike(name: &str, theirs: &str, ours: &str) -> bool {
    match name {
        "ResponseTime" | "InitTime" | "Duration" if theirs != "0" => ours
            .parse::<f64>()
            .is_ok_and(|seconds| (0.0..30.0).contains(&seconds)),
        // That of a placement is next to nothing, that of none is none.
        "SchedulingTime" => ours.parse::<f64>().is_ok(),
        _ if name == "Reports" || name.starts_with("Function_") => nested_alike(theirs, ours),
        "LastUpdateTime" => ours
            .parse::<u64>()
            .is_ok_and(|seconds| seconds > 1_600_000_000),
        "LoadAvg" => serde_json::from_str::<[f64; 3]>(ours).is_ok(),
        "ReqId" => {
            let function = theirs.split('-').next().unwrap_or_default();
            ours.starts_with(function) && ours.len() > function.len() + 3
        }
        _ => theirs == ours,
    }
}

/// Whether two objects have the same keys, and values that are alike.
fn nested_alike(theirs: &str, ours: &str) -> bool {
    let (Ok(Fields(theirs)), Ok(Fields(ours))) =
        (serde_json::from_str(theirs), serde_json::from_str(ours))
    else {
        return theirs == ours;
    };
    theirs.len() == ours.len()
        && theirs
            .iter()
            .zip(&ours)
            .all(|((a, theirs), (b, ours))| a == b && alike(a, theirs.get(), ours.get()))
}

fn number(fields: &[(String, Box<RawValue>)], name: &str) -> Option<f64> {
    let (_, value) = fields.iter().find(|(key, _)| key == name)?;
    value.get().parse().ok()
}

fn ensure(holds: bool, failure: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(failure()) }
}

/// A JSON object's fields as written, in their order.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
