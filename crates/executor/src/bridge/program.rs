//! Finding the user's program and starting it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, exit};
use std::thread;

use super::{Failure, image};

/// Names of the code directory that an error shows.
const NAMES_MAX: usize = 50;
/// Names of scratch directories that are tried.
const SCRATCH_TRIES: u32 = 100;

/// The words of a command, the first as a path that can be executed.
pub(super) fn resolve(command: &str, directory: &Path) -> Result<Vec<OsString>, Failure> {
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    if words.is_empty() {
        return Err(Failure::new(
            "LoadError",
            format!(
                "there is nothing to run: the code, which has {}, has no `bootstrap` and no program \
                 for Go, and the handler names no command",
                names(directory)
            ),
        ));
    }
    resolve_words(&words, directory)
}

/// The same, of words that may have blanks.
pub(super) fn resolve_words(words: &[&str], directory: &Path) -> Result<Vec<OsString>, Failure> {
    let program = words.first().copied().unwrap_or_default();
    let own = directory.join(program);
    let path = match own.is_file() {
        true => Some(own),
        false => on_path(program),
    };
    let path = path.ok_or_else(|| {
        Failure::new(
            "LoadError",
            format!(
                "command '{}': there is no program '{program}' in {}, which has {}, nor in PATH",
                words.join(" "),
                directory.display(),
                names(directory)
            ),
        )
    })?;
    let path = runnable(&path)?;
    let words = words.iter().skip(1).map(OsString::from);
    Ok([path.into_os_string()].into_iter().chain(words).collect())
}

fn on_path(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    candidates.find(|candidate| candidate.is_file())
}

/// The path itself, or that of an executable copy.
pub(super) fn runnable(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            "LoadError",
            format!("{} can't be read: {error}", path.display()),
        )
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o111 != 0 {
        return Ok(path.to_owned());
    }
    let mut first = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    if read.is_err() || (&first != b"#!" && &first != b"\x7fE") {
        return Err(Failure::new(
            "LoadError",
            format!(
                "{} is neither a program nor a script with `#!`",
                path.display()
            ),
        ));
    }
    let copy = scratch()?.join("program");
    fs::copy(path, &copy).map_err(failed)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(copy)
}

/// A directory of the bridge's own: in the sandbox's `/tmp`, or, where a sandbox is just a process
/// of the machine, in its directory there, which goes with it.
pub(super) fn scratch() -> Result<PathBuf, Failure> {
    let socket = std::env::var_os("SERVERLEDGE_SOCKET").unwrap_or_default();
    let beside = Path::new(&socket).parent().map(Path::to_owned);
    let mut failure = std::io::Error::from(std::io::ErrorKind::NotFound);
    for number in 0..SCRATCH_TRIES {
        for parent in beside
            .iter()
            .map(PathBuf::as_path)
            .chain([Path::new("/tmp")])
        {
            let path = parent.join(format!(".bridge-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(path),
                Err(error) => failure = error,
            }
        }
        if failure.kind() != std::io::ErrorKind::AlreadyExists {
            break;
        }
    }
    Err(Failure::new(
        "LoadError",
        format!("no directory for the files of calls can be made: {failure}"),
    ))
}

/// A command for these words, with nothing to read, in the code's directory.
pub(super) fn command(argv: &[OsString], directory: &Path) -> Command {
    let (program, arguments) = argv
        .split_first()
        .map_or((None, argv), |(p, a)| (Some(p), a));
    let mut command = Command::new(program.cloned().unwrap_or_default());
    command
        .args(arguments)
        .current_dir(directory)
        // How to reach the node is none of the program's business.
        .env_remove("SERVERLEDGE_SOCKET")
        .env_remove(image::COMMAND)
        .env_remove(image::WORKING_DIR)
        .stdin(std::process::Stdio::null());
    command
}

pub(super) fn not_started(argv: &[OsString], error: &std::io::Error) -> Failure {
    let program = argv
        .first()
        .map(|program| program.to_string_lossy().into_owned());
    let program = program.unwrap_or_default();
    let hint = match error.raw_os_error() {
        // ENOEXEC: made for another machine. ENOENT of a file that exists: what runs it is missing.
        Some(8) => " (is it made for this machine's architecture?)",
        Some(2) => {
            " (is the interpreter in its first line, or its dynamic linker, there? programs \
                     linked statically need none)"
        }
        _ => "",
    };
    Failure::new(
        "LoadError",
        format!("{program} can't be started: {error}{hint}"),
    )
}

/// Ends this process as the program ended, after `settle`: the sandbox is of no more use.
pub(super) fn end_with(mut child: Child, settle: impl FnOnce() + Send + 'static) {
    let watch = move || {
        let status = child.wait();
        settle();
        let Ok(status) = status else { exit(1) };
        eprintln!("the function's program ended: {}", shown(status));
        exit(
            status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        )
    };
    start_thread(watch);
}

/// Starts a thread without which the bridge is of no use.
pub(super) fn start_thread(run: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().spawn(run) {
        eprintln!("no more threads can be started: {error}");
        exit(1)
    }
}

pub(super) fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "nobody knows how".to_owned(),
    }
}

fn names(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.is_empty() {
        return "nothing in it".to_owned();
    }
    names.sort();
    names.truncate(NAMES_MAX);
    names.join(", ")
}
