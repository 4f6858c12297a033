//! What stands in `[?( )]`.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Segment, evaluate};
use crate::number;

/// A condition on a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Predicate {
    Any(Vec<Predicate>),
    All(Vec<Predicate>),
    Not(Box<Predicate>),
    Exists(Operand),
    Compare(Operand, Operator, Operand),
}

/// A side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// `@…`
    Current(Vec<Segment>),
    /// `$…`
    Root(Vec<Segment>),
    Literal(Value),
    /// `/…/`, which must match the whole text.
    Pattern(Pattern),
}

/// A regular expression, in linear time.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(pub(super) regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    Size,
    Empty,
    Matches,
}

impl Predicate {
    pub(super) fn holds(&self, node: &Value, root: &Value) -> bool {
        match self {
            Self::Any(all) => all.iter().any(|one| one.holds(node, root)),
            Self::All(all) => all.iter().all(|one| one.holds(node, root)),
            Self::Not(inner) => !inner.holds(node, root),
            Self::Exists(operand) => operand.value(node, root).is_some(),
            Self::Compare(left, Operator::Matches, Operand::Pattern(pattern)) => {
                let text = left.value(node, root);
                text.is_some_and(|text| text.as_str().is_some_and(|text| pattern.0.is_match(text)))
            }
            Self::Compare(left, operator, right) => {
                let (left, right) = (left.value(node, root), right.value(node, root));
                operator.holds(left.as_ref(), right.as_ref())
            }
        }
    }
}

impl Operand {
    fn value(&self, node: &Value, root: &Value) -> Option<Value> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            Self::Pattern(_) => None,
            Self::Current(segments) => evaluate::select(segments, node, root).ok().flatten(),
            Self::Root(segments) => evaluate::select(segments, root, root).ok().flatten(),
        }
    }
}

impl Operator {
    fn holds(self, left: Option<&Value>, right: Option<&Value>) -> bool {
        let (Some(left), Some(right)) = (left, right) else {
            // What isn't there equals nothing and differs from everything that is.
            return matches!(self, Self::Unequal | Self::NotIn)
                && left.is_some() != right.is_some();
        };
        let order = match (left, right) {
            (Value::Number(a), Value::Number(b)) => Some(number::compare(a, b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ => None,
        };
        let within = || {
            let list = right.as_array();
            list.is_some_and(|list| list.iter().any(|one| number::equal(one, left)))
        };
        match self {
            Self::Equal => number::equal(left, right),
            Self::Unequal => !number::equal(left, right),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            Self::In => within(),
            Self::NotIn => !within(),
            Self::Size => {
                length(left).is_some() && length(left).map(Value::from) == Some(right.clone())
            }
            // Only with a pattern.
            Self::Matches => false,
            Self::Empty => length(left).map(|length| length == 0) == right.as_bool(),
        }
    }
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::Array(values) => Some(values.len()),
        Value::Object(map) => Some(map.len()),
        Value::String(text) => Some(text.chars().count()),
        _ => None,
    }
}
