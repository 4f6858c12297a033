//! From text to call.

use serde_json::Value;

use super::{Argument, Call, DEPTH_MAX, Function, Piece};
use crate::path::{Malformed, Path};

/// Longest text of a call.
const LENGTH_MAX: usize = 10_000;

pub(super) fn call(text: &str) -> Result<Call, Malformed> {
    if text.len() > LENGTH_MAX {
        return Err(Malformed::new("the call is too long"));
    }
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let call = parser.call()?;
    parser.space();
    match parser.peek() {
        None => Ok(call),
        Some(_) => Err(parser.unexpected()),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn call(&mut self) -> Result<Call, Malformed> {
        let start = self.at;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Malformed::new(format!(
                "calls are nested deeper than {DEPTH_MAX}"
            )));
        }
        let rest = &self.text[start..];
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
            .unwrap_or(rest.len());
        let name = &rest[..length];
        let function = name.strip_prefix("States.").and_then(Function::named);
        let Some(function) = function else {
            return Err(Malformed::new(format!(
                "there is no intrinsic function '{name}'"
            )));
        };
        self.at += length;
        self.space();
        if !self.skip('(') {
            return Err(self.unexpected());
        }
        let mut arguments = Vec::new();
        self.space();
        if !self.skip(')') {
            loop {
                self.space();
                arguments.push(self.argument()?);
                self.space();
                if self.skip(')') {
                    break;
                }
                if !self.skip(',') {
                    return Err(self.unexpected());
                }
            }
        }
        if !function.arity().contains(&arguments.len()) {
            return Err(Malformed::new(format!(
                "{name} does not take {} arguments",
                arguments.len()
            )));
        }
        self.depth -= 1;
        Ok(Call {
            function,
            arguments,
            text: self.text[start..self.at].to_owned(),
        })
    }

    fn argument(&mut self) -> Result<Argument, Malformed> {
        match self.peek() {
            Some('\'') => self.quoted().map(Argument::Text),
            Some('$') => {
                let length = self.path_length();
                let path = Path::parse(self.text[self.at..self.at + length].trim_end())?;
                self.at += length;
                Ok(Argument::Path(path))
            }
            Some('S') => self.call().map(Argument::Call),
            _ => {
                let rest = &self.text[self.at..];
                let length = rest.find([',', ')', ' ']).unwrap_or(rest.len());
                let value: Value =
                    serde_json::from_str(&rest[..length]).map_err(|_| self.unexpected())?;
                if value.is_array() || value.is_object() || value.is_string() {
                    return Err(self.unexpected());
                }
                self.at += length;
                Ok(Argument::Literal(value))
            }
        }
    }

    /// A path goes on to the comma or parenthesis that is not inside its own brackets.
    fn path_length(&self) -> usize {
        let mut depth = 0usize;
        let mut quote = None;
        let mut escaped = false;
        for (at, character) in self.text[self.at..].char_indices() {
            match (quote, character) {
                _ if escaped => escaped = false,
                (Some(_), '\\') => escaped = true,
                (Some(open), close) if open == close => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(character),
                (None, '[' | '(') => depth += 1,
                (None, ',' | ')') if depth == 0 => return at,
                (None, ']' | ')') => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        self.text.len() - self.at
    }

    /// `'…'` with `\'`, `\{`, `\}` and `\\`.
    fn quoted(&mut self) -> Result<Vec<Piece>, Malformed> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut characters = self.text[self.at + 1..].char_indices().peekable();
        while let Some((offset, character)) = characters.next() {
            match character {
                '\'' => {
                    self.at += 1 + offset + 1;
                    if !text.is_empty() {
                        pieces.push(Piece::Text(text));
                    }
                    return Ok(pieces);
                }
                '\\' => match characters.next() {
                    Some((_, escaped @ ('\'' | '{' | '}' | '\\'))) => text.push(escaped),
                    // Anything else keeps its backslash.
                    Some((_, other)) => text.extend(['\\', other]),
                    None => break,
                },
                '{' if characters.next_if(|(_, next)| *next == '}').is_some() => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Place);
                }
                other => text.push(other),
            }
        }
        Err(Malformed::new("a quote is not closed"))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn skip(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        self.at += if found { character.len_utf8() } else { 0 };
        found
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self) -> Malformed {
        match self.peek() {
            Some(found) => Malformed::new(format!("unexpected '{found}' at character {}", self.at)),
            None => Malformed::new("the call ends too early"),
        }
    }
}
