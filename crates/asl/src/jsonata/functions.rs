//! The functions that every expression can call: a table, and what they share.

mod array;
mod datetime;
mod encoding;
mod higher_order;
mod integer;
mod number;
mod number_format;
mod object;
mod pattern;
mod picture;
mod states;
mod string;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::evaluator::Evaluator;
use super::signature::Signature;
use super::value::Value;
use super::{Error, Flavour};

/// What a function is given.
pub(super) struct Arguments<'a> {
    pub(super) values: Vec<Value>,
    /// The context of the call.
    pub(super) input: &'a Value,
}

type Implementation = fn(&mut Evaluator<'_>, &Arguments<'_>) -> Result<Value, Error>;

#[derive(Debug)]
pub(super) struct Builtin {
    pub(super) signature: Option<Signature>,
    /// How many arguments it uses when a function such as `$map` calls it.
    pub(super) arity: usize,
    pub(super) implementation: Implementation,
}

impl Arguments<'_> {
    fn at(&self, index: usize) -> &Value {
        self.values.get(index).unwrap_or(&Value::Undefined)
    }

    fn string(&self, index: usize) -> Option<&Arc<str>> {
        match self.at(index) {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self, index: usize) -> Option<f64> {
        match self.at(index) {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// The function of this name, without the `$`.
pub(super) fn find(name: &str, flavour: Flavour) -> Option<&'static Builtin> {
    match (flavour, name) {
        (Flavour::States, "eval") => None,
        (Flavour::States, name) => STATES.get(name).or_else(|| PLAIN.get(name)),
        (Flavour::Plain, name) => PLAIN.get(name),
    }
}

type Row = (&'static str, &'static str, usize, Implementation);
type Table = LazyLock<BTreeMap<&'static str, Builtin>>;

fn table(rows: &[&'static [Row]]) -> BTreeMap<&'static str, Builtin> {
    let builtin = |(name, signature, arity, implementation): &Row| {
        let builtin = Builtin {
            signature: Signature::parse(signature).ok(),
            arity: *arity,
            implementation: *implementation,
        };
        (*name, builtin)
    };
    rows.iter().copied().flatten().map(builtin).collect()
}

static PLAIN: Table = LazyLock::new(|| {
    table(&[
        array::ROWS,
        datetime::ROWS,
        encoding::ROWS,
        higher_order::ROWS,
        number::ROWS,
        object::ROWS,
        pattern::ROWS,
        string::ROWS,
    ])
});

static STATES: Table = LazyLock::new(|| table(&[states::ROWS]));
