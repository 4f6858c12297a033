//! Choice rules.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use crate::failure::{Failure, Fault};
use crate::number;
use crate::path::Path;
use crate::template::{Template, View};
use crate::timestamp;

/// A rule of a Choice state.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) condition: Condition,
    pub(crate) next: usize,
    pub(crate) assign: Vec<(String, Template)>,
    pub(crate) output: Option<Template>,
}

#[derive(Debug)]
pub(crate) enum Condition {
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Test {
        variable: Path,
        test: Test,
    },
    /// `Condition` of JSONata.
    Query(Template),
}

#[derive(Debug)]
pub(crate) enum Test {
    Compare {
        kind: Comparable,
        relation: Relation,
        with: Operand,
    },
    Matches(Vec<Glob>),
    Is(Property, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparable {
    Text,
    Number,
    Boolean,
    Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Equals,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug)]
pub(crate) enum Operand {
    Value(Value),
    Path(Path),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Property {
    Present,
    Null,
    Text,
    Number,
    Boolean,
    Timestamp,
}

/// Part of a pattern of `StringMatches`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Glob {
    One(char),
    Any,
}

impl Condition {
    pub(crate) fn holds(&self, view: &mut View<'_>) -> Result<bool, Failure> {
        match self {
            Self::And(all) => {
                for one in all {
                    if !one.holds(view)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Or(all) => {
                for one in all {
                    if one.holds(view)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(inner) => Ok(!inner.holds(view)?),
            Self::Test { variable, test } => test.holds(variable, view),
            Self::Query(template) => match template.evaluate(view)? {
                Value::Bool(holds) => Ok(holds),
                other => Err(unexpected(template, "boolean", &other)),
            },
        }
    }
}

/// A JSONata result of the wrong type.
pub(crate) fn unexpected(template: &Template, expected: &str, found: &Value) -> Failure {
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let shown = number::json(found);
    match template {
        Template::Expression(query) => Failure::new(
            Fault::Query,
            format!(
                "The JSONata expression '{}' specified for the field '{}' returned an unexpected \
                 result type. Expected '{expected}', but was '{kind}' for value: {shown}",
                query.text, query.field
            ),
        ),
        Template::Path { field, .. } | Template::Call { field, .. } => Failure::new(
            Fault::Runtime,
            format!("The field '{field}' expects a {expected}, but was {kind}: {shown}"),
        ),
        _ => Failure::new(
            Fault::Runtime,
            format!("A {expected} is expected, but was {kind}: {shown}"),
        ),
    }
}

impl Test {
    fn holds(&self, variable: &Path, view: &View<'_>) -> Result<bool, Failure> {
        if let Self::Is(Property::Present, wanted) = self {
            // A path of many places always selects an array.
            return Ok(view.select(variable).is_some() == *wanted);
        }
        let value = view.path(variable, "Variable")?;
        match self {
            Self::Is(property, wanted) => Ok(property.of(&value) == *wanted),
            Self::Matches(pattern) => Ok(value.as_str().is_some_and(|text| matches(pattern, text))),
            Self::Compare {
                kind,
                relation,
                with,
            } => {
                let with = match with {
                    Operand::Value(with) => Cow::Borrowed(with),
                    Operand::Path(path) => view.path(path, "Variable")?,
                };
                let order = kind.order(&value, &with);
                Ok(order.is_some_and(|order| relation.includes(order)))
            }
        }
    }
}

impl Property {
    fn of(self, value: &Value) -> bool {
        match self {
            Self::Present => true,
            Self::Null => value.is_null(),
            Self::Text => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Timestamp => value
                .as_str()
                .is_some_and(|text| timestamp::parse(text).is_some()),
        }
    }
}

impl Comparable {
    /// The order of two values of this kind; none if one is of another kind.
    fn order(self, a: &Value, b: &Value) -> Option<Ordering> {
        match self {
            // Java compares texts by their UTF-16 units.
            Self::Text => Some(a.as_str()?.encode_utf16().cmp(b.as_str()?.encode_utf16())),
            Self::Number => Some(number::compare(a.as_number()?, b.as_number()?)),
            Self::Boolean => Some(a.as_bool()?.cmp(&b.as_bool()?)),
            Self::Timestamp => {
                Some(timestamp::parse(a.as_str()?)?.cmp(&timestamp::parse(b.as_str()?)?))
            }
        }
    }
}

impl Relation {
    fn includes(self, order: Ordering) -> bool {
        match self {
            Self::Equals => order == Ordering::Equal,
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
        }
    }
}

/// A pattern; none if a backslash stands before anything but `*` and `\`.
pub(crate) fn pattern(text: &str) -> Option<Vec<Glob>> {
    let mut pattern = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        pattern.push(match character {
            '*' => Glob::Any,
            '\\' => match characters.next() {
                Some(escaped @ ('*' | '\\')) => Glob::One(escaped),
                _ => return None,
            },
            other => Glob::One(other),
        });
    }
    Some(pattern)
}

/// Whether the pattern matches all of the text. On a mismatch only the last `*` is tried again.
fn matches(pattern: &[Glob], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut place) = (0, 0);
    let mut again = None;
    while at < text.len() {
        match pattern.get(place) {
            Some(Glob::Any) => {
                again = Some((place, at));
                place += 1;
            }
            Some(Glob::One(wanted)) if *wanted == text[at] => {
                at += 1;
                place += 1;
            }
            _ => match again {
                Some((star, from)) => {
                    again = Some((star, from + 1));
                    at = from + 1;
                    place = star + 1;
                }
                None => return false,
            },
        }
    }
    pattern[place..].iter().all(|part| *part == Glob::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (text, with, expected) in [
            ("log-*.txt", "log-1.txt", true),
            ("log-*.txt", "log-1.txt.gz", false),
            ("*", "", true),
            ("a*b*c", "aXbXbXc", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            (r"a\\b", r"a\b", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(
                matches(&pattern(text).unwrap(), with),
                expected,
                "{text} {with}"
            );
        }
        assert_eq!(pattern(r"a\x"), None);
    }
}
