//! Installs what the tests need and the machine lacks, with `apt-get`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// A program that tests use: where it must be, and Debian's package that has it.
const NEEDED: [(&str, &str); 4] = [
    ("/usr/bin/python3", "python3-minimal"),
    ("/usr/bin/node", "nodejs"),
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/base64", "coreutils"),
];

/// Installs what is missing; nothing is touched when nothing is.
pub(crate) fn run() -> anyhow::Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    println!("installing {}", packages.join(", "));
    apt(&["update", "-q"])?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    apt(&[&install[..], &packages].concat())
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("running apt-get: install python3 and nodejs under /usr by hand")?;
    if !status.success() {
        bail!(
            "apt-get {} failed ({status}); is this root?",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// `cargo deny`, compiled if it isn't there: some minutes, once a machine.
pub(crate) fn cargo_deny() -> anyhow::Result<()> {
    let present = Command::new("cargo").args(["deny", "--version"]).output();
    if present.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    println!("installing cargo-deny (some minutes, once)");
    let status = Command::new("cargo")
        .args(["install", "cargo-deny", "--locked", "-q"])
        .status()?;
    if !status.success() {
        bail!("cargo install cargo-deny failed ({status})");
    }
    Ok(())
}
