//! `cargo xtask ci`: everything that must hold, in the order in which it fails fastest.

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::{root, setup, tidy};

/// Cargo's arguments of each step.
const STEPS: [(&str, &[&str]); 5] = [
    ("format", &["fmt", "--all", "--", "--check"]),
    (
        "clippy",
        &[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    ("test", &["test", "--locked", "--workspace"]),
    (
        "doc",
        &["doc", "--locked", "--workspace", "--no-deps", "--quiet"],
    ),
    (
        "deny",
        &["deny", "--locked", "check", "bans", "licenses", "sources"],
    ),
];

/// Runs all steps; stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    let mut done: Vec<(&str, f64)> = Vec::new();
    timed("set-up", &mut done, setup::run)?;
    timed("tidy", &mut done, tidy::run)?;
    for (name, arguments) in STEPS {
        if name == "deny" {
            timed("set-up deny", &mut done, setup::cargo_deny)?;
        }
        timed(name, &mut done, || cargo(name, arguments))?;
    }
    println!();
    for (name, seconds) in &done {
        println!("{name:<12} {seconds:>7.1} s");
    }
    println!(
        "{:<12} {:>7.1} s: all passed",
        "total",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn timed<'a>(
    name: &'a str,
    done: &mut Vec<(&'a str, f64)>,
    step: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    println!("== {name}");
    let began = Instant::now();
    step()?;
    done.push((name, began.elapsed().as_secs_f64()));
    Ok(())
}

fn cargo(name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root());
    if name == "doc" {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    let status = command.status()?;
    if !status.success() {
        bail!(
            "'cargo {}' failed ({status}); run it alone to work on it",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// `cargo xtask dist`: release programs and the licence in one archive.
pub(crate) fn dist() -> anyhow::Result<()> {
    let packages = ["-p", "serverledge", "-p", "serverledge-cli"];
    cargo(
        "dist",
        &[&["build", "--locked", "--release"], &packages[..]].concat(),
    )?;
    let target = root().join("target");
    let dist = target.join("dist");
    std::fs::create_dir_all(&dist)?;
    let name = format!(
        "serverledge-{}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let archive = dist.join(format!("{name}.tar.gz"));
    let status = Command::new("tar")
        .arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(target.join("release"))
        .args(["serverledge", "serverledge-cli"])
        .arg("-C")
        .arg(root())
        .args(["LICENSE", "README.md"])
        .status()?;
    if !status.success() {
        bail!("tar failed ({status})");
    }
    println!("{}", archive.display());
    Ok(())
}
