//! The node's part: makes what a sandbox needs, asks the helper for it, and loads the function.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serverledge_core::NetworkPolicy;
use serverledge_executor::task;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use super::helper::ROOTLESS_UID;
use super::images::{Images, Prepared};
use super::link::Link;
use super::message::{Create, Deliver, Places, Request, Setup, Tunnel, receive};
use super::root::SHIM_DIR;
use super::sys::open_tunnels;
use super::zygote::{self, Home, Zygote, Zygotes};
use super::{OciConfig, STATUS_SETUP_FAILED};
use crate::body::{Body, Guard, Registry, RunDir, Watched};
use crate::cgroup::{Groups, Limits, Version, hash};
use crate::executor::{self, ENVIRONMENT};
use crate::image::{ImageError, User};
use crate::instance::{Greeted, Limit, greet};
use crate::java::Kits;
use crate::log::LogTail;
use crate::network::{Device, Way, open_way};
use crate::wire::Listener;
use crate::{
    Backend, BoxFuture, CreateError, Exit, ImageUse, Kind, NetworkConfig, NetworkSupport,
    Prestarted, Pull, Sandbox, SandboxSpec, Shim,
};

/// Where the function's code is inside.
const APP: &str = "/app";
/// Users in the range; ids of sandboxes are taken modulo this.
const USERS: u64 = 65_536;
/// Longest text of a failed step that is read.
const STATUS_MAX: u64 = 4096;
/// Processes of all sandboxes together where they share a user and have no cgroups.
const PROCESSES_ROOTLESS: u32 = 1024;

/// Bytes of an image's environment and command: they go through a pipe that nobody reads yet.
const ENVIRONMENT_MAX: usize = 16 << 10;

/// A sandbox to be started.
#[derive(Clone)]
struct Birth {
    id: u64,
    kind: Kind,
    ground: Ground,
    code_dir: Option<PathBuf>,
    limits: Limits,
    network: bool,
    interpreter: Interpreter,
}

/// Where a sandbox's interpreter comes from.
#[derive(Clone)]
enum Interpreter {
    /// Its executor starts it.
    Started,
    /// The same, and it becomes a zygote.
    Zygote,
    /// It is forked from a zygote.
    Forked(Arc<Home>),
}

/// A sandbox that has been started, up to its shim's first word.
struct Begun {
    id: u64,
    greeted: Greeted,
    /// The helper that made it.
    link: Arc<Link>,
    tunnel: Way,
}

/// What a sandbox is made on.
#[derive(Clone)]
struct Ground {
    link: Arc<Link>,
    /// Without one, it is the host's root.
    image: Option<Arc<Prepared>>,
    /// The image's part of the environment.
    environment: Vec<String>,
}

/// A sandbox without a function.
struct Fresh {
    begun: Begun,
    process_max: u32,
    network: NetworkConfig,
}

impl Fresh {
    async fn load_function(self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let limit = Limit::of(spec.timeout_start);
        let Begun {
            id,
            greeted,
            link,
            tunnel,
        } = self.begun;
        let (body, limits) = (greeted.body().clone(), limits(&spec, self.process_max));
        body.set_memory(limits.memory_mb);
        let limiting =
            spawn_blocking(move || body.cgroup().map_or(Ok(()), |cgroup| cgroup.limit(&limits)));
        let code = spec.own_code()?;
        let app = code.as_ref().map_or("", |_| APP);
        if let Some(code_dir) = code {
            let deliver = Request::Deliver(Deliver { id, code_dir });
            link.request(&deliver, &[]).await?.done()?;
        }
        let limited = limiting.await.unwrap_or_else(|error| Err(error.into()));
        limited.map_err(|source| CreateError::io("setting the sandbox's limits", source))?;
        open_way(tunnel, &spec.network, self.network, greeted.end()).await?;
        greeted.load(&spec, app, limit).await
    }
}

impl Prestarted for Fresh {
    fn is_alive(&self) -> bool {
        self.begun.greeted.is_alive()
    }

    fn load(
        self: Box<Self>,
        spec: SandboxSpec,
    ) -> BoxFuture<'static, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(self.load_function(spec))
    }
}

fn limits(spec: &SandboxSpec, process_max: u32) -> Limits {
    Limits {
        memory_mb: spec.memory_mb,
        cpu: spec.cpu,
        processes: process_max + spec.slots,
    }
}

/// Makes sandboxes. Needs root, or user namespaces.
pub struct OciBackend {
    config: OciConfig,
    groups: Groups,
    seccomp: Vec<u8>,
    seccomp_zygote: Vec<u8>,
    zygotes: Zygotes,
    java: Kits,
    /// What a new helper is told.
    setup: Setup,
    link: tokio::sync::Mutex<Arc<Link>>,
    registry: Registry,
    /// Whether sandboxes can have a way out.
    has_network: bool,
    images: Option<Images>,
    /// Whether each sandbox has a user of its own.
    own_users: bool,
    /// Where in the range this node begins, so that several on a machine rarely share users.
    first_user: u64,
}

impl OciBackend {
    /// Starts the helper process and prepares the root file system that all sandboxes share.
    /// Needs a tokio runtime. [`super::reap`] should be called before.
    pub async fn start(mut config: OciConfig) -> Result<Arc<OciBackend>, CreateError> {
        config.state_dir = prepare_dirs(&config.state_dir)
            .map_err(|source| CreateError::io("preparing the directory for sandboxes", source))?;
        let filter = |error| CreateError::Isolation(format!("system call filter: {error}"));
        let seccomp = crate::seccomp::program().map_err(filter)?;
        let seccomp_zygote = crate::seccomp::program_of_zygote().map_err(filter)?;
        let state_dir = config.state_dir.clone();
        let groups = spawn_blocking(move || Groups::open(&state_dir)).await;
        let groups = groups.map_err(|error| CreateError::io("finding cgroups", error.into()))?;
        for (controller, reason) in &groups.missing {
            tracing::warn!(
                controller,
                reason,
                "no cgroup controller: a weaker limit is used"
            );
        }
        let java = Kits::open(config.state_dir.join("java"))
            .map_err(|source| CreateError::io("preparing the directory for Java", source))?;
        let setup = Setup::Sandboxes(Places {
            root: config.state_dir.join("root"),
            images: config.state_dir.join("images"),
            java: java.dir().to_owned(),
        });
        let link = Link::start(&config.helper, &setup).await?;
        let first_user = hash(&config.state_dir);
        let own_users = !link.rootless && is_mapped(config.uid_base);
        let store = config.images.clone();
        Ok(Arc::new(OciBackend {
            has_network: open_tunnels().is_ok(),
            config,
            groups,
            seccomp,
            seccomp_zygote,
            zygotes: Zygotes::default(),
            java,
            setup,
            link: tokio::sync::Mutex::new(Arc::new(link)),
            registry: Registry::default(),
            images: store.map(Images::new),
            own_users,
            first_user,
        }))
    }

    /// The process id of the helper, for diagnosis.
    pub async fn helper_pid(&self) -> u32 {
        self.link.lock().await.pid()
    }

    /// The helper; a new one if it has died, in which case so have all its sandboxes.
    async fn link(&self) -> Result<Arc<Link>, CreateError> {
        let mut link = self.link.lock().await;
        if !link.is_alive() {
            tracing::warn!("the sandbox helper has ended and is started again");
            *link = Arc::new(Link::start(&self.config.helper, &self.setup).await?);
        }
        Ok(link.clone())
    }

    async fn make(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let kind = spec.kind().ok_or_else(CreateError::needs_shim)?;
        let (kind, ground) = self.ground(kind).await?;
        let limit = Limit::of(spec.timeout_start);
        let code_dir = spec.own_code()?;
        let app = code_dir.as_ref().map_or("", |_| APP);
        let birth = Birth {
            id: spec.id,
            kind,
            ground,
            code_dir,
            limits: self.limits(&spec),
            network: spec.network != NetworkPolicy::None,
            interpreter: Interpreter::Started,
        };
        let begun = self.begin(birth, limit).await?;
        let (greeted, network) = (begun.greeted, self.config.network.clone());
        open_way(begun.tunnel, &spec.network, network, greeted.end()).await?;
        greeted.load(&spec, app, limit).await
    }

    async fn make_ahead(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> Result<Option<Box<dyn Prestarted>>, CreateError> {
        if !self.limits_later() {
            return Ok(None);
        }
        let limits = Limits {
            memory_mb: 0,
            cpu: 0.0,
            processes: self.config.process_max + 1,
        };
        let (kind, ground) = self.ground(kind).await?;
        let birth = Birth {
            id,
            kind,
            ground,
            code_dir: None,
            limits,
            network: self.has_network,
            interpreter: Interpreter::Started,
        };
        let begun = self.begin(birth, Limit::of(timeout)).await?;
        Ok(Some(Box::new(Fresh {
            begun,
            process_max: self.config.process_max,
            network: self.config.network.clone(),
        })))
    }

    /// Whether a sandbox can get its limits after its birth: those that are no cgroup's are set then
    /// for good.
    fn limits_later(&self) -> bool {
        ["memory", "cpu", "pids"].iter().all(|c| self.groups.has(c))
    }

    async fn found(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> Result<Option<Zygote>, CreateError> {
        if !self.has_zygotes(&kind) {
            return Ok(None);
        }
        let limit = Limit::of(timeout);
        let (kind, ground) = self.ground(kind).await?;
        let birth = Birth {
            id,
            kind: kind.clone(),
            ground,
            code_dir: None,
            limits: Limits {
                memory_mb: zygote::MEMORY_MAX_MB,
                cpu: 0.0,
                processes: zygote::PROCESSES_MAX,
            },
            network: false,
            interpreter: Interpreter::Zygote,
        };
        let user = self.user(&birth);
        let Begun {
            mut greeted, link, ..
        } = self.start_one(birth, limit).await?;
        greeted.found(&self.seccomp, limit).await?;
        let home = Home::new(id, user, greeted, link);
        self.zygotes.add(kind, &home);
        Ok(Some(Zygote(home)))
    }

    /// What a sandbox of this kind is made on, and where its interpreter is there. Not within the
    /// time limit of a start: the image may have to be got first.
    async fn ground(&self, mut kind: Kind) -> Result<(Kind, Ground), CreateError> {
        let link = self.link().await?;
        let needs_interpreter = kind.shim != Shim::Bridge;
        // A program's image is named by who registers the function.
        let pull = match needs_interpreter {
            true => Pull::IfMissing,
            false => Pull::Never,
        };
        let image = match (&kind.image, &self.images) {
            (None, _) => None,
            (Some(name), Some(images)) => Some(images.prepare(name, &link, pull).await?),
            (Some(name), None) => return Err(no_images(name)),
        };
        match &image {
            Some(image) if needs_interpreter => kind.interpreter = image.find(&kind.interpreter)?,
            None if needs_interpreter && !kind.interpreter.starts_with("/usr") => {
                let path = kind.interpreter.display();
                let outside = format!("the interpreter {path} is not under /usr");
                return Err(CreateError::Isolation(outside));
            }
            _ => {}
        }
        let mut environment = image.as_ref().map_or(Vec::new(), |it| it.environment());
        if let Some(image) = image.as_ref().filter(|_| !needs_interpreter) {
            environment.extend(image.command()?);
        }
        if environment.iter().map(String::len).sum::<usize>() > ENVIRONMENT_MAX {
            return Err(CreateError::Image {
                image: kind.image.unwrap_or_default(),
                problem: format!(
                    "has an environment and a command of more than {ENVIRONMENT_MAX} bytes"
                ),
            });
        }
        Ok((
            kind,
            Ground {
                link,
                image,
                environment,
            },
        ))
    }

    /// Starts a sandbox up to its shim's first word: from a zygote, if there is one and that works.
    async fn begin(&self, birth: Birth, limit: Limit) -> Result<Begun, CreateError> {
        if let Some(home) = self.zygotes.find(&birth.kind, &birth.ground.link) {
            let forked = Birth {
                id: birth.id | zygote::CHILD,
                interpreter: Interpreter::Forked(Arc::clone(&home)),
                ..birth.clone()
            };
            let _birth = home.bear().await;
            match self.start_one(forked, limit.at_most(zygote::START_MAX)).await {
                Ok(begun) => return Ok(begun),
                Err(error) => {
                    home.retire();
                    tracing::warn!(%error, "a zygote is of no more use");
                }
            }
        }
        self.start_one(birth, limit).await
    }

    async fn start_one(&self, birth: Birth, limit: Limit) -> Result<Begun, CreateError> {
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

        let create = Request::Create(self.request(&birth, dir.path(), link.rootless));
        let mut fds = vec![
            pipes.config.as_fd(),
            pipes.status.1.as_fd(),
            pipes.log.1.as_fd(),
            pipes.tunnel.1.as_fd(),
        ];
        match &birth.interpreter {
            Interpreter::Forked(home) => {
                fds.push(home.connection());
                fds.extend(pipes.told.as_ref().map(AsFd::as_fd));
            }
            _ => fds.extend(cgroup_dir.as_ref().map(AsFd::as_fd)),
        }
        let (pid, pidfd) = link.request(&create, &fds).await?.started()?;
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
        let home = match &birth.interpreter {
            Interpreter::Forked(home) => Some(Arc::clone(home)),
            _ => None,
        };
        let (forked, user) = (home.is_some(), self.user(&birth));
        let ended = async move {
            let exit = exit(pipes.status.0).await;
            // Until here: its first process ends with the zygote's.
            drop(home);
            exit
        };
        let end = self.registry.watch(watched, ended);
        let prepare = |shim: Option<i32>| async move {
            attach_shim(body, attached, shim).await?;
            match (forked, shim) {
                (true, Some(shim)) => make_sure(shim, pid, user).await,
                (true, None) => Err(CreateError::Isolation("it can't be seen".to_owned())),
                (false, _) => Ok(()),
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
            zygote: match &birth.interpreter {
                Interpreter::Forked(home) => Some(home.as_message()),
                _ => None,
            },
        }
    }

    /// Whom its image names, or else one that no other sandbox has. Where there is but one, that.
    fn user(&self, birth: &Birth) -> User {
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

    fn limits(&self, spec: &SandboxSpec) -> Limits {
        limits(spec, self.config.process_max)
    }

    async fn command(&self, kind: &Kind) -> Result<Vec<OsString>, CreateError> {
        if let Shim::Java { memory_mb } = kind.shim {
            let kit = self.java.kit(&kind.interpreter).await?;
            return Ok(kit.command(&kind.interpreter, memory_mb));
        }
        let shim = Path::new(SHIM_DIR).join(kind.shim.file_name());
        let argv = executor::command(&kind.interpreter, kind.shim, &shim);
        Ok(argv.into_iter().map(OsString::from).collect())
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
            Interpreter::Started => {
                executor::config(task::RUN, &argv, &environment, &self.seccomp)
            }
        };
        // Fits the pipe, so this doesn't block: the largest part has a limit of 32 KiB.
        writer.write_all(&config)?;
        let forked = matches!(birth.interpreter, Interpreter::Forked(_));
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
        let forked = matches!(birth.interpreter, Interpreter::Forked(_));
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
async fn make_sure(shim: i32, first: i32, user: User) -> Result<(), CreateError> {
    let found = spawn_blocking(move || zygote::lapse(shim, first, user)).await;
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

fn no_images(name: &str) -> CreateError {
    CreateError::Image {
        image: name.to_owned(),
        problem: "can't be used: this node keeps no images".to_owned(),
    }
}

/// Makes the directories and returns the path without links.
fn prepare_dirs(state_dir: &Path) -> io::Result<PathBuf> {
    // Nobody else may enter: the sockets in it are open to all users, as each sandbox is another.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)?;
    let state_dir = fs::canonicalize(state_dir)?;
    for dir in ["root", "images", "sandboxes"] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir.join(dir))?;
    }
    Ok(state_dir)
}

/// Whether the whole range exists here: in a container, it may not.
fn is_mapped(uid_base: u32) -> bool {
    let last = u64::from(uid_base) + USERS;
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| {
        let mut numbers = line
            .split_whitespace()
            .filter_map(|number| number.parse::<u64>().ok());
        match (numbers.next(), numbers.nth(1)) {
            (Some(start), Some(count)) => start <= u64::from(uid_base) && last <= start + count,
            _ => false,
        }
    })
}

impl Backend for OciBackend {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn network(&self) -> NetworkSupport {
        match self.has_network {
            true => NetworkSupport::Enforced,
            false => NetworkSupport::Absent,
        }
    }

    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(self.make(spec))
    }

    fn prestart(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Prestarted>>, CreateError>> {
        Box::pin(self.make_ahead(kind, id, timeout))
    }

    fn has_zygotes(&self, kind: &Kind) -> bool {
        // Users of their own keep sandboxes apart from their zygote. An image's modules are not the
        // machine's.
        let possible = self.config.zygote && self.own_users && self.limits_later();
        possible && kind.shim == Shim::Python && kind.image.is_none()
    }

    fn zygote(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<Zygote>, CreateError>> {
        Box::pin(self.found(kind, id, timeout))
    }

    fn image_use(&self) -> ImageUse {
        match &self.images {
            Some(_) => ImageUse::Possible,
            None => ImageUse::Never,
        }
    }

    fn provide_image(&self, image: String, pull: Pull) -> BoxFuture<'_, Result<(), ImageError>> {
        Box::pin(async move {
            match &self.images {
                Some(images) => images.provide(&image, pull).await,
                None => Ok(()),
            }
        })
    }

    fn collect_images(&self, keep: HashSet<String>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(images) = &self.images {
                images.collect(keep).await;
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.registry.close().await;
            self.link.lock().await.close().await;
            self.groups.close();
            for dir in ["root", "images", "sandboxes"] {
                // Not empty if somebody else uses it; then it stays.
                let _ = fs::remove_dir(self.config.state_dir.join(dir));
            }
        })
    }
}
