//! Compiles the executor, so that it can be embedded: `cargo build` of the node is all it takes.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../executor/src/main.rs");
    let output = PathBuf::from(env::var("OUT_DIR")?).join("executor");
    if let Some(directory) = source.parent() {
        println!("cargo:rerun-if-changed={}", directory.display());
    }
    // Static, as it runs before a root file system can be counted on, and starts faster.
    let compile = |static_link: bool| -> Result<bool, Box<dyn Error>> {
        let mut command = Command::new(env::var("RUSTC")?);
        command
            .args([
                "--edition",
                "2024",
                "--crate-name",
                "executor",
                "--crate-type",
                "bin",
            ])
            .args([
                "-C",
                "opt-level=z",
                "-C",
                "panic=abort",
                "-C",
                "strip=symbols",
            ])
            .args(["--target", &env::var("TARGET")?])
            .arg("-o")
            .arg(&output)
            .arg(&source);
        if static_link {
            command.args([
                "-C",
                "target-feature=+crt-static",
                "-C",
                "relocation-model=static",
            ]);
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
