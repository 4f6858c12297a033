//! A reader of JSON that knows where things stand: keys given twice, line and column of a value.
//!
//! `serde_json` keeps the last of two equal keys in silence and has no positions, and both matter to
//! who wrote a definition. Positions are found by a second reading, only when there is something to
//! say.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Deepest nesting that is read, so that no text exhausts the stack.
const DEPTH_MAX: usize = 128;

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// What was expected or found.
    pub(crate) message: String,
    /// Byte in the text.
    pub(crate) offset: usize,
}

/// A document and the keys it gives twice.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// JSON pointers of keys that repeat an earlier one.
    pub(crate) duplicates: Vec<String>,
}

/// Reads a document.
pub(crate) fn read(text: &str) -> Result<Document, SyntaxError> {
    let mut reader = Reader::new(text, None);
    let value = reader.document()?;
    Ok(Document {
        value,
        duplicates: reader.duplicates,
    })
}

/// Byte offsets of the values (and keys, which is where a field begins) by JSON pointer.
pub(crate) fn positions(text: &str) -> BTreeMap<String, usize> {
    let mut reader = Reader::new(text, Some(BTreeMap::new()));
    // A text that is not JSON has positions up to its error.
    let _ = reader.document();
    reader.marks.unwrap_or_default()
}

/// Line and column, from 1, of a byte; the column counts characters.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// A key as part of a JSON pointer.
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    pointer: String,
    marks: Option<BTreeMap<String, usize>>,
    duplicates: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, marks: Option<BTreeMap<String, usize>>) -> Self {
        Self {
            text,
            at: usize::from(text.starts_with('\u{feff}')) * '\u{feff}'.len_utf8(),
            depth: 0,
            pointer: String::new(),
            marks,
            duplicates: Vec::new(),
        }
    }

    fn document(&mut self) -> Result<Value, SyntaxError> {
        self.space();
        if self.peek().is_none() {
            return Err(self.error("the text is empty"));
        }
        self.mark(self.at);
        let value = self.value()?;
        self.space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.error("text after the end of the document")),
        }
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        if self.depth >= DEPTH_MAX {
            return Err(self.error("nested too deeply"));
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => Err(self.error("a value is missing at the end of the text")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let mut map = Map::new();
        self.space();
        if self.skip(b'}') {
            return Ok(Value::Object(map));
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key in double quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.skip(b':') {
                return Err(self.error("expected ':' after a key"));
            }
            self.space();
            let length = self.pointer.len();
            self.push(&escape(&key));
            self.mark(start);
            if map.contains_key(&key) {
                self.duplicates.push(self.pointer.clone());
            }
            let value = self.value()?;
            self.pointer.truncate(length);
            map.insert(key, value);
            self.space();
            if self.skip(b'}') {
                return Ok(Value::Object(map));
            }
            if !self.skip(b',') {
                return Err(self.error("expected ',' or '}' in an object"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let mut values = Vec::new();
        self.space();
        if self.skip(b']') {
            return Ok(Value::Array(values));
        }
        loop {
            self.space();
            let length = self.pointer.len();
            self.push(&values.len().to_string());
            self.mark(self.at);
            values.push(self.value()?);
            self.pointer.truncate(length);
            self.space();
            if self.skip(b']') {
                return Ok(Value::Array(values));
            }
            if !self.skip(b',') {
                return Err(self.error("expected ',' or ']' in an array"));
            }
        }
    }

    /// A text or number: found by its extent, decoded by `serde_json`.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        while let Some(byte) = bytes.get(end) {
            match byte {
                b'"' => {
                    let token = &self.text[start..=end];
                    let text = serde_json::from_str(token)
                        .map_err(|_| self.error("an invalid text (control or escape)"))?;
                    self.at = end + 1;
                    return Ok(text);
                }
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        Err(self.error("a text without closing quote"))
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let rest = &self.text[self.at..];
        let length = rest
            .find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'))
            .unwrap_or(rest.len());
        let number: Number =
            serde_json::from_str(&rest[..length]).map_err(|_| self.error("an invalid number"))?;
        self.at += length;
        Ok(Value::Number(number))
    }

    fn word(&mut self) -> Result<Value, SyntaxError> {
        let words = [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ];
        for (word, value) in words {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("expected a value"))
    }

    fn push(&mut self, part: &str) {
        self.pointer.push('/');
        self.pointer.push_str(part);
    }

    fn mark(&mut self, offset: usize) {
        if let Some(marks) = &mut self.marks {
            marks.entry(self.pointer.clone()).or_insert(offset);
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, message: &str) -> SyntaxError {
        SyntaxError {
            message: message.to_owned(),
            offset: self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_as_serde_reads_them() {
        for text in [
            "{}",
            r#"{"a":[1,2.5,-3e2,"x\n\u00e9",true,false,null,{"b":{}}]}"#,
            " [ ] ",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read(text).unwrap().value, expected);
        }
    }

    #[test]
    fn errors_have_a_place() {
        for (text, offset) in [
            ("{\"a\":}", 5),
            ("[1,]", 3),
            ("{\"a\" 1}", 5),
            ("01", 0),
            ("", 0),
        ] {
            assert_eq!(read(text).unwrap_err().offset, offset, "{text}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn keys_given_twice_are_found() {
        let document = read(r#"{"a":{"b":1,"b":2}}"#).unwrap();
        assert_eq!(document.duplicates, ["/a/b"]);
    }

    #[test]
    fn positions_are_those_of_keys() {
        let text = "{\n  \"a\": {\"b/c\": [1, 2]}\n}";
        let marks = positions(text);
        assert_eq!(line_and_column(text, marks["/a"]), (2, 3));
        assert_eq!(line_and_column(text, marks["/a/b~1c/1"]), (2, 20));
    }
}
