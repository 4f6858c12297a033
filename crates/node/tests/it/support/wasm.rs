//! Programs compiled to WebAssembly, each once for all tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where the examples are.
pub(crate) const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/wasm");

/// The body of `/create` for this code in a file `f.wasm`.
pub(crate) fn body(name: &str, module: &[u8]) -> Value {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(module.len() as u64);
    archive
        .append_data(&mut header, "f.wasm", module)
        .expect("writing to memory");
    json!({
        "Name": name, "Runtime": "wasm", "MemoryMB": 64, "CPUDemand": 0.0, "MaxConcurrency": 1,
        "Handler": "f.wasm",
        "TarFunctionCode": BASE64.encode(archive.into_inner().expect("writing to memory")),
    })
}

/// Runs a compiler and gives what it has made.
pub(crate) fn compile(command: &mut Command, made: &Path) -> Vec<u8> {
    let output = command.output().expect("starting the compiler");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    std::fs::read(made).expect("what the compiler has made")
}

/// `examples/wasm/http`.
pub(crate) fn http_example() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        // Kept between runs: its one dependency takes longest.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wasm");
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "build",
                "--locked",
                "--release",
                "--target",
                "wasm32-wasip2",
            ])
            .current_dir(Path::new(EXAMPLES).join("http"))
            .env("CARGO_TARGET_DIR", &target);
        let made = target.join("wasm32-wasip2/release/http_example.wasm");
        compile(&mut cargo, &made)
    })
}

/// A command in Rust, as a component.
pub(crate) fn rust_component(source: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let made: PathBuf = dir.path().join("made.wasm");
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--target", "wasm32-wasip2", "--edition", "2024"])
        // The less there is, the less there is to compile in each test.
        .args(["-Copt-level=s", "-Cstrip=symbols", "-o"])
        .arg(&made)
        .arg(source);
    compile(&mut rustc, &made)
}

/// A module or component as an archive with an OCI layout, for a system of this name.
pub(crate) fn artifact(module: &[u8], os: &str) -> Vec<u8> {
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let layer = format!("sha256:{}", digest(module));
    let config = json!({"architecture": "wasm", "os": os, "layerDigests": [layer]});
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json",
                   "digest": format!("sha256:{}", digest(&config)), "size": config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": layer, "size": module.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [
        {"digest": format!("sha256:{}", digest(&manifest)), "size": manifest.len()}]});
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive
            .append_data(&mut header, path, bytes)
            .expect("writing to memory");
    };
    for blob in [module, &config, &manifest] {
        add(&format!("blobs/sha256/{}", digest(blob)), blob);
    }
    add("index.json", index.to_string().as_bytes());
    archive.into_inner().expect("writing to memory")
}
