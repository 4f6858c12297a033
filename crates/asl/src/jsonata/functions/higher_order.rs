//! Functions that call functions for each item.

use std::sync::Arc;

use super::super::Error;
use super::super::evaluator::Evaluator;
use super::super::value::{Object, Value};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("map", "<af>", 2, map),
    ("filter", "<af>", 2, filter),
    ("single", "<af?>", 2, single),
    ("reduce", "<afj?:j>", 3, reduce),
    ("each", "<o-f:a>", 2, each),
    ("sift", "<o-f?:o>", 2, sift),
];

fn arity(function: &Value) -> usize {
    match function {
        Value::Function(function) => function.arity(),
        _ => 0,
    }
}

/// Calls with as many of the three as the function can use, at least the first.
fn call(evaluator: &mut Evaluator<'_>, function: &Value, all: [Value; 3]) -> Result<Value, Error> {
    let count = arity(function).clamp(1, 3);
    let values = all.into_iter().take(count).collect();
    evaluator.apply(function.clone(), values, &Value::Undefined)
}

fn for_item(
    evaluator: &mut Evaluator<'_>,
    function: &Value,
    array: &Value,
    index: usize,
) -> Result<Value, Error> {
    let item = array.items()[index].clone();
    call(
        evaluator,
        function,
        [item, Value::Number(index as f64), array.clone()],
    )
}

fn map(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (array, function) = (arguments.at(0), arguments.at(1));
    if array.is_undefined() {
        return Ok(Value::Undefined);
    }
    let mut results = Vec::new();
    for index in 0..array.items().len() {
        let result = for_item(evaluator, function, array, index)?;
        if !result.is_undefined() {
            results.push(result);
        }
    }
    Ok(Value::sequence(results))
}

fn filter(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (array, function) = (arguments.at(0), arguments.at(1));
    if array.is_undefined() {
        return Ok(Value::Undefined);
    }
    let mut kept = Vec::new();
    for (index, item) in array.items().iter().enumerate() {
        if for_item(evaluator, function, array, index)?.truth() {
            kept.push(item.clone());
        }
    }
    Ok(Value::sequence(kept))
}

fn single(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (array, function) = (arguments.at(0), arguments.at(1));
    if array.is_undefined() {
        return Ok(Value::Undefined);
    }
    let mut found = None;
    for (index, item) in array.items().iter().enumerate() {
        if !function.is_undefined() && !for_item(evaluator, function, array, index)?.truth() {
            continue;
        }
        if found.replace(item.clone()).is_some() {
            let message = "the $single() function expected exactly 1 matching result, instead it matched more";
            return Err(Error::new("D3138", message));
        }
    }
    let message = "the $single() function expected exactly 1 matching result, instead it matched 0";
    found.ok_or_else(|| Error::new("D3139", message))
}

fn reduce(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (array, function) = (arguments.at(0), arguments.at(1));
    if array.is_undefined() {
        return Ok(Value::Undefined);
    }
    let arity = arity(function);
    if arity < 2 {
        let message =
            "the second argument of reduce must be a function with at least two arguments";
        return Err(Error::new("D3050", message));
    }
    let mut items = array.items().iter().enumerate();
    let mut result = arguments.at(2).clone();
    if result.is_undefined()
        && let Some((_, first)) = items.next()
    {
        result = first.clone();
    }
    for (index, item) in items {
        let all = [
            result,
            item.clone(),
            Value::Number(index as f64),
            array.clone(),
        ];
        let values = all.into_iter().take(arity.min(4)).collect();
        result = evaluator.apply(function.clone(), values, &Value::Undefined)?;
    }
    Ok(result)
}

fn each(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (Value::Object(object), function) = (arguments.at(0), arguments.at(1)) else {
        return Ok(Value::Undefined);
    };
    let mut results = Vec::new();
    for (key, value) in object.iter() {
        let key = Value::String(Arc::clone(key));
        let result = call(
            evaluator,
            function,
            [value.clone(), key, arguments.at(0).clone()],
        )?;
        if !result.is_undefined() {
            results.push(result);
        }
    }
    Ok(Value::sequence(results))
}

fn sift(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (Value::Object(object), function) = (arguments.at(0), arguments.at(1)) else {
        return Ok(Value::Undefined);
    };
    let mut kept = Object::default();
    for (key, value) in object.iter() {
        let name = Value::String(Arc::clone(key));
        if call(
            evaluator,
            function,
            [value.clone(), name, arguments.at(0).clone()],
        )?
        .truth()
        {
            kept.insert(Arc::clone(key), value.clone());
        }
    }
    Ok(if kept.is_empty() {
        Value::Undefined
    } else {
        Value::object(kept)
    })
}
