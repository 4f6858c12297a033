//! Functions that search strings, for a string or with a regular expression. Any function that
//! gives matches in the way of a regular expression will do as one.

use std::rc::Rc;
use std::sync::Arc;

use super::super::Error;
use super::super::evaluator::Evaluator;
use super::super::value::{Object, Value};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("match", "<s-f<s:o>n?:a<o>>", 3, find_all),
    ("contains", "<s-(sf):b>", 2, contains),
    ("replace", "<s-(sf)(sf)n?:s>", 4, replace),
    ("split", "<s-(sf)n?:a<s>>", 3, split),
];

/// One match, as the matcher function gave it.
struct Found {
    value: Rc<Object>,
    /// In bytes.
    start: usize,
    end: usize,
}

/// The byte at which a UTF-16 unit begins.
fn byte_at(text: &str, unit: usize) -> usize {
    let mut units = 0;
    for (byte, current) in text.char_indices() {
        if units >= unit {
            return byte;
        }
        units += current.len_utf16();
    }
    text.len()
}

/// The matches from the start of the text, at most so many.
fn matches(
    evaluator: &mut Evaluator<'_>,
    matcher: &Value,
    text: &Arc<str>,
    limit: Option<f64>,
) -> Result<Vec<Found>, Error> {
    let wrong = || {
        Error::new(
            "T1010",
            "the matcher function argument does not return the correct object structure",
        )
    };
    let mut found = Vec::new();
    let mut next = evaluator.apply(
        matcher.clone(),
        vec![Value::String(text.clone())],
        &Value::Undefined,
    )?;
    // Offsets only grow, so each search goes on from the last one's end.
    let (mut unit, mut byte) = (0, 0);
    while limit.is_none_or(|limit| (found.len() as f64) < limit) {
        let value = match next {
            Value::Undefined => break,
            Value::Object(value) => value,
            _ => return Err(wrong()),
        };
        let offset = |key| match value.find(key) {
            Some(Value::Number(number)) if *number >= 0.0 => Some(*number as usize),
            _ => None,
        };
        let (Some(start), Some(end)) = (offset("start"), offset("end")) else {
            return Err(wrong());
        };
        if end < start || start < unit || !matches!(value.find("groups"), Some(Value::Array(_))) {
            return Err(wrong());
        }
        let start_byte = byte + byte_at(&text[byte..], start - unit);
        let end_byte = start_byte + byte_at(&text[start_byte..], end - start);
        (unit, byte) = (end, end_byte);
        let Some(more @ Value::Function(_)) = value.find("next").cloned() else {
            return Err(wrong());
        };
        found.push(Found {
            value,
            start: start_byte,
            end: end_byte,
        });
        evaluator.charge_items(found.len().min(8))?;
        next = evaluator.apply(more, Vec::new(), &Value::Undefined)?;
    }
    Ok(found)
}

fn find_all(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let limit = arguments.number(2);
    if limit.is_some_and(|limit| limit < 0.0) {
        let message = "the third argument of $match must evaluate to a positive number";
        return Err(Error::new("D3040", message));
    }
    let mut results = Vec::new();
    for found in matches(evaluator, arguments.at(1), text, limit)? {
        let part = |key| found.value.find(key).cloned().unwrap_or(Value::Undefined);
        let mut object = Object::default();
        object.insert("match".into(), part("match"));
        object.insert("index".into(), part("start"));
        object.insert("groups".into(), part("groups"));
        results.push(Value::object(object));
    }
    Ok(Value::sequence(results))
}

fn contains(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    Ok(Value::Bool(match arguments.at(1) {
        Value::String(part) => text.contains(&**part),
        Value::Undefined => text.contains("undefined"),
        matcher => !matches(evaluator, matcher, text, Some(1.0))?.is_empty(),
    }))
}

fn replace(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let limit = arguments.number(3);
    if arguments
        .string(1)
        .is_some_and(|pattern| pattern.is_empty())
    {
        let message = "the second argument of $replace cannot be an empty string";
        return Err(Error::new("D3010", message));
    }
    if limit.is_some_and(|limit| limit < 0.0) {
        let message = "the fourth argument of $replace must evaluate to a positive number";
        return Err(Error::new("D3011", message));
    }
    let mut output = String::new();
    let mut position = 0;
    match arguments.at(1) {
        Value::String(pattern) => {
            let replacement = arguments.string(2).map_or("", |text| text);
            let mut count = 0.0;
            while limit.is_none_or(|limit| count < limit)
                && let Some(found) = text[position..].find(&**pattern)
            {
                output.push_str(&text[position..position + found]);
                output.push_str(replacement);
                position += found + pattern.len();
                count += 1.0;
                evaluator.charge(1)?;
                check_length(evaluator, &output)?;
            }
        }
        matcher => {
            for found in matches(evaluator, matcher, text, limit)? {
                output.push_str(&text[position..found.start]);
                match arguments.at(2) {
                    Value::String(template) => fill(template, &found.value, &mut output),
                    function => {
                        let argument = Value::Object(Rc::clone(&found.value));
                        match evaluator.apply(
                            function.clone(),
                            vec![argument],
                            &Value::Undefined,
                        )? {
                            Value::String(replacement) => output.push_str(&replacement),
                            _ => {
                                let message =
                                    "attempted to replace a matched string with a non-string value";
                                return Err(Error::new("D3012", message));
                            }
                        }
                    }
                }
                position = found.end;
                check_length(evaluator, &output)?;
            }
        }
    }
    output.push_str(&text[position..]);
    evaluator.charge_bytes(output.len())?;
    Ok(Value::string(output))
}

fn check_length(evaluator: &mut Evaluator<'_>, output: &str) -> Result<(), Error> {
    if output.len() > evaluator.environment.limits.bytes {
        return evaluator.charge_bytes(output.len());
    }
    Ok(())
}

/// Writes a replacement: `$0` is the match, `$1`… its groups, `$$` a dollar sign.
fn fill(template: &str, found: &Object, output: &mut String) {
    let groups = match found.find("groups") {
        Some(Value::Array(groups)) => groups.items.as_slice(),
        _ => &[],
    };
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        output.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push('$');
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix('0') {
            if let Some(Value::String(text)) = found.find("match") {
                output.push_str(text);
            }
            rest = after;
            continue;
        }
        // As many digits as the number of groups has, or fewer if there is no such group.
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let most = digits.min(groups.len().max(1).to_string().len());
        let number = |length: usize| rest[..length].parse::<usize>().unwrap_or(0);
        let length = match most {
            0 => {
                output.push('$');
                continue;
            }
            1 => 1,
            more if number(more) > groups.len() => more - 1,
            more => more,
        };
        if let Some(Value::String(text)) = groups.get(number(length).wrapping_sub(1)) {
            output.push_str(text);
        }
        rest = &rest[length..];
    }
    output.push_str(rest);
}

fn split(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let limit = arguments.number(2);
    if limit.is_some_and(|limit| limit < 0.0) {
        let message = "the third argument of $split must evaluate to a positive number";
        return Err(Error::new("D3020", message));
    }
    let most = limit.map_or(usize::MAX, |limit| limit.floor() as usize);
    let parts: Vec<Value> = match arguments.at(1) {
        Value::Undefined => vec![Value::String(text.clone())],
        Value::String(separator) if separator.is_empty() => text
            .chars()
            .take(most)
            .map(|c| Value::string(c.to_string()))
            .collect(),
        Value::String(separator) => text
            .split(&**separator)
            .take(most)
            .map(Value::string)
            .collect(),
        matcher => {
            let mut parts = Vec::new();
            let mut position = 0;
            let found = matches(evaluator, matcher, text, limit)?;
            for found in found {
                parts.push(Value::string(&text[position..found.start]));
                position = found.end;
            }
            if limit.is_none_or(|limit| (parts.len() as f64) < limit) {
                parts.push(Value::string(&text[position..]));
            }
            parts
        }
    };
    evaluator.charge_items(parts.len())?;
    Ok(Value::list(parts))
}
