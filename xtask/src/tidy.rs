//! `cargo xtask tidy`: rules of this project that neither rustfmt nor clippy knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::root;

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

/// Direct dependencies that the pure crates may have.
const PURE: [(&str, &[&str]); 3] = [
    ("crates/core", &["thiserror"]),
    ("crates/asl", &[]),
    ("crates/executor", &[]),
];

/// Where `unsafe` may stand: isolation itself, and tests that kill processes.
const UNSAFE: [&str; 3] = ["crates/sandbox/", "crates/executor/", "crates/node/tests/"];

/// Texts that never belong in a file of the project. Written in halves, or this file would be the
/// first to break the rule.
const FORBIDDEN: [(&str, &str); 5] = [
    ("#[ign", "ore]"),
    ("#[should_", "panic"),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("/ro", "ot/."),
];

/// Reports every broken rule.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for file in tracked()? {
        let path = root().join(&file);
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        if file.extension().is_some_and(|extension| extension == "rs") {
            check_source(&file, &text, &mut problems);
        }
        check_words(&file, &text, &mut problems);
    }
    for (directory, allowed) in PURE {
        check_dependencies(directory, allowed, &mut problems)?;
    }
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        println!("{problem}");
    }
    bail!("{} rules are broken (see CONTRIBUTING.md)", problems.len())
}

/// Files that git tracks, or would.
fn tracked() -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("running git")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .collect())
}

fn check_source(file: &Path, text: &str, problems: &mut Vec<String>) {
    let name = file.display();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        problems.push(format!("{name}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if !text.starts_with("//!") {
        problems.push(format!("{name}: opens without a module comment (//!)"));
    }
    for (function, line, length) in long_functions(text) {
        problems.push(format!(
            "{name}:{line}: `{function}` has {length} lines, at most {FUNCTION_LINES_MAX}"
        ));
    }
    let may = UNSAFE.iter().any(|directory| file.starts_with(directory));
    let block = concat!("unsa", "fe {");
    if !may && text.contains(block) {
        problems.push(format!("{name}: unsafe code outside {}", UNSAFE.join(", ")));
    }
}

/// Functions that are too long: name, line, length. Reads what rustfmt writes: a function ends at
/// the first closing brace in the column where it began.
fn long_functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else {
            continue;
        };
        let indent = line.len() - code.len();
        let closes = |line: &&str| line.starts_with('}') || line.trim_end() == ";";
        let end = lines[at..].iter().position(|line| {
            line.get(indent..).is_some_and(|rest| closes(&rest)) && line[..indent].trim().is_empty()
        });
        let length = end.map_or(1, |end| end + 1);
        if length > FUNCTION_LINES_MAX && !line.trim_end().ends_with(';') {
            long.push((name.to_owned(), at + 1, length));
        }
    }
    long
}

fn function_name(code: &str) -> Option<&str> {
    let at = if code.starts_with("fn ") {
        3
    } else {
        code.find(" fn ")? + 4
    };
    let modifiers = code[..at].split_whitespace();
    let known = |word: &str| {
        word.starts_with("pub")
            || ["fn", "async", "unsafe", "const", "extern", "\"C\""].contains(&word)
            || word.ends_with(')')
    };
    if !modifiers.into_iter().all(known) {
        return None;
    }
    code[at..].split(['(', '<']).next()
}

fn check_words(file: &Path, text: &str, problems: &mut Vec<String>) {
    let prose = file
        .extension()
        .is_some_and(|extension| extension == "jsonl");
    if prose || file.ends_with("Cargo.lock") {
        return;
    }
    for (head, tail) in FORBIDDEN {
        let word = format!("{head}{tail}");
        if let Some(at) = text.lines().position(|line| line.contains(&word)) {
            problems.push(format!("{}:{}: `{word}`", file.display(), at + 1));
        }
    }
}

fn check_dependencies(
    directory: &str,
    allowed: &[&str],
    problems: &mut Vec<String>,
) -> anyhow::Result<()> {
    let manifest = root().join(directory).join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let after = text
        .split_once("[dependencies]")
        .map_or("", |(_, after)| after);
    let section = after.lines().take_while(|line| !line.starts_with('['));
    for line in section {
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if !name.is_empty() && !name.starts_with('#') && !allowed.contains(&name) {
            problems.push(format!(
                "{directory}: `{name}` is not an allowed dependency"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_are_found_and_short_ones_are_not() {
        let body = "    x();\n".repeat(FUNCTION_LINES_MAX);
        let text =
            format!("fn short() {{\n    x();\n}}\n\npub(crate) async fn long() {{\n{body}}}\n");
        let found = long_functions(&text);
        assert_eq!(found, [("long".to_owned(), 5, FUNCTION_LINES_MAX + 2)]);
    }

    #[test]
    fn names_of_functions_are_read() {
        assert_eq!(function_name("pub fn a(x: u8) {"), Some("a"));
        assert_eq!(
            function_name("pub(crate) const unsafe fn b<T>() {"),
            Some("b")
        );
        assert_eq!(function_name("let x = a fn b"), None);
        assert_eq!(function_name("struct X;"), None);
    }
}
