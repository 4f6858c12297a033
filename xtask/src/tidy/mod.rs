//! `cargo xtask tidy`: rules of this project that neither rustfmt nor clippy knows.
//!
//! It reads what git tracks or would track, so that what is ignored is left in peace.

mod manifest;
mod scan;
mod words;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::root;

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

/// Who may break a rule, and why.
struct Exception {
    rule: &'static str,
    /// A file, or a folder that ends in a slash.
    place: &'static str,
    #[expect(dead_code, reason = "for the reader")]
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 5] = [
    Exception {
        rule: "pure",
        place: "crates/asl/tests/it/",
        reason: "cases of the States Language are files",
    },
    Exception {
        rule: "unsafe",
        place: "crates/sandbox/",
        reason: "isolation is made of system calls",
    },
    Exception {
        rule: "unsafe",
        place: "crates/executor/",
        reason: "pid 1 of a sandbox: fork, exec and wait, without dependencies",
    },
    Exception {
        rule: "words",
        place: "Cargo.lock",
        reason: "written by cargo; names of crates and digests are no loose ends",
    },
    Exception {
        rule: "pure",
        place: "crates/core/tests/",
        reason: "tests may use the clock's and the machine's means",
    },
];

/// What no code of a pure crate may name. Clippy knows some of it by type; this is the whole list.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "SystemTime",
    "Instant::now",
    "HashMap",
    ".await",
];

const PURE: [&str; 2] = ["crates/core/", "crates/asl/"];

/// Attributes that hide a failing test.
const HIDING: [&str; 2] = ["#[ignore", "#[should_panic"];

/// Reports every broken rule.
pub(crate) fn run() -> anyhow::Result<()> {
    let files = tracked()?;
    let mut problems = Vec::new();
    let mut sources = 0;
    for file in &files {
        // Gone in the working tree, or not text.
        let Ok(text) = std::fs::read_to_string(root().join(file)) else {
            continue;
        };
        if Path::new(file).extension().is_some_and(|end| end == "rs") {
            sources += 1;
            check_source(file, &text, &mut problems);
        }
        check_words(file, &text, &mut problems);
    }
    for allowed in &manifest::CRATES {
        let path = root().join(allowed.directory).join("Cargo.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        for name in manifest::forbidden(allowed, &text) {
            let directory = allowed.directory;
            problems.push(format!(
                "{directory}/Cargo.toml: may not depend on `{name}`"
            ));
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    match problems.len() {
        0 => {
            println!("{} files, {sources} of them Rust: tidy", files.len());
            Ok(())
        }
        1 => bail!("a rule is broken"),
        more => bail!("rules are broken in {more} places"),
    }
}

/// Files that git tracks, or would.
fn tracked() -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .context("starting git")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git ls-files: {}", told.trim());
    let names = String::from_utf8_lossy(&output.stdout);
    let files: Vec<String> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    ensure!(!files.is_empty(), "git knows no files here");
    Ok(files)
}

fn excepted(rule: &str, file: &str) -> bool {
    EXCEPTIONS.iter().any(|exception| {
        let folder = exception.place.ends_with('/') && file.starts_with(exception.place);
        exception.rule == rule && (folder || file == exception.place)
    })
}

fn check_source(file: &str, text: &str, problems: &mut Vec<String>) {
    let mut report = |line: usize, what: String| problems.push(format!("{file}:{line}: {what}"));
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !excepted("file", file) {
        report(1, format!("{lines} lines, at most {FILE_LINES_MAX}"));
    }
    if !text.starts_with("//!") {
        report(1, "opens without a module comment (//!)".into());
    }
    let code = scan::code_only(text);
    let is_test = file.contains("/tests/") || file.ends_with("/tests.rs");
    if !is_test && !excepted("function", file) {
        for function in scan::functions(&code) {
            let scan::Function { name, line, length } = function;
            if length > FUNCTION_LINES_MAX {
                let what = format!("`{name}` has {length} lines, at most {FUNCTION_LINES_MAX}");
                report(line, what);
            }
        }
    }
    let pure = PURE.iter().any(|folder| file.starts_with(folder)) && !excepted("pure", file);
    for (number, line) in code.lines().enumerate() {
        for attribute in HIDING.iter().filter(|attribute| line.contains(**attribute)) {
            report(
                number + 1,
                format!("`{attribute}]`: mend the test or delete it"),
            );
        }
        if has_unsafe(line) && !excepted("unsafe", file) {
            report(
                number + 1,
                "unsafe code: it belongs in `sandbox` or `executor`".into(),
            );
        }
        if let Some(name) = IMPURE.iter().find(|name| pure && line.contains(**name)) {
            report(number + 1, format!("`{name}` in a crate that only decides"));
        }
    }
}

/// The keyword, not a lint's name (`unsafe_code`).
fn has_unsafe(line: &str) -> bool {
    line.split(|c: char| c != '_' && !c.is_alphanumeric())
        .any(|word| word == "unsafe")
}

fn check_words(file: &str, text: &str, problems: &mut Vec<String>) {
    let lock = file == "Cargo.lock";
    for (number, line) in text.lines().enumerate() {
        // Of a lock file, only where crates come from.
        if lock && !line.starts_with("source = ") && excepted("words", file) {
            continue;
        }
        if let Some(what) = words::problem(line) {
            problems.push(format!("{file}:{}: {what}", number + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(file: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check_source(file, text, &mut problems);
        problems
    }

    #[test]
    fn sizes_are_limited_outside_tests() {
        let body = "    x();\n".repeat(FUNCTION_LINES_MAX);
        let text = format!("//! Doc.\nfn long() {{\n{body}}}\n");
        let expected = ["crates/cli/src/a.rs:2: `long` has 72 lines, at most 70"];
        assert_eq!(problems("crates/cli/src/a.rs", &text), expected);
        assert!(problems("crates/cli/tests/it/a.rs", &text).is_empty());
        let text = format!("//! Doc.\n{}", "const X: u8 = 0;\n".repeat(FILE_LINES_MAX));
        let expected = ["crates/cli/tests/it/a.rs:1: 701 lines, at most 700"];
        assert_eq!(problems("crates/cli/tests/it/a.rs", &text), expected);
    }

    #[test]
    fn unsafe_code_has_its_places() {
        let text = "//! Doc about unsafe code.\n#![forbid(unsafe_code)]\nunsafe fn x() {}\n";
        assert_eq!(problems("crates/node/src/a.rs", text).len(), 1);
        assert!(problems("crates/sandbox/src/a.rs", text).is_empty());
    }

    #[test]
    fn pure_crates_name_nothing_impure() {
        let text = "//! std::fs is not used.\nuse std::collections::HashMap;\n";
        assert_eq!(problems("crates/core/src/a.rs", text).len(), 1);
        assert!(problems("crates/node/src/a.rs", text).is_empty());
    }

    #[test]
    fn hidden_tests_and_missing_comments_are_found() {
        let text = "fn x() {}\n#[ignore = \"slow\"]\nfn y() {}\n#[should_panic]\nfn z() {}\n";
        assert_eq!(problems("crates/node/src/a.rs", text).len(), 3);
        let text = "//! Doc.\nconst X: &str = \"#[ignore]\";\n";
        assert!(problems("crates/node/src/a.rs", text).is_empty());
    }
}
