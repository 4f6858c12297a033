//! What examples need from npm and PyPI, as the locks beside them say, into directories below `target`:
//! nothing of the machine is changed. What is there already is left alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Packages of npm, installed where the first says, of the lock in the second, with these options. Only
/// Lambda's client has scripts that are to be run: they compile its part in C++ of sources that it
/// brings along.
const NPM: [(&str, &str, &[&str]); 2] = [
    ("target/javascript", "examples/wasm", &["--ignore-scripts"]),
    ("target/lambda-nodejs", "examples/lambda/nodejs", &[]),
];
/// The interpreter that sandboxes have: packages may be made for one version of it.
const PYTHON: &str = "/usr/bin/python3";
/// Its environment, with what is in this list.
const ENVIRONMENT: (&str, &str) = ("target/python", "examples/wasm/requirements.txt");
/// A directory of packages for a function, with what is in this list.
const PACKAGES: (&str, &str) = (
    "target/lambda-python",
    "examples/lambda/python/requirements.txt",
);
/// In each directory: the lock it was made of.
const STAMP: &str = "installed-from";

/// Everything from both.
pub(crate) fn install() -> anyhow::Result<()> {
    for (to, of, options) in NPM {
        npm(to, of, options)?;
    }
    let (environment, list) = ENVIRONMENT;
    at_most_once(environment, list, |to, list| {
        run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(to))?;
        run(pip(to).arg("-r").arg(list))
    })?;
    let (packages, list) = PACKAGES;
    at_most_once(packages, list, |to, list| {
        let environment = crate::root().join(environment);
        run(pip(&environment)
            .arg("--target")
            .arg(to)
            .arg("-r")
            .arg(list))
    })
}

/// `npm ci`.
fn npm(to: &str, of: &str, options: &[&str]) -> anyhow::Result<()> {
    at_most_once(to, &format!("{of}/package-lock.json"), |to, lock| {
        for file in [lock, &lock.with_file_name("package.json")] {
            let name = file.file_name().unwrap_or_default();
            std::fs::copy(file, to.join(name)).context("copying a lock")?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
            .args(options)
            // Where Debian's and other packages of Node.js have its headers.
            .env("npm_config_nodedir", "/usr")
            .current_dir(to);
        run(&mut npm)
    })
}

fn pip(environment: &Path) -> Command {
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"])
        .args(["--require-hashes", "--only-binary=:all:", "--no-deps"]);
    pip
}

/// Makes a directory anew if it was not made of this lock.
fn at_most_once(
    to: &str,
    lock: &str,
    make: impl FnOnce(&Path, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let root: PathBuf = crate::root();
    let (directory, lock) = (root.join(to), root.join(lock));
    let locked = std::fs::read(&lock).with_context(|| format!("reading {}", lock.display()))?;
    let stamp = directory.join(STAMP);
    if std::fs::read(&stamp).is_ok_and(|made_of| made_of == locked) {
        println!("{to} is there");
        return Ok(());
    }
    println!("making {to}");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("removing {to}"))?;
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("making {to}"))?;
    make(&directory, &lock)?;
    std::fs::write(stamp, locked).with_context(|| format!("writing to {to}"))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
