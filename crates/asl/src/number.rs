//! Numbers as AWS's interpreter, a Java program, compares and prints them.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Orders numbers by what they mean, integers exactly.
pub(crate) fn compare(a: &Number, b: &Number) -> Ordering {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return a.cmp(&b);
    }
    if let (Some(a), Some(b)) = (a.as_u64(), b.as_u64()) {
        return a.cmp(&b);
    }
    let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

/// Equality of values in which `1` and `1.0` are one number.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// An integer where the double is one.
pub(crate) fn plain(number: Number) -> Number {
    match number.as_f64() {
        Some(double) if double.fract() == 0.0 && double.abs() < 9e15 => Number::from(double as i64),
        _ => number,
    }
}

/// The number rounded half up, as Java's `Math.round`; none where it is out of range.
pub(crate) fn rounded(number: &Number) -> Option<i64> {
    match number.as_i64() {
        Some(integer) => Some(integer),
        None => {
            let double = (number.as_f64()? + 0.5).floor();
            (double.abs() < 9.2e18).then_some(double as i64)
        }
    }
}

/// The number as Java prints it.
pub(crate) fn text(number: &Number) -> String {
    match number.as_f64() {
        Some(double) if number.is_f64() => java_double(double),
        _ => number.to_string(),
    }
}

/// `Double.toString`: plain between 10^-3 and 10^7, otherwise `d.dddE±n`.
fn java_double(double: f64) -> String {
    let size = double.abs();
    if double == 0.0 || (1e-3..1e7).contains(&size) {
        return format!("{double:?}");
    }
    let text = format!("{double:E}");
    match text.split_once('E') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
        _ => text,
    }
}

/// Compact JSON with numbers as Java prints them.
pub(crate) fn json(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Number(number) => text.push_str(&self::text(number)),
        Value::Array(values) => {
            text.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// Whether the value's compact JSON is longer than `limit` bytes. Stops counting there.
pub(crate) fn is_longer_than(value: &Value, limit: usize) -> bool {
    let mut left = limit;
    !count(value, &mut left)
}

/// Bytes of the value's compact JSON.
pub(crate) fn length(value: &Value) -> usize {
    let mut left = usize::MAX;
    count(value, &mut left);
    usize::MAX - left
}

/// Takes the value's bytes off what is left; false when that isn't enough.
fn count(value: &Value, left: &mut usize) -> bool {
    let size = match value {
        Value::Null => 4,
        Value::Bool(value) => 5 - usize::from(*value),
        Value::Number(number) => self::text(number).len(),
        Value::String(text) => quoted_length(text),
        Value::Array(values) => 2 + values.len().saturating_sub(1),
        Value::Object(map) => {
            let keys: usize = map.keys().map(|key| quoted_length(key) + 1).sum();
            2 + map.len().saturating_sub(1) + keys
        }
    };
    let Some(rest) = left.checked_sub(size) else {
        return false;
    };
    *left = rest;
    match value {
        Value::Array(values) => values.iter().all(|value| count(value, left)),
        Value::Object(map) => map.values().all(|value| count(value, left)),
        _ => true,
    }
}

/// Whether arrays and objects stand in each other deeper than that. Looks no further.
pub(crate) fn is_deeper_than(value: &Value, limit: usize) -> bool {
    let below = |inner: &Value| match limit.checked_sub(1) {
        Some(limit) => is_deeper_than(inner, limit),
        None => true,
    };
    match value {
        Value::Array(values) => limit == 0 || values.iter().any(below),
        Value::Object(map) => limit == 0 || map.values().any(below),
        _ => false,
    }
}

fn quoted_length(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..=31 => 6,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn doubles_are_printed_as_in_java() {
        for (value, expected) in [
            (json!(1), "1"),
            (json!(1.0), "1.0"),
            (json!(-2.50), "-2.5"),
            (json!(1e7), "1.0E7"),
            (json!(123_456_789.25), "1.2345678925E8"),
            (json!(0.0001), "1.0E-4"),
            (json!(9_999_999.5), "9999999.5"),
            (json!([{"a": 1e10}]), r#"[{"a":1.0E10}]"#),
        ] {
            assert_eq!(json(&value), expected);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let value = json!([1, {"a": [2]}]);
        assert!(!is_deeper_than(&value, 3));
        assert!(is_deeper_than(&value, 2));
    }

    #[test]
    fn lengths_are_those_of_the_text() {
        let value = json!({"a\n": [1, 2.5, "ü\"", true, false, null, {}], "b": []});
        let length = json(&value).len();
        assert!(!is_longer_than(&value, length));
        assert!(is_longer_than(&value, length - 1));
        assert_eq!(super::length(&value), length);
    }
}
