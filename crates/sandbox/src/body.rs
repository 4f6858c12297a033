//! The processes of a sandbox, and seeing them off: what `oci`, `process` and `docker` share.
//!
//! A sandbox has three parts with lives of their own: the [`Body`], which can be killed at any
//! time; a watcher task, which waits for its end, finds out the cause and clears up; and the
//! [`crate::instance`], through which calls go. Killing the body is all it takes: the rest follows.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::cgroup::Cgroup;
use crate::log::LogTail;
use crate::{Exit, ExitCause, lock};

/// Puts a descriptor under the runtime's watch.
pub(crate) fn watch_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its one descriptor open until it is dropped, as is asked for.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// The processes of a sandbox, as something to be killed.
pub(crate) struct Body {
    hold: Hold,
    /// Set once it is made, which takes longer than making the processes.
    cgroup: OnceLock<Cgroup>,
    /// Its memory limit, MiB: told when it has run into it.
    memory_mb: AtomicU64,
    /// Whether the node wanted it to end.
    killed: AtomicBool,
}

/// What a body is held by.
enum Hold {
    Process {
        /// Of the main process: the one whose end is the end of the sandbox.
        pidfd: AsyncFd<OwnedFd>,
        /// Where there is no pid namespace: the process group to kill, as far as that reaches.
        group: Option<Pid>,
    },
    /// Its processes are another program's; the task that keeps it is told to have them killed.
    Keeper(Notify),
}

impl Body {
    pub(crate) fn new(pidfd: OwnedFd, group: Option<Pid>) -> io::Result<Arc<Self>> {
        let pidfd = watch_fd(pidfd, Interest::READABLE)?;
        Ok(Self::held_by(Hold::Process { pidfd, group }))
    }

    /// One that a task keeps, which must await [`Body::killed`] and see to the rest. It is dead
    /// when the task says so.
    pub(crate) fn kept() -> Arc<Self> {
        Self::held_by(Hold::Keeper(Notify::new()))
    }

    fn held_by(hold: Hold) -> Arc<Self> {
        Arc::new(Body {
            hold,
            cgroup: OnceLock::new(),
            memory_mb: AtomicU64::new(0),
            killed: AtomicBool::new(false),
        })
    }

    /// Kills it, if it isn't dead yet. Doesn't wait.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        match &self.hold {
            // Failures mean that it is dead already.
            Hold::Process { pidfd, .. } => {
                let _ = pidfd_send_signal(pidfd.get_ref(), Signal::KILL);
            }
            Hold::Keeper(told) => told.notify_one(),
        }
        self.kill_group();
        if let Some(cgroup) = self.cgroup.get() {
            // Version 1 doesn't let a frozen process die.
            let _ = cgroup.freeze(false);
        }
    }

    /// Waits until the node wants a kept body to end. For its keeper alone.
    pub(crate) async fn killed(&self) {
        let Hold::Keeper(told) = &self.hold else {
            return std::future::pending().await;
        };
        while !self.killed.load(Ordering::SeqCst) {
            told.notified().await;
        }
    }

    /// Gives it a cgroup, from which its limits, counts and freezing come.
    pub(crate) fn set_cgroup(&self, cgroup: Cgroup) {
        // There is one for each body.
        let _ = self.cgroup.set(cgroup);
    }

    /// Notes the memory limit that it has now, for messages.
    pub(crate) fn set_memory(&self, memory_mb: u64) {
        self.memory_mb.store(memory_mb, Ordering::Relaxed);
    }

    pub(crate) fn memory_mb(&self) -> u64 {
        self.memory_mb.load(Ordering::Relaxed)
    }

    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.get()
    }

    /// Freezes or thaws it, where that is possible. One that is being killed stays thawed: nobody would
    /// thaw it after [`Body::kill`], and it could not die.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let Some(cgroup) = self.cgroup.get() else {
            return Ok(());
        };
        cgroup.freeze(frozen)?;
        match frozen && self.killed.load(Ordering::SeqCst) {
            true => cgroup.freeze(false),
            false => Ok(()),
        }
    }

    fn kill_group(&self) {
        if let Hold::Process {
            group: Some(group), ..
        } = &self.hold
        {
            let _ = kill_process_group(*group, Signal::KILL);
        }
    }

    /// Waits until the main process is dead. For pid 1 of a namespace: until all in it are.
    async fn wait(&self) {
        if let Hold::Process { pidfd, .. } = &self.hold {
            // An error means that the runtime is shutting down.
            let _ = pidfd.readable().await;
        }
    }

    /// The cause of the end, from how the main process ended and what the cgroup has counted.
    fn cause(&self, exit: Option<Exit>, output: String) -> ExitCause {
        let memory_mb = self.memory_mb();
        let counted = |count: fn(&Cgroup) -> bool| self.cgroup.get().is_some_and(count);
        let exit = match exit {
            None if self.killed.load(Ordering::SeqCst) => Exit::Destroyed,
            None | Some(Exit::Signal(libc::SIGKILL)) if counted(Cgroup::out_of_memory) => {
                Exit::OutOfMemory { memory_mb }
            }
            exit => exit.unwrap_or(Exit::Unknown),
        };
        ExitCause {
            exit,
            process_limit_hit: counted(Cgroup::process_limit_hit),
            last_output: output,
        }
    }
}

/// Kills a body when it goes out of scope.
pub(crate) struct Guard(pub(crate) Arc<Body>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A sandbox's own directory on the host, removed with all in it when dropped.
pub(crate) struct RunDir(PathBuf);

impl RunDir {
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&path) {
            // Left by an earlier node; nobody uses it, as ids are unique within a run.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir_all(&path)?;
                fs::create_dir(&path)?;
            }
            result => result?,
        }
        // Whatever the node's umask, the function's user must get at the socket in it.
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(RunDir(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a sandbox ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) cause: ExitCause,
    /// The step of the isolation that failed, if that was why.
    pub(crate) isolation: Option<String>,
}

/// Set when the sandbox is dead; its sender is dropped when all is cleared up.
pub(crate) type EndReceiver = watch::Receiver<Option<End>>;

pub(crate) async fn end_of(mut end: EndReceiver) -> End {
    match end.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(end)) => end.clone(),
        // The watcher is gone without a word: the runtime is shutting down.
        _ => End {
            cause: ExitCause::new(Exit::Unknown),
            isolation: None,
        },
    }
}

/// The living sandboxes of a backend, by id.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Living>>);

#[derive(Default)]
struct Living {
    closed: bool,
    sandboxes: HashMap<u64, (Arc<Body>, EndReceiver)>,
}

/// What a watcher needs to see a sandbox off.
pub(crate) struct Watched {
    pub(crate) id: u64,
    pub(crate) body: Arc<Body>,
    pub(crate) log: LogTail,
    pub(crate) dir: RunDir,
    /// Work to be waited for before the cgroup can be removed.
    pub(crate) preparing: Option<JoinHandle<()>>,
}

impl Registry {
    /// Starts the watcher. `exit` resolves when the main process ends, to how it ended or to the
    /// step of the isolation that failed.
    pub(crate) fn watch(
        &self,
        watched: Watched,
        exit: impl Future<Output = Result<Option<Exit>, String>> + Send + 'static,
    ) -> EndReceiver {
        let (sender, receiver) = watch::channel(None);
        let id = watched.id;
        {
            let mut living = lock(&self.0);
            let entry = (watched.body.clone(), receiver.clone());
            living.sandboxes.insert(id, entry);
            if living.closed {
                watched.body.kill();
            }
        }
        let registry = self.clone();
        tokio::spawn(async move {
            see_off(watched, exit, &sender).await;
            lock(&registry.0).sandboxes.remove(&id);
        });
        receiver
    }

    /// Kills all, also those to come, and waits until they are dead and cleared up.
    pub(crate) async fn close(&self) {
        let ends: Vec<EndReceiver> = {
            let mut living = lock(&self.0);
            living.closed = true;
            for (body, _) in living.sandboxes.values() {
                body.kill();
            }
            living
                .sandboxes
                .values()
                .map(|(_, end)| end.clone())
                .collect()
        };
        for mut end in ends {
            // An error comes when the watcher has dropped its end: that is when it is done.
            while end.changed().await.is_ok() {}
        }
    }
}

async fn see_off(
    watched: Watched,
    exit: impl Future<Output = Result<Option<Exit>, String>>,
    end: &watch::Sender<Option<End>>,
) {
    let exit = exit.await;
    watched.body.wait().await;
    // Without a pid namespace, other processes may have outlived the main one.
    watched.body.kill_group();
    let output = watched.log.finish().await;
    if let Some(preparing) = watched.preparing {
        // Nothing in it panics; and if it did, there would be no cgroup.
        let _ = preparing.await;
    }
    let (exit, isolation) = match exit {
        Ok(exit) => (exit, None),
        Err(step) => (None, Some(step)),
    };
    let cause = watched.body.cause(exit, output);
    tracing::debug!(sandbox = watched.id, %cause, "sandbox ended");
    end.send_replace(Some(End { cause, isolation }));
    let (body, dir) = (watched.body, watched.dir);
    let clear = move || {
        drop(dir);
        body.cgroup().is_none_or(Cgroup::remove)
    };
    if let Ok(false) = tokio::task::spawn_blocking(clear).await {
        tracing::warn!(
            sandbox = watched.id,
            "a sandbox's cgroup could not be removed"
        );
    }
}
