//! The servers under test: started on free ports, stopped with their value.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::root;

/// A running server.
pub(crate) struct Server {
    pub(crate) port: u16,
    child: Child,
    storage: Option<PathBuf>,
}

/// Compiles both in release mode.
pub(crate) fn build() -> anyhow::Result<()> {
    let arguments = [
        "build",
        "--locked",
        "--release",
        "-p",
        "serverledge",
        "-p",
        "floor",
    ];
    let status = Command::new("cargo")
        .args(arguments)
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the build failed ({status})");
    Ok(())
}

/// The floor with so many interpreters; `ending` chooses the language.
pub(crate) fn floor(ending: &str, processes: usize) -> anyhow::Result<Server> {
    let interpreter = if ending == "py" {
        "/usr/bin/python3"
    } else {
        "/usr/bin/node"
    };
    let mut child = Command::new(root().join("target/release/floor"))
        .arg(interpreter)
        .arg(root().join("benches").join(format!("floor.{ending}")))
        .arg(processes.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().context("the floor's output")?;
    BufReader::new(output).read_line(&mut line)?;
    let port = line.trim().parse().context("the floor's port")?;
    Ok(Server {
        port,
        child,
        storage: None,
    })
}

/// A node with default settings and storage of its own.
pub(crate) fn node() -> anyhow::Result<Server> {
    let unique = Instant::now();
    let storage = std::env::temp_dir().join(format!(
        "sl-bench-{}-{:x}",
        std::process::id(),
        hash(&format!("{unique:?}"))
    ));
    std::fs::create_dir_all(&storage)?;
    let child = Command::new(root().join("target/release/serverledge"))
        .env("SERVERLEDGE_API_PORT", "0")
        .env("SERVERLEDGE_STORAGE_PATH", &storage)
        .env("SERVERLEDGE_CONTAINER_POOL_MEMORY", "4096")
        .env("RUST_LOG", "warn")
        .spawn()?;
    let mut server = Server {
        port: 0,
        child,
        storage: Some(storage.clone()),
    };
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        let address = std::fs::read_to_string(storage.join("api.address")).unwrap_or_default();
        if let Some((_, port)) = address.trim().rsplit_once(':') {
            server.port = port.parse()?;
            return Ok(server);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the node did not start")
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Server {
    /// Proportional set size of its processes, KiB.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let mut total = 0;
        let mut processes = vec![self.child.id()];
        while let Some(process) = processes.pop() {
            let directory = PathBuf::from("/proc").join(process.to_string());
            let rollup = std::fs::read_to_string(directory.join("smaps_rollup"))?;
            let line = rollup.lines().find(|line| line.starts_with("Pss:"));
            let size = line
                .and_then(|line| line.split_whitespace().nth(1))
                .context("no Pss")?;
            total += size.parse::<u64>()?;
            for task in std::fs::read_dir(directory.join("task"))? {
                let children = std::fs::read_to_string(task?.path().join("children"))?;
                processes.extend(
                    children
                        .split_whitespace()
                        .filter_map(|id| id.parse::<u32>().ok()),
                );
            }
        }
        Ok(total)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.storage.is_some() {
            // Politely, so that it removes its sandboxes.
            let id = self.child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &id]).status();
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if let Some(storage) = &self.storage {
            let _ = std::fs::remove_dir_all(storage);
        }
    }
}

/// Start and end of the interpreter alone, seconds: what no cold start can beat without prestarted
/// sandboxes.
pub(crate) fn interpreter_start(language: &str) -> anyhow::Result<f64> {
    let (program, arguments): (_, &[&str]) = match language {
        "Python" => ("/usr/bin/python3", &["-I", "-S", "-c", "pass"]),
        _ => ("/usr/bin/node", &["-e", "0"]),
    };
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let began = Instant::now();
        Command::new(program).args(arguments).status()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// A tar archive with one file, as the API wants it.
pub(crate) fn tar_base64(name: &str, text: &str) -> anyhow::Result<String> {
    let directory = std::env::temp_dir().join(format!("sl-bench-code-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(name), text)?;
    let script = format!(
        "tar -C '{}' -cf - '{name}' | base64 -w0",
        directory.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output()?;
    ensure!(output.status.success(), "packing {name} failed");
    std::fs::remove_dir_all(&directory)?;
    Ok(String::from_utf8(output.stdout)?)
}
