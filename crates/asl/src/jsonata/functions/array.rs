//! Arrays.

use std::cmp::Ordering;

use super::super::Error;
use super::super::evaluator::{Evaluator, compare};
use super::super::value::{Value, append as join};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("count", "<a:n>", 1, count),
    ("append", "<xx:a>", 2, append),
    ("reverse", "<a:a>", 1, reverse),
    ("shuffle", "<a:a>", 1, shuffle),
    ("distinct", "<x:x>", 1, distinct),
    ("zip", "<a+>", 0, zip),
    ("sort", "<af?:a>", 2, sort),
];

fn count(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let array = arguments.at(0);
    let count = if array.is_undefined() {
        0
    } else {
        array.items().len()
    };
    Ok(Value::Number(count as f64))
}

fn append(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (first, second) = (arguments.at(0), arguments.at(1));
    if !first.is_undefined() && !second.is_undefined() {
        evaluator.charge_items(first.items().len() + second.items().len())?;
    }
    Ok(join(first.clone(), second.clone()))
}

fn reverse(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let array = arguments.at(0);
    if array.is_undefined() || array.items().len() <= 1 {
        return Ok(array.clone());
    }
    evaluator.charge_items(array.items().len())?;
    Ok(Value::list(array.items().iter().rev().cloned().collect()))
}

fn shuffle(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let array = arguments.at(0);
    if array.is_undefined() || array.items().len() <= 1 {
        return Ok(array.clone());
    }
    evaluator.charge_items(array.items().len())?;
    let mut items = array.items().to_vec();
    for last in (1..items.len()).rev() {
        let other = evaluator.environment.random_fraction() * (last + 1) as f64;
        items.swap(last, (other as usize).min(last));
    }
    Ok(Value::list(items))
}

fn distinct(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Value::Array(array) = arguments.at(0) else {
        return Ok(arguments.at(0).clone());
    };
    if array.items.len() <= 1 {
        return Ok(arguments.at(0).clone());
    }
    let mut kept: Vec<Value> = Vec::new();
    for item in &array.items {
        evaluator.charge(1 + kept.len() / 16)?;
        if !kept.contains(item) {
            kept.push(item.clone());
        }
    }
    Ok(if array.sequence {
        Value::sequence(kept)
    } else {
        Value::list(kept)
    })
}

fn zip(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let length = |value: &Value| {
        if value.is_undefined() {
            0
        } else {
            value.items().len()
        }
    };
    let count = arguments.values.iter().map(length).min().unwrap_or(0);
    evaluator.charge_items(count * arguments.values.len())?;
    let row = |index: usize| {
        let items = arguments
            .values
            .iter()
            .map(|value| value.items()[index].clone());
        Value::list(items.collect())
    };
    Ok(Value::list((0..count).map(row).collect()))
}

fn sort(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let array = arguments.at(0);
    if array.is_undefined() || array.items().len() <= 1 {
        return Ok(array.clone());
    }
    let items = array.items().to_vec();
    let comparator = arguments.at(1).clone();
    let sorted = if comparator.is_undefined() {
        let numbers = items.iter().all(|item| matches!(item, Value::Number(_)));
        let strings = items.iter().all(|item| matches!(item, Value::String(_)));
        if !numbers && !strings {
            let message = "the single argument form of $sort can only be applied to an array of strings or of numbers: use the second argument to specify a comparison function";
            return Err(Error::new("D3070", message));
        }
        evaluator.sort(items, &mut |_, a, b| {
            Ok(compare(a, b) == Some(Ordering::Greater))
        })?
    } else {
        evaluator.sort(items, &mut |evaluator, a, b| {
            let pair = vec![a.clone(), b.clone()];
            Ok(evaluator
                .apply(comparator.clone(), pair, &Value::Undefined)?
                .truth())
        })?
    };
    Ok(Value::list(sorted))
}
