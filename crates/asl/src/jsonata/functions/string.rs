//! Strings. Lengths and positions count characters (code points).

use super::super::Error;
use super::super::evaluator::{Evaluator, string};
use super::super::json;
use super::super::value::Value;
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("string", "<x-b?:s>", 1, to_string),
    ("substring", "<s-nn?:s>", 3, substring),
    ("substringBefore", "<s-s:s>", 2, substring_before),
    ("substringAfter", "<s-s:s>", 2, substring_after),
    ("lowercase", "<s-:s>", 1, lowercase),
    ("uppercase", "<s-:s>", 1, uppercase),
    ("length", "<s-:n>", 1, length),
    ("trim", "<s-:s>", 1, trim),
    ("pad", "<s-ns?:s>", 3, pad),
    ("join", "<a<s>s?:s>", 2, join),
];

fn to_string(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = match arguments.at(0) {
        Value::Undefined => return Ok(Value::Undefined),
        Value::Array(array) if array.wrapper => array.items.first().unwrap_or(&Value::Undefined),
        other => other,
    };
    let bytes_max = evaluator.environment.limits.bytes;
    let pretty = arguments.at(1).truth() && matches!(value, Value::Array(_) | Value::Object(_));
    let text = if pretty {
        json::to_text(value, true, bytes_max)?
    } else {
        string(value, bytes_max)?
    };
    evaluator.charge_bytes(text.len())?;
    Ok(Value::string(text))
}

fn substring(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (Some(text), Some(start)) = (arguments.string(0), arguments.number(1)) else {
        return Ok(Value::Undefined);
    };
    let count = text.chars().count() as f64;
    let start = if count + start < 0.0 { 0.0 } else { start };
    let end = match arguments.number(2) {
        Some(length) if length <= 0.0 => return Ok(Value::string("")),
        Some(length) if start >= 0.0 => start + length,
        Some(length) => count + start + length,
        None => count,
    };
    let from = if start < 0.0 {
        count + start.trunc()
    } else {
        start.trunc()
    };
    let to = end.trunc();
    let length = (to - from).max(0.0);
    let found: String = text
        .chars()
        .skip(from as usize)
        .take(length as usize)
        .collect();
    Ok(Value::string(found))
}

fn substring_before(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let mark = arguments.string(1).map_or("undefined", |mark| mark);
    Ok(Value::string(
        text.split_once(mark).map_or(&**text, |(before, _)| before),
    ))
}

fn substring_after(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let mark = arguments.string(1).map_or("undefined", |mark| mark);
    Ok(Value::string(
        text.split_once(mark).map_or(&**text, |(_, after)| after),
    ))
}

fn lowercase(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let text = arguments.string(0);
    Ok(text.map_or(Value::Undefined, |text| Value::string(text.to_lowercase())))
}

fn uppercase(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let text = arguments.string(0);
    Ok(text.map_or(Value::Undefined, |text| Value::string(text.to_uppercase())))
}

fn length(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let text = arguments.string(0);
    Ok(text.map_or(Value::Undefined, |text| {
        Value::Number(text.chars().count() as f64)
    }))
}

fn trim(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let words = text
        .split([' ', '\t', '\n', '\r'])
        .filter(|word| !word.is_empty());
    Ok(Value::string(words.collect::<Vec<_>>().join(" ")))
}

fn pad(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let width = arguments.number(1).unwrap_or(0.0);
    let filler = arguments
        .string(2)
        .filter(|filler| !filler.is_empty())
        .map_or(" ", |filler| filler);
    let missing = width.abs().trunc() - text.chars().count() as f64;
    if missing <= 0.0 {
        return Ok(Value::String(text.clone()));
    }
    evaluator.charge_bytes(if missing > 1e12 {
        usize::MAX
    } else {
        missing as usize
    })?;
    let padding: String = filler.chars().cycle().take(missing as usize).collect();
    Ok(Value::string(if width > 0.0 {
        format!("{text}{padding}")
    } else {
        format!("{padding}{text}")
    }))
}

fn join(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let array = arguments.at(0);
    if array.is_undefined() {
        return Ok(Value::Undefined);
    }
    let separator = arguments.string(1).map_or("", |separator| separator);
    let mut joined = String::new();
    for (index, item) in array.items().iter().enumerate() {
        if index > 0 {
            joined.push_str(separator);
        }
        if let Value::String(text) = item {
            joined.push_str(text);
        }
        if joined.len() > evaluator.environment.limits.bytes {
            break;
        }
    }
    evaluator.charge_bytes(joined.len())?;
    Ok(Value::string(joined))
}
