//! Operators with two operands.

use std::cmp::Ordering;
use std::rc::Rc;

use super::super::syntax::Operator;
use super::super::value::Value;
use super::super::{Error, json, number};
use super::Evaluator;

impl Evaluator<'_> {
    pub(super) fn binary(
        &mut self,
        operator: Operator,
        left: Value,
        right: Value,
    ) -> Result<Value, Error> {
        match operator {
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => arithmetic(operator, &left, &right),
            Operator::Equal | Operator::NotEqual => {
                if left.is_undefined() || right.is_undefined() {
                    return Ok(Value::Bool(false));
                }
                self.charge((left.depth().min(right.depth())) as usize)?;
                Ok(Value::Bool(
                    (left == right) == (operator == Operator::Equal),
                ))
            }
            Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual => comparison(operator, &left, &right),
            Operator::Concatenate => self.concatenate(&left, &right),
            Operator::In => {
                if left.is_undefined() || right.is_undefined() {
                    return Ok(Value::Bool(false));
                }
                self.charge(right.items().len() / 8)?;
                Ok(Value::Bool(
                    right.items().iter().any(|item| same(item, &left)),
                ))
            }
            Operator::Range => self.range(&left, &right),
        }
    }

    fn concatenate(&mut self, left: &Value, right: &Value) -> Result<Value, Error> {
        let bytes_max = self.environment.limits.bytes;
        let mut text = String::new();
        for side in [left, right] {
            match side {
                Value::Undefined => {}
                Value::String(side) => {
                    self.charge_bytes(text.len() + side.len())?;
                    text.push_str(side);
                }
                other => text.push_str(&string(other, bytes_max)?),
            }
        }
        self.charge_bytes(text.len())?;
        Ok(Value::string(text))
    }

    fn range(&mut self, left: &Value, right: &Value) -> Result<Value, Error> {
        let end = |value: &Value, code: &str, side: &str| match value {
            Value::Undefined => Ok(None),
            Value::Number(number) if number.fract() == 0.0 && number.is_finite() => {
                Ok(Some(*number))
            }
            _ => {
                let message = format!(
                    "the {side} side of the range operator (..) must evaluate to an integer"
                );
                Err(Error::new(code, message))
            }
        };
        let first = end(left, "T2003", "left")?;
        let last = end(right, "T2004", "right")?;
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(Value::Undefined);
        };
        if first > last {
            return Ok(Value::Undefined);
        }
        let count = last - first + 1.0;
        // Above any limit, and above what a usize can hold.
        self.charge_items(if count > 1e15 {
            usize::MAX
        } else {
            count as usize
        })?;
        let items = (0..count as usize).map(|index| Value::Number(first + index as f64));
        Ok(Value::sequence(items.collect()))
    }
}

/// Whether two values are the same one: arrays and objects are what they are, not what they hold.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(left), Value::Array(right)) => Rc::ptr_eq(left, right),
        (Value::Object(left), Value::Object(right)) => Rc::ptr_eq(left, right),
        _ => left == right,
    }
}

/// A value as `$string` makes it text; functions are empty.
pub(in super::super) fn string(value: &Value, bytes_max: usize) -> Result<String, Error> {
    match value {
        Value::Undefined | Value::Function(_) => Ok(String::new()),
        Value::String(text) => Ok(text.to_string()),
        Value::Number(number) if !number.is_finite() => {
            let message = "attempting to invoke string function on Infinity or NaN";
            Err(Error::new("D3001", message))
        }
        other => json::to_text(other, false, bytes_max),
    }
}

/// A number for an operator; infinities are the trace of an overflow.
fn operand(value: &Value, code: &str, side: &str) -> Result<Option<f64>, Error> {
    match value {
        Value::Undefined => Ok(None),
        Value::Number(number) if number.is_finite() => Ok(Some(*number)),
        Value::Number(number) => Err(Error::new(
            "D1001",
            format!("number out of range: {}", number::to_text(*number)),
        )),
        other => {
            let message = format!(
                "the {side} side of the operator must evaluate to a number, not {}",
                other.type_name()
            );
            Err(Error::new(code, message))
        }
    }
}

fn arithmetic(operator: Operator, left: &Value, right: &Value) -> Result<Value, Error> {
    let left = operand(left, "T2001", "left")?;
    let right = operand(right, "T2002", "right")?;
    let (Some(left), Some(right)) = (left, right) else {
        return Ok(Value::Undefined);
    };
    Ok(Value::Number(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        _ => left % right,
    }))
}

fn comparison(operator: Operator, left: &Value, right: &Value) -> Result<Value, Error> {
    let comparable = |value: &Value| {
        matches!(
            value,
            Value::Undefined | Value::Number(_) | Value::String(_)
        )
    };
    if !comparable(left) || !comparable(right) {
        let message =
            "the expressions either side of the operator must evaluate to numeric or string values";
        return Err(Error::new("T2010", message));
    }
    if left.is_undefined() || right.is_undefined() {
        return Ok(Value::Undefined);
    }
    let Some(ordering) = compare(left, right) else {
        let message = "the values either side of the operator must be of the same data type";
        return Err(Error::new("T2009", message));
    };
    Ok(Value::Bool(match operator {
        Operator::Less => ordering == Ordering::Less,
        Operator::LessOrEqual => ordering != Ordering::Greater,
        Operator::Greater => ordering == Ordering::Greater,
        _ => ordering != Ordering::Less,
    }))
}

/// The order of two numbers or two strings; strings by UTF-16 units, as JavaScript has it.
pub(in super::super) fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.partial_cmp(right),
        (Value::String(left), Value::String(right)) => {
            Some(left.encode_utf16().cmp(right.encode_utf16()))
        }
        _ => None,
    }
}
