//! Choice rules.

use serde_json::Value;

use super::fields::Fields;
use super::place::Place;
use super::{Builder, Names};
use crate::choice::{self, Comparable, Condition, Operand, Property, Relation, Rule, Test};
use crate::diagnostic::{code, nearest};
use crate::machine::Kind;
use crate::timestamp;

/// Boolean rules in each other.
const DEPTH_MAX: usize = 64;
const BOOLEAN: [&str; 3] = ["And", "Or", "Not"];

/// Names of all comparisons that take a value, without `Path`.
const COMPARISONS: [(&str, Comparable, Relation); 16] = {
    use Comparable::{Boolean, Number, Text, Timestamp};
    use Relation::{Equals, Greater, GreaterOrEqual, Less, LessOrEqual};
    [
        ("StringEquals", Text, Equals),
        ("StringLessThan", Text, Less),
        ("StringGreaterThan", Text, Greater),
        ("StringLessThanEquals", Text, LessOrEqual),
        ("StringGreaterThanEquals", Text, GreaterOrEqual),
        ("NumericEquals", Number, Equals),
        ("NumericLessThan", Number, Less),
        ("NumericGreaterThan", Number, Greater),
        ("NumericLessThanEquals", Number, LessOrEqual),
        ("NumericGreaterThanEquals", Number, GreaterOrEqual),
        ("BooleanEquals", Boolean, Equals),
        ("TimestampEquals", Timestamp, Equals),
        ("TimestampLessThan", Timestamp, Less),
        ("TimestampGreaterThan", Timestamp, Greater),
        ("TimestampLessThanEquals", Timestamp, LessOrEqual),
        ("TimestampGreaterThanEquals", Timestamp, GreaterOrEqual),
    ]
};

const PROPERTIES: [(&str, Property); 6] = [
    ("IsPresent", Property::Present),
    ("IsNull", Property::Null),
    ("IsString", Property::Text),
    ("IsNumeric", Property::Number),
    ("IsBoolean", Property::Boolean),
    ("IsTimestamp", Property::Timestamp),
];

impl Builder {
    pub(super) fn choice(
        &mut self,
        fields: &Fields<'_>,
        is_jsonata: bool,
        names: &Names,
    ) -> Option<Kind> {
        if !fields.has("Choices") {
            self.missing(fields, "Choices");
        }
        let default = self.string(fields, "Default");
        let default = default.and_then(|name| self.target(name, names, &fields.at("Default")));
        let list_place = fields.at("Choices");
        let values = self.list(fields, "Choices")?;
        if values.is_empty() {
            self.error(code::SCHEMA, &list_place, "at least one rule is expected");
        }
        let mut rules = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let place = list_place.index(at);
            let Some(rule) = self.object(value, &place) else {
                continue;
            };
            let next = self.required_string(&rule, "Next");
            let next = next.and_then(|name| self.target(name, names, &rule.at("Next")));
            let owner = format!("Choices/{at}/");
            let assign = self.assign(&rule, &owner, is_jsonata);
            let (condition, output) = if is_jsonata {
                let known = ["Condition", "Next", "Assign", "Output", "Comment"];
                self.only(&rule, &known, "a rule in JSONata");
                let condition = self.query_condition(&rule, &owner);
                (
                    condition,
                    self.template_within(&rule, "Output", &owner, true),
                )
            } else {
                (self.condition(&rule, 0), None)
            };
            if let (Some(condition), Some(next)) = (condition, next) {
                rules.push(Rule {
                    condition,
                    next,
                    assign,
                    output,
                });
            }
        }
        Some(Kind::Choice { rules, default })
    }

    fn query_condition(&mut self, rule: &Fields<'_>, owner: &str) -> Option<Condition> {
        let place = rule.at("Condition");
        match rule.map.get("Condition") {
            None => {
                self.missing(rule, "Condition");
                None
            }
            Some(Value::Bool(_)) => self
                .template_field(rule, "Condition", true)
                .map(Condition::Query),
            Some(Value::String(text)) => {
                let expression = self.expression(text, &place, &format!("{owner}Condition"));
                if expression.is_none() {
                    self.error(code::SCHEMA, &place, "an expression is expected: {% … %}");
                }
                expression.map(Condition::Query)
            }
            Some(_) => {
                self.error(code::SCHEMA, &place, "an expression is expected: {% … %}");
                None
            }
        }
    }

    /// A rule or part of one; `depth` 0 is the rule itself, which alone has `Next`.
    fn condition(&mut self, rule: &Fields<'_>, depth: usize) -> Option<Condition> {
        if depth > DEPTH_MAX {
            self.error(code::DEPTH, rule.place, "conditions are nested too deeply");
            return None;
        }
        let own: &[&str] = match depth {
            0 => &["Next", "Assign", "Comment", "Variable"],
            _ => &["Comment", "Variable"],
        };
        let mut operators = Vec::new();
        for key in rule.map.keys().filter(|key| !own.contains(&key.as_str())) {
            match is_operator(key) {
                true => operators.push(key.as_str()),
                false if key == "Next" || key == "Assign" => {
                    let message = format!("only a whole rule has '{key}'");
                    self.error(code::SCHEMA, &rule.at(key), message);
                }
                false => {
                    let message = format!("there is no comparison '{key}'");
                    let nearest = nearest(key, all_operators());
                    self.suggest(code::SCHEMA, &rule.at(key), message, nearest);
                }
            }
        }
        let [operator] = operators.as_slice() else {
            let message = format!("a rule has one comparison, not {}", operators.len());
            self.error(code::SCHEMA, rule.place, message);
            return None;
        };
        let place = rule.at(operator);
        let operand = rule.map.get(*operator)?;
        if BOOLEAN.contains(operator) {
            if rule.has("Variable") {
                let message = format!("a rule with {operator} has no Variable");
                self.error(code::SCHEMA, &rule.at("Variable"), message);
            }
            return self.boolean(operator, operand, &place, depth);
        }
        let variable = self.required_string(rule, "Variable");
        let variable = variable.and_then(|text| {
            let path = self.path(text, &rule.at("Variable"))?;
            Some(path)
        });
        let test = self.test(operator, operand, &place);
        Some(Condition::Test {
            variable: variable?,
            test: test?,
        })
    }

    fn boolean(
        &mut self,
        operator: &str,
        operand: &Value,
        place: &Place<'_>,
        depth: usize,
    ) -> Option<Condition> {
        if operator == "Not" {
            let inner = self.object(operand, place)?;
            let inner = self.condition(&inner, depth + 1)?;
            return Some(Condition::Not(Box::new(inner)));
        }
        let Value::Array(values) = operand else {
            self.error(code::SCHEMA, place, "an array of rules is expected");
            return None;
        };
        if values.is_empty() {
            self.error(code::SCHEMA, place, "at least one rule is expected");
        }
        let mut all = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let place = place.index(at);
            if let Some(inner) = self.object(value, &place) {
                all.extend(self.condition(&inner, depth + 1));
            }
        }
        Some(match operator {
            "And" => Condition::And(all),
            _ => Condition::Or(all),
        })
    }

    fn test(&mut self, operator: &str, operand: &Value, place: &Place<'_>) -> Option<Test> {
        if let Some((_, property)) = PROPERTIES.iter().find(|(name, _)| *name == operator) {
            let Value::Bool(wanted) = operand else {
                self.error(code::SCHEMA, place, "true or false is expected");
                return None;
            };
            return Some(Test::Is(*property, *wanted));
        }
        if operator == "StringMatches" {
            let pattern = operand.as_str().and_then(choice::pattern);
            if pattern.is_none() {
                let message = "a text with '*' is expected; '\\' stands before '*' and '\\' only";
                self.error(code::SCHEMA, place, message);
            }
            return pattern.map(Test::Matches);
        }
        let plain = operator.strip_suffix("Path").unwrap_or(operator);
        let (_, kind, relation) = *COMPARISONS.iter().find(|(name, ..)| *name == plain)?;
        let with = if plain.len() < operator.len() {
            let Value::String(text) = operand else {
                self.error(code::SCHEMA, place, "a path is expected");
                return None;
            };
            Operand::Path(self.path(text, place)?)
        } else {
            let (fits, expected) = match kind {
                Comparable::Text => (operand.is_string(), "a text is expected"),
                Comparable::Number => (operand.is_number(), "a number is expected"),
                Comparable::Boolean => (operand.is_boolean(), "true or false is expected"),
                Comparable::Timestamp => (
                    operand.as_str().and_then(timestamp::parse).is_some(),
                    "a time like 2016-03-14T01:59:00Z is expected",
                ),
            };
            if !fits {
                self.error(code::SCHEMA, place, expected);
                return None;
            }
            Operand::Value(operand.clone())
        };
        Some(Test::Compare {
            kind,
            relation,
            with,
        })
    }
}

fn is_operator(key: &str) -> bool {
    let plain = key.strip_suffix("Path").unwrap_or(key);
    BOOLEAN.contains(&key)
        || key == "StringMatches"
        || PROPERTIES.iter().any(|(name, _)| *name == key)
        || COMPARISONS.iter().any(|(name, ..)| *name == plain)
}

fn all_operators() -> impl Iterator<Item = &'static str> {
    let comparisons = COMPARISONS.iter().map(|(name, ..)| *name);
    let properties = PROPERTIES.iter().map(|(name, _)| *name);
    comparisons
        .chain(properties)
        .chain(BOOLEAN)
        .chain(["StringMatches", "Next", "Variable"])
}
