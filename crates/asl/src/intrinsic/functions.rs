//! What each function does with its arguments.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Function, Piece};
use crate::number;
use crate::random::{self, Random};

/// Most elements that `States.ArrayRange` makes.
const RANGE_MAX: i64 = 1_000;
/// Most characters that are encoded, decoded or hashed.
const TEXT_MAX: usize = 10_000;

type Outcome = Result<Value, String>;

pub(super) fn apply(
    function: Function,
    pieces: Option<&[Piece]>,
    values: &[Value],
    random: &mut Random,
) -> Outcome {
    match (function, values) {
        (Function::Format, [template, rest @ ..]) => format(pieces, template, rest),
        (Function::StringToJson, [value]) => {
            let text = text(value)?;
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_str(text).map_err(|_| "the text is not JSON".to_owned())
        }
        (Function::JsonToString, [value]) => Ok(number::json(value).into()),
        (Function::Array, values) => Ok(values.to_vec().into()),
        (Function::ArrayPartition, [values, size]) => {
            let size = usize::try_from(integer(size)?).unwrap_or(0);
            if size == 0 {
                return Err("the chunk size must be positive".to_owned());
            }
            Ok(array(values)?.chunks(size).map(<[Value]>::to_vec).collect())
        }
        (Function::ArrayContains, [values, wanted]) => {
            let mut values = array(values)?.iter();
            Ok(values.any(|value| number::equal(value, wanted)).into())
        }
        (Function::ArrayRange, [first, last, step]) => range(first, last, step),
        (Function::ArrayGetItem, [values, index]) => {
            let index = usize::try_from(integer(index)?).ok();
            let item = index.and_then(|index| array(values).ok()?.get(index));
            array(values)?;
            item.cloned()
                .ok_or_else(|| "no item at this index".to_owned())
        }
        (Function::ArrayLength, [values]) => Ok(array(values)?.len().into()),
        (Function::ArrayUnique, [values]) => Ok(unique(array(values)?)),
        (Function::Base64Encode, [value]) => Ok(STANDARD.encode(bounded(value)?).into()),
        (Function::Base64Decode, [value]) => {
            let bytes = STANDARD.decode(bounded(value)?.trim_end());
            let bytes = bytes.map_err(|_| "the text is not Base64".to_owned())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned().into())
        }
        (Function::Hash, [value, algorithm]) => hash(value, algorithm),
        (Function::JsonMerge, [first, second, deep]) => merge(first, second, deep),
        (Function::MathRandom, [start, end, seed @ ..]) => {
            math_random(start, end, seed.first(), random)
        }
        (Function::MathAdd, [a, b]) => {
            let sum = small(a)?.checked_add(small(b)?);
            sum.map(Value::from)
                .ok_or_else(|| "the sum is out of range".to_owned())
        }
        (Function::StringSplit, [value, separators]) => {
            let (value, separators) = (text(value)?, text(separators)?);
            let parts = value.split(|c| separators.contains(c));
            Ok(parts.filter(|part| !part.is_empty()).collect())
        }
        (Function::UUID, []) => Ok(random.uuid().into()),
        // The parser has counted the arguments.
        _ => Err("a wrong number of arguments".to_owned()),
    }
}

fn format(pieces: Option<&[Piece]>, template: &Value, values: &[Value]) -> Outcome {
    let from_data;
    let pieces = match pieces {
        Some(pieces) => pieces,
        None => {
            from_data = Piece::of(text(template)?);
            &from_data
        }
    };
    let places = pieces
        .iter()
        .filter(|piece| **piece == Piece::Place)
        .count();
    if places != values.len() {
        return Err(format!("{places} places for {} values", values.len()));
    }
    let mut values = values.iter();
    let mut formatted = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => formatted.push_str(text),
            Piece::Place => match values.next() {
                Some(Value::String(text)) => formatted.push_str(text),
                Some(other) => formatted.push_str(&number::json(other)),
                None => {}
            },
        }
    }
    Ok(formatted.into())
}

fn range(first: &Value, last: &Value, step: &Value) -> Outcome {
    let (first, last, step) = (integer(first)?, integer(last)?, integer(step)?);
    if step == 0 {
        return Err("the step can't be 0".to_owned());
    }
    let span = i128::from(last) - i128::from(first);
    let steps = span / i128::from(step);
    if span.signum() * i128::from(step.signum()) < 0 {
        return Ok(Value::Array(Vec::new()));
    }
    if steps + 1 > i128::from(RANGE_MAX) {
        return Err(format!("more than {RANGE_MAX} elements"));
    }
    let count = i64::try_from(steps).unwrap_or(0);
    Ok((0..=count)
        .map(|at| Value::from(first + at * step))
        .collect())
}

fn unique(values: &[Value]) -> Value {
    let mut kept: Vec<Value> = Vec::new();
    for value in values {
        if !kept.iter().any(|known| number::equal(known, value)) {
            kept.push(value.clone());
        }
    }
    Value::Array(kept)
}

fn hash(value: &Value, algorithm: &Value) -> Outcome {
    let data = match value {
        Value::String(text) => text.clone(),
        other => number::json(other),
    };
    if data.chars().count() > TEXT_MAX {
        return Err(format!("the text is longer than {TEXT_MAX} characters"));
    }
    let digest = match text(algorithm)? {
        "MD5" => hex::encode(Md5::digest(&data)),
        "SHA-1" => hex::encode(Sha1::digest(&data)),
        "SHA-256" => hex::encode(Sha256::digest(&data)),
        "SHA-384" => hex::encode(Sha384::digest(&data)),
        "SHA-512" => hex::encode(Sha512::digest(&data)),
        other => return Err(format!("there is no algorithm '{other}'")),
    };
    Ok(digest.into())
}

fn merge(first: &Value, second: &Value, deep: &Value) -> Outcome {
    match (first, second, deep) {
        (_, _, Value::Bool(true)) => Err("only shallow merges: pass false".to_owned()),
        (Value::Object(first), Value::Object(second), Value::Bool(false)) => {
            let mut merged = first.clone();
            merged.extend(second.clone());
            Ok(Value::Object(merged))
        }
        _ => Err("two objects and false are needed".to_owned()),
    }
}

fn math_random(start: &Value, end: &Value, seed: Option<&Value>, random: &mut Random) -> Outcome {
    let (start, end) = (small(start)?, small(end)?);
    let span = i64::from(end) - i64::from(start);
    if span <= 0 {
        return Err("the end must be greater than the start".to_owned());
    }
    let offset = match seed {
        Some(seed) => {
            let bound = i32::try_from(span).map_err(|_| "the range is too large".to_owned())?;
            i64::from(random::java_int(integer(seed)?, bound))
        }
        None => (random.unit() * span as f64) as i64,
    };
    Ok((i64::from(start) + offset).into())
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "a text is needed".to_owned())
}

fn bounded(value: &Value) -> Result<&str, String> {
    let text = text(value)?;
    match text.chars().count() > TEXT_MAX {
        true => Err(format!("the text is longer than {TEXT_MAX} characters")),
        false => Ok(text),
    }
}

fn array(value: &Value) -> Result<&[Value], String> {
    let values = value.as_array().map(Vec::as_slice);
    values.ok_or_else(|| "an array is needed".to_owned())
}

/// An integer; fractions are rounded.
fn integer(value: &Value) -> Result<i64, String> {
    let number = value.as_number().and_then(number::rounded);
    number.ok_or_else(|| "a number is needed".to_owned())
}

/// An integer of 32 bits.
fn small(value: &Value) -> Result<i32, String> {
    i32::try_from(integer(value)?).map_err(|_| "the number is out of range".to_owned())
}
