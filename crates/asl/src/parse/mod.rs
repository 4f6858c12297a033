//! From definition to machine: everything is compiled and checked in one pass, and every problem is
//! reported, not only the first.

mod choice;
mod errors;
mod fields;
mod graph;
mod map;
mod place;
mod places;
mod state;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::diagnostic::{self, Diagnostic, Severity, code};
use crate::json;
use crate::machine::{Machine, Scope, State};
use fields::Fields;
use place::Place;

/// Branches and processors in each other.
const SCOPE_DEPTH_MAX: usize = 32;
/// Longest name of a state, variable or label's owner.
const NAME_LENGTH_MAX: usize = 80;
/// Most seconds of a timeout or wait.
const SECONDS_MAX: f64 = 99_999_999.0;

/// A machine, if the definition is valid, and what there is to say about it.
#[derive(Debug)]
pub struct Checked {
    /// The machine; none if there is an error among the diagnostics.
    pub machine: Option<Machine>,
    /// Problems, in the order of the document as far as possible.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses and checks a definition's text.
pub fn check_text(text: &str) -> Checked {
    let document = match json::read(text) {
        Ok(document) => document,
        Err(error) => {
            let (line, column) = json::line_and_column(text, error.offset);
            let diagnostic = Diagnostic {
                severity: Severity::Error,
                code: code::INVALID_JSON,
                message: error.message,
                pointer: String::new(),
                line: Some(line),
                column: Some(column),
                suggestion: None,
            };
            return Checked {
                machine: None,
                diagnostics: vec![diagnostic],
            };
        }
    };
    let mut checked = check(&document.value, document.duplicates);
    diagnostic::locate(&mut checked.diagnostics, text);
    checked
        .diagnostics
        .sort_by_key(|one| (one.line, one.column));
    checked
}

/// Parses and checks a definition; positions are JSON pointers only.
pub fn check_value(definition: &Value) -> Checked {
    check(definition, Vec::new())
}

fn check(definition: &Value, duplicates: Vec<String>) -> Checked {
    let mut builder = Builder::default();
    let root = Place::root();
    for pointer in duplicates {
        builder.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            code: code::DUPLICATE_KEY,
            message: "the key is given twice".to_owned(),
            pointer,
            line: None,
            column: None,
            suggestion: None,
        });
    }
    let timeout_seconds = builder.machine(definition, &root);
    let is_valid = !builder.diagnostics.iter().any(Diagnostic::is_error);
    let states: Option<Vec<State>> = builder.states.into_iter().collect();
    let machine = states.filter(|_| is_valid).map(|states| Machine {
        states,
        scopes: builder.scopes,
        timeout_seconds,
    });
    Checked {
        machine,
        diagnostics: builder.diagnostics,
    }
}

/// What grows while a definition is read.
#[derive(Default)]
struct Builder {
    diagnostics: Vec<Diagnostic>,
    /// None where a state has errors.
    states: Vec<Option<State>>,
    scopes: Vec<Scope>,
    machine_is_jsonata: bool,
    /// All names of states so far.
    names: BTreeSet<String>,
    labels: BTreeSet<String>,
    /// Variables that the scopes around the current one assign.
    outer_variables: Vec<BTreeSet<String>>,
    depth: usize,
}

/// Names of a scope's states.
type Names = BTreeMap<String, usize>;

impl Builder {
    fn machine(&mut self, definition: &Value, place: &Place<'_>) -> Option<u64> {
        let fields = self.object(definition, place)?;
        let known = [
            "Comment",
            "QueryLanguage",
            "StartAt",
            "States",
            "TimeoutSeconds",
            "Version",
        ];
        self.only(&fields, &known, "a state machine");
        self.string(&fields, "Comment");
        self.machine_is_jsonata = self.language(&fields).unwrap_or(false);
        if let Some(version) = self.string(&fields, "Version")
            && version != "1.0"
        {
            self.error(
                code::SCHEMA,
                &fields.at("Version"),
                "the version is \"1.0\"",
            );
        }
        let timeout = self.number(&fields, "TimeoutSeconds", 1.0, SECONDS_MAX, true);
        self.scope(&fields);
        timeout.map(|seconds| seconds as u64)
    }

    /// Reads `StartAt` and `States`; gives the scope's number.
    fn scope(&mut self, fields: &Fields<'_>) -> usize {
        let number = self.scopes.len();
        self.scopes.push(Scope { start: 0 });
        let start = self.required_string(fields, "StartAt");
        if self.depth >= SCOPE_DEPTH_MAX {
            self.error(code::DEPTH, fields.place, "states are nested too deeply");
            return number;
        }
        let place = fields.at("States");
        let Some(states) = fields.map.get("States") else {
            self.missing(fields, "States");
            return number;
        };
        let Some(states) = self.object(states, &place) else {
            return number;
        };
        if states.map.is_empty() {
            self.error(code::SCHEMA, &place, "there is no state");
            return number;
        }
        let mut names = Names::new();
        for name in states.map.keys() {
            self.state_name(name, &states.at(name));
            names.insert(name.clone(), self.states.len());
            self.states.push(None);
        }
        if let Some(start) = start
            && let Some(start) = self.target(start, &names, &fields.at("StartAt"))
        {
            self.scopes[number].start = start;
        }
        self.depth += 1;
        for (name, value) in states.map {
            let at = states.at(name);
            let built = self.state(name, value, &at, &names, &states);
            if let Some(index) = names.get(name) {
                self.states[*index] = built;
            }
        }
        self.depth -= 1;
        self.check_graph(&states, start);
        number
    }

    fn state_name(&mut self, name: &str, place: &Place<'_>) {
        let length = name.chars().count();
        if length == 0 || length > NAME_LENGTH_MAX {
            let message =
                format!("a state's name has 1 to {NAME_LENGTH_MAX} characters, not {length}");
            self.error(code::STATE_NAME, place, message);
        }
        if !self.names.insert(name.to_owned()) {
            let message = format!("the name '{name}' is used by another state of the machine");
            self.error(code::DUPLICATE_NAME, place, message);
        }
    }

    /// `QueryLanguage`: whether it is JSONata; none if it isn't given.
    fn language(&mut self, fields: &Fields<'_>) -> Option<bool> {
        let language = self.string(fields, "QueryLanguage")?;
        if language != "JSONPath" && language != "JSONata" {
            let nearest = diagnostic::nearest(language, ["JSONPath", "JSONata"]);
            let message = "the query language is \"JSONPath\" or \"JSONata\"";
            self.suggest(code::SCHEMA, &fields.at("QueryLanguage"), message, nearest);
        }
        Some(language == "JSONata")
    }

    /// The state that a name means.
    fn target(&mut self, name: &str, names: &Names, place: &Place<'_>) -> Option<usize> {
        let found = names.get(name).copied();
        if found.is_none() {
            let nearest = diagnostic::nearest(name, names.keys().map(String::as_str));
            let message = format!("there is no state '{name}' in this scope");
            self.suggest(code::TARGET, place, message, nearest);
        }
        found
    }

    fn error(&mut self, code: &'static str, place: &Place<'_>, message: impl Into<String>) {
        self.suggest(code, place, message, None);
    }

    fn suggest(
        &mut self,
        code: &'static str,
        place: &Place<'_>,
        message: impl Into<String>,
        nearest: Option<&str>,
    ) {
        let suggestion = nearest.map(|nearest| format!("did you mean '{nearest}'?"));
        self.report(Severity::Error, code, place, message.into(), suggestion);
    }

    fn warn(
        &mut self,
        code: &'static str,
        place: &Place<'_>,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) {
        self.report(Severity::Warning, code, place, message.into(), suggestion);
    }

    fn report(
        &mut self,
        severity: Severity,
        code: &'static str,
        place: &Place<'_>,
        message: String,
        suggestion: Option<String>,
    ) {
        self.diagnostics.push(Diagnostic {
            severity,
            code,
            message,
            pointer: place.pointer(),
            line: None,
            column: None,
            suggestion,
        });
    }
}
