//! Making sandboxes of containers.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ImageConfig, NetworkCreateRequest};
use tokio::sync::{OnceCell, oneshot};

use super::DockerConfig;
use super::container::{APP, Abilities, LABEL, Plan, Program, check_image, order, update};
use super::engine::{Engine, EngineError};
use super::life::{Life, Started};
use super::reap::node_name;
use crate::body::{Body, EndReceiver, Guard, Registry, RunDir, Watched};
use crate::cgroup::{Limits, hash};
use crate::instance::{Greeted, Limit, greet};
use crate::log::LogTail;
use crate::wire::Listener;
use crate::{
    Backend, BoxFuture, CreateError, ImageUse, Kind, Prestarted, Sandbox, SandboxSpec, Shim,
};

/// How much output may be on its way from the engine to the log.
const OUTPUT_BUFFER: usize = 64 << 10;
/// Where the code of a sandbox without a function will be, in its own directory.
const APP_LATER: &str = "app";

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
    /// The network of containers that are reached by HTTP; made when the first one is.
    network: OnceCell<String>,
}

/// A sandbox to be started.
struct Birth {
    id: u64,
    image: String,
    program: Program,
    app: App,
    limits: Limits,
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
    started: oneshot::Receiver<Result<Started, CreateError>>,
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
        Ok(Arc::new(DockerBackend {
            engine,
            abilities,
            registry: Registry::default(),
            node: node_name(&config.state_dir),
            first_user: hash(&config.state_dir),
            network: OnceCell::new(),
            config,
        }))
    }

    async fn make(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let limit = Limit::of(spec.timeout_start);
        let image = spec.image.clone().ok_or_else(no_image)?;
        let limits = limits(&spec, self.config.process_max);
        let Some(kind) = spec.kind() else {
            return self.make_http(spec, image, limits, limit).await;
        };
        let shim = kind.shim;
        let birth = Birth {
            id: spec.id,
            image,
            program: Program::Shim(kind),
            app: App::Code(spec.code_dir.clone()),
            limits,
        };
        let (greeted, _, _) = self.begin_shim(birth, shim, limit).await?;
        greeted.load(&spec, APP, limit).await
    }

    async fn make_http(
        &self,
        spec: SandboxSpec,
        image: String,
        limits: Limits,
        limit: Limit,
    ) -> Result<Arc<dyn Sandbox>, CreateError> {
        let network = self.network().await?;
        let has_code = fs::read_dir(&spec.code_dir)
            .map_err(|source| CreateError::io("reading the function's code", source))?
            .next()
            .is_some();
        let birth = Birth {
            id: spec.id,
            image,
            program: Program::Own { network },
            // An image may bring its code; an empty directory would hide it.
            app: match has_code {
                true => App::Code(spec.code_dir.clone()),
                false => App::Image,
            },
            limits,
        };
        let (_, born) = self.bear(birth, |_| Ok(())).await?;
        let handler_dir = if has_code { APP } else { "" };
        super::http::ready(
            &spec,
            handler_dir,
            born.guard,
            born.end,
            born.started,
            limit,
        )
        .await
    }

    async fn make_ahead(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> Result<Box<dyn Prestarted>, CreateError> {
        let shim = kind.shim;
        let birth = Birth {
            id,
            image: kind.image.clone().ok_or_else(no_image)?,
            program: Program::Shim(kind),
            app: App::Later,
            limits: Limits {
                memory_mb: 0,
                cpu: 0.0,
                processes: self.config.process_max + 1,
            },
        };
        let (greeted, name, dir) = self.begin_shim(birth, shim, Limit::of(timeout)).await?;
        Ok(Box::new(Fresh {
            engine: self.engine.clone(),
            greeted,
            name,
            app: dir.join(APP_LATER),
            process_max: self.config.process_max,
        }))
    }

    /// Starts a container up to its shim's first word.
    async fn begin_shim(
        &self,
        birth: Birth,
        shim: Shim,
        limit: Limit,
    ) -> Result<(Greeted, String, PathBuf), CreateError> {
        let prepare = |dir: &Path| {
            let file = dir.join(shim.file_name());
            fs::write(&file, shim.source())?;
            // Whatever the node's umask, the function's user must read it.
            fs::set_permissions(&file, Permissions::from_mode(0o644))?;
            Listener::bind(&dir.join("node.sock"))
        };
        let (listener, born) = self.bear(birth, prepare).await?;
        let refused = async {
            match born.started.await {
                Ok(Err(error)) => error,
                _ => std::future::pending().await,
            }
        };
        let greeting = greet(limit, listener, born.guard, born.end, async |_| Ok(()));
        tokio::select! {
            // The reason comes first, and the end that follows from it after.
            biased;
            error = refused => Err(error),
            greeted = greeting => Ok((greeted?, born.name, born.dir)),
        }
    }

    /// Starts the task that keeps the container. `prepare` fills the sandbox's own directory.
    async fn bear<T>(
        &self,
        birth: Birth,
        prepare: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<(T, Born), CreateError> {
        let (image, of_image) = self.image(&birth.image).await?;
        let making = |source| CreateError::io("making the sandbox's directory", source);
        let dir = self.config.state_dir.join("sandboxes");
        let dir = RunDir::create(dir.join(birth.id.to_string())).map_err(making)?;
        let prepared = prepare(dir.path()).map_err(making)?;
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
            program: &birth.program,
            run_dir: dir.path(),
            app: app.as_deref(),
            limits: birth.limits,
            node: &self.node,
            first_user: self.first_user,
        };
        let order = order(&plan, &image, &of_image, &self.config, self.abilities);

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
        let born = Born {
            guard,
            end: self.registry.watch(watched, end),
            started,
            name,
            dir: path,
        };
        Ok((prepared, born))
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

    async fn network(&self) -> Result<String, EngineError> {
        let name = format!("serverledge-{}", self.node);
        let make = async || {
            let made = self
                .engine
                .create_network(network(&name, &self.node, false));
            if let Err(error) = made.await {
                // Without bridge filtering in the kernel.
                tracing::warn!(%error, "sandboxes with a network can reach each other");
                let open = network(&name, &self.node, true);
                self.engine.create_network(open).await?;
            }
            Ok(name.clone())
        };
        self.network.get_or_try_init(make).await.cloned()
    }
}

/// A network that leads to the machine itself and nowhere else.
fn network(name: &str, node: &str, between: bool) -> NetworkCreateRequest {
    let option = "com.docker.network.bridge.enable_icc".to_owned();
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        internal: Some(true),
        options: Some([(option, between.to_string())].into()),
        labels: Some([(LABEL.to_owned(), node.to_owned())].into()),
        ..NetworkCreateRequest::default()
    }
}

/// A sandbox without a function.
struct Fresh {
    engine: Engine,
    greeted: Greeted,
    name: String,
    /// Directory that is seen as `/app`.
    app: PathBuf,
    process_max: u32,
}

impl Fresh {
    async fn load_function(self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, CreateError> {
        let limit = Limit::of(spec.timeout_start);
        let limits = limits(&spec, self.process_max);
        self.greeted.body().set_memory(limits.memory_mb);
        let limiting = self.engine.update(&self.name, update(&limits));
        let (code_dir, app) = (spec.code_dir.clone(), self.app);
        let delivering = tokio::task::spawn_blocking(move || deliver(&code_dir, &app));
        let (limited, delivered) = tokio::join!(limiting, delivering);
        limited?;
        delivered
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|source| CreateError::io("putting the code into a sandbox", source))?;
        self.greeted.load(&spec, APP, limit).await
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
        self.greeted.is_alive()
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
    let sandboxes = state_dir.join("sandboxes");
    for dir in [state_dir, &sandboxes] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
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

    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>> {
        Box::pin(self.make(spec))
    }

    fn prestart(
        &self,
        kind: Kind,
        id: u64,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Prestarted>>, CreateError>> {
        Box::pin(async move { self.make_ahead(kind, id, timeout).await.map(Some) })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.registry.close().await;
            if let Some(network) = self.network.get()
                && let Err(error) = self.engine.remove_network(network).await
            {
                tracing::warn!(%error, network, "a network could not be removed");
            }
            // Not empty if somebody else uses it; then it stays.
            let _ = fs::remove_dir(self.config.state_dir.join("sandboxes"));
        })
    }
}
