//! The Java shim: compiled by the machine's own JDK, once for each, and started with its classes
//! from an archive (the JVM's class-data sharing), which saves parsing and checking them.
//!
//! What is made is kept in a directory of the backend, which sandboxes see read-only. The archive
//! is written in the background; until it is there, sandboxes start without.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::CreateError;
use crate::cgroup::hash;

/// Oldest Java that has what the shim uses (Unix sockets, since 16, of a release with support).
const VERSION_MIN: u32 = 17;
/// How long the compiler, or what packs its output, may take.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(60);
const SOURCES: [(&str, &str); 2] = [
    ("Shim.java", include_str!("../shims/Shim.java")),
    ("Json.java", include_str!("../shims/Json.java")),
];
const MAIN: &str = "serverledge.shim.Shim";
const JAR: &str = "shim.jar";
const ARCHIVE: &str = "shim.jsa";
/// Where sandboxes see the directory with all that is made, from their working directory `/`. As
/// this is relative, the archive can be written outside: a JVM takes one only if its class path
/// reads as it did when the archive was written.
const INSIDE: &str = ".serverledge/java";

/// A Java that can run functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jdk {
    /// Its directory, without links.
    pub home: PathBuf,
    /// Such as `17.0.15`; empty if it doesn't say.
    pub version: String,
}

/// The Java that this path leads to, or why it can't run functions. Only looks at files.
pub fn find(interpreter: &Path) -> Result<Jdk, String> {
    let path = interpreter.display();
    let java = fs::canonicalize(interpreter).map_err(|error| format!("{path}: {error}"))?;
    let home = java.parent().and_then(Path::parent).map(Path::to_owned);
    let home = home.ok_or_else(|| format!("{path} is not in a Java's directory"))?;
    let release = fs::read_to_string(home.join("release")).unwrap_or_default();
    let version = release
        .lines()
        .find_map(|line| line.strip_prefix("JAVA_VERSION="))
        .map(|version| version.trim_matches('"').to_owned())
        .unwrap_or_default();
    let major = version.split(['.', '-', '+']).next();
    if let Some(major) = major.and_then(|major| major.parse::<u32>().ok())
        && major < VERSION_MIN
    {
        return Err(format!(
            "{path} is Java {version}, and {VERSION_MIN} or later is needed"
        ));
    }
    if !home.join("bin/javac").exists() {
        return Err(format!("{path} comes without a compiler (javac)"));
    }
    Ok(Jdk { home, version })
}

/// The shim as compiled for one JDK.
#[derive(Clone, Debug)]
pub(crate) struct Kit {
    dir: PathBuf,
    name: String,
}

impl Kit {
    /// The command that runs the shim in a sandbox that sees the kits at `/.serverledge/java`.
    pub(crate) fn command(&self, interpreter: &Path, memory_mb: u64) -> Vec<OsString> {
        let inside = format!("{INSIDE}/{}", self.name);
        let mut argv = vec![interpreter.into()];
        argv.extend(flags(memory_mb));
        if self.dir.join(ARCHIVE).exists() {
            argv.push(format!("-XX:SharedArchiveFile={inside}/{ARCHIVE}").into());
        }
        argv.extend(["-cp".into(), format!("{inside}/{JAR}").into(), MAIN.into()]);
        argv
    }

    /// The command for a process that sees all files of the machine.
    pub(crate) fn command_outside(&self, interpreter: &Path, memory_mb: u64) -> Vec<OsString> {
        let mut argv = vec![interpreter.into()];
        argv.extend(flags(memory_mb));
        argv.extend(["-cp".into(), self.dir.join(JAR).into(), MAIN.into()]);
        argv
    }
}

/// Made for short starts and little memory: functions are many, and small.
fn flags(memory_mb: u64) -> Vec<OsString> {
    let mut flags: Vec<OsString> = [
        // Warnings, as that of an archive that doesn't fit, would be among what functions print.
        "-Xlog:disable",
        "-Xshare:auto",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-XX:+DisableAttachMechanism",
        "-XX:ErrorFile=/tmp/hs_err.log",
        "-Xms8m",
    ]
    .map(OsString::from)
    .into();
    if memory_mb > 0 {
        flags.push(format!("-Xmx{}m", heap_mb(memory_mb)).into());
    }
    flags
}

/// How much of a sandbox's memory is for objects: the JVM itself, compiled code, the stacks of
/// threads and `/tmp` need the rest. A full heap is an exception that the function can tell of, full
/// memory is the end of the sandbox.
fn heap_mb(memory_mb: u64) -> u64 {
    let rest = 48 + memory_mb / 8;
    memory_mb.saturating_sub(rest).max(memory_mb / 2).max(8)
}

/// The kits of a backend.
#[derive(Debug)]
pub(crate) struct Kits {
    dir: PathBuf,
    made: tokio::sync::Mutex<HashMap<PathBuf, Kit>>,
}

impl Kits {
    /// Keeps kits in this directory, which is made if it isn't there.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Kits> {
        fs::create_dir_all(&dir)?;
        readable(&dir)?;
        Ok(Kits {
            dir,
            made: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kit for this Java; made if there is none yet, which takes a second.
    pub(crate) async fn kit(&self, interpreter: &Path) -> Result<Kit, CreateError> {
        // Also makes those wait who would do the same.
        let mut made = self.made.lock().await;
        if let Some(kit) = made.get(interpreter) {
            return Ok(kit.clone());
        }
        let lacking = |why| CreateError::Isolation(format!("no Java for functions: {why}"));
        let jdk = find(interpreter).map_err(lacking)?;
        let doing = "compiling the Java shim";
        let kit = self.identify(&jdk);
        let kit = kit.map_err(|source| CreateError::io(doing, source))?;
        if !kit.dir.join(JAR).exists() {
            let compiled = self.compile(&jdk, &kit).await;
            compiled.map_err(|source| CreateError::io(doing, source))?;
        }
        if !kit.dir.join(ARCHIVE).exists() {
            tokio::spawn(archive(jdk, kit.clone()));
        }
        made.insert(interpreter.to_owned(), kit.clone());
        Ok(kit)
    }

    /// Another JDK, another build of the same, and another shim each have a kit of their own.
    fn identify(&self, jdk: &Jdk) -> io::Result<Kit> {
        let java = fs::metadata(jdk.home.join("bin/java"))?;
        let mut what = format!(
            "{} {} {} {}",
            jdk.home.display(),
            jdk.version,
            java.ino(),
            java.mtime(),
        );
        what.extend(SOURCES.map(|(_, text)| text));
        let name = format!("{:016x}", hash(Path::new(&what)));
        let dir = self.dir.join(&name);
        Ok(Kit { dir, name })
    }

    async fn compile(&self, jdk: &Jdk, kit: &Kit) -> io::Result<()> {
        let new = self.dir.join("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let classes = new.join("classes");
        fs::create_dir_all(&classes)?;
        for (name, text) in SOURCES {
            fs::write(new.join(name), text)?;
        }
        let mut compiler = command(jdk, "javac", &new);
        // Concatenation that is made at run time would cost 10 ms of each start.
        let options = [
            "-proc:none",
            "-nowarn",
            "-encoding",
            "UTF-8",
            "-XDstringConcat=inline",
        ];
        compiler.args(options).args(["-d", "classes"]);
        compiler.args(SOURCES.map(|(name, _)| name));
        run(compiler, "javac").await?;
        let mut packer = command(jdk, "jar", &new);
        packer.args(["--create", "--file", JAR, "-C", "classes", "."]);
        run(packer, "jar").await?;
        fs::remove_dir_all(classes)?;
        // For `archive`: where the sandboxes' path of this directory leads to it.
        let view = new.join("view").join(INSIDE);
        fs::create_dir_all(view.parent().unwrap_or(&view))?;
        symlink("../../..", view)?;
        readable(&new)?;
        fs::set_permissions(new.join(JAR), Permissions::from_mode(0o644))?;
        fs::rename(new, &kit.dir)
    }
}

/// Whatever the node's umask, users of sandboxes must read it.
fn readable(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// Has the JVM write its archive of the classes that a start needs.
async fn archive(jdk: Jdk, kit: Kit) {
    let inside = format!("{INSIDE}/{}", kit.name);
    let new = format!("{ARCHIVE}.new");
    let mut java = command(&jdk, "java", &kit.dir.join("view"));
    java.args(flags(0))
        .arg(format!("-XX:ArchiveClassesAtExit={inside}/{new}"))
        .args(["-cp", &format!("{inside}/{JAR}"), MAIN])
        .arg(&kit.dir);
    let written = run(java, "java").await.and_then(|()| {
        let new = kit.dir.join(new);
        fs::set_permissions(&new, Permissions::from_mode(0o644))?;
        fs::rename(new, kit.dir.join(ARCHIVE))
    });
    if let Err(error) = written {
        tracing::warn!(%error, "Java functions start slower: no archive of the shim's classes");
    }
}

fn command(jdk: &Jdk, tool: &str, dir: &Path) -> Command {
    let mut command = Command::new(jdk.home.join("bin").join(tool));
    command
        .current_dir(dir)
        .env_clear()
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(mut command: Command, tool: &str) -> io::Result<()> {
    let output = tokio::time::timeout(COMPILE_TIME_MAX, command.output())
        .await
        .map_err(|_| io::Error::other(format!("{tool} takes too long")))??;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said: String = said.trim().chars().take(1000).collect();
    Err(io::Error::other(format!(
        "{tool} failed ({}): {said}",
        output.status
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_leaves_room_and_is_never_nothing() {
        for (memory, heap) in [(1, 8), (64, 32), (128, 64), (256, 176), (1024, 848)] {
            assert_eq!(heap_mb(memory), heap, "{memory}");
        }
    }

    #[test]
    fn what_is_no_jdk_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        let java = home.join("bin/java");
        assert!(find(&java).unwrap_err().contains("No such file"));
        fs::create_dir(home.join("bin")).unwrap();
        fs::write(&java, "").unwrap();
        assert!(find(&java).unwrap_err().contains("javac"));
        fs::write(home.join("bin/javac"), "").unwrap();
        for (release, version) in [("", ""), ("A=1\nJAVA_VERSION=\"21.0.2\"\n", "21.0.2")] {
            fs::write(home.join("release"), release).unwrap();
            let (home, version) = (home.clone(), version.to_owned());
            assert_eq!(find(&java), Ok(Jdk { home, version }));
        }
        for old in ["11.0.1", "1.8.0_292", "16-ea"] {
            fs::write(home.join("release"), format!("JAVA_VERSION=\"{old}\"")).unwrap();
            assert!(find(&java).unwrap_err().contains("17 or later"), "{old}");
        }
    }
}
