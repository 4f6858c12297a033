//! Values from and to JSON.

use std::sync::Arc;

use serde_json::{Map, Number, Value as Json};

use super::value::{Object, Value};
use super::{Error, grow, number};

pub(super) fn read(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::string(text.as_str()),
        Json::Array(items) => grow(|| Value::list(items.iter().map(read).collect())),
        Json::Object(map) => {
            let entry = |(key, value): (&String, &Json)| (Arc::from(key.as_str()), read(value));
            grow(|| Value::object(map.iter().map(entry).collect::<Object>()))
        }
    }
}

/// The value as JSON; `None` is undefined. Functions have no JSON and become empty strings.
pub(super) fn write(value: &Value, bytes_max: usize) -> Result<Option<Json>, Error> {
    let mut left = bytes_max;
    match value {
        Value::Undefined | Value::Tuples(_) => Ok(None),
        Value::Function(_) => Ok(None),
        _ => write_within(value, &mut left).map(Some),
    }
}

fn write_within(value: &Value, left: &mut usize) -> Result<Json, Error> {
    let size = match value {
        Value::String(text) => text.len() + 2,
        Value::Number(_) => 4,
        _ => 2,
    };
    spend(left, size)?;
    Ok(match value {
        Value::Undefined | Value::Tuples(_) | Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => Json::Number(number_of(*number)?),
        Value::String(text) => Json::String(text.to_string()),
        Value::Function(_) => Json::String(String::new()),
        Value::Array(array) => grow(|| {
            let items = array.items.iter().map(|item| write_within(item, left));
            items.collect::<Result<_, _>>().map(Json::Array)
        })?,
        Value::Object(object) => grow(|| {
            let mut map = Map::new();
            for (key, value) in object.iter().filter(|(_, value)| !value.is_undefined()) {
                spend(left, key.len() + 4)?;
                map.insert(key.to_string(), write_within(value, left)?);
            }
            Ok::<_, Error>(Json::Object(map))
        })?,
    })
}

fn spend(left: &mut usize, size: usize) -> Result<(), Error> {
    *left = left
        .checked_sub(size)
        .ok_or_else(|| Error::new("U1001", "the result is too large"))?;
    Ok(())
}

fn number_of(number: f64) -> Result<Number, Error> {
    // Whole numbers are written without a fraction, as far as they are exact.
    if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        return Ok(Number::from(number as i64));
    }
    if number.fract() == 0.0 && (0.0..1.8e19).contains(&number) {
        return Ok(Number::from(number as u64));
    }
    Number::from_f64(number).ok_or_else(|| {
        Error::new(
            "D1001",
            format!("number out of range: {}", number::to_text(number)),
        )
    })
}

/// The text of `$string`: numbers to 15 digits, functions empty. `indent` puts each item on a line.
pub(super) fn to_text(value: &Value, indent: bool, bytes_max: usize) -> Result<String, Error> {
    let mut output = String::new();
    text_within(value, indent.then_some(0), bytes_max, &mut output)?;
    Ok(output)
}

fn text_within(
    value: &Value,
    level: Option<usize>,
    bytes_max: usize,
    output: &mut String,
) -> Result<(), Error> {
    if output.len() > bytes_max {
        return Err(Error::new("U1001", "the string is too long"));
    }
    let line = |output: &mut String, level: Option<usize>| {
        if let Some(level) = level {
            output.push('\n');
            output.push_str(&"  ".repeat(level));
        }
    };
    let inner = level.map(|level| level + 1);
    match value {
        Value::Undefined | Value::Tuples(_) | Value::Null => output.push_str("null"),
        Value::Bool(value) => output.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) if !number.is_finite() => output.push_str("null"),
        Value::Number(number) => {
            output.push_str(&number::to_text(number::to_precision_15(*number)));
        }
        Value::String(text) => quote(text, output),
        Value::Function(_) => output.push_str("\"\""),
        Value::Array(array) if array.items.is_empty() => output.push_str("[]"),
        Value::Array(array) => {
            output.push('[');
            for (index, item) in array.items.iter().enumerate() {
                if index > 0 {
                    output.push(',');
                }
                line(output, inner);
                grow(|| text_within(item, inner, bytes_max, output))?;
            }
            line(output, level);
            output.push(']');
        }
        Value::Object(object) => {
            output.push('{');
            let mut first = true;
            for (key, value) in object.iter().filter(|(_, value)| !value.is_undefined()) {
                if !std::mem::take(&mut first) {
                    output.push(',');
                }
                line(output, inner);
                quote(key, output);
                output.push_str(if level.is_some() { ": " } else { ":" });
                grow(|| text_within(value, inner, bytes_max, output))?;
            }
            if !first {
                line(output, level);
            }
            output.push('}');
        }
    }
    Ok(())
}

fn quote(text: &str, output: &mut String) {
    output.push('"');
    for current in text.chars() {
        match current {
            '"' => output.push_str("\\\""),
            '\\' => output.push_str("\\\\"),
            '\n' => output.push_str("\\n"),
            '\r' => output.push_str("\\r"),
            '\t' => output.push_str("\\t"),
            '\u{8}' => output.push_str("\\b"),
            '\u{c}' => output.push_str("\\f"),
            control if control < ' ' => output.push_str(&format!("\\u{:04x}", control as u32)),
            other => output.push(other),
        }
    }
    output.push('"');
}
