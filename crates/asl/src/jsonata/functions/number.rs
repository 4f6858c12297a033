//! Numbers, and numbers as text.

use super::super::evaluator::Evaluator;
use super::super::value::Value;
use super::super::{Error, number as numeral};
use super::integer::IntegerPicture;
use super::number_format::format_number;
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("number", "<(nsb)-:n>", 1, number),
    ("abs", "<n-:n>", 1, abs),
    ("floor", "<n-:n>", 1, floor),
    ("ceil", "<n-:n>", 1, ceil),
    ("round", "<n-n?:n>", 2, round),
    ("sqrt", "<n-:n>", 1, sqrt),
    ("power", "<n-n:n>", 2, power),
    ("random", "<:n>", 0, random),
    ("sum", "<a<n>:n>", 1, sum),
    ("max", "<a<n>:n>", 1, max),
    ("min", "<a<n>:n>", 1, min),
    ("average", "<a<n>:n>", 1, average),
    ("formatNumber", "<n-so?:s>", 3, format_number),
    ("formatBase", "<n-n?:s>", 2, format_base),
    ("formatInteger", "<n-s:s>", 2, format_integer),
    ("parseInteger", "<s-s:n>", 2, parse_integer),
];

fn number(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = match arguments.at(0) {
        Value::String(text) => numeral::parse(text),
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        other => return Ok(other.clone()),
    };
    let message = || Error::new("D3030", "unable to cast value to a number");
    value.map(Value::Number).ok_or_else(message)
}

fn with(arguments: &Arguments<'_>, operation: impl Fn(f64) -> f64) -> Result<Value, Error> {
    let number = arguments.number(0);
    Ok(number.map_or(Value::Undefined, |number| Value::Number(operation(number))))
}

fn abs(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    with(arguments, f64::abs)
}

fn floor(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    with(arguments, f64::floor)
}

fn ceil(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    with(arguments, f64::ceil)
}

fn round(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let places = arguments.number(1).unwrap_or(0.0);
    with(arguments, |number| {
        numeral::round_half_even(number, places as i32)
    })
}

fn sqrt(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    if arguments.number(0).is_some_and(|number| number < 0.0) {
        let message = "the sqrt function cannot be applied to a negative number";
        return Err(Error::new("D3060", message));
    }
    with(arguments, f64::sqrt)
}

fn power(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(base) = arguments.number(0) else {
        return Ok(Value::Undefined);
    };
    let result = base.powf(arguments.number(1).unwrap_or(f64::NAN));
    if !result.is_finite() {
        let message = "the power function has resulted in a value that cannot be represented as a JSON number";
        return Err(Error::new("D3061", message));
    }
    Ok(Value::Number(result))
}

fn random(evaluator: &mut Evaluator<'_>, _: &Arguments<'_>) -> Result<Value, Error> {
    Ok(Value::Number(evaluator.environment.random_fraction()))
}

/// The numbers of an array; `None` if it is undefined.
fn numbers(arguments: &Arguments<'_>) -> Option<Vec<f64>> {
    let array = arguments.at(0);
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        _ => None,
    };
    (!array.is_undefined()).then(|| array.items().iter().filter_map(number).collect())
}

fn sum(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let sum =
        |numbers: Vec<f64>| Value::Number(numbers.iter().fold(0.0, |sum, number| sum + number));
    Ok(numbers(arguments).map_or(Value::Undefined, sum))
}

fn max(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let greatest = numbers(arguments).and_then(|numbers| numbers.into_iter().reduce(f64::max));
    Ok(greatest.map_or(Value::Undefined, Value::Number))
}

fn min(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let least = numbers(arguments).and_then(|numbers| numbers.into_iter().reduce(f64::min));
    Ok(least.map_or(Value::Undefined, Value::Number))
}

fn average(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    Ok(match numbers(arguments) {
        Some(numbers) if !numbers.is_empty() => {
            let sum = numbers.iter().fold(0.0, |sum, number| sum + number);
            Value::Number(sum / numbers.len() as f64)
        }
        _ => Value::Undefined,
    })
}

fn format_base(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(number) = arguments.number(0) else {
        return Ok(Value::Undefined);
    };
    let radix = numeral::round_half_even(arguments.number(1).unwrap_or(10.0), 0);
    if !(2.0..=36.0).contains(&radix) {
        let message =
            format!("the radix of the formatBase function must be between 2 and 36, not {radix}");
        return Err(Error::new("D3100", message));
    }
    let number = numeral::round_half_even(number, 0);
    let mut rest = number.abs();
    let mut reversed = Vec::new();
    while rest >= 1.0 || reversed.is_empty() {
        let digit = (rest % radix) as u32;
        reversed.push(char::from_digit(digit, radix as u32).unwrap_or('0'));
        rest = (rest / radix).floor();
    }
    if number < 0.0 {
        reversed.push('-');
    }
    Ok(Value::string(reversed.iter().rev().collect::<String>()))
}

fn format_integer(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (Some(number), Some(picture)) = (arguments.number(0), arguments.string(1)) else {
        return Ok(Value::Undefined);
    };
    let text = IntegerPicture::parse(picture)?.format(number.floor())?;
    Ok(Value::string(text))
}

fn parse_integer(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (Some(text), Some(picture)) = (arguments.string(0), arguments.string(1)) else {
        return Ok(Value::Undefined);
    };
    let number = IntegerPicture::parse(picture)?.read(text)?;
    Ok(number.map_or(Value::Undefined, Value::Number))
}
