//! What goes into a sandbox and comes out of it.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serverledge_core::NetworkPolicy;

use crate::CreateError;
use crate::executor::EXECUTOR;

/// What a sandbox can be made ready for before its function is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// See [`SandboxSpec::interpreter`].
    pub interpreter: PathBuf,
    /// See [`SandboxSpec::shim`].
    pub shim: Shim,
    /// See [`SandboxSpec::image`].
    pub image: Option<String>,
    /// See [`SandboxSpec::preload`].
    pub preload: Vec<String>,
}

/// What sandbox to make.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// Unique within this run of the node.
    pub id: u64,
    /// The function's name, for its context and for logs.
    pub function: String,
    /// The interpreter on the host, such as `/usr/bin/python3`. The `oci` backend needs it under
    /// `/usr`, as nothing else of the host is visible in a sandbox. In an image, a name that its
    /// `PATH` has is enough.
    pub interpreter: PathBuf,
    /// Which language the interpreter speaks. `None`: it is WebAssembly, which has none.
    pub shim: Option<Shim>,
    /// The image to make the sandbox from; [`crate::Backend::image_use`] tells who looks at it.
    pub image: Option<String>,
    /// Directory with the function's code, readable by everyone; seen as `/app` by the function.
    pub code_dir: PathBuf,
    /// The handler as registered, such as `hello.handler`.
    pub handler: String,
    /// Modules that the interpreter imports before the function is loaded, such as `numpy`: in a
    /// sandbox that is made ahead, before the function is known. Only [`Shim::Python`] looks at it.
    pub preload: Vec<String>,
    /// Memory limit in MiB; 0 means none.
    pub memory_mb: u64,
    /// CPU limit in cores; 0 means none.
    pub cpu: f64,
    /// How many calls may run at once, at least 1.
    pub slots: u32,
    /// Whom the function may talk to; see [`crate::Backend::network`].
    pub network: NetworkPolicy,
    /// How long the start may take, the function's own imports included.
    pub timeout_start: Duration,
}

impl SandboxSpec {
    /// What a prestarted sandbox must be to serve; `None` if it can't be made ahead.
    pub fn kind(&self) -> Option<Kind> {
        Some(Kind {
            interpreter: self.interpreter.clone(),
            shim: self.shim?,
            image: self.image.clone(),
            preload: self.preload.clone(),
        })
    }

    /// The code to be mounted. An image that is a program may bring its code: an empty directory
    /// would hide it.
    pub(crate) fn own_code(&self) -> Result<Option<PathBuf>, CreateError> {
        if self.image.is_some() && self.shim == Some(Shim::Bridge) {
            let mut entries = std::fs::read_dir(&self.code_dir)
                .map_err(|source| CreateError::io("reading the function's code", source))?;
            if entries.next().is_none() {
                return Ok(None);
            }
        }
        Ok(Some(self.code_dir.clone()))
    }
}

/// What a backend does about the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkSupport {
    /// It enforces each function's policy.
    Enforced,
    /// Functions have none of which a policy could speak.
    Absent,
    /// Functions have all that the node has.
    Open,
}

/// A language runtime for which there is a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shim {
    /// CPython 3.
    Python,
    /// Node.js.
    Node,
    /// Any program, run by the executor's bridge, which needs no interpreter.
    Bridge,
    /// Java, where the machine's own JDK serves: see [`crate::java`]. How much memory its objects may
    /// take is fixed when it starts.
    Java {
        /// See [`SandboxSpec::memory_mb`].
        memory_mb: u64,
    },
}

impl Shim {
    /// All of them.
    pub(crate) const ALL: [Shim; 3] = [Shim::Python, Shim::Node, Shim::Bridge];

    /// The name of the shim's file.
    pub fn file_name(self) -> &'static str {
        match self {
            Shim::Python => "shim.py",
            Shim::Node => "shim.mjs",
            Shim::Bridge => "executor",
            Shim::Java { .. } => "Shim.java",
        }
    }

    /// The shim's source, as embedded in this program.
    pub fn source(self) -> &'static [u8] {
        match self {
            Shim::Python => include_bytes!("../shims/shim.py"),
            Shim::Node => include_bytes!("../shims/shim.mjs"),
            Shim::Bridge => EXECUTOR,
            Shim::Java { .. } => include_bytes!("../shims/Shim.java"),
        }
    }

    /// Threads that the runtime starts by itself, some time after the function was loaded.
    pub(crate) fn threads_later(self) -> u64 {
        match self {
            Shim::Python | Shim::Bridge => 0,
            // The thread pool for files and names.
            Shim::Node => 4,
            // A compiler of the JVM, and what cleans up after buffers and references.
            Shim::Java { .. } => 4,
        }
    }

    /// Files that are beside the shim, with their names.
    pub(crate) fn files(self) -> &'static [(&'static str, &'static [u8])] {
        match self {
            Shim::Python | Shim::Bridge | Shim::Java { .. } => &[],
            // What a first `require` needs is loaded by loading this one.
            Shim::Node => &[("warm-up.js", b"module.exports = () => null;\n")],
        }
    }

    /// Writes the shim and its files into this directory.
    pub(crate) fn install(self, dir: &Path) -> io::Result<()> {
        let shim = (self.file_name(), self.source());
        for (name, bytes) in self.files().iter().chain([&shim]) {
            let path = dir.join(name);
            std::fs::write(&path, bytes)?;
            // Whatever the node's umask, the function's user must read it.
            let mode = if self == Shim::Bridge { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Puts the shim and its files, installed in one directory, into another on the same file
    /// system.
    pub(crate) fn link(self, from: &Path, to: &Path) -> io::Result<()> {
        let files = self.files().iter().map(|(name, _)| *name);
        for name in files.chain([self.file_name()]) {
            std::fs::hard_link(from.join(name), to.join(name))?;
        }
        Ok(())
    }

    /// Flags of the interpreter before the path of the shim.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            // -I: ignore environment and user's site; -S: no `site`, whose path hunt costs 5 ms;
            // -B: the code directory is read-only, don't try to write byte code.
            Shim::Python => &["-I", "-S", "-B"],
            Shim::Node | Shim::Bridge | Shim::Java { .. } => &[],
        }
    }
}

/// One call of a function.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request's id, for the function's context.
    pub id: String,
    /// When the call's time is up, in seconds since the Unix epoch, for the function's context.
    /// The sandbox doesn't enforce it: the caller destroys a sandbox that takes too long.
    pub deadline_unix: f64,
    /// Whether to capture what the function prints.
    pub output: bool,
    /// The parameters: JSON text, an object or null.
    pub params: Arc<[u8]>,
}

/// What came of a call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The JSON text of the function's result, or the error it raised.
    pub outcome: Result<Box<[u8]>, FunctionError>,
    /// What the function printed during the call, if that was asked for.
    pub output: String,
    /// Threads or tasks that the call left running in the sandbox.
    pub left_running: u32,
}

/// An error that the function's own code raised.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct FunctionError {
    /// The type of the exception, such as `ValueError`.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// The stack trace as the language prints it; may be empty.
    pub stack: String,
}
