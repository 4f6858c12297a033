//! Installs what the tests need and the machine lacks. Nothing is touched when nothing is missing.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// A file that tests use, and Debian's package that has it. Sandboxes see the host's `/usr` only,
/// so an interpreter elsewhere on the machine doesn't count. `libc.a` links the executor.
const NEEDED: [(&[&str], &str); 5] = [
    (&["/usr/bin/python3"], "python3"),
    (&["/usr/bin/node"], "nodejs"),
    (&["/usr/bin/cc"], "gcc"),
    (&["/usr/bin/git"], "git"),
    (
        &[
            "/usr/lib/x86_64-linux-gnu/libc.a",
            "/usr/lib/aarch64-linux-gnu/libc.a",
            "/usr/lib/libc.a",
            "/usr/lib64/libc.a",
        ],
        "libc6-dev",
    ),
];

/// The release that CI was written against; another one may judge otherwise.
const DENY_VERSION: &str = "0.20.2";

/// Interpreters and the C linker, with `apt-get`.
pub(crate) fn packages() -> anyhow::Result<()> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(paths, _)| !paths.iter().any(|path| Path::new(path).exists()))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    println!("installing {}", missing.join(", "));
    apt(&["update", "-q"])?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    apt(&[&install[..], &missing].concat())
        .with_context(|| format!("needed: {}", missing.join(", ")))
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("starting apt-get (only Debian and its kin are served)")?;
    if !status.success() {
        bail!(
            "`apt-get {}` failed ({status}); is this root?",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// rustfmt and clippy, which a minimal toolchain leaves out.
pub(crate) fn toolchain() -> anyhow::Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if answers("cargo", &[command, "--version"]) {
            continue;
        }
        println!("adding {component}");
        let status = Command::new("rustup")
            .args(["component", "add", component])
            .stdin(Stdio::null())
            .status()
            .context("starting rustup")?;
        if !status.success() {
            bail!("`rustup component add {component}` failed ({status})");
        }
    }
    Ok(())
}

/// `cargo deny`, compiled if it isn't there, once a machine. Not optimised, because it runs for
/// seconds only: that more than halves the time (161 s of CPU against 388 s).
pub(crate) fn cargo_deny() -> anyhow::Result<()> {
    if answers("cargo", &["deny", "--version"]) {
        println!("nothing is missing");
        return Ok(());
    }
    println!("compiling cargo-deny {DENY_VERSION}: some minutes, once on this machine");
    let install = ["install", "cargo-deny", "--locked", "--debug"];
    let status = Command::new("cargo")
        .args(install)
        .args(["--version", DENY_VERSION])
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .stdin(Stdio::null())
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("`cargo install cargo-deny --version {DENY_VERSION}` failed ({status})");
    }
    Ok(())
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}
