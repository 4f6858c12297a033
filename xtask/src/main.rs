//! `cargo xtask`: the project's only scripts. Steps that need other programs say which.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![expect(clippy::print_stdout, reason = "a tool that talks to a person")]

mod bench;
mod ci;
mod setup;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <command>

  ci             install what the tests need, then format, clippy, tidy, tests, docs, licences
  tidy           the project's own rules: sizes, purity, comments
  bench [NAME]   ratios against the floor, in one run on this machine
                 (warm-python, warm-node, cold, burst, idle; --quick for a short look)
  dist           release programs in one archive under target/dist";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = arguments.first().map_or("", String::as_str);
    let result = match command {
        "ci" => ci::run(),
        "tidy" => tidy::run(),
        "bench" => bench::run(&arguments[1..]),
        "dist" => ci::dist(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), PathBuf::from)
}
