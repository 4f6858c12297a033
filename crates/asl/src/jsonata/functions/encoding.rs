//! Base64, percent encoding, and expressions in strings.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::super::evaluator::Evaluator;
use super::super::value::{Array, Frame, Value};
use super::super::{Error, Flavour, parser};
use super::{Arguments, Row};

pub(super) const ROWS: &[Row] = &[
    ("base64encode", "<s-:s>", 1, base64_encode),
    ("base64decode", "<s-:s>", 1, base64_decode),
    ("encodeUrlComponent", "<s-:s>", 1, encode_component),
    ("encodeUrl", "<s-:s>", 1, encode_url),
    ("decodeUrlComponent", "<s-:s>", 1, decode_component),
    ("decodeUrl", "<s-:s>", 1, decode_url),
    ("eval", "<sx?:x>", 2, eval),
];

/// As lenient as JavaScript's decoder about what ends the text.
const DECODER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes are the low halves of UTF-16 units, as with JavaScript's `btoa`.
fn base64_encode(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let bytes: Vec<u8> = text.encode_utf16().map(|unit| unit as u8).collect();
    Ok(Value::string(
        base64::engine::general_purpose::STANDARD.encode(bytes),
    ))
}

fn base64_decode(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let text = text.replace('-', "+").replace('_', "/");
    let text: String = text
        .chars()
        .take_while(|c| *c != '=')
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/'))
        .collect();
    // A last digit alone carries less than a byte.
    let whole = if text.len() % 4 == 1 {
        text.len() - 1
    } else {
        text.len()
    };
    let bytes = DECODER.decode(&text[..whole]).unwrap_or_default();
    Ok(Value::string(
        bytes
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>(),
    ))
}

const COMPONENT: &str = "-_.!~*'()";
const URL: &str = "-_.!~*'();/?:@&=+$,#";

fn percent_encode(arguments: &Arguments<'_>, kept: &str) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let current = char::from(byte);
        if current.is_ascii_alphanumeric() || kept.contains(current) && byte.is_ascii() {
            encoded.push(current);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(Value::string(encoded))
}

fn encode_component(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    percent_encode(arguments, COMPONENT)
}

fn encode_url(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    percent_encode(arguments, URL)
}

/// Decodes; what stands for one of `reserved` is left as it is.
fn percent_decode(arguments: &Arguments<'_>, reserved: &str) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    let malformed = || Error::new("D3140", format!("malformed URL: {text}"));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            decoded.push(bytes[at]);
            at += 1;
            continue;
        }
        let digits = bytes.get(at + 1..at + 3).ok_or_else(malformed)?;
        let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| malformed())?;
        if byte.is_ascii() && reserved.contains(char::from(byte)) {
            decoded.extend_from_slice(&bytes[at..at + 3]);
        } else {
            decoded.push(byte);
        }
        at += 3;
    }
    let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
    Ok(Value::string(decoded))
}

fn decode_component(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    percent_decode(arguments, "")
}

fn decode_url(_: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    percent_decode(arguments, ";/?:@&=+$,#")
}

/// Runs an expression given as text, in the context of the call or one given.
fn eval(evaluator: &mut Evaluator<'_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let Some(text) = arguments.string(0) else {
        return Ok(Value::Undefined);
    };
    evaluator.charge(text.len())?;
    let node = parser::parse(text, Flavour::Plain).map_err(|error| {
        Error::new(
            "D3120",
            format!("syntax error in expression passed to function eval: {error}"),
        )
    })?;
    let input = match arguments.at(1) {
        Value::Undefined => arguments.input.clone(),
        array @ Value::Array(inner) if !inner.sequence => {
            Value::array(Array::wrapper(array.clone()))
        }
        other => other.clone(),
    };
    let frame = Frame::new(&evaluator.caller, Vec::new());
    evaluator
        .evaluate(&Arc::new(node), &input, &frame)
        .map_err(|error| {
            if error.code == "U1001" {
                return error;
            }
            Error::new(
                "D3121",
                format!("dynamic error evaluating the expression passed to function eval: {error}"),
            )
        })
}
