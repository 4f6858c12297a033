//! Text to tokens, one at a time: whether `/` divides or opens a regular expression is known only
//! to the parser, which says so when it asks for the next token.

use std::sync::Arc;

use super::Error;

/// What a token is. Operators carry their text, keyword operators (`and`, `or`, `in`) too.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    Operator(&'static str),
    Name(Arc<str>),
    Variable(Arc<str>),
    String(Arc<str>),
    Number(f64),
    Bool(bool),
    Null,
    Regex { pattern: String, flags: String },
    End,
}

/// A token and the offset, in characters, of its end.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) position: usize,
}

impl Token {
    pub(super) fn is(&self, operator: &str) -> bool {
        matches!(self.kind, TokenKind::Operator(found) if found == operator)
    }

    /// The token as the user wrote it, for messages.
    pub(super) fn text(&self) -> String {
        match &self.kind {
            TokenKind::Operator(text) => (*text).to_owned(),
            TokenKind::Name(text) | TokenKind::String(text) => text.to_string(),
            TokenKind::Variable(name) => format!("${name}"),
            TokenKind::Number(number) => super::number::to_text(*number),
            TokenKind::Bool(value) => value.to_string(),
            TokenKind::Null => "null".to_owned(),
            TokenKind::Regex { pattern, .. } => format!("/{pattern}/"),
            TokenKind::End => "(end)".to_owned(),
        }
    }
}

/// Longest first, so that a prefix doesn't win.
const OPERATORS: [&str; 30] = [
    "..", ":=", "!=", ">=", "<=", "**", "~>", ".", "[", "]", "{", "}", "(", ")", ",", "@", "#",
    ";", ":", "?", "+", "-", "*", "/", "%", "|", "=", "<", ">", "^",
];
/// These have no meaning of their own; `&` is found here for the sake of the table's order.
const LONELY: [&str; 3] = ["&", "!", "~"];

pub(super) struct Lexer {
    text: Vec<char>,
    at: usize,
}

impl Lexer {
    pub(super) fn new(text: &str) -> Lexer {
        Lexer {
            text: text.chars().collect(),
            at: 0,
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn token(&self, kind: TokenKind) -> Token {
        Token {
            kind,
            position: self.at,
        }
    }

    fn error(&self, code: &str, message: impl Into<String>) -> Error {
        Error::new(code, message).at(self.at)
    }

    /// The next token; after an operand a slash is a division (`divides`), elsewhere it opens a
    /// regular expression.
    pub(super) fn next(&mut self, divides: bool) -> Result<Token, Error> {
        self.skip_blanks()?;
        let Some(first) = self.peek(0) else {
            return Ok(self.token(TokenKind::End));
        };
        if first == '/' && !divides {
            self.at += 1;
            return self.regex();
        }
        if let Some(operator) = self.operator() {
            self.at += operator.len();
            return Ok(self.token(TokenKind::Operator(operator)));
        }
        match first {
            '"' | '\'' => self.string(first),
            '0'..='9' => self.number(),
            '`' => self.quoted_name(),
            _ => Ok(self.name()),
        }
    }

    fn operator(&self) -> Option<&'static str> {
        let found = |operator: &&&'static str| {
            let mut characters = operator.chars().enumerate();
            characters.all(|(index, expected)| self.peek(index) == Some(expected))
        };
        OPERATORS.iter().chain(&LONELY).find(found).copied()
    }

    fn skip_blanks(&mut self) -> Result<(), Error> {
        loop {
            match self.peek(0) {
                Some(' ' | '\t' | '\n' | '\r' | '\u{b}') => self.at += 1,
                Some('/') if self.peek(1) == Some('*') => {
                    self.at += 2;
                    while !(self.peek(0) == Some('*') && self.peek(1) == Some('/')) {
                        if self.peek(0).is_none() {
                            return Err(self.error("S0106", "comment has no closing tag"));
                        }
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn regex(&mut self) -> Result<Token, Error> {
        let start = self.at;
        let mut depth = 0_i32;
        loop {
            let Some(current) = self.peek(0) else {
                return Err(self.error("S0302", "no terminating / in regular expression"));
            };
            // An escaped backslash escapes nothing.
            let before = self.text[start..self.at].iter().rev();
            let escaped = before.take_while(|c| **c == '\\').count() % 2 == 1;
            match current {
                '/' if !escaped && depth == 0 => break,
                '(' | '[' | '{' if !escaped => depth += 1,
                ')' | ']' | '}' if !escaped => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
        let pattern: String = self.text[start..self.at].iter().collect();
        if pattern.is_empty() {
            return Err(self.error("S0301", "empty regular expressions are not allowed"));
        }
        self.at += 1;
        let mut flags = String::new();
        while let Some(flag @ ('i' | 'm')) = self.peek(0) {
            flags.push(flag);
            self.at += 1;
        }
        Ok(self.token(TokenKind::Regex { pattern, flags }))
    }

    fn string(&mut self, quote: char) -> Result<Token, Error> {
        self.at += 1;
        // Escapes name UTF-16 units; two of them can make one character.
        let mut units: Vec<u16> = Vec::new();
        let mut buffer = [0; 2];
        while let Some(current) = self.peek(0) {
            if current == quote {
                self.at += 1;
                let text = String::from_utf16_lossy(&units);
                return Ok(self.token(TokenKind::String(text.into())));
            }
            if current == '\\' {
                self.at += 1;
                let unit = self.escape()?;
                units.push(unit);
            } else {
                units.extend_from_slice(current.encode_utf16(&mut buffer));
            }
            self.at += 1;
        }
        Err(self.error(
            "S0101",
            "string literal must be terminated by a matching quote",
        ))
    }

    /// The unit that the escape at the current character stands for; stays on its last character.
    fn escape(&mut self) -> Result<u16, Error> {
        Ok(match self.peek(0) {
            Some('"') => 0x22,
            Some('\\') => 0x5c,
            Some('/') => 0x2f,
            Some('b') => 8,
            Some('f') => 12,
            Some('n') => 10,
            Some('r') => 13,
            Some('t') => 9,
            Some('u') => {
                let digits = (1..=4).map(|ahead| self.peek(ahead)?.to_digit(16));
                let unit = digits
                    .into_iter()
                    .try_fold(0, |unit, digit| Some(unit * 16 + digit?));
                let message = "the escape sequence \\u must be followed by 4 hex digits";
                let unit = unit.ok_or_else(|| self.error("S0104", message))?;
                self.at += 4;
                u16::try_from(unit).unwrap_or(0xfffd)
            }
            other => {
                let other = other.map(String::from).unwrap_or_default();
                let message = format!("unsupported escape sequence: \\{other}");
                return Err(self.error("S0103", message));
            }
        })
    }

    fn digits(&mut self) {
        while self.peek(0).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Token, Error> {
        let start = self.at;
        if self.peek(0) == Some('0') {
            self.at += 1;
        } else {
            self.digits();
        }
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
                self.at += 1 + sign;
                self.digits();
            }
        }
        let text: String = self.text[start..self.at].iter().collect();
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(self.token(TokenKind::Number(number))),
            _ => Err(self.error("S0102", format!("number out of range: {text}"))),
        }
    }

    fn quoted_name(&mut self) -> Result<Token, Error> {
        let rest = &self.text[self.at + 1..];
        let Some(length) = rest.iter().position(|&c| c == '`') else {
            self.at = self.text.len();
            let message = "quoted property name must be terminated with a backquote (`)";
            return Err(self.error("S0105", message));
        };
        let name: String = rest[..length].iter().collect();
        self.at += length + 2;
        Ok(self.token(TokenKind::Name(name.into())))
    }

    fn name(&mut self) -> Token {
        let start = self.at;
        while let Some(current) = self.peek(0) {
            let blank = matches!(current, ' ' | '\t' | '\n' | '\r' | '\u{b}');
            if blank || self.operator().is_some() {
                break;
            }
            self.at += 1;
        }
        let text: String = self.text[start..self.at].iter().collect();
        let kind = match text.as_str() {
            "and" => TokenKind::Operator("and"),
            "or" => TokenKind::Operator("or"),
            "in" => TokenKind::Operator("in"),
            "true" => TokenKind::Bool(true),
            "false" => TokenKind::Bool(false),
            "null" => TokenKind::Null,
            name => match name.strip_prefix('$') {
                Some(variable) => TokenKind::Variable(variable.into()),
                None => TokenKind::Name(name.into()),
            },
        };
        self.token(kind)
    }

    /// Goes back to the end of a token that has been read.
    pub(super) fn rewind(&mut self, position: usize) {
        self.at = position;
    }

    /// A lambda's signature: everything up to the `>` that closes the `<` just read, with both.
    /// Stays before the closing one.
    pub(super) fn signature(&mut self) -> String {
        let mut depth = 1;
        let mut signature = String::from("<");
        while let Some(current) = self.peek(0) {
            match current {
                '<' => depth += 1,
                '>' => depth -= 1,
                '{' => break,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if !current.is_whitespace() {
                signature.push(current);
            }
            self.at += 1;
        }
        signature.push('>');
        signature
    }
}
