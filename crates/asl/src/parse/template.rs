//! Compiling templates and the fields made of them.

use std::sync::Arc;

use serde_json::Value;

use super::fields::Fields;
use super::place::Place;
use super::{Builder, NAME_LENGTH_MAX};
use crate::diagnostic::code;
use crate::intrinsic::{Call, Function};
use crate::jsonata::Expression;
use crate::path::{Path, ReferencePath};
use crate::template::{Query, Template};

/// What a JSONPath field may hold besides a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    Allowed,
    Forbidden,
}

impl Builder {
    /// A field that is a template, in either language.
    pub(super) fn template_field(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        is_jsonata: bool,
    ) -> Option<Template> {
        self.template_within(fields, name, "", is_jsonata)
    }

    /// The same, where the field is part of another: `owner` is such as `Choices/0/`.
    pub(super) fn template_within(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        owner: &str,
        is_jsonata: bool,
    ) -> Option<Template> {
        let value = fields.map.get(name)?;
        let place = fields.at(name);
        Some(match is_jsonata {
            true => self.jsonata_template(value, &place, &format!("{owner}{name}")),
            false => self.jsonpath_template(value, &place),
        })
    }

    /// JSON in which `{% … %}` texts are expressions.
    pub(super) fn jsonata_template(
        &mut self,
        value: &Value,
        place: &Place<'_>,
        field: &str,
    ) -> Template {
        match value {
            Value::String(text) => match self.expression(text, place, field) {
                Some(template) => template,
                None => Template::Literal(Arc::new(value.clone())),
            },
            Value::Array(values) => {
                let members = values.iter().enumerate().map(|(at, one)| {
                    self.jsonata_template(one, &place.index(at), &format!("{field}/{at}"))
                });
                folded_array(members.collect())
            }
            Value::Object(map) => {
                let members = map.iter().map(|(key, one)| {
                    let inner = format!("{field}/{key}");
                    (
                        key.clone(),
                        self.jsonata_template(one, &place.key(key), &inner),
                    )
                });
                folded_object(members.collect())
            }
            other => Template::Literal(Arc::new(other.clone())),
        }
    }

    /// `{% … %}`; none for any other text.
    pub(super) fn expression(
        &mut self,
        text: &str,
        place: &Place<'_>,
        field: &str,
    ) -> Option<Template> {
        let Some(inner) = text.strip_prefix("{%") else {
            if text.trim().starts_with("{%") && text.trim().ends_with("%}") {
                let message = "an expression has no blanks around {% and %}";
                self.error(code::EXPRESSION, place, message);
            } else if text.ends_with("%}") {
                self.error(code::EXPRESSION, place, "an expression starts with {%");
            }
            return None;
        };
        let Some(inner) = inner.strip_suffix("%}") else {
            self.error(code::EXPRESSION, place, "an expression ends with %}");
            return None;
        };
        let inner = inner.trim();
        match Expression::parse(inner) {
            Ok(expression) => Some(Template::Expression(Box::new(Query {
                expression,
                text: inner.to_owned(),
                field: field.to_owned(),
            }))),
            Err(error) => {
                let message = format!("invalid JSONata: {}: {}", error.code, error.message);
                self.error(code::EXPRESSION, place, message);
                None
            }
        }
    }

    /// JSON in which fields ending in `.$` are paths and calls.
    pub(super) fn jsonpath_template(&mut self, value: &Value, place: &Place<'_>) -> Template {
        match value {
            Value::Array(values) => {
                let members = values.iter().enumerate();
                let members =
                    members.map(|(at, one)| self.jsonpath_template(one, &place.index(at)));
                folded_array(members.collect())
            }
            Value::Object(map) => {
                let mut members = Vec::with_capacity(map.len());
                for (key, one) in map {
                    let place = place.key(key);
                    let Some(name) = key.strip_suffix(".$") else {
                        self.looks_static(key, one, &place);
                        members.push((key.clone(), self.jsonpath_template(one, &place)));
                        continue;
                    };
                    if map.contains_key(name) {
                        let message = format!("'{name}' and '{key}' are the same field");
                        self.error(code::SCHEMA, &place, message);
                    }
                    let computed = match one {
                        Value::String(text) => self.computed(text, &place, key, Calls::Allowed),
                        _ => {
                            let message =
                                "a field ending in '.$' is a path or an intrinsic function";
                            self.error(code::SCHEMA, &place, message);
                            None
                        }
                    };
                    members.extend(computed.map(|computed| (name.to_owned(), computed)));
                }
                folded_object(members)
            }
            other => Template::Literal(Arc::new(other.clone())),
        }
    }

    /// Warns of a value that was probably meant to be computed.
    fn looks_static(&mut self, key: &str, value: &Value, place: &Place<'_>) {
        if let Value::String(text) = value
            && (text == "$"
                || text.starts_with("$.")
                || text.starts_with("$$.")
                || text.starts_with("$[")
                || (Call::looks_like(text) && text.contains('(')))
        {
            let message = "the value looks like a path or call, but is taken as a text";
            let suggestion = Some(format!("name the field '{key}.$' to have it evaluated"));
            self.warn(code::NO_DOLLAR, place, message, suggestion);
        }
    }

    /// A path, or a call where one may stand.
    pub(super) fn computed(
        &mut self,
        text: &str,
        place: &Place<'_>,
        field: &str,
        calls: Calls,
    ) -> Option<Template> {
        let field = field.to_owned();
        if calls == Calls::Allowed && Call::looks_like(text) {
            return match Call::parse(text) {
                Ok(call) => Some(Template::Call { call, field }),
                Err(malformed) => {
                    let name = text.split('(').next().unwrap_or(text);
                    let known = Function::NAMES.iter().copied();
                    let nearest = crate::diagnostic::nearest(name, known);
                    let nearest = nearest.filter(|nearest| *nearest != name);
                    let message = format!("invalid intrinsic function: {}", malformed.message);
                    self.suggest(code::EXPRESSION, place, message, nearest);
                    None
                }
            };
        }
        self.path(text, place)
            .map(|path| Template::Path { path, field })
    }

    pub(super) fn path(&mut self, text: &str, place: &Place<'_>) -> Option<Path> {
        match Path::parse(text) {
            Ok(path) => Some(path),
            Err(malformed) => {
                let message = format!("invalid path '{text}': {}", malformed.message);
                self.error(code::EXPRESSION, place, message);
                None
            }
        }
    }

    pub(super) fn reference_path(
        &mut self,
        text: &str,
        place: &Place<'_>,
    ) -> Option<ReferencePath> {
        match ReferencePath::parse(text) {
            Ok(path) => Some(path),
            Err(malformed) => {
                let message = format!("invalid reference path '{text}': {}", malformed.message);
                self.error(code::EXPRESSION, place, message);
                None
            }
        }
    }

    /// A path that must name one place, for fields such as `SecondsPath`.
    pub(super) fn path_field(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        calls: Calls,
    ) -> Option<Template> {
        let text = self.string(fields, name)?;
        let place = fields.at(name);
        let template = self.computed(text, &place, name, calls)?;
        if let Template::Path { path, .. } = &template
            && !path.is_definite()
        {
            let message = format!("'{text}' may select several values, and one is needed");
            self.error(code::EXPRESSION, &place, message);
            return None;
        }
        Some(template)
    }

    /// A number: given, computed by an expression, or under `<name>Path`.
    pub(super) fn amount(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        (least, most): (f64, f64),
        is_jsonata: bool,
    ) -> Option<Template> {
        let path_name = format!("{name}Path");
        self.exclusive(fields, &[name, &path_name]);
        if fields.has(&path_name) && !is_jsonata {
            return self.path_field(fields, &path_name, Calls::Forbidden);
        }
        let value = fields.map.get(name)?;
        if let (true, Value::String(text)) = (is_jsonata, value) {
            let place = fields.at(name);
            let expression = self.expression(text, &place, name);
            if expression.is_none() {
                self.error(
                    code::SCHEMA,
                    &place,
                    "a number or an expression is expected",
                );
            }
            return expression;
        }
        let is_whole = name != "ToleratedFailurePercentage";
        self.number(fields, name, least, most, is_whole)?;
        Some(Template::Literal(Arc::new(value.clone())))
    }

    /// A text: given, computed by an expression, or under `<name>Path`.
    pub(super) fn words(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        is_jsonata: bool,
        calls: Calls,
    ) -> Option<Template> {
        let path_name = format!("{name}Path");
        self.exclusive(fields, &[name, &path_name]);
        if fields.has(&path_name) && !is_jsonata {
            return self.path_field(fields, &path_name, calls);
        }
        let text = self.string(fields, name)?;
        let place = fields.at(name);
        if is_jsonata && let Some(expression) = self.expression(text, &place, name) {
            return Some(expression);
        }
        if !is_jsonata && (text.starts_with("$.") || text.starts_with("$$.")) {
            let suggestion = Some(format!("name the field '{path_name}' to have it evaluated"));
            let message = "the value looks like a path, but is taken as a text";
            self.warn(code::NO_PATH, &place, message, suggestion);
        }
        Some(Template::Literal(Arc::new(text.into())))
    }

    /// `Assign`: variables and what they become.
    pub(super) fn assign(
        &mut self,
        fields: &Fields<'_>,
        owner: &str,
        is_jsonata: bool,
    ) -> Vec<(String, Template)> {
        let place = fields.at("Assign");
        let Some(value) = fields.map.get("Assign") else {
            return Vec::new();
        };
        let Some(variables) = self.object(value, &place) else {
            return Vec::new();
        };
        for key in variables.map.keys() {
            let name = match is_jsonata {
                true => key,
                false => key.strip_suffix(".$").unwrap_or(key),
            };
            self.variable_name(name, &variables.at(key));
        }
        let template = match is_jsonata {
            true => self.jsonata_template(value, &place, &format!("{owner}Assign")),
            false => self.jsonpath_template(value, &place),
        };
        match template {
            Template::Object(members) => members,
            Template::Literal(value) => match Arc::unwrap_or_clone(value) {
                Value::Object(map) => map
                    .into_iter()
                    .map(|(name, value)| (name, Template::Literal(Arc::new(value))))
                    .collect(),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn variable_name(&mut self, name: &str, place: &Place<'_>) {
        let mut characters = name.chars();
        let begins = characters
            .next()
            .is_some_and(|c| c.is_alphabetic() || c == '_');
        let goes_on = characters.all(|c| c.is_alphanumeric() || c == '_');
        let problem = if !begins || !goes_on {
            Some("a variable's name is made of letters, digits and '_' and starts with a letter")
        } else if name.chars().count() > NAME_LENGTH_MAX {
            Some("a variable's name has at most 80 characters")
        } else if name == "states" {
            Some("the name 'states' is reserved")
        } else if self
            .outer_variables
            .iter()
            .any(|scope| scope.contains(name))
        {
            Some("the variable belongs to an outer scope and can't be assigned here")
        } else {
            None
        };
        if let Some(problem) = problem {
            self.error(code::VARIABLE, place, problem);
        }
    }
}

fn folded_array(members: Vec<Template>) -> Template {
    let literals = members.iter().map(|member| member.literal().cloned());
    match literals.collect::<Option<Vec<_>>>() {
        Some(values) => Template::Literal(Arc::new(values.into())),
        None => Template::Array(members),
    }
}

fn folded_object(members: Vec<(String, Template)>) -> Template {
    let literals = members
        .iter()
        .map(|(key, member)| Some((key.clone(), member.literal()?.clone())));
    match literals.collect::<Option<serde_json::Map<_, _>>>() {
        Some(map) => Template::Literal(Arc::new(Value::Object(map))),
        None => Template::Object(members),
    }
}
