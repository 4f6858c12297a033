//! Payload templates: JSON in which some values are computed, compiled once.
//!
//! Both query languages end up here: paths and calls in fields ending in `.$`, and `{% … %}` texts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::context::Context;
use crate::failure::{Failure, Fault};
use crate::intrinsic::Call;
use crate::jsonata::{Environment, Expression, Flavour};
use crate::number;
use crate::path::{Path, Root, Segment};
use crate::random::Random;

/// JSON that executions share.
pub(crate) type Data = Arc<Value>;
/// Variables of a scope.
pub(crate) type Variables = BTreeMap<String, Data>;

/// A value, or how to compute it.
#[derive(Debug, Clone)]
pub(crate) enum Template {
    Literal(Data),
    Object(Vec<(String, Template)>),
    Array(Vec<Template>),
    Path { path: Path, field: String },
    Call { call: Call, field: String },
    Expression(Box<Query>),
}

/// A JSONata expression in its field.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) expression: Expression,
    pub(crate) text: String,
    /// Such as `Output/total`.
    pub(crate) field: String,
}

/// What a template can see.
pub(crate) struct View<'a> {
    /// `$` of JSONPath.
    pub(crate) input: &'a Value,
    /// `$states.input`: the state's input, whatever the field applies to.
    pub(crate) raw: &'a Value,
    pub(crate) result: Option<&'a Value>,
    pub(crate) error_output: Option<&'a Value>,
    pub(crate) context: Context<'a>,
    /// Innermost scope first.
    pub(crate) variables: &'a [&'a Variables],
    pub(crate) random: &'a mut Random,
    pub(crate) now: i64,
}

impl Template {
    pub(crate) fn evaluate(&self, view: &mut View<'_>) -> Result<Value, Failure> {
        match self {
            Self::Literal(value) => Ok(Value::clone(value)),
            Self::Object(members) => {
                let mut map = Map::with_capacity(members.len());
                for (key, member) in members {
                    map.insert(key.clone(), member.evaluate(view)?);
                }
                Ok(Value::Object(map))
            }
            Self::Array(members) => members.iter().map(|one| one.evaluate(view)).collect(),
            Self::Path { path, field } => view.path(path, field).map(Cow::into_owned),
            Self::Call { call, field } => call.evaluate(view, field),
            Self::Expression(query) => view.query(query),
        }
    }

    /// Whether it is the same for every execution.
    pub(crate) fn literal(&self) -> Option<&Value> {
        match self {
            Self::Literal(value) => Some(value),
            _ => None,
        }
    }
}

impl View<'_> {
    /// What a path selects; failing says so in the words of AWS.
    pub(crate) fn path(&self, path: &Path, field: &str) -> Result<Cow<'_, Value>, Failure> {
        let selected = self.select(path);
        selected.ok_or_else(|| {
            let text = &path.text;
            let cause = match field {
                "InputPath" | "OutputPath" | "ItemsPath" => {
                    let problem = self.missing(path);
                    format!("Invalid path '{text}' : {problem}")
                }
                "Variable" => format!(
                    "Invalid path '{text}': The choice state's condition path references an \
                     invalid value."
                ),
                _ => {
                    let input = match path.root {
                        Root::Input => number::json(self.input),
                        Root::Context => number::json(&self.context.whole()),
                        Root::Variable(_) => "{}".to_owned(),
                    };
                    format!(
                        "The JSONPath '{text}' specified for the field '{field}' could not be \
                         found in the input '{input}'"
                    )
                }
            };
            Failure::new(Fault::Path, cause)
        })
    }

    /// Which part of a path is missing, as Jayway says it.
    fn missing(&self, path: &Path) -> String {
        for count in 1..path.segments.len() {
            let part = Path {
                root: path.root.clone(),
                segments: path.segments[..count].to_vec(),
                text: String::new(),
            };
            if part.is_definite() && self.select(&part).is_none() {
                return format!("Missing property in path {}", brackets(&part));
            }
        }
        format!("No results for path: {}", brackets(path))
    }

    /// What a path selects, if anything.
    pub(crate) fn select(&self, path: &Path) -> Option<Cow<'_, Value>> {
        match &path.root {
            Root::Input => path.evaluate(self.input).ok(),
            Root::Variable(name) => {
                let value = self.variables.iter().find_map(|scope| scope.get(name))?;
                path.evaluate(value).ok()
            }
            // Only the section that is asked for is made: the input of an execution may be large.
            Root::Context => {
                let root = match path.segments.first() {
                    Some(Segment::Key(name)) => {
                        let section = self.context.section(name)?;
                        Value::Object(Map::from_iter([(name.clone(), section)]))
                    }
                    _ => self.context.whole(),
                };
                Some(Cow::Owned(path.evaluate(&root).ok()?.into_owned()))
            }
        }
    }

    /// The result of an expression, which must not be undefined.
    fn query(&mut self, query: &Query) -> Result<Value, Failure> {
        let Query { text, field, .. } = query;
        let mut states = Map::new();
        // Copies are only made of what the expression can mean.
        let plainly = ["input", "result", "errorOutput", "context"]
            .map(|word| text.matches(&format!("$states.{word}")).count());
        let is_plain = text.matches("$states").count() == plainly.iter().sum::<usize>();
        let mentions = |word: &str| text.contains(word) || !is_plain;
        if text.contains("$states") {
            if mentions("input") {
                states.insert("input".to_owned(), self.raw.clone());
            }
            if let Some(result) = self.result
                && mentions("result")
            {
                states.insert("result".to_owned(), result.clone());
            }
            if let Some(error) = self.error_output {
                states.insert("errorOutput".to_owned(), error.clone());
            }
            if mentions("context") {
                states.insert("context".to_owned(), self.context.whole());
            }
        }
        let mut bindings = BTreeMap::new();
        for scope in self.variables.iter().rev() {
            for (name, value) in *scope {
                if text.contains(name.as_str()) {
                    bindings.insert(name.clone(), Value::clone(value));
                }
            }
        }
        bindings.insert("states".to_owned(), Value::Object(states));
        let mut environment = Environment::new(Flavour::States, self.now, self.random.bits());
        let failed = |cause: String| Err(Failure::new(Fault::Query, cause));
        match query.expression.evaluate(&bindings, &mut environment) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => failed(format!(
                "The JSONata expression '{text}' specified for the field '{field}' returned \
                 nothing (undefined)."
            )),
            Err(error) => failed(format!(
                "The JSONata expression '{text}' specified for the field '{field}' threw an error \
                 during evaluation. {}: {}",
                error.code, error.message
            )),
        }
    }
}

/// The path as Jayway prints it: `$['a'][0]`.
fn brackets(path: &Path) -> String {
    let mut text = match &path.root {
        Root::Input => "$".to_owned(),
        Root::Context => "$$".to_owned(),
        Root::Variable(name) => format!("${name}"),
    };
    for segment in &path.segments {
        match segment {
            Segment::Key(key) => text.push_str(&format!("['{key}']")),
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
            _ => text.push_str("[*]"),
        }
    }
    text
}
