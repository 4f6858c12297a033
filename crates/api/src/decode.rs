//! JSON in and out, the way the original's language does it.
//!
//! Decoding: keys match without regard to case, unknown keys are ignored, the last duplicate wins,
//! `null` and a missing key leave the zero value, an empty body is all zero, and only the first
//! value of a body is read. Encoding: compact, `<`, `>`, `&` and the line separators escaped,
//! numbers without a superfluous fraction or exponent.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{CharEscape, Formatter};

/// Nesting of parameters, at most: what every runtime's parser takes.
pub const DEPTH_MAX: usize = 512;

/// Why a body could not be decoded; says which field, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

/// Decodes the first JSON value of `body`; an empty body gives the zero value.
pub fn decode<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, DecodeError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Option<T>>();
    match values.next() {
        Some(Ok(value)) => Ok(value.unwrap_or_default()),
        Some(Err(error)) => Err(DecodeError(format!(
            "the body is not the JSON expected: {error}"
        ))),
        None => Ok(T::default()),
    }
}

/// Checks the text of parameters: an object or null, numbers that a float can hold, bounded nesting.
///
/// The syntax has been checked by the JSON parser before; this looks only at what it lets pass.
pub(crate) fn check_params(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    if text != "null" && bytes.first() != Some(&b'{') {
        return Err("an object is expected".into());
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("nested deeper than {DEPTH_MAX} levels"));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let end = number_end(bytes, at);
                let number = &text[at..end];
                // Short ones without an exponent are always in range.
                let large = number.len() > 300 || number.contains(['e', 'E']);
                if large && !number.parse::<f64>().is_ok_and(f64::is_finite) {
                    return Err(format!("the number {:.40} is out of range", number));
                }
                at = end - 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Index of the quote that ends the string starting at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
    start
        + bytes[start..]
            .iter()
            .take_while(|byte| number(byte))
            .count()
}

/// `value` as JSON in the original's style, without a line end.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, GoStyle);
    // Our wire types hold nothing that JSON can't, and a `Vec` takes all that is written to it.
    if value.serialize(&mut serializer).is_err() {
        text.clear();
    }
    text
}

/// [`encode`] with a line end, as the original's server sends JSON.
pub fn encode_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = encode(value);
    text.push(b'\n');
    text
}

struct GoStyle;

impl Formatter for GoStyle {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value);
        let size = value.abs();
        if !text.contains('e') {
            return writer.write_all(text.strip_suffix(".0").unwrap_or(text).as_bytes());
        }
        if (1e-6..1e21).contains(&size) {
            return write!(writer, "{value}");
        }
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with(['-', '+']) => {
                write!(writer, "{digits}e+{exponent}")
            }
            _ => writer.write_all(text.as_bytes()),
        }
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // A first look at bytes, because most strings need nothing: E2 begins the separators.
        let suspect = |byte: &u8| matches!(byte, b'<' | b'>' | b'&' | 0xE2);
        if !fragment.as_bytes().iter().any(suspect) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut chars = from.chars();
            if let Some(escaped) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(escaped))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text<T: Serialize>(value: &T) -> String {
        String::from_utf8(encode(value)).unwrap()
    }

    #[test]
    fn numbers_are_written_as_the_original_does() {
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (0.1, "0.1"),
            (-2.5e-6, "-0.0000025"),
            (9.9e-7, "9.9e-7"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(text(&number), expected);
        }
    }

    proptest! {
        #[test]
        fn numbers_are_short_and_exact(number in any::<f64>().prop_filter("JSON", |n| n.is_finite())) {
            let written = text(&number);
            prop_assert_eq!(written.parse::<f64>().unwrap(), number);
            prop_assert!(!written.ends_with(".0"), "{}", written);
            prop_assert_eq!(written.contains('e'), {
                let size = number.abs();
                size != 0.0 && !(1e-6..1e21).contains(&size)
            });
        }

        #[test]
        fn strings_come_back_and_are_safe_in_html(string in "[a-z<>&\"\\\\\u{2028}\u{2029}\u{2030}ü\u{1}\n]*") {
            let escaped = ['<', '>', '&', '\u{2028}', '\u{2029}', '\n'];
            let written = text(&string);
            prop_assert!(!written.contains(escaped));
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), string);
        }

        #[test]
        fn no_body_makes_the_decoder_panic(body in any::<Vec<u8>>()) {
            let _ = decode::<crate::InvokeRequest>(&body);
            let _ = decode::<crate::FunctionSpec>(&body);
        }
    }
}
