//! Reads Rust just well enough to count it: what is code and what is text, and where functions
//! begin and end. Macros are read as the code they look like.

/// A function with a body: its name, the line of its `fn` (from 1), and its length in lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) line: usize,
    pub(super) length: usize,
}

/// The source with comments and the contents of literals blanked out, byte for byte, so that
/// positions and lines stay.
pub(super) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = text_end(bytes, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none does.
fn text_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let in_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + find(rest, b"\n").unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + 1 + string(&rest[1..]),
        [b'r', b'"' | b'#', ..] if !in_word => at + raw_string(&rest[1..], 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !in_word => at + raw_string(&rest[2..], 2),
        [b'\'', ..] => at + character(rest),
        _ => at,
    }
}

/// Comments nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

fn string(rest: &[u8]) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `rest` begins after the prefix. A raw identifier (`r#fn`) is no text: 0.
fn raw_string(rest: &[u8], prefix: usize) -> usize {
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return 0;
    }
    let close = [b"\"", &b"#".repeat(hashes)[..]].concat();
    let body = &rest[hashes + 1..];
    let length = find(body, &close).map_or(body.len(), |end| end + close.len());
    prefix + hashes + 1 + length
}

/// A character literal, or 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return close.map_or(0, |close| close + 4);
    }
    // One character is at most four bytes.
    let close = (2..=5).find(|at| rest.get(*at) == Some(&b'\''));
    match close {
        Some(2) => 3,
        Some(at) if !rest[1].is_ascii() => at + 1,
        _ => 0,
    }
}

/// All functions with a body outside `#[cfg(test)]` modules, in the order of their beginnings.
/// `code` comes from [`code_only`].
pub(super) fn functions(code: &str) -> Vec<Function<'_>> {
    let tests = test_modules(code);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let in_word = at > 0 && is_word(code.as_bytes()[at - 1]);
        let in_test = tests
            .iter()
            .any(|(begin, end)| (*begin..*end).contains(&at));
        let name_at = at + 3;
        let name = name_at
            + code[name_at..]
                .bytes()
                .take_while(|byte| is_word(*byte))
                .count();
        if in_word || in_test || name == name_at {
            continue;
        }
        let Some((open, close)) = body(code, name) else {
            continue;
        };
        debug_assert!(open < close, "a body has two braces");
        let lines = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count();
        found.push(Function {
            name: &code[name_at..name],
            line: lines(&code[..at]) + 1,
            length: lines(&code[at..close]) + 1,
        });
    }
    found
}

/// Begin and end of each module that is compiled for tests only.
fn test_modules(code: &str) -> Vec<(usize, usize)> {
    let marked = code.match_indices("#[cfg(test)]");
    let module = |(at, attribute): (usize, &str)| {
        let after = at + attribute.len();
        let rest = code[after..].trim_start();
        let (_, close) = body(code, after)?;
        (rest.starts_with("mod ") || rest.starts_with("pub")).then_some((at, close))
    };
    marked.filter_map(module).collect()
}

/// The braces of the item whose head begins at `from`; none if it ends in a semicolon.
fn body(code: &str, from: usize) -> Option<(usize, usize)> {
    let (mut brackets, mut braces, mut open) = (0_i32, 0_i32, None);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if brackets == 0 && braces == 0 => return None,
            b'{' => {
                open = open.or(Some(at));
                braces += 1;
            }
            b'}' => {
                braces -= 1;
                if braces <= 0 {
                    return open.map(|open| (open, at));
                }
            }
            _ => {}
        }
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(source: &str) -> Vec<(String, usize, usize)> {
        functions(&code_only(source))
            .into_iter()
            .map(|found| (found.name.to_owned(), found.line, found.length))
            .collect()
    }

    #[test]
    fn functions_end_at_their_own_brace() {
        let source = "\
fn one() {}
struct S { f: fn(u8) -> u8 }
impl S {
    pub(crate) async fn two<T>(
        x: [u8; 4],
    ) -> u8
    where
        T: Copy,
    {
        if x { y() } else { z() }
    }
}
trait T {
    fn declared(
        &self,
    ) -> u8;
    fn three(&self) { 3 }
}
";
        let expected = [("one", 1, 1), ("two", 4, 8), ("three", 17, 1)];
        let expected = expected.map(|(name, line, length)| (name.to_owned(), line, length));
        assert_eq!(lengths(source), expected);
    }

    #[test]
    fn braces_in_texts_do_not_count() {
        let source = r##"fn a() {
    let x = "} fn no() {";
    let y = r#"" } "#; // }
    let z = ('}', b'{', '\'', '\u{7d}', 'é');
    /* } /* } */ } */
    fn_call::<'static>(b"}\"}");
}
fn b() {}
"##;
        let expected = [("a".to_owned(), 1, 7), ("b".to_owned(), 8, 1)];
        assert_eq!(lengths(source), expected);
    }

    #[test]
    fn functions_of_test_modules_are_left_out() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let expected = [("a".to_owned(), 1, 1), ("c".to_owned(), 6, 1)];
        assert_eq!(lengths(source), expected);
    }

    #[test]
    fn blanking_keeps_lines_and_bytes() {
        let source = "let é = \"é\n\"; // é\nlet lifetime: &'a str;";
        let code = code_only(source);
        assert_eq!(code.len(), source.len());
        assert_eq!(code.lines().count(), source.lines().count());
        assert!(code.ends_with("let lifetime: &'a str;"));
        assert!(!code.contains("//"));
    }

    #[test]
    fn broken_sources_end() {
        for source in [
            "\"", "r#\"", "/*", "'", "'\\", "fn", "fn x", "fn x() {", "b'", "}",
        ] {
            functions(&code_only(source));
        }
    }
}
