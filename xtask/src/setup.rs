//! Installs what the tests need and the machine lacks. Nothing is touched when nothing is missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

/// A file that tests use, and Debian's package that has it. Sandboxes see the host's `/usr` only,
/// so an interpreter elsewhere on the machine doesn't count. `libc.a` links the executor.
const NEEDED: &[(&[&str], &str)] = &[
    (&["/usr/bin/python3"], "python3"),
    (&["/usr/bin/node"], "nodejs"),
    (&["/usr/bin/npm"], "npm"),
    // For Lambda's client for Node.js, which is compiled.
    (&["/usr/include/node/node_api.h"], "libnode-dev"),
    (&["/usr/bin/cmake"], "cmake"),
    (&["/usr/bin/make"], "make"),
    (&["/usr/bin/xz"], "xz-utils"),
    (
        // Its files are in a directory of Python's version.
        &["/var/lib/dpkg/info/python3-venv.list"],
        "python3-venv",
    ),
    (&["/usr/bin/javac"], "default-jdk-headless"),
    // For the example of machine learning.
    (
        &["/usr/lib/python3/dist-packages/sklearn"],
        "python3-sklearn",
    ),
    (&["/usr/lib/python3/dist-packages/pandas"], "python3-pandas"),
    // For the example that checks documents.
    (
        &["/usr/lib/python3/dist-packages/jsonschema"],
        "python3-jsonschema",
    ),
    (&["/usr/bin/cc"], "gcc"),
    (&["/usr/bin/g++"], "g++"),
    (&["/usr/bin/go", "/usr/local/go/bin/go"], "golang-go"),
    (&["/usr/bin/git"], "git"),
    (&["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"], "iproute2"),
    (&["/usr/bin/docker-registry"], "docker-registry"),
    (&["/usr/sbin/dockerd", "/usr/bin/dockerd"], "docker.io"),
    (&["/usr/bin/clang"], "clang"),
    (&["/usr/bin/wasm-ld"], "lld"),
    (&["/usr/include/wasm32-wasi/stdio.h"], "wasi-libc"),
    (
        // Its library is in a directory of clang's version.
        &["/var/lib/dpkg/info/libclang-rt-dev-wasm32.list"],
        "libclang-rt-dev-wasm32",
    ),
    (&["/usr/bin/etcd"], "etcd-server"),
    (&["/usr/bin/curl"], "curl"),
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

/// Interpreters, the C linker, Docker and etcd, with `apt-get`.
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

/// What examples are compiled for.
const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];

/// rustfmt and clippy, which a minimal toolchain leaves out, and WebAssembly.
pub(crate) fn toolchain() -> anyhow::Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if answers("cargo", &[command, "--version"]) {
            continue;
        }
        rustup(&["component", "add", component])?;
    }
    let root = Command::new("rustc").args(["--print", "sysroot"]).output();
    let root = String::from_utf8(root.context("starting rustc")?.stdout)?;
    let libraries = Path::new(root.trim()).join("lib/rustlib");
    for target in TARGETS {
        if !libraries.join(target).exists() {
            rustup(&["target", "add", target])?;
        }
    }
    Ok(())
}

fn rustup(arguments: &[&str]) -> anyhow::Result<()> {
    let what = arguments.join(" ");
    println!("rustup {what}");
    let status = Command::new("rustup")
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .context("starting rustup")?;
    if !status.success() {
        bail!("`rustup {what}` failed ({status})");
    }
    Ok(())
}

/// Where there is Go code: the package for functions, which has no dependencies, and an example that
/// has.
const GO_PACKAGE: &str = "sdk/go";
const GO_EXAMPLE: &str = "examples/lambda";

/// What the examples in Go depend on, into Go's own cache: tests build without the network.
pub(crate) fn go_modules() -> anyhow::Result<()> {
    go(GO_EXAMPLE, &["vet", "."])
}

/// The tests of the package for functions in Go.
pub(crate) fn go_tests() -> anyhow::Result<()> {
    go(GO_PACKAGE, &["vet", "."])?;
    go(GO_PACKAGE, &["test", "."])
}

fn go(directory: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("go")
        .args(arguments)
        .current_dir(crate::root().join(directory))
        // The checksums are in the repository; nobody else is asked, and nothing is rewritten.
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .status()
        .context("starting go")?;
    if !status.success() {
        bail!(
            "`go {}` in {directory} failed ({status})",
            arguments.join(" ")
        );
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

/// Where tests look for a Docker engine; without it, at Docker's usual place.
const DOCKER_VARIABLE: &str = "TEST_DOCKER_SOCKET";
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// How long an engine may take to start and to stop.
const DOCKER_PATIENCE: Duration = Duration::from_secs(60);

/// A Docker engine for the tests. One that was started here is stopped when this is dropped.
pub(crate) struct Docker {
    socket: PathBuf,
    own: Option<(Child, TempDir)>,
}

/// The engine that answers, or one of our own, with all that is its own in a temporary directory.
/// No default network: that would be the machine's.
pub(crate) fn docker() -> anyhow::Result<Docker> {
    let socket = std::env::var_os(DOCKER_VARIABLE);
    let socket = socket.map_or_else(|| DOCKER_SOCKET.into(), PathBuf::from);
    if is_docker(&socket) {
        println!("a Docker engine answers at {}", socket.display());
        return Ok(Docker { socket, own: None });
    }
    let dir = tempfile::Builder::new().prefix("dockerd-").tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let (socket, log) = (path("docker.sock"), path("log"));
    println!("starting a Docker engine in {}", dir.path().display());
    let mut host = std::ffi::OsString::from("unix://");
    host.push(&socket);
    let mut child = Command::new("dockerd")
        .args(["--bridge", "none", "--host"])
        .arg(host)
        .arg("--data-root")
        .arg(path("data"))
        .arg("--exec-root")
        .arg(path("exec"))
        .arg("--pidfile")
        .arg(path("pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .context("starting dockerd")?;
    let began = Instant::now();
    while !is_docker(&socket) {
        let ended = child.try_wait()?;
        if ended.is_some() || began.elapsed() > DOCKER_PATIENCE {
            let _ = child.kill();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let from = said.lines().count().saturating_sub(10);
            let said: Vec<&str> = said.lines().skip(from).collect();
            bail!(
                "dockerd does not answer; its last words:\n{}",
                said.join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let own = Some((child, dir));
    Ok(Docker { socket, own })
}

fn is_docker(socket: &Path) -> bool {
    let host = format!("unix://{}", socket.display());
    socket.exists() && answers("docker", &["-H", &host, "version"])
}

impl Docker {
    /// What tells the tests of it.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        (DOCKER_VARIABLE, self.socket.display().to_string())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some((child, _dir)) = &mut self.own else {
            return;
        };
        // Politely: killed, it would leave its containerd and its mounts.
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let began = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if began.elapsed() > DOCKER_PATIENCE {
                println!("dockerd does not stop and is killed");
                let _ = child.kill();
                let _ = child.wait();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}
