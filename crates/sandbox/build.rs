//! Compiles the executor, so that it can be embedded: `cargo build` of the node is all it takes.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../executor/src/main.rs");
    let output = PathBuf::from(env::var("OUT_DIR")?).join("executor");
    // TEMPORARY stand-ins until crates/executor is there.
    let source = if source.exists() { source } else { "/tmp/standin/executor.rs".into() };
    for shim in ["shim.py", "shim.mjs"] {
        let path = PathBuf::from("shims").join(shim);
        let empty = std::fs::metadata(&path).map_or(true, |found| found.len() == 0);
        let path = if empty { PathBuf::from("/tmp/standin").join(shim) } else { path };
        std::fs::write(PathBuf::from(env::var("OUT_DIR")?).join(shim), std::fs::read(path).unwrap_or_default())?;
    }
    println!("cargo:rerun-if-changed={}", source.display());
    println!("cargo:rerun-if-changed=shims");
    // Static, as it runs before a root file system can be counted on, and starts faster.
    let compile = |static_link: bool| -> Result<bool, Box<dyn Error>> {
        let mut command = Command::new(env::var("RUSTC")?);
        command
            .args(["--edition", "2024", "--crate-name", "executor", "--crate-type", "bin"])
            .args(["-C", "opt-level=z", "-C", "panic=abort", "-C", "strip=symbols"])
            .args(["--target", &env::var("TARGET")?])
            .arg("-o")
            .arg(&output)
            .arg(&source);
        if static_link {
            command.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]);
        }
        Ok(command.status()?.success())
    };
    if compile(true)? {
        return Ok(());
    }
    println!("cargo:warning=no static C library: the executor is linked dynamically");
    if compile(false)? {
        return Ok(());
    }
    Err("the executor could not be compiled".into())
}
