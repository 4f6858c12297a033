//! The servers under test: started on free ports, stopped when their value is dropped.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::client::{Client, request};
use super::load::BODY;
use crate::{cargo, root, target};

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The file in which a node writes where it listens.
const NODE_ADDRESS: &str = "api.address";

/// A node that is asked to stop removes its sandboxes first.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Of the functions that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    Node,
    Java,
}

/// A running server.
pub(super) struct Server {
    pub(super) port: u16,
    child: Child,
    /// A node's directory, deleted with it.
    storage: Option<PathBuf>,
}

/// Compiles both in release mode.
pub(super) fn build() -> anyhow::Result<()> {
    let what = ["-p", "serverledge", "-p", "floor"];
    cargo(
        &[&["build", "--locked", "--release"], &what[..]].concat(),
        &[],
    )
}

/// The floor with so many interpreters.
pub(super) fn floor(language: Language, processes: usize) -> anyhow::Result<Server> {
    let script = match language {
        Language::Python => "benches/floor.py",
        Language::Node => "benches/floor.mjs",
        Language::Java => bail!("the floor has no Java"),
    };
    let script = root().join(script).display().to_string();
    start_floor(&[language.interpreter(), &script, &processes.to_string()])
}

/// The floor of load balancers, in front of the node at this port.
pub(super) fn proxy(port: u16) -> anyhow::Result<Server> {
    start_floor(&["proxy", &port.to_string()])
}

fn start_floor(arguments: &[&str]) -> anyhow::Result<Server> {
    let child = Command::new(target().join("release/floor"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the floor")?;
    let mut server = Server {
        port: 0,
        child,
        storage: None,
    };
    let output = server.child.stdout.take().context("the floor's output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    server.port = line.trim().parse().context("the floor did not start")?;
    Ok(server)
}

/// A node with an empty store.
pub(super) fn node(settings: &str) -> anyhow::Result<Server> {
    start(&[], NODE_ADDRESS, settings)
}

/// A load balancer in front of the node at this port.
pub(super) fn balancer(port: u16) -> anyhow::Result<Server> {
    let settings = format!("lb.targets: \"127.0.0.1:{port}\"");
    start(&["lb"], "lb.address", &settings)
}

/// The program with this command, which writes where it listens to `address`.
fn start(command: &[&str], address: &str, settings: &str) -> anyhow::Result<Server> {
    let storage = temporary("node");
    std::fs::create_dir_all(&storage)?;
    let config = storage.join("bench.yaml");
    let path = storage.join("storage");
    std::fs::write(
        &config,
        format!(
            "api.port: 0\nstorage.path: {}\n{settings}\n",
            path.display()
        ),
    )?;
    let mut server = Server {
        port: 0,
        child: spawn(command, &config)?,
        storage: Some(storage),
    };
    server.wait(address)?;
    Ok(server)
}

/// Has the program check so many definitions, all of them this file.
pub(super) fn check(file: &Path, count: usize) -> anyhow::Result<()> {
    let status = Command::new(target().join("release/serverledge"))
        .args(["asl", "check"])
        .args(std::iter::repeat_n(file, count))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{} is not valid", file.display());
    Ok(())
}

/// Starts the program with this command and configuration.
fn spawn(command: &[&str], config: &Path) -> anyhow::Result<Child> {
    Command::new(target().join("release/serverledge"))
        .args(command)
        .arg(config)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .context("starting serverledge")
}

impl Language {
    fn interpreter(self) -> &'static str {
        match self {
            Self::Python => "/usr/bin/python3",
            Self::Node => "/usr/bin/node",
            Self::Java => "/usr/bin/java",
        }
    }
}

impl Server {
    /// Until it listens, and has written where to a file of this name.
    fn wait(&mut self, address: &str) -> anyhow::Result<()> {
        let file = self.directory()?.join("storage").join(address);
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            let address = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some((_, port)) = address.trim().rsplit_once(':') {
                self.port = port.parse()?;
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the node did not start ({status})");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the node did not start within {START_TIMEOUT:?}")
    }

    /// A node's directory.
    pub(super) fn directory(&self) -> anyhow::Result<PathBuf> {
        self.storage.clone().context("only a node has a directory")
    }

    /// Kills it.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills the node and starts it again.
    pub(super) fn crash(&mut self) -> anyhow::Result<()> {
        let directory = self.directory()?;
        self.kill()?;
        let _ = std::fs::remove_file(directory.join("storage").join(NODE_ADDRESS));
        self.child = spawn(&[], &directory.join("bench.yaml"))?;
        self.wait(NODE_ADDRESS)
    }

    /// Registers a no-op function.
    pub(super) fn create(&self, name: &str, language: Language) -> anyhow::Result<()> {
        let (runtime, handler, file) = match language {
            Language::Python => ("python314", "noop.handler", "noop.py"),
            Language::Node => ("nodejs17ng", "noop.js", "noop.js"),
            Language::Java => ("java21", "Noop", "Noop.class"),
        };
        let mut directory = root().join("examples");
        if language == Language::Java {
            directory = self.storage.clone().context("the floor has no Java")?;
            compile_noop(&directory)?;
        }
        self.create_from(name, runtime, handler, &directory.join(file))
    }

    /// Registers the function in this file.
    pub(super) fn create_from(
        &self,
        name: &str,
        runtime: &str,
        handler: &str,
        file: &Path,
    ) -> anyhow::Result<()> {
        let body = json!({
            "Name": name, "Runtime": runtime, "MemoryMB": 128, "Handler": handler,
            "TarFunctionCode": tar_base64(file)?,
        });
        self.request("POST", "/create", &body.to_string())
    }

    pub(super) fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.request("POST", "/delete", &json!({ "Name": name }).to_string())
    }

    pub(super) fn invoke(&self, name: &str) -> anyhow::Result<()> {
        self.request("POST", &format!("/invoke/{name}"), BODY)
    }

    pub(super) fn status(&self) -> anyhow::Result<()> {
        self.request("GET", "/status", "")
    }

    /// On a connection of its own.
    pub(super) fn request(&self, method: &str, path: &str, body: &str) -> anyhow::Result<()> {
        let mut client = Client::connect(self.port)?;
        client
            .exchange(&request(method, path, body))
            .map(drop)
            .with_context(|| format!("{method} {path}"))
    }

    /// Proportional set size of its processes.
    pub(super) fn memory_kib(&self) -> anyhow::Result<u64> {
        tree_kib(self.child.id())
    }

    /// The same of each sandbox: a child of the node's helper, with what it started.
    pub(super) fn sandboxes_kib(&self) -> anyhow::Result<Vec<u64>> {
        let mut sizes = Vec::new();
        for helper in children(self.child.id())? {
            for sandbox in children(helper)? {
                sizes.push(tree_kib(sandbox)?);
            }
        }
        Ok(sizes)
    }

    /// Politely, so that a node removes its sandboxes; then not.
    fn stop(&mut self) {
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let began = Instant::now();
        while began.elapsed() < STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("process {id} did not stop within {STOP_TIMEOUT:?}");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Proportional set size of a process and its descendants.
fn tree_kib(root: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    let mut processes = vec![root];
    while let Some(process) = processes.pop() {
        let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:"));
        let size = line.and_then(|line| line.split_whitespace().nth(1));
        total += size.context("no Pss")?.parse::<u64>()?;
        processes.extend(children(process)?);
    }
    Ok(total)
}

fn children(process: u32) -> anyhow::Result<Vec<u32>> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let children = std::fs::read_to_string(task?.path().join("children"))?;
        all.extend(
            children
                .split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    Ok(all)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if let Some(storage) = &self.storage {
            let _ = std::fs::remove_dir_all(storage);
        }
    }
}

/// Start and end of the interpreter alone: what no cold start can beat without prestarted sandboxes.
pub(super) fn interpreter_alone(language: Language) -> anyhow::Result<()> {
    let arguments: &[&str] = match language {
        Language::Python => &["-I", "-S", "-c", "pass"],
        Language::Node => &["-e", "0"],
        Language::Java => &["-Xshare:auto", "-XX:TieredStopAtLevel=1", "--version"],
    };
    let status = Command::new(language.interpreter())
        .args(arguments)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{} failed", language.interpreter());
    Ok(())
}

/// The class of a no-op function, in this directory.
fn compile_noop(directory: &Path) -> anyhow::Result<()> {
    if directory.join("Noop.class").exists() {
        return Ok(());
    }
    let source = "public class Noop { public Object handler(Object params) { return null; } }";
    std::fs::write(directory.join("Noop.java"), source)?;
    let mut compiler = Command::new("/usr/bin/javac");
    let status = compiler.current_dir(directory).arg("Noop.java").status()?;
    ensure!(status.success(), "compiling Noop.java failed");
    Ok(())
}

/// A name in the directory for temporary files that nobody else has.
pub(super) fn temporary(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("serverledge-bench-{}-{what}-{number}", std::process::id());
    std::env::temp_dir().join(name)
}

/// A tar archive with one file, as the API wants it.
pub(super) fn tar_base64(path: &Path) -> anyhow::Result<String> {
    let directory = path.parent().context("a file in a directory")?;
    let file = path.file_name().context("a file")?;
    let script = r#"tar -C "$0" -cf - "$1" | base64 -w0"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(directory)
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "packing {} failed", path.display());
    Ok(String::from_utf8(output.stdout)?)
}
