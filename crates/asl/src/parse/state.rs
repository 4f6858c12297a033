//! Each type of state and its fields.

use std::sync::Arc;

use serde_json::Value;

use super::fields::Fields;
use super::graph;
use super::place::Place;
use super::template::Calls;
use super::{Builder, Names, SECONDS_MAX};
use crate::diagnostic::{code, nearest};
use crate::machine::{Kind, Next, Source, State, Target, Task, Wait};
use crate::template::Template;
use crate::timestamp;

const TYPES: [&str; 8] = [
    "Task", "Choice", "Wait", "Pass", "Succeed", "Fail", "Parallel", "Map",
];

/// Fields of a type: in both languages, in JSONPath only, in JSONata only.
type Known = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const KNOWN: [(&str, Known); 8] = [
    (
        "Pass",
        (
            &["Assign", "Next", "End"],
            &[
                "InputPath",
                "OutputPath",
                "Parameters",
                "Result",
                "ResultPath",
            ],
            &["Output"],
        ),
    ),
    (
        "Task",
        (
            &[
                "Resource",
                "TimeoutSeconds",
                "HeartbeatSeconds",
                "Credentials",
                "Retry",
                "Catch",
                "Assign",
                "Next",
                "End",
            ],
            &[
                "InputPath",
                "OutputPath",
                "Parameters",
                "ResultSelector",
                "ResultPath",
                "TimeoutSecondsPath",
                "HeartbeatSecondsPath",
            ],
            &["Arguments", "Output"],
        ),
    ),
    (
        "Choice",
        (
            &["Choices", "Default", "Assign"],
            &["InputPath", "OutputPath"],
            &["Output"],
        ),
    ),
    (
        "Wait",
        (
            &["Seconds", "Timestamp", "Assign", "Next", "End"],
            &["InputPath", "OutputPath", "SecondsPath", "TimestampPath"],
            &["Output"],
        ),
    ),
    (
        "Succeed",
        (&["End"], &["InputPath", "OutputPath"], &["Output"]),
    ),
    (
        "Fail",
        (&["Error", "Cause"], &["ErrorPath", "CausePath"], &[]),
    ),
    (
        "Parallel",
        (
            &["Branches", "Retry", "Catch", "Assign", "Next", "End"],
            &[
                "InputPath",
                "OutputPath",
                "Parameters",
                "ResultSelector",
                "ResultPath",
            ],
            &["Arguments", "Output"],
        ),
    ),
    (
        "Map",
        (
            &[
                "ItemProcessor",
                "Iterator",
                "ItemSelector",
                "MaxConcurrency",
                "ItemReader",
                "ItemBatcher",
                "ResultWriter",
                "ToleratedFailureCount",
                "ToleratedFailurePercentage",
                "Label",
                "Retry",
                "Catch",
                "Assign",
                "Next",
                "End",
            ],
            &[
                "InputPath",
                "OutputPath",
                "Parameters",
                "ResultSelector",
                "ResultPath",
                "ItemsPath",
                "MaxConcurrencyPath",
                "ToleratedFailureCountPath",
                "ToleratedFailurePercentagePath",
            ],
            &["Items", "Output"],
        ),
    ),
];

/// Fields that say how a Task's data flow, in JSONPath.
const FLOW: [&str; 6] = [
    "InputPath",
    "OutputPath",
    "Parameters",
    "ResultSelector",
    "ResultPath",
    "Assign",
];

fn known(kind: &str) -> Known {
    let found = KNOWN.iter().find(|(name, _)| *name == kind);
    found.map_or((&[], &[], &[]), |(_, known)| *known)
}

impl Builder {
    pub(super) fn state(
        &mut self,
        name: &str,
        value: &Value,
        place: &Place<'_>,
        names: &Names,
        siblings: &Fields<'_>,
    ) -> Option<State> {
        let fields = self.object(value, place)?;
        let is_jsonata = self.state_language(&fields);
        let kind_name = self.required_string(&fields, "Type")?;
        if !TYPES.contains(&kind_name) {
            let nearest = nearest(kind_name, TYPES);
            let message = format!("there is no type of state '{kind_name}'");
            self.suggest(code::SCHEMA, &fields.at("Type"), message, nearest);
            return None;
        }
        self.string(&fields, "Comment");
        self.known_fields(&fields, kind_name, is_jsonata);
        let next = self.next(&fields, kind_name, names);
        let kind = self.kind(&fields, kind_name, is_jsonata, names, siblings);
        let has_parameters = matches!(kind_name, "Pass" | "Task" | "Parallel");
        let parameters = match (is_jsonata, has_parameters) {
            (true, true) => self.template_field(&fields, "Arguments", true),
            (false, true) => self.template_field(&fields, "Parameters", false),
            _ => None,
        };
        let result_selector = match is_jsonata {
            true => None,
            false => self.template_field(&fields, "ResultSelector", false),
        };
        if let Some(value) = fields.map.get("ResultSelector") {
            self.object(value, &fields.at("ResultSelector"));
        }
        let output = match is_jsonata {
            true => self.template_field(&fields, "Output", true),
            false => None,
        };
        Some(State {
            name: name.to_owned(),
            is_jsonata,
            input_path: self.source(&fields, "InputPath"),
            output_path: self.source(&fields, "OutputPath"),
            parameters,
            result_selector,
            result_path: self.result_path(&fields),
            output,
            assign: self.assign(&fields, "", is_jsonata),
            retriers: self.retriers(&fields),
            catchers: self.catchers(&fields, names, is_jsonata),
            next: next.unwrap_or(Next::End),
            kind: kind?,
        })
    }

    fn state_language(&mut self, fields: &Fields<'_>) -> bool {
        let own = self.language(fields);
        if self.machine_is_jsonata && own == Some(false) {
            let message = "a state of a JSONata machine can't use JSONPath";
            self.error(code::SCHEMA, &fields.at("QueryLanguage"), message);
        }
        own.unwrap_or(self.machine_is_jsonata)
    }

    fn known_fields(&mut self, fields: &Fields<'_>, kind: &str, is_jsonata: bool) {
        let (both, jsonpath, jsonata) = known(kind);
        let (own, other) = match is_jsonata {
            true => (jsonata, jsonpath),
            false => (jsonpath, jsonata),
        };
        for key in fields.map.keys() {
            let key = key.as_str();
            if matches!(key, "Type" | "Comment" | "QueryLanguage")
                || both.contains(&key)
                || own.contains(&key)
            {
                continue;
            }
            let place = fields.at(key);
            if other.contains(&key) {
                let language = if is_jsonata { "JSONata" } else { "JSONPath" };
                let message = format!("a {kind} state has no field '{key}' in {language}");
                self.error(code::SCHEMA, &place, message);
            } else {
                let all = both.iter().chain(own).copied().chain(["Comment"]);
                let nearest = nearest(key, all);
                let message = format!("a {kind} state has no field '{key}'");
                self.suggest(code::SCHEMA, &place, message, nearest);
            }
        }
    }

    /// `Next` or `End`, for those types that have them.
    fn next(&mut self, fields: &Fields<'_>, kind: &str, names: &Names) -> Option<Next> {
        if let Some(end) = fields.map.get("End") {
            let place = fields.at("End");
            match (kind, end) {
                ("Succeed", _) => {
                    let message = "a Succeed state ends by itself";
                    self.warn(
                        code::NO_EFFECT,
                        &place,
                        message,
                        Some("leave it out".to_owned()),
                    );
                }
                (_, Value::Bool(_)) => {}
                _ => self.error(code::SCHEMA, &place, "true or false is expected"),
            }
        }
        if matches!(kind, "Choice" | "Succeed" | "Fail") {
            return None;
        }
        let ends = fields.map.get("End") == Some(&Value::Bool(true));
        match (fields.has("Next"), ends) {
            (true, true) => {
                let message = "Next and End exclude each other";
                self.error(code::SCHEMA, &fields.at("End"), message);
                None
            }
            (false, true) => Some(Next::End),
            (true, false) => {
                let next = self.string(fields, "Next")?;
                self.target(next, names, &fields.at("Next"))
                    .map(Next::State)
            }
            (false, false) => {
                let message = "the state needs a \"Next\", or \"End\": true";
                self.error(code::SCHEMA, fields.place, message);
                None
            }
        }
    }

    fn kind(
        &mut self,
        fields: &Fields<'_>,
        kind: &str,
        is_jsonata: bool,
        names: &Names,
        siblings: &Fields<'_>,
    ) -> Option<Kind> {
        match kind {
            "Pass" => {
                self.looks_computed(fields);
                let result = fields.map.get("Result").filter(|_| !is_jsonata);
                Some(Kind::Pass {
                    result: result.map(|result| Arc::new(result.clone())),
                })
            }
            "Task" => self.task(fields, is_jsonata),
            "Choice" => self.choice(fields, is_jsonata, names),
            "Wait" => self.wait(fields, is_jsonata),
            "Succeed" => Some(Kind::Succeed),
            "Fail" => Some(Kind::Fail {
                error: self.words(fields, "Error", is_jsonata, Calls::Allowed),
                cause: self.words(fields, "Cause", is_jsonata, Calls::Allowed),
            }),
            "Parallel" => self.parallel(fields, siblings),
            _ => self.map(fields, is_jsonata, siblings),
        }
    }

    fn looks_computed(&mut self, fields: &Fields<'_>) {
        let is_path = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("$."));
        let computed = match fields.map.get("Result") {
            Some(Value::Object(map)) => map
                .iter()
                .any(|(key, value)| key.ends_with(".$") || is_path(value)),
            Some(value) => is_path(value),
            None => false,
        };
        if computed {
            let message = "the Result of a Pass state is not evaluated";
            let suggestion = Some("use Parameters".to_owned());
            self.warn(
                code::STATIC_RESULT,
                &fields.at("Result"),
                message,
                suggestion,
            );
        }
    }

    fn task(&mut self, fields: &Fields<'_>, is_jsonata: bool) -> Option<Kind> {
        let resource = self.required_string(fields, "Resource");
        if let Some(resource) = resource {
            let is_arn = resource.starts_with("arn:");
            let is_odd = resource.is_empty() || resource.contains(char::is_whitespace);
            if is_odd || (is_arn && resource.split(':').count() < 6) {
                let message = "a resource is a function's name or a whole ARN";
                self.error(code::RESOURCE, &fields.at("Resource"), message);
            }
        }
        let range = (1.0, SECONDS_MAX);
        let timeout = self.amount(fields, "TimeoutSeconds", range, is_jsonata);
        let heartbeat = self.amount(fields, "HeartbeatSeconds", range, is_jsonata);
        let number = |template: &Option<Template>| template.as_ref()?.literal()?.as_f64();
        if let (Some(timeout), Some(heartbeat)) = (number(&timeout), number(&heartbeat))
            && heartbeat >= timeout
        {
            let message = "HeartbeatSeconds must be smaller than TimeoutSeconds";
            self.error(code::SCHEMA, &fields.at("HeartbeatSeconds"), message);
        }
        let credentials = self.template_field(fields, "Credentials", is_jsonata);
        Some(Kind::Task(Task {
            resource: resource?.to_owned(),
            timeout,
            heartbeat,
            credentials,
            is_plain: !is_jsonata && FLOW.iter().all(|field| !fields.has(field)),
        }))
    }

    fn wait(&mut self, fields: &Fields<'_>, is_jsonata: bool) -> Option<Kind> {
        let forms = ["Seconds", "Timestamp", "SecondsPath", "TimestampPath"];
        if self.exclusive(fields, &forms) == 0 {
            let message = format!("one of {} is missing", forms.join(", "));
            self.error(code::SCHEMA, fields.place, message);
            return None;
        }
        if fields.has("Seconds") || fields.has("SecondsPath") {
            let seconds = self.amount(fields, "Seconds", (0.0, SECONDS_MAX), is_jsonata)?;
            return Some(Kind::Wait(Wait::Seconds(seconds)));
        }
        let timestamp = match fields.has("TimestampPath") {
            true if is_jsonata => return None,
            true => self.path_field(fields, "TimestampPath", Calls::Forbidden)?,
            false => {
                let text = self.string(fields, "Timestamp")?;
                let place = fields.at("Timestamp");
                let expression = match is_jsonata {
                    true => self.expression(text, &place, "Timestamp"),
                    false => None,
                };
                match expression {
                    Some(expression) => expression,
                    None => {
                        if timestamp::parse(text).is_none() {
                            let message = "a time is written like 2016-03-14T01:59:00Z";
                            self.error(code::SCHEMA, &place, message);
                        }
                        Template::Literal(Arc::new(text.into()))
                    }
                }
            }
        };
        Some(Kind::Wait(Wait::Timestamp(timestamp)))
    }

    fn parallel(&mut self, fields: &Fields<'_>, siblings: &Fields<'_>) -> Option<Kind> {
        if !fields.has("Branches") {
            self.missing(fields, "Branches");
        }
        let list_place = fields.at("Branches");
        let values = self.list(fields, "Branches")?;
        if values.is_empty() {
            self.error(code::SCHEMA, &list_place, "at least one branch is expected");
        }
        self.outer_variables.push(graph::variables(siblings.map));
        let mut branches = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let place = list_place.index(at);
            if let Some(branch) = self.object(value, &place) {
                let known = ["StartAt", "States", "Comment", "QueryLanguage"];
                self.only(&branch, &known, "a branch");
                branches.push(self.scope(&branch));
            }
        }
        self.outer_variables.pop();
        Some(Kind::Parallel { branches })
    }

    /// `InputPath` or `OutputPath`.
    fn source(&mut self, fields: &Fields<'_>, name: &str) -> Source {
        match fields.map.get(name) {
            None => Source::Whole,
            Some(Value::Null) => Source::Nothing,
            Some(_) => {
                let text = self.string(fields, name);
                let path = text.and_then(|text| self.path(text, &fields.at(name)));
                match path {
                    Some(path) if !path.is_whole_input() => Source::Path(path),
                    _ => Source::Whole,
                }
            }
        }
    }

    pub(super) fn result_path(&mut self, fields: &Fields<'_>) -> Target {
        match fields.map.get("ResultPath") {
            None => Target::Whole,
            Some(Value::Null) => Target::Nothing,
            Some(_) => {
                let text = self.string(fields, "ResultPath");
                let path =
                    text.and_then(|text| self.reference_path(text, &fields.at("ResultPath")));
                match path {
                    Some(path) if !path.is_whole() => Target::Path(path),
                    _ => Target::Whole,
                }
            }
        }
    }
}
