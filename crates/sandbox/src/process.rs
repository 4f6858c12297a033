//! Sandboxes that are plain processes: the same shims and wire, and no isolation at all.
//!
//! For `sandbox.isolation: process`, set by hand on a machine that can't isolate. A function sees
//! and does whatever the node's user can, without limits of memory, CPU or processes, and a
//! process that leaves its process group outlives its sandbox.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::process::{Child, Command};

use crate::body::{Body, Guard, Registry, RunDir, Watched};
use crate::executor::{ENVIRONMENT, command, variables};
use crate::instance::load;
use crate::java::Kits;
use crate::log::LogTail;
use crate::wire::Listener;
use crate::{Backend, BoxFuture, CreateError, Exit, NetworkSupport, Sandbox, SandboxSpec, Shim};

/// Longest path of the directory: a socket's has 107 bytes, and below it are `sandboxes`, an id and
/// the socket's name.
const STATE_DIR_MAX: usize = 107 - "/sandboxes/18446744073709551615/node.sock".len();

/// Makes sandboxes that are plain processes.
pub struct ProcessBackend {
    state_dir: PathBuf,
    java: Kits,
    registry: Registry,
}

impl ProcessBackend {
    /// A backend that keeps its sockets and shims in this directory, whose path must be short:
    /// functions connect by it.
    pub fn start(state_dir: PathBuf) -> io::Result<Arc<ProcessBackend>> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state_dir)?;
        let state_dir = fs::canonicalize(state_dir)?;
        if state_dir.as_os_str().len() > STATE_DIR_MAX {
            let path = state_dir.display();
            return Err(io::Error::other(format!(
                "{path} is longer than {STATE_DIR_MAX} bytes, too long for the sockets in it"
            )));
        }
        fs::create_dir_all(state_dir.join("sandboxes"))?;
        for shim in Shim::ALL {
            shim.install(&state_dir)?;
        }
        Ok(Arc::new(ProcessBackend {
            java: Kits::open(state_dir.join("java"))?,
            state_dir,
            registry: Registry::default(),
        }))
    }

    async fn command(&self, spec: &SandboxSpec, shim: Shim) -> Result<Vec<OsString>, CreateError> {
        if let Shim::Java { memory_mb } = shim {
            let kit = self.java.kit(&spec.interpreter).await?;
            return Ok(kit.command_outside(&spec.interpreter, memory_mb));
        }
        let shim_file = self.state_dir.join(shim.file_name());
        let argv = command(&spec.interpreter, shim, &shim_file);
        Ok(argv.into_iter().map(OsString::from).collect())
    }

    async fn make(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let making = |source| CreateError::io("making the function's process", source);
        let shim = spec.shim.ok_or_else(CreateError::needs_shim)?;
        let dir = self.state_dir.join("sandboxes").join(spec.id.to_string());
        let dir = RunDir::create(dir).map_err(making)?;
        let socket = dir.path().join("node.sock");
        let listener = Listener::bind(&socket).map_err(making)?;
        let (log, writer) = io::pipe().map_err(making)?;

        let argv = self.command(&spec, shim).await?;
        let (program, arguments) = argv
            .split_first()
            .ok_or_else(|| making(io::ErrorKind::InvalidInput.into()))?;
        let variables = variables(&socket.to_string_lossy(), &spec.preload);
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|entry| entry.split_once('=')))
            .envs(variables.iter().filter_map(|entry| entry.split_once('=')))
            .current_dir(&spec.code_dir)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(making)?)
            .stderr(writer)
            // Can be killed as a whole, and doesn't hear of Ctrl-C.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| {
                CreateError::io(format!("starting {}", Path::new(program).display()), source)
            })?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.ok_or_else(|| making(io::ErrorKind::NotFound.into()))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| making(error.into()))?;
        let body = Body::new(pidfd, Some(pid)).map_err(making)?;
        body.set_memory(spec.memory_mb);
        let guard = Guard(body.clone());
        let watched = Watched {
            id: spec.id,
            body,
            log: LogTail::start(log.into()).map_err(making)?,
            dir,
            preparing: None,
        };
        let end = self.registry.watch(watched, exit(child));
        let app = spec.code_dir.to_string_lossy().into_owned();
        load(&spec, &app, listener, guard, end, async |_| Ok(())).await
    }
}

async fn exit(mut child: Child) -> Result<Option<Exit>, String> {
    let exit = |status: ExitStatus| match (status.code(), status.signal()) {
        (Some(code), _) => Some(Exit::Code(code)),
        (None, signal) => signal.map(Exit::Signal),
    };
    Ok(child.wait().await.ok().and_then(exit))
}

impl Backend for ProcessBackend {
    fn name(&self) -> &'static str {
        "process"
    }

    fn network(&self) -> NetworkSupport {
        NetworkSupport::Open
    }

    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(self.make(spec))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.registry.close())
    }
}
