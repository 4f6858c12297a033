//! What AWS Step Functions adds to the language.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::super::evaluator::Evaluator;
use super::super::value::Value;
use super::super::{Environment, Error, json};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("partition", "<a-n:a>", 2, partition),
    ("range", "<nnn:a>", 3, range),
    ("hash", "<xs:s>", 2, hash),
    ("random", "<n?:n>", 1, random),
    ("uuid", "<:s>", 0, uuid),
    ("parse", "<s-:x>", 1, parse),
];

/// As many items as the intrinsic function `States.ArrayRange` may give.
const RANGE_MAX: f64 = 1000.0;

/// Whoever passes less than a function needs would otherwise see undefined, without a reason.
fn missing(function: &str) -> Error {
    Error::new("T0410", format!("an argument of ${function} is missing"))
}

fn partition(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let array = arguments.at(0);
    if array.is_undefined() {
        return Ok(Value::Undefined);
    }
    let size = arguments
        .number(1)
        .ok_or_else(|| missing("partition"))?
        .floor();
    if size < 1.0 {
        return Err(Error::new(
            "D3040",
            "the second argument of $partition must be at least 1",
        ));
    }
    evaluator.charge_items(array.items().len())?;
    let parts = array
        .items()
        .chunks(size as usize)
        .map(|part| Value::list(part.to_vec()));
    Ok(Value::list(parts.collect()))
}

fn range(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let argument = |index| arguments.number(index).ok_or_else(|| missing("range"));
    let (first, last, step) = (argument(0)?, argument(1)?, argument(2)?);
    if step == 0.0 {
        return Err(Error::new(
            "D3040",
            "the third argument of $range must not be 0",
        ));
    }
    let count = ((last - first) / step).floor() + 1.0;
    if count > RANGE_MAX {
        return Err(Error::new(
            "D2014",
            format!("$range may give at most {RANGE_MAX} items"),
        ));
    }
    evaluator.charge(count.max(0.0) as usize)?;
    let items =
        (0..count.max(0.0) as usize).map(|index| Value::Number(first + step * index as f64));
    Ok(Value::list(items.collect()))
}

fn hash(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let data = match arguments.at(0) {
        Value::Undefined => return Ok(Value::Undefined),
        Value::String(text) => text.to_string(),
        other => json::to_text(other, false, evaluator.environment.limits.bytes)?,
    };
    evaluator.charge_bytes(data.len())?;
    let algorithm = arguments.string(1).ok_or_else(|| missing("hash"))?;
    let digest = match &**algorithm {
        "MD5" => hex::encode(Md5::digest(data)),
        "SHA-1" => hex::encode(Sha1::digest(data)),
        "SHA-256" => hex::encode(Sha256::digest(data)),
        "SHA-384" => hex::encode(Sha384::digest(data)),
        "SHA-512" => hex::encode(Sha512::digest(data)),
        other => {
            let message = format!(
                "unknown hash algorithm {other:?}: use MD5, SHA-1, SHA-256, SHA-384 or SHA-512"
            );
            return Err(Error::new("D3040", message));
        }
    };
    Ok(Value::string(digest))
}

fn random(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    Ok(Value::Number(match arguments.number(0) {
        None => evaluator.environment.random_fraction(),
        // The same seed gives the same number, wherever it is used.
        Some(seed) => Environment {
            seed: seed.to_bits(),
            ..evaluator.environment.clone()
        }
        .random_fraction(),
    }))
}

/// A version 4 UUID.
fn uuid(evaluator: &mut Evaluator<'_>, _: &Arguments<'_>) -> Result<Value, Error> {
    let high = evaluator.environment.random() & !0xf000 | 0x4000;
    let low = evaluator.environment.random() & !(0b11 << 62) | (0b10 << 62);
    let digits = format!("{high:016x}{low:016x}");
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    Ok(Value::string(parts.join("-")))
}

fn parse(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    evaluator.charge_bytes(text.len())?;
    match serde_json::from_str(text) {
        Ok(value) => Ok(json::read(&value)),
        Err(error) => Err(Error::new(
            "D3110",
            format!("the argument of $parse is not JSON: {error}"),
        )),
    }
}
