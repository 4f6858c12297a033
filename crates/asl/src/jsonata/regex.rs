//! Regular expressions written in JavaScript's syntax, run in linear time. What can't be (look
//! around, back references) is refused when the expression is compiled.

use regex::{Regex, RegexBuilder};

use super::Error;

/// Largest compiled program, in bytes.
const SIZE_MAX: usize = 1 << 20;

/// A compiled regular expression.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
}

/// One match, with offsets in bytes.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) groups: Vec<Option<String>>,
}

impl Pattern {
    pub(super) fn new(pattern: &str, flags: &str) -> Result<Pattern, Error> {
        let translated = translate(pattern);
        let regex = RegexBuilder::new(&translated)
            .case_insensitive(flags.contains('i'))
            .multi_line(flags.contains('m'))
            .size_limit(SIZE_MAX)
            .dfa_size_limit(SIZE_MAX)
            .nest_limit(100)
            .build();
        match regex {
            Ok(regex) => Ok(Pattern { regex }),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default();
                Err(Error::new(
                    "S0303",
                    format!("regular expression /{pattern}/ is not supported: {reason}"),
                ))
            }
        }
    }

    /// The first match at or after a byte.
    pub(super) fn find(&self, text: &str, from: usize) -> Result<Option<Match>, Error> {
        let Some(captures) = (from <= text.len())
            .then(|| self.regex.captures_at(text, from))
            .flatten()
        else {
            return Ok(None);
        };
        let mut groups = captures
            .iter()
            .map(|group| group.map(|group| group.range()));
        let Some(whole) = groups.next().flatten() else {
            return Ok(None);
        };
        if whole.is_empty() {
            return Err(Error::new(
                "D1004",
                "regular expression matches zero length string",
            ));
        }
        let groups = groups
            .map(|range| range.map(|range| text[range].to_owned()))
            .collect();
        Ok(Some(Match {
            start: whole.start,
            end: whole.end,
            groups,
        }))
    }
}

/// JavaScript's syntax in that of the crate, where they part.
fn translate(pattern: &str) -> String {
    let characters: Vec<char> = pattern.chars().collect();
    let mut output = String::with_capacity(pattern.len() + 8);
    let mut class = false;
    let mut at = 0;
    while at < characters.len() {
        let current = characters[at];
        at += 1;
        match current {
            '\\' => at += escape(&characters[at..], class, &mut output),
            '[' if !class => {
                class = true;
                let rest = &characters[at..];
                match rest {
                    // Any character, and none.
                    ['^', ']', ..] => {
                        output.push_str(r"(?s:.)");
                        at += 2;
                        class = false;
                    }
                    [']', ..] => {
                        output.push_str(r"[^\s\S]");
                        at += 1;
                        class = false;
                    }
                    _ => output.push('['),
                }
            }
            ']' if class => {
                class = false;
                output.push(']');
            }
            '[' | '&' | '~' if class => {
                output.push('\\');
                output.push(current);
            }
            '.' if !class => output.push_str(r"[^\n\r\x{2028}\x{2029}]"),
            '{' if !class && !is_repetition(&characters[at..]) => output.push_str(r"\{"),
            '}' if !class && !output_repeats(&output) => output.push_str(r"\}"),
            _ => output.push(current),
        }
    }
    output
}

/// Writes an escape; returns how many characters behind the backslash it has.
fn escape(rest: &[char], class: bool, output: &mut String) -> usize {
    let Some(&kind) = rest.first() else {
        output.push_str(r"\\");
        return 0;
    };
    let hex = |digits: usize| -> Option<String> {
        let digits = rest.get(1..=digits)?;
        digits
            .iter()
            .all(char::is_ascii_hexdigit)
            .then(|| digits.iter().collect())
    };
    match kind {
        'd' => output.push_str(if class { "0-9" } else { "[0-9]" }),
        'D' => output.push_str("[^0-9]"),
        'w' => output.push_str(if class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
        'W' => output.push_str("[^0-9A-Za-z_]"),
        'b' if class => output.push_str(r"\x08"),
        'b' | 'B' => {
            output.push_str("(?-u:\\");
            output.push(kind);
            output.push(')');
        }
        'u' | 'x' => {
            let digits = if kind == 'u' { 4 } else { 2 };
            if let Some(code) = hex(digits) {
                output.push_str(&format!("\\x{{{code}}}"));
                return digits + 1;
            }
            output.push(kind);
        }
        '0' => output.push_str(r"\x00"),
        'n' | 'r' | 't' | 'f' | 'v' | 's' | 'S' | '1'..='9' | 'k' => {
            output.push('\\');
            output.push(kind);
        }
        _ if kind.is_ascii_alphabetic() => output.push(kind),
        _ => output.push_str(&regex::escape(&kind.to_string())),
    }
    1
}

fn is_repetition(rest: &[char]) -> bool {
    let Some(end) = rest.iter().position(|&c| c == '}') else {
        return false;
    };
    let inside = &rest[..end];
    inside.first().is_some_and(char::is_ascii_digit)
        && inside.iter().all(|c| c.is_ascii_digit() || *c == ',')
        && inside.iter().filter(|c| **c == ',').count() <= 1
}

/// Whether what was written last is an open repetition.
fn output_repeats(output: &str) -> bool {
    output.rfind('{').is_some_and(|open| {
        let inside = &output[open + 1..];
        !output[..open].ends_with('\\')
            && !inside.is_empty()
            && inside.bytes().all(|b| b.is_ascii_digit() || b == b',')
    })
}
