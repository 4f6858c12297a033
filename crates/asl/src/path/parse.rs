//! From text to path.

use super::filter::{Operand, Operator, Pattern, Predicate};
use super::{Call, Malformed, Path, Root, Segment};

/// Deepest nesting of brackets and parentheses in a filter.
const DEPTH_MAX: usize = 32;
/// Longest path: longer ones are not written by people.
const LENGTH_MAX: usize = 32 * 1024;

pub(super) fn path(text: &str) -> Result<Path, Malformed> {
    if text.len() > LENGTH_MAX {
        return Err(Malformed::new("the path is too long"));
    }
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let path = parser.path()?;
    if parser.at < text.len() {
        return Err(parser.unexpected());
    }
    Ok(path)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn path(&mut self) -> Result<Path, Malformed> {
        let start = self.at;
        if !self.skip("$") {
            return Err(Malformed::new("a path starts with '$'"));
        }
        let root = if self.skip("$") {
            Root::Context
        } else {
            match self.name() {
                "" => Root::Input,
                name if name.starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(Malformed::new("a variable's name starts with a letter"));
                }
                name => Root::Variable(name.to_owned()),
            }
        };
        let segments = self.segments()?;
        Ok(Path {
            root,
            segments,
            text: self.text[start..self.at].to_owned(),
        })
    }

    fn segments(&mut self) -> Result<Vec<Segment>, Malformed> {
        let mut segments = Vec::new();
        loop {
            if self.skip("..") {
                let inner = match self.peek() {
                    Some('[') => self.bracket()?,
                    _ => self.member()?,
                };
                segments.push(Segment::Descend(Box::new(inner)));
            } else if self.skip(".") {
                let member = match self.peek() {
                    Some('[') => self.bracket()?,
                    _ => self.member()?,
                };
                segments.push(member);
            } else if self.peek() == Some('[') {
                segments.push(self.bracket()?);
            } else {
                return Ok(segments);
            }
            if let [.., Segment::Call(_), _] = segments.as_slice() {
                return Err(Malformed::new("nothing may follow a function"));
            }
        }
    }

    /// What follows a dot: `*`, a key, or a function.
    fn member(&mut self) -> Result<Segment, Malformed> {
        if self.skip("*") {
            return Ok(Segment::All);
        }
        let key = self.key();
        if key.is_empty() {
            return Err(Malformed::new("a key is missing after '.'"));
        }
        let key = key.to_owned();
        if self.peek() != Some('(') {
            return Ok(Segment::Key(key));
        }
        let call = match key.as_str() {
            "length" | "size" => Call::Length,
            "min" => Call::Min,
            "max" => Call::Max,
            "avg" => Call::Avg,
            "sum" => Call::Sum,
            "keys" => Call::Keys,
            "first" => Call::First,
            "last" => Call::Last,
            _ => return Err(Malformed::new(format!("there is no function '{key}'"))),
        };
        if !self.skip("()") {
            return Err(Malformed::new(format!("'{key}' takes no arguments")));
        }
        Ok(Segment::Call(call))
    }

    fn bracket(&mut self) -> Result<Segment, Malformed> {
        self.skip("[");
        self.space();
        let segment = match self.peek() {
            Some('*') => {
                self.skip("*");
                Segment::All
            }
            Some('?') => {
                self.skip("?");
                self.space();
                Segment::Filter(self.group()?)
            }
            Some('\'' | '"') => self.keys()?,
            Some('-' | ':' | '0'..='9') => self.indices()?,
            _ => return Err(self.unexpected()),
        };
        self.space();
        if !self.skip("]") {
            return Err(self.unexpected());
        }
        Ok(segment)
    }

    fn keys(&mut self) -> Result<Segment, Malformed> {
        let mut keys = vec![self.quoted()?];
        loop {
            self.space();
            if !self.skip(",") {
                break;
            }
            self.space();
            keys.push(self.quoted()?);
        }
        Ok(match <[String; 1]>::try_from(keys) {
            Ok([key]) => Segment::Key(key),
            Err(keys) => Segment::Keys(keys),
        })
    }

    fn indices(&mut self) -> Result<Segment, Malformed> {
        let first = self.integer()?;
        self.space();
        if self.skip(":") {
            self.space();
            let to = self.integer()?;
            self.space();
            let step = if self.skip(":") {
                self.space();
                self.integer()?.unwrap_or(1)
            } else {
                1
            };
            if step == 0 {
                return Err(Malformed::new("a slice's step can't be 0"));
            }
            return Ok(Segment::Slice {
                from: first,
                to,
                step,
            });
        }
        let first = first.ok_or_else(|| self.unexpected())?;
        let mut indices = vec![first];
        while self.skip(",") {
            self.space();
            let next = self.integer()?;
            indices.push(next.ok_or_else(|| self.unexpected())?);
            self.space();
        }
        Ok(match indices.as_slice() {
            [index] => Segment::Index(*index),
            _ => Segment::Indices(indices),
        })
    }

    /// `( predicate )`, or a bare predicate as RFC 9535 has it.
    fn group(&mut self) -> Result<Predicate, Malformed> {
        self.either()
    }

    fn either(&mut self) -> Result<Predicate, Malformed> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Malformed::new("the filter is nested too deeply"));
        }
        let mut all = vec![self.both()?];
        self.space();
        while self.skip("||") {
            all.push(self.both()?);
            self.space();
        }
        self.depth -= 1;
        Ok(match <[Predicate; 1]>::try_from(all) {
            Ok([one]) => one,
            Err(all) => Predicate::Any(all),
        })
    }

    fn both(&mut self) -> Result<Predicate, Malformed> {
        let mut all = vec![self.condition()?];
        self.space();
        while self.skip("&&") {
            all.push(self.condition()?);
            self.space();
        }
        Ok(match <[Predicate; 1]>::try_from(all) {
            Ok([one]) => one,
            Err(all) => Predicate::All(all),
        })
    }

    fn condition(&mut self) -> Result<Predicate, Malformed> {
        self.space();
        if self.skip("!") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(Malformed::new("the filter is nested too deeply"));
            }
            let inner = self.condition()?;
            self.depth -= 1;
            return Ok(Predicate::Not(Box::new(inner)));
        }
        if self.skip("(") {
            let inner = self.either()?;
            self.space();
            return match self.skip(")") {
                true => Ok(inner),
                false => Err(self.unexpected()),
            };
        }
        let left = self.operand()?;
        self.space();
        match self.operator() {
            Some(operator) => {
                self.space();
                let right = match operator {
                    Operator::Matches => self.pattern()?,
                    _ => self.operand()?,
                };
                Ok(Predicate::Compare(left, operator, right))
            }
            None => Ok(Predicate::Exists(left)),
        }
    }

    fn operator(&mut self) -> Option<Operator> {
        const OPERATORS: [(&str, Operator); 14] = [
            ("=~", Operator::Matches),
            ("===", Operator::Equal),
            ("==", Operator::Equal),
            ("!==", Operator::Unequal),
            ("!=", Operator::Unequal),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
            ("in ", Operator::In),
            ("nin ", Operator::NotIn),
            ("in[", Operator::In),
            ("size ", Operator::Size),
            ("empty ", Operator::Empty),
        ];
        let (text, operator) = OPERATORS
            .iter()
            .find(|(text, _)| self.text[self.at..].starts_with(text))?;
        // The bracket belongs to the list that follows.
        self.at += text.trim_end_matches('[').len();
        Some(*operator)
    }

    fn operand(&mut self) -> Result<Operand, Malformed> {
        match self.peek() {
            Some('@') => {
                self.skip("@");
                Ok(Operand::Current(self.segments()?))
            }
            Some('$') => {
                self.skip("$");
                Ok(Operand::Root(self.segments()?))
            }
            Some('\'' | '"') => Ok(Operand::Literal(self.quoted()?.into())),
            Some('[') => Ok(Operand::Literal(self.list()?)),
            Some('-' | '0'..='9') => {
                let rest = &self.text[self.at..];
                let length = rest
                    .find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'))
                    .unwrap_or(rest.len());
                let number = serde_json::from_str(&rest[..length])
                    .map_err(|_| Malformed::new("an invalid number in a filter"))?;
                self.at += length;
                Ok(Operand::Literal(number))
            }
            _ => {
                for (word, value) in [
                    ("true", serde_json::Value::Bool(true)),
                    ("false", serde_json::Value::Bool(false)),
                    ("null", serde_json::Value::Null),
                ] {
                    if self.skip(word) {
                        return Ok(Operand::Literal(value));
                    }
                }
                Err(self.unexpected())
            }
        }
    }

    /// `/…/`, with flags after it.
    fn pattern(&mut self) -> Result<Operand, Malformed> {
        if !self.skip("/") {
            return Err(self.unexpected());
        }
        let rest = &self.text[self.at..];
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let ends = c == '/' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.ok_or_else(|| Malformed::new("a pattern is not closed"))?;
        let after = &rest[end + 1..];
        let flags = after
            .find(|c: char| !c.is_ascii_lowercase())
            .unwrap_or(after.len());
        let is_known = |flag: char| matches!(flag, 'i' | 'm' | 's' | 'x');
        let flags: String = after[..flags].chars().filter(|c| is_known(*c)).collect();
        let flags = match flags.as_str() {
            "" => String::new(),
            flags => format!("(?{flags})"),
        };
        let body = rest[..end].replace("\\/", "/");
        let pattern = regex::RegexBuilder::new(&format!("{flags}^(?:{body})$"))
            .size_limit(1 << 20)
            .build()
            .map_err(|_| Malformed::new("an invalid pattern in a filter"))?;
        self.at += rest.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .len();
        Ok(Operand::Pattern(Pattern(pattern)))
    }

    fn list(&mut self) -> Result<serde_json::Value, Malformed> {
        self.skip("[");
        let mut values = Vec::new();
        self.space();
        while !self.skip("]") {
            match self.operand()? {
                Operand::Literal(value) if !value.is_array() => values.push(value),
                _ => return Err(Malformed::new("a list in a filter holds plain values")),
            }
            self.space();
            if !self.skip(",") && self.peek() != Some(']') {
                return Err(self.unexpected());
            }
            self.space();
        }
        Ok(values.into())
    }

    fn quoted(&mut self) -> Result<String, Malformed> {
        let quote = match self.peek() {
            Some(quote @ ('\'' | '"')) => quote,
            _ => return Err(self.unexpected()),
        };
        let mut text = String::new();
        let mut characters = self.text[self.at + 1..].char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                end if end == quote => {
                    self.at += 1 + offset + 1;
                    return Ok(text);
                }
                other => text.push(other),
            }
        }
        Err(Malformed::new("a quote is not closed"))
    }

    fn integer(&mut self) -> Result<Option<i64>, Malformed> {
        let rest = &self.text[self.at..];
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        let length = count + (rest.len() - digits.len());
        if length == 0 {
            return Ok(None);
        }
        let number = rest[..length]
            .parse()
            .map_err(|_| Malformed::new("an invalid array index"))?;
        self.at += length;
        Ok(Some(number))
    }

    /// A variable's name after `$`.
    fn name(&mut self) -> &str {
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        self.at += length;
        &self.text[start..self.at]
    }

    /// A key after a dot: anything up to what has a meaning in paths.
    fn key(&mut self) -> &str {
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest
            .find(|c: char| {
                c.is_whitespace()
                    || matches!(
                        c,
                        '.' | '['
                            | ']'
                            | '('
                            | ')'
                            | ','
                            | '\''
                            | '"'
                            | '='
                            | '<'
                            | '>'
                            | '!'
                            | '&'
                            | '|'
                            | '*'
                            | '?'
                            | '@'
                            | '{'
                            | '}'
                    )
            })
            .unwrap_or(rest.len());
        self.at += length;
        &self.text[start..self.at]
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn skip(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn space(&mut self) {
        while self.peek() == Some(' ') {
            self.at += 1;
        }
    }

    fn unexpected(&self) -> Malformed {
        match self.peek() {
            Some(found) => Malformed::new(format!("unexpected '{found}' at character {}", self.at)),
            None => Malformed::new("the path ends too early"),
        }
    }
}
