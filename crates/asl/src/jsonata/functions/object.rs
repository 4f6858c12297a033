//! Objects, and values of any type.

use std::sync::Arc;

use super::super::Error;
use super::super::evaluator::Evaluator;
use super::super::value::{Object, Value};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("boolean", "<x-:b>", 1, boolean),
    ("not", "<x-:b>", 1, not),
    ("exists", "<x:b>", 1, exists),
    ("type", "<x:s>", 1, type_name),
    ("keys", "<x-:a<s>>", 1, keys),
    ("lookup", "<x-s:x>", 2, lookup),
    ("spread", "<x-:a<o>>", 1, spread),
    ("merge", "<a<o>:o>", 1, merge),
    ("clone", "<(oa)-:o>", 1, clone),
    ("error", "<s?:x>", 1, error),
    ("assert", "<bs?:x>", 2, assert),
];

fn boolean(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.at(0);
    Ok(if value.is_undefined() {
        Value::Undefined
    } else {
        Value::Bool(value.truth())
    })
}

fn not(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.at(0);
    Ok(if value.is_undefined() {
        Value::Undefined
    } else {
        Value::Bool(!value.truth())
    })
}

fn exists(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    Ok(Value::Bool(!arguments.at(0).is_undefined()))
}

fn type_name(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.at(0);
    Ok(if value.is_undefined() {
        Value::Undefined
    } else {
        Value::string(value.type_name())
    })
}

fn keys(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    // An object collects them, because it keeps their order and each once.
    let mut found = Object::default();
    collect_keys(arguments.at(0), &mut found);
    evaluator.charge_items(found.len())?;
    let keys = found.iter().map(|(key, _)| Value::String(Arc::clone(key)));
    Ok(Value::sequence(keys.collect()))
}

fn collect_keys(value: &Value, found: &mut Object) {
    match value {
        Value::Array(array) => array
            .items
            .iter()
            .for_each(|item| collect_keys(item, found)),
        Value::Object(object) => {
            object
                .iter()
                .for_each(|(key, _)| found.insert(Arc::clone(key), Value::Null));
        }
        _ => {}
    }
}

fn lookup(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    match arguments.string(1) {
        Some(key) => evaluator.field(arguments.at(0), key),
        None => Ok(Value::Undefined),
    }
}

fn spread(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.at(0);
    if !matches!(value, Value::Array(_) | Value::Object(_)) {
        return Ok(value.clone());
    }
    let mut pieces = Vec::new();
    spread_out(value, &mut pieces);
    evaluator.charge_items(pieces.len())?;
    let array = matches!(value, Value::Array(array) if !array.items.is_empty());
    Ok(if array {
        Value::list(pieces)
    } else {
        Value::sequence(pieces)
    })
}

fn spread_out(value: &Value, pieces: &mut Vec<Value>) {
    match value {
        Value::Array(array) => array.items.iter().for_each(|item| spread_out(item, pieces)),
        Value::Object(object) => {
            for (key, value) in object.iter() {
                let piece: Object = [(Arc::clone(key), value.clone())].into_iter().collect();
                pieces.push(Value::object(piece));
            }
        }
        single => pieces.push(single.clone()),
    }
}

fn merge(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    if arguments.at(0).is_undefined() {
        return Ok(Value::Undefined);
    }
    let mut merged = Object::default();
    for item in arguments.at(0).items() {
        if let Value::Object(object) = item {
            evaluator.charge(object.len())?;
            for (key, value) in object.iter() {
                merged.insert(Arc::clone(key), value.clone());
            }
        }
    }
    Ok(Value::object(merged))
}

/// Values never change, so that a copy is the value.
fn clone(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    Ok(arguments.at(0).clone())
}

fn error(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let message = arguments
        .string(0)
        .map_or("$error() function evaluated", |text| text);
    Err(Error::new("D3137", message))
}

fn assert(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    if arguments.at(0).truth() {
        return Ok(Value::Undefined);
    }
    let message = arguments.string(1).filter(|text| !text.is_empty());
    Err(Error::new(
        "D3141",
        message.map_or("$assert() statement failed", |text| text),
    ))
}
