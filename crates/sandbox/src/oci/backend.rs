//! The node's part: makes what a sandbox needs, asks the helper for it, and loads the function.

mod birth;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serverledge_core::NetworkPolicy;
use tokio::task::spawn_blocking;

use self::birth::{Begun, Birth, Ground, Interpreter};
use super::OciConfig;
use super::images::Images;
use super::link::Link;
use super::message::{Deliver, Places, Request, Setup};
use super::root::SHIM_DIR;
use super::sys::open_tunnels;
use super::zygote::{self, Home, Zygote, Zygotes};
use crate::body::Registry;
use crate::cgroup::{Groups, Limits, hash};
use crate::executor;
use crate::image::ImageError;
use crate::instance::Limit;
use crate::java::Kits;
use crate::network::open_way;
use crate::{
    Backend, BoxFuture, CreateError, ImageUse, Kind, NetworkConfig, NetworkSupport, Prestarted,
    Pull, Sandbox, SandboxSpec, Shim,
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
