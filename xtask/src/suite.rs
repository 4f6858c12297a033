//! Runs the tests. What fails in the crowd is run once more alone.
//!
//! Tests share two cores with hundreds of processes that they start. One that fails there and passes
//! alone is a defect of the test, which is named at the end of the run and is to be mended; it is no
//! reason to throw away what was tested. A test that fails twice, or many at once, fail the run.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// More failures than this have a reason.
const RETRIED_MAX: usize = 5;

/// How a run of tests ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ended {
    success: bool,
    passed: usize,
    /// Names as the harness prints them.
    failed: BTreeSet<String>,
}

/// All tests of the workspace, with `environment`. The names of those that failed first and passed
/// alone.
pub(crate) fn run(environment: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let all = ["test", "--locked", "--workspace", "--no-fail-fast"];
    let first = cargo_test(&all, environment)?;
    if first.success {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = first.failed.iter().map(String::as_str).collect();
    if names.is_empty() || names.len() > RETRIED_MAX {
        bail!("tests failed: {}", names.join(", "));
    }
    println!("== failed, now alone: {}", names.join(", "));
    let alone = ["test", "--locked", "--workspace", "--no-fail-fast", "--"];
    let alone = [&alone[..], &["--exact", "--test-threads=1"], &names].concat();
    let second = cargo_test(&alone, environment)?;
    if !second.success || second.passed < names.len() {
        bail!("tests failed twice: {}", names.join(", "));
    }
    Ok(first.failed.into_iter().collect())
}

/// Runs cargo; what it prints is the user's as well.
fn cargo_test(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Ended> {
    let mut child = Command::new("cargo")
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(crate::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let mut ended = Ended::default();
    if let Some(output) = child.stdout.take() {
        let mut shown = std::io::stdout().lock();
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            shown.write_all(&line)?;
            ended.note(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    ended.success = child.wait()?.success();
    Ok(ended)
}

impl Ended {
    /// Reads one line of the harness.
    fn note(&mut self, line: &str) {
        let Some(test) = line.trim_end().strip_prefix("test ") else {
            return;
        };
        if let Some(name) = test.strip_suffix(" ... FAILED") {
            self.failed.insert(name.to_owned());
        } else if test.ends_with(" ... ok") {
            self.passed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_harness_are_told_from_others() {
        let mut ended = Ended::default();
        for line in [
            "running 4 tests\n",
            "test wire::reads ... ok\n",
            "test wire::writes ... FAILED\n",
            "test wire::closes ... ignored\n",
            "test wire::writes ... FAILED\n",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured\n",
            "    wire::writes\n",
        ] {
            ended.note(line);
        }
        let failed = BTreeSet::from(["wire::writes".to_owned()]);
        assert_eq!((ended.passed, ended.failed), (1, failed));
    }
}
