//! WebAssembly: calls that each have an instance of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use super::Plan;
use super::load::{self, Summary};
use super::measure::{ROOMY, median};
use super::report::{Limit, Promise, Report};
use super::server::{self, Server};
use crate::root;

/// The examples in C, a WASI command, and in Rust, a `wasi:http` component, at 1 and 8 connections.
pub(super) fn calls(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let made = tempfile::tempdir()?;
    let functions = [("command", command(&made)?), ("http", component(&made)?)];
    let node = server::node(ROOMY)?;
    for (name, file) in &functions {
        node.create_from(name, "wasm", "", file)?;
        node.invoke(name)?;
    }
    for connections in [1, 8] {
        println!("wasm, {connections} connections");
        let mut rounds: Vec<[Summary; 2]> = Vec::new();
        for _ in 0..plan.rounds {
            let one = |name| measure(&node, name, connections, plan);
            rounds.push([one("command")?, one("http")?]);
        }
        for (at, (name, _)) in functions.iter().enumerate() {
            let p50 = median(rounds.iter().map(|round| round[at].p50));
            let p99 = median(rounds.iter().map(|round| round[at].p99));
            let rate = median(rounds.iter().map(|round| round[at].rate));
            let is_command = *name == "command";
            let what = |figure: &str| format!("wasm {name}, {connections} connections: {figure}");
            report.promise(Promise {
                what: what("p50"),
                measured: p50,
                unit: "us",
                limit: match (is_command, connections) {
                    (true, 1) => Limit::AtMost(300.0),
                    (false, 1) => Limit::AtMost(600.0),
                    _ => Limit::None,
                },
                remark: format!("p99 {p99:.0} us"),
            });
            report.promise(Promise {
                what: what("calls a second"),
                measured: rate,
                unit: "/s",
                limit: match (is_command, connections) {
                    (true, 8) => Limit::AtLeast(10_000.0),
                    (false, 8) => Limit::AtLeast(5_000.0),
                    _ => Limit::None,
                },
                remark: "load generator on the same cores".into(),
            });
        }
    }
    Ok(())
}

fn measure(node: &Server, name: &str, connections: usize, plan: &Plan) -> anyhow::Result<Summary> {
    load::run(
        node.port,
        &format!("/invoke/{name}"),
        connections,
        plan.duration,
    )
}

fn command(made: &TempDir) -> anyhow::Result<PathBuf> {
    let file = made.path().join("hello.wasm");
    let mut clang = Command::new("clang");
    clang
        .args(["--target=wasm32-wasi", "-Os", "-o"])
        .arg(&file)
        .arg(examples().join("hello.c"));
    compiled(&mut clang, file)
}

fn component(made: &TempDir) -> anyhow::Result<PathBuf> {
    let file = made.path().join("wasm32-wasip2/release/http_example.wasm");
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "-q",
            "--locked",
            "--release",
            "--target",
            "wasm32-wasip2",
        ])
        .current_dir(examples().join("http"))
        .env("CARGO_TARGET_DIR", made.path());
    compiled(&mut cargo, file)
}

fn examples() -> PathBuf {
    root().join(Path::new("examples/wasm"))
}

fn compiled(command: &mut Command, file: PathBuf) -> anyhow::Result<PathBuf> {
    let what = format!("{command:?}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .context(what.clone())?;
    ensure!(
        status.success(),
        "{what} failed ({status}); `cargo xtask ci` installs what it needs"
    );
    Ok(file)
}
