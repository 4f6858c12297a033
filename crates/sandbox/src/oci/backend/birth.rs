//! The birth of a sandbox: from what it is to be until its shim has said its first word.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serverledge_executor::task;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{OciBackend, PROCESSES_ROOTLESS, STATUS_MAX, USERS};
use crate::body::{Body, Guard, RunDir, Watched};
use crate::cgroup::{Limits, Version};
use crate::executor::{self, ENVIRONMENT};
use crate::image::User;
use crate::instance::{Greeted, Limit, greet};
use crate::log::LogTail;
use crate::network::{Device, Way};
use crate::oci::STATUS_SETUP_FAILED;
use crate::oci::helper::ROOTLESS_UID;
use crate::oci::images::Prepared;
use crate::oci::link::Link;
use crate::oci::message::{Create, Request, Tunnel, receive};
use crate::oci::zygote::{self, Home};
use crate::wire::Listener;
use crate::{CreateError, Exit, Kind};

/// A sandbox to be started.
#[derive(Clone)]
pub(super) struct Birth {
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) ground: Ground,
    pub(super) code_dir: Option<PathBuf>,
    pub(super) limits: Limits,
    pub(super) network: bool,
    pub(super) interpreter: Interpreter,
}

/// Where a sandbox's interpreter comes from.
#[derive(Clone)]
pub(super) enum Interpreter {
    /// Its executor starts it.
    Started,
    /// The same, and it becomes a zygote.
    Zygote,
    /// It is forked from a zygote.
    Forked(Arc<Home>),
}

impl Interpreter {
    fn home(&self) -> Option<&Arc<Home>> {
        match self {
            Interpreter::Forked(home) => Some(home),
            _ => None,
        }
    }
}

/// A sandbox that has been started, up to its shim's first word.
pub(super) struct Begun {
    pub(super) id: u64,
    pub(super) greeted: Greeted,
    /// The helper that made it.
    pub(super) link: Arc<Link>,
    pub(super) tunnel: Way,
}

/// What a sandbox is made on.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) link: Arc<Link>,
    /// Without one, it is the host's root.
    pub(super) image: Option<Arc<Prepared>>,
    /// The image's part of the environment.
    pub(super) environment: Vec<String>,
}

impl OciBackend {
    /// Starts a sandbox up to its shim's first word: from a zygote, if there is one and that works.
    pub(super) async fn begin(&self, birth: Birth, limit: Limit) -> Result<Begun, CreateError> {
        let home = self.zygotes.find(&birth.kind, &birth.ground.link);
        if let Some(home) = home
            && let Some(_permit) = home.bear().await
        {
            let forked = Birth {
                id: birth.id | zygote::CHILD,
                interpreter: Interpreter::Forked(Arc::clone(&home)),
                ..birth.clone()
            };
            let limit = limit.at_most(zygote::START_MAX);
            match self.start_one(forked, limit).await {
                Ok(begun) => return Ok(begun),
                Err(error) => {
                    home.retire();
                    tracing::warn!(%error, "a zygote is of no more use");
                }
            }
        }
        self.start_one(birth, limit).await
    }

    pub(super) async fn start_one(&self, birth: Birth, limit: Limit) -> Result<Begun, CreateError> {
        let argv = self.command(&birth.kind).await?;
        let link = Arc::clone(&birth.ground.link);
        let making = |source| CreateError::io("making the sandbox's directory and pipes", source);
        let dir = self
            .config
            .state_dir
            .join("sandboxes")
            .join(birth.id.to_string());
        let dir = RunDir::create(dir).map_err(making)?;
        let listener = Listener::bind(&dir.path().join("node.sock")).map_err(making)?;
        let pipes = self.pipes(&birth, &argv).map_err(making)?;
        let cgroup = self.create_early(&birth).await?;
        let cgroup_dir = cgroup.as_ref().and_then(|cgroup| cgroup.open_dir());

        let (pid, pidfd) = self.ask(&birth, &dir, &pipes, cgroup_dir).await?;
        drop((pipes.config, pipes.status.1, pipes.log.1, pipes.tunnel.1));
        drop(pipes.told);

        let body = Body::new(pidfd, None).map_err(making)?;
        body.set_memory(birth.limits.memory_mb);
        let guard = Guard(body.clone());
        let (attached, preparing) = match cgroup {
            Some(cgroup) => {
                body.set_cgroup(cgroup);
                (None, None)
            }
            None => {
                let (attached, preparing) = self.attach(&birth, body.clone(), pid);
                (Some(attached), Some(preparing))
            }
        };
        let watched = Watched {
            id: birth.id,
            body: body.clone(),
            log: LogTail::start(pipes.log.0).map_err(making)?,
            dir,
            preparing,
        };
        let home = birth.interpreter.home().cloned();
        let (judge, user) = (home.clone(), self.user(&birth));
        let ended = async move {
            let exit = exit(pipes.status.0).await;
            // Until here: its first process ends with the zygote's.
            drop(home);
            exit
        };
        let end = self.registry.watch(watched, ended);
        let prepare = |shim: Option<i32>| async move {
            attach_shim(body, attached, shim).await?;
            match judge {
                Some(home) => make_sure(home, shim, pid, user).await,
                None => Ok(()),
            }
        };
        let greeted = greet(limit, listener, guard, end, prepare).await?;
        let (id, tunnel) = (birth.id, way(&pipes.tunnel.0));
        Ok(Begun {
            id,
            greeted,
            link,
            tunnel,
        })
    }

    /// Has the helper make it; returns its first process.
    async fn ask(
        &self,
        birth: &Birth,
        dir: &RunDir,
        pipes: &Pipes,
        cgroup_dir: Option<OwnedFd>,
    ) -> Result<(i32, OwnedFd), CreateError> {
        let link = &birth.ground.link;
        let create = Request::Create(self.request(birth, dir.path(), link.rootless));
        let mut fds = vec![
            pipes.config.as_fd(),
            pipes.status.1.as_fd(),
            pipes.log.1.as_fd(),
            pipes.tunnel.1.as_fd(),
        ];
        match birth.interpreter.home() {
            Some(home) => {
                fds.push(home.connection());
                fds.extend(pipes.told.as_ref().map(AsFd::as_fd));
            }
            None => fds.extend(cgroup_dir.as_ref().map(AsFd::as_fd)),
        }
        link.request(&create, &fds).await?.started()
    }

    fn request(&self, birth: &Birth, dir: &Path, rootless: bool) -> Create {
        let processes = birth.limits.processes;
        let user = self.user(birth);
        Create {
            id: birth.id,
            code_dir: birth.code_dir.clone(),
            socket_dir: dir.to_owned(),
            image: birth.ground.image.as_ref().map(|image| image.id),
            uid: user.uid,
            gid: user.gid,
            tmp_mb: self.config.tmp_mb,
            data_mb: match self.groups.has("memory") {
                true => 0,
                false => birth.limits.memory_mb,
            },
            processes: match (self.groups.has("pids"), rootless) {
                (true, _) => 0,
                (false, false) => processes,
                (false, true) => processes.max(PROCESSES_ROOTLESS),
            },
            network: birth.network,
            zygote: birth.interpreter.home().map(|home| home.as_message()),
        }
    }

    /// Whom its image names, or else one that no other sandbox has. Where there is but one, that.
    pub(super) fn user(&self, birth: &Birth) -> User {
        let named = birth.ground.image.as_ref().and_then(|image| image.user);
        match (self.own_users, named) {
            (false, _) => User::same(ROOTLESS_UID),
            (true, Some(user)) => user,
            (true, None) => {
                let number = self.first_user.wrapping_add(birth.id) % USERS;
                User::same(self.config.uid_base + number as u32)
            }
        }
    }

    fn pipes(&self, birth: &Birth, argv: &[OsString]) -> io::Result<Pipes> {
        let argv: Vec<_> = argv.iter().map(OsString::as_os_str).collect();
        let variables = executor::variables("/run/serverledge/node.sock", &birth.kind.preload);
        let ours = birth.ground.image.is_none().then_some(ENVIRONMENT);
        let mut environment: Vec<&str> = ours.into_iter().flatten().collect();
        environment.extend(birth.ground.environment.iter().map(String::as_str));
        environment.extend(variables.iter().map(String::as_str));
        let (reader, mut writer) = io::pipe()?;
        let config = match &birth.interpreter {
            Interpreter::Forked(_) => vec![task::ADOPT],
            Interpreter::Zygote => {
                executor::config(task::STAY, &argv, &environment, &self.seccomp_zygote)
            }
            Interpreter::Started => executor::config(task::RUN, &argv, &environment, &self.seccomp),
        };
        // Fits the pipe, so this doesn't block: the largest part has a limit of 32 KiB.
        writer.write_all(&config)?;
        let forked = birth.interpreter.home().is_some();
        let (status, log) = (io::pipe()?, io::pipe()?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let tunnel = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok(Pipes {
            config: reader.into(),
            status: (
                pipe::Receiver::from_owned_fd(status.0.into())?,
                status.1.into(),
            ),
            log: (log.0.into(), log.1.into()),
            tunnel,
            told: forked.then(|| writer.into()),
        })
    }

    /// With cgroup version 2, a process can be born in its cgroup, which costs nothing.
    async fn create_early(
        &self,
        birth: &Birth,
    ) -> Result<Option<crate::cgroup::Cgroup>, CreateError> {
        // An interpreter that is forked is born in the zygote's, so it has to be moved as well.
        let forked = birth.interpreter.home().is_some();
        if self.groups.version() == Version::V1 || self.groups.is_empty() || forked {
            return Ok(None);
        }
        let (groups, limits, name) = (self.groups.clone(), birth.limits, birth.id.to_string());
        spawn_blocking(move || groups.create(&name, &limits).map(Some))
            .await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|source| CreateError::io("making the sandbox's cgroup", source))
    }

    /// With version 1, it has to be moved there, which takes up to 20 ms: meanwhile the
    /// interpreter starts.
    fn attach(&self, birth: &Birth, body: Arc<Body>, pid: i32) -> (Attached, JoinHandle<()>) {
        let (groups, limits, name) = (self.groups.clone(), birth.limits, birth.id.to_string());
        let (sender, receiver) = oneshot::channel();
        let job = spawn_blocking(move || {
            let attached = groups.create(&name, &limits).and_then(|cgroup| {
                let attached = cgroup.attach_tree(pid);
                body.set_cgroup(cgroup);
                attached
            });
            // If nobody waits any more, the sandbox is being destroyed.
            let _ = sender.send(attached);
        });
        (receiver, job)
    }
}

type Attached = oneshot::Receiver<io::Result<()>>;

struct Pipes {
    config: OwnedFd,
    status: (pipe::Receiver, OwnedFd),
    log: (OwnedFd, OwnedFd),
    tunnel: (OwnedFd, OwnedFd),
    /// Where a zygote tells the executor of the interpreter.
    told: Option<OwnedFd>,
}

/// What a sandbox has said of its way out. Doesn't wait: it has, before its executor started.
fn way(socket: &OwnedFd) -> Way {
    match receive::<Tunnel>(socket) {
        Ok(Some((Tunnel { error: Some(error) }, _))) => Err(error),
        Ok(Some((_, fds))) => fds
            .into_iter()
            .next()
            .map(Device::new)
            .ok_or_else(|| "it was lost".to_owned()),
        Ok(None) => Err("none was asked for".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until pid 1 and its children are in their cgroup, and makes sure of the interpreter. All
/// this before any code of the function runs, so nothing else can be outside.
async fn attach_shim(
    body: Arc<Body>,
    attached: Option<Attached>,
    shim: Option<i32>,
) -> Result<(), CreateError> {
    let moving = |source| CreateError::io("moving the sandbox into its cgroup", source);
    let Some(attached) = attached else {
        return Ok(());
    };
    // If the sender is gone without a word, so is the runtime.
    attached.await.unwrap_or(Ok(())).map_err(moving)?;
    let (Some(cgroup), Some(shim)) = (body.cgroup(), shim) else {
        return Ok(());
    };
    if cgroup.holds(shim) {
        return Ok(());
    }
    let attach = move || {
        body.cgroup()
            .map_or(Ok(()), |cgroup| cgroup.attach_tree(shim))
    };
    let attached = spawn_blocking(attach).await;
    attached
        .unwrap_or_else(|error| Err(error.into()))
        .map_err(moving)
}

/// Makes sure that an interpreter which was forked is as confined as one that was started.
async fn make_sure(
    home: Arc<Home>,
    shim: Option<i32>,
    first: i32,
    user: User,
) -> Result<(), CreateError> {
    let Some(shim) = shim else {
        let hidden = "an interpreter that was forked can't be seen".to_owned();
        return Err(CreateError::Isolation(hidden));
    };
    let found = spawn_blocking(move || home.lapse(shim, first, user)).await;
    match found {
        Ok(None) => Ok(()),
        Ok(Some(lapse)) => Err(CreateError::Isolation(lapse)),
        Err(error) => Err(CreateError::io("looking at a process", error.into())),
    }
}

/// How the sandbox ended, from what is written to its status pipe until it is closed.
async fn exit(status: pipe::Receiver) -> Result<Option<Exit>, String> {
    let mut bytes = Vec::new();
    // An error is as good as silence.
    let _ = status.take(STATUS_MAX).read_to_end(&mut bytes).await;
    match bytes.split_first() {
        Some((&STATUS_SETUP_FAILED, step)) => Err(String::from_utf8_lossy(step).into_owned()),
        _ => executor::status(&bytes),
    }
}
