//! Making sandboxes of containers.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ImageConfig;
use serverledge_core::NetworkPolicy;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::DockerConfig;
use super::container::{APP, Abilities, Plan, check_image, order, update};
use super::engine::Engine;
use super::life::Life;
use super::reap::node_name;
use super::tunnels::Tunnels;
use crate::body::{Body, EndReceiver, Guard, Registry, RunDir, Watched};
use crate::cgroup::{Cgroup, Limits, hash};
use crate::instance::{Greeted, Limit, greet};
use crate::log::LogTail;
use crate::network::{Way, open_way};
use crate::wire::Listener;
use crate::{
    Backend, BoxFuture, CreateError, ImageUse, Kind, NetworkConfig, NetworkSupport, Prestarted,
    Sandbox, SandboxSpec, Shim,
};

/// How much output may be on its way from the engine to the log.
const OUTPUT_BUFFER: usize = 64 << 10;
/// Where the code of a sandbox without a function will be, in its own directory.
const APP_LATER: &str = "app";
/// Where the shims are, in the node's directory.
const SHIMS: &str = "shims";

/// Makes sandboxes that are containers of a Docker engine.
pub struct DockerBackend {
    engine: Engine,
    config: DockerConfig,
    abilities: Abilities,
    registry: Registry,
    /// This node's name with the engine.
    node: String,
    /// Where in the range of users this node begins, so that several on a machine rarely share.
    first_user: u64,
    /// Makes ways out, where there can be any.
    tunnels: Option<Tunnels>,
}

/// A sandbox to be started.
struct Birth {
    id: u64,
    kind: Kind,
    app: App,
    limits: Limits,
    network: bool,
}

/// What is seen as `/app`.
enum App {
    /// What the image has there.
    Image,
    Code(PathBuf),
    /// The code will be put there.
    Later,
}

/// A sandbox whose container is being started.
struct Born {
    guard: Guard,
    end: EndReceiver,
    started: oneshot::Receiver<Result<(), CreateError>>,
    listener: Listener,
    name: String,
    dir: PathBuf,
}

/// A sandbox whose shim waits for a function.
struct Waiting {
    greeted: Greeted,
    /// Its shim, where it can be seen.
    process: Option<i32>,
    way: Way,
    name: String,
    dir: PathBuf,
}

impl DockerBackend {
    /// Uses this engine. [`super::reap`] should be called before.
    pub async fn start(
        engine: Engine,
        mut config: DockerConfig,
    ) -> Result<Arc<DockerBackend>, CreateError> {
        config.state_dir = prepare_dirs(&config.state_dir)
            .map_err(|source| CreateError::io("preparing the directory for sandboxes", source))?;
        let abilities = Abilities::of(&engine.info().await?);
        let tunnels = match Tunnels::start(config.helper.clone()).await {
            Ok(tunnels) => Some(tunnels),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "functions in containers have no network: for that, the node must run as root on \
                     the engine's machine, and have /dev/net/tun"
                );
                None
            }
        };
        Ok(Arc::new(DockerBackend {
            engine,
            abilities,
            registry: Registry::default(),
            node: node_name(&config.state_dir),
            first_user: hash(&config.state_dir),
            tunnels,
            config,
        }))
    }

    async fn make(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let limit = Limit::of(spec.timeout_start);
        let kind = spec.kind().ok_or_else(CreateError::needs_shim)?;
        let (app, seen) = match spec.own_code()? {
            Some(code_dir) => (App::Code(code_dir), APP),
            None => (App::Image, ""),
        };
        let birth = Birth {
            id: spec.id,
            kind,
            app,
            limits: limits(&spec, self.config.process_max),
            network: spec.network != NetworkPolicy::None,
        };
        let Waiting { greeted, way, .. } = self.begin(birth, limit).await?;
        let network = self.config.network.clone();
        open_way(way, &spec.network, network, greeted.end()).await?;
        greeted.load(&spec, seen, limit).await
    }

    async fn make_ahead(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> Result<Option<Box<dyn Prestarted>>, CreateError> {
        if !self.makes_ahead(&kind) {
            return Ok(None);
        }
        let birth = Birth {
            id,
            kind,
            app: App::Later,
            limits: Limits {
                memory_mb: 0,
                cpu: 0.0,
                processes: self.config.process_max + 1,
            },
            network: self.tunnels.is_some(),
        };
        let waiting = self.begin(birth, Limit::of(timeout)).await?;
        let process = waiting.process;
        let cgroup = spawn_blocking(move || Cgroup::of_container(process?)).await;
        Ok(Some(Box::new(Fresh {
            engine: self.engine.clone(),
            keeps_limits: self.abilities.keeps_limits,
            cgroup: cgroup.ok().flatten(),
            app: waiting.dir.join(APP_LATER),
            waiting,
            process_max: self.config.process_max,
            network: self.config.network.clone(),
        })))
    }

    /// Starts a container up to its shim's first word.
    async fn begin(&self, birth: Birth, limit: Limit) -> Result<Waiting, CreateError> {
        let (id, network) = (birth.id, birth.network);
        let born = self.bear(birth).await?;
        let refused = async {
            match born.started.await {
                Ok(Err(error)) => error,
                _ => std::future::pending().await,
            }
        };
        let mut way = Err("none was asked for".to_owned());
        let mut process = None;
        let open = async |shim| {
            process = shim;
            match &self.tunnels {
                Some(tunnels) if network => way = tunnels.open(id, shim).await,
                None if network => way = Err("see the node's log at its start".to_owned()),
                _ => {}
            }
            Ok(())
        };
        let greeting = greet(limit, born.listener, born.guard, born.end, open);
        let greeted = tokio::select! {
            // The reason comes first, and the end that follows from it after.
            biased;
            error = refused => return Err(error),
            greeted = greeting => greeted?,
        };
        Ok(Waiting {
            greeted,
            process,
            way,
            name: born.name,
            dir: born.dir,
        })
    }

    /// Starts the task that keeps the container.
    async fn bear(&self, birth: Birth) -> Result<Born, CreateError> {
        let name = birth.kind.image.as_deref().ok_or_else(no_image)?;
        let (image, of_image) = self.image(name).await?;
        let making = |source| CreateError::io("making the sandbox's directory", source);
        let dir = self.config.state_dir.join("sandboxes");
        let dir = RunDir::create(dir.join(birth.id.to_string())).map_err(making)?;
        let shims = self.config.state_dir.join(SHIMS);
        birth
            .kind
            .shim
            .link(&shims, dir.path())
            .map_err(|source| CreateError::io("putting the shim into a sandbox", source))?;
        let listener = Listener::bind(&dir.path().join("node.sock")).map_err(making)?;
        let app = match birth.app {
            App::Image => None,
            App::Code(code_dir) => Some(code_dir),
            App::Later => {
                let app = dir.path().join(APP_LATER);
                fs::create_dir(&app).map_err(making)?;
                fs::set_permissions(&app, Permissions::from_mode(0o755)).map_err(making)?;
                Some(app)
            }
        };
        let plan = Plan {
            id: birth.id,
            kind: &birth.kind,
            run_dir: dir.path(),
            app: app.as_deref(),
            limits: birth.limits,
            node: &self.node,
            first_user: self.first_user,
        };
        let order = order(&plan, &image, &of_image, &self.config, self.abilities);
        let order = order.ok_or_else(|| CreateError::no_command(name))?;

        let body = Body::kept();
        body.set_memory(birth.limits.memory_mb);
        let (log, reader) = tokio::io::duplex(OUTPUT_BUFFER);
        let name = format!("serverledge-{}-{}", self.node, birth.id);
        let (sender, started) = oneshot::channel();
        let life = Life {
            engine: self.engine.clone(),
            name: name.clone(),
            body: body.clone(),
            log,
        };
        let guard = Guard(body.clone());
        let path = dir.path().to_owned();
        let watched = Watched {
            id: birth.id,
            body,
            log: LogTail::of(reader),
            dir,
            preparing: None,
        };
        let end = async { Ok(life.live(order, sender).await) };
        Ok(Born {
            guard,
            end: self.registry.watch(watched, end),
            started,
            listener,
            name,
            dir: path,
        })
    }

    /// The image's id, so that what was looked at is what is run, and what it wants.
    async fn image(&self, name: &str) -> Result<(String, ImageConfig), CreateError> {
        let unusable = |problem: String| CreateError::Image {
            image: name.to_owned(),
            problem,
        };
        if let Some(wrong) = check_image(name) {
            return Err(unusable(format!("can't be: its name {wrong}")));
        }
        let image = match self.engine.image(name).await {
            Err(error) if error.is_not_found() => {
                return Err(unusable(format!(
                    "is not on this machine: get it with `docker pull {name}`, `docker load` or \
                     `docker build`"
                )));
            }
            image => image?,
        };
        let id = image.id.unwrap_or_else(|| name.to_owned());
        Ok((id, image.config.unwrap_or_default()))
    }
}

/// A sandbox without a function.
struct Fresh {
    engine: Engine,
    keeps_limits: bool,
    waiting: Waiting,
    /// Where its limits are set past the engine, which takes ten milliseconds for it.
    cgroup: Option<Cgroup>,
    /// Directory that is seen as `/app`.
    app: PathBuf,
    process_max: u32,
    network: NetworkConfig,
}

impl Fresh {
    async fn load_function(self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let limit = Limit::of(spec.timeout_start);
        let limits = limits(&spec, self.process_max);
        let Waiting {
            greeted, way, name, ..
        } = self.waiting;
        greeted.body().set_memory(limits.memory_mb);
        let (code_dir, app, cgroup) = (spec.code_dir.clone(), self.app, self.cgroup);
        let prepare = move || {
            let is_limited = cgroup.is_some_and(|cgroup| cgroup.limit(&limits).is_ok());
            deliver(&code_dir, &app).map(|()| is_limited)
        };
        let is_limited = spawn_blocking(prepare)
            .await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|source| CreateError::io("putting the code into a sandbox", source))?;
        let engine = self.engine;
        let tell = async move { engine.update(&name, update(&limits)).await };
        match (is_limited, self.keeps_limits) {
            (false, _) => tell.await?,
            (true, true) => {}
            // They hold; this is so that they go on to.
            (true, false) => drop(tokio::spawn(async {
                if let Err(error) = tell.await {
                    tracing::warn!(%error, "the engine has not heard of a container's limits");
                }
            })),
        }
        open_way(way, &spec.network, self.network, greeted.end()).await?;
        greeted.load(&spec, APP, limit).await
    }
}

/// Puts the same code at another place: the same files, linked, and new directories. What is in
/// the container already can't be mounted there any more.
fn deliver(code_dir: &Path, app: &Path) -> io::Result<()> {
    for entry in fs::read_dir(code_dir)? {
        let entry = entry?;
        let target = app.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
            deliver(&entry.path(), &target)?;
        } else {
            fs::hard_link(entry.path(), &target)?;
        }
    }
    Ok(())
}

impl Prestarted for Fresh {
    fn is_alive(&self) -> bool {
        self.waiting.greeted.is_alive()
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

fn no_image() -> CreateError {
    CreateError::Isolation("containers are made from images, and none is given".to_owned())
}

/// Makes the directories and returns the path without links.
fn prepare_dirs(state_dir: &Path) -> io::Result<PathBuf> {
    // Nobody else may enter: the sockets in it are open to all users, as each sandbox is another.
    let (sandboxes, shims) = (state_dir.join("sandboxes"), state_dir.join(SHIMS));
    // Of an earlier node, and maybe another version.
    match fs::remove_dir_all(&shims) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for dir in [state_dir, &sandboxes, &shims] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    for shim in Shim::ALL {
        shim.install(&shims)?;
    }
    fs::canonicalize(state_dir)
}

impl Backend for DockerBackend {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn image_use(&self) -> ImageUse {
        ImageUse::Always
    }

    fn network(&self) -> NetworkSupport {
        match self.tunnels {
            Some(_) => NetworkSupport::Enforced,
            None => NetworkSupport::Absent,
        }
    }

    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(self.make(spec))
    }

    fn makes_ahead(&self, kind: &Kind) -> bool {
        // A program may be in its image, at the very place where code would be put.
        kind.shim != Shim::Bridge
    }

    fn prestart(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Prestarted>>, CreateError>> {
        Box::pin(self.make_ahead(kind, id, timeout))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.registry.close().await;
            if let Some(tunnels) = &self.tunnels {
                tunnels.close().await;
            }
            // Made anew at the next start.
            let _ = fs::remove_dir_all(self.config.state_dir.join(SHIMS));
            // Not empty if somebody else uses it; then it stays.
            let _ = fs::remove_dir(self.config.state_dir.join("sandboxes"));
        })
    }
}
