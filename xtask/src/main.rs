//! `cargo xtask`: the project's only scripts. Steps that need other programs say which.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![expect(clippy::print_stdout, reason = "a tool that talks to a person")]

mod bench;
mod ci;
mod dist;
mod registries;
mod setup;
mod suite;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

const USAGE: &str = "\
Usage: cargo xtask <command>

  ci [--fast]    install what the tests need, then format, tidy, clippy, tests, docs, licences;
                 --fast: format, tidy, clippy and unit tests only, and nothing is installed
  tidy           the project's own rules: sizes, purity, comments
  bench [NAME]   ratios against the floor, in one run on this machine
                 NAME: warm-python, warm-node, wasm, cold, prestarted, docker, burst, round-robin,
                 density, decision, idle, workflow or lb (also --only NAME)
                 --quick: a short look; --json FILE: the figures for programs
  dist           release programs in one archive under target/dist";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = arguments.first().map_or("help", String::as_str);
    match run(command, arguments.get(1..).unwrap_or_default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, options: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    match (command, words.as_slice()) {
        ("ci", []) => ci::run(ci::Scope::Everything),
        ("ci", ["--fast"]) => ci::run(ci::Scope::Fast),
        ("tidy", []) => tidy::run(),
        ("bench", words) => bench::run(words),
        ("dist", []) => dist::run(),
        ("help" | "--help" | "-h", _) => {
            println!("{USAGE}");
            Ok(())
        }
        ("ci" | "tidy" | "dist", words) => bail!("unknown option '{}'\n\n{USAGE}", words.join(" ")),
        _ => bail!("unknown command\n\n{USAGE}"),
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), PathBuf::from)
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs cargo in the workspace; its output is the user's.
fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let status = std::process::Command::new("cargo")
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root())
        .stdin(std::process::Stdio::null())
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}
