//! The composition root: builds every part from the configuration, owns the background tasks and
//! stops them in order. Parts get what they need through their constructors; there are no globals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hyper::header::HeaderValue;
use serverledge_api::{InvokeReply, Network};
use serverledge_core::{FunctionId, Language, NetworkPolicy, Runtime, SchedulerConfig};
use serverledge_sandbox::image::ImageStore;
use serverledge_sandbox::wasm::{WasmBackend, WasmConfig};
use serverledge_sandbox::{Backend, ImageUse, NetworkSupport};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::async_calls::{self, AsyncCalls, AsyncConfig, Queue};
use crate::catalog::{Catalog, Function, FunctionRecord};
use crate::code::{CodeStore, Digest};
use crate::config::Config;
use crate::federation::{self, Federation};
use crate::fetch::Fetcher;
use crate::http::Room;
use crate::invoke::Report;
use crate::launch::Launcher;
use crate::objects::Objects;
use crate::pool::Pool;
use crate::qos::Qos;
use crate::store::Store;
use crate::workflows::takeover::Takeover;
use crate::workflows::{self, Workflows};

/// A running node: the parts that requests use.
pub struct Node {
    /// Its configuration.
    pub config: Config,
    /// Who it is.
    pub identity: Identity,
    /// What functions exist.
    pub catalog: Catalog,
    /// Sandboxes.
    pub pool: Arc<Pool>,
    /// Asynchronous calls and their results.
    pub async_calls: AsyncCalls,
    /// Workflows and their executions.
    pub workflows: Workflows,
    pub(crate) store: Arc<Store>,
    pub(crate) code: Arc<CodeStore>,
    pub(crate) fetcher: Fetcher,
    /// Serialises changes of one name (by a hash of it), so that store, code and catalog agree.
    pub(crate) name_locks: Vec<tokio::sync::Mutex<()>>,
    /// The fleet, if the node is in one.
    pub(crate) federation: Option<Federation>,
    /// The object store, if one is configured.
    pub(crate) objects: Option<Objects>,
    /// Classes of calls, and what is planned for them.
    pub(crate) qos: Qos,
    /// Memory for the bodies of requests.
    pub(crate) room: Room,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) wasm: Arc<WasmBackend>,
    last_request: AtomicU64,
    stopping: CancellationToken,
}

/// Area and key of a node, as the wire shows them.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `registry.area`.
    pub area: String,
    /// `registry.node.id`, or made at the first start.
    pub key: String,
    /// `amd64` or `arm64`.
    pub architecture: &'static str,
    /// The last five characters of `(area)key`: part of request ids.
    suffix: String,
    /// The key, as a header shows it.
    pub(crate) header: HeaderValue,
}

impl Identity {
    fn new(area: String, key: String) -> Self {
        let whole = format!("({area}){key}");
        let from = whole.char_indices().rev().nth(4).map_or(0, |(at, _)| at);
        let suffix = whole[from..].to_owned();
        let architecture = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let header = HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static("unprintable"));
        Self {
            area,
            key,
            architecture,
            suffix,
            header,
        }
    }
}

impl Node {
    /// Opens the store, which makes `storage.path` this node's own: before it is open, nothing
    /// there may be touched, as it may be another node's.
    pub fn open_store(config: &Config) -> anyhow::Result<Arc<Store>> {
        let path = &config.storage.path;
        std::fs::create_dir_all(path)
            .with_context(|| format!("creating the directory {} (storage.path)", path.display()))?;
        Ok(Arc::new(Store::open(&path.join("serverledge.redb"))?))
    }

    /// Builds a node on `backend`. Everything else that can fail at start fails here.
    pub fn build(
        config: Config,
        store: Arc<Store>,
        backend: Arc<dyn Backend>,
    ) -> anyhow::Result<(Arc<Self>, Queue)> {
        let path = &config.storage.path;
        let code = CodeStore::open(&path.join("code"), config.code.limits());
        let code = Arc::new(code.context("opening the code in storage.path")?);
        let images = ImageStore::open(config.image.store(path));
        let wasm = Arc::new(WasmBackend::new(WasmConfig {
            compile: config.wasm.limits(),
            network: config.network.limits(),
            images: Some(Arc::new(
                images.context("opening the images in storage.path")?,
            )),
            ..WasmConfig::new(path.join("wasm"))
        }));
        let start_timeout = config.sandbox.start_timeout;
        let started = Arc::clone(&backend);
        let launcher = Launcher::new(started, Arc::clone(&wasm), Arc::clone(&code), start_timeout);
        let ahead = (config.sandbox.prestart, config.sandbox.prestart_max);
        let pool = Pool::new(scheduler_config(&config), launcher, ahead);
        let (async_calls, queue) = AsyncCalls::open(async_config(&config), Arc::clone(&store))?;
        let key = config
            .registry
            .node_id
            .clone()
            .map_or_else(|| node_key(path), Ok)?;
        let api = &config.api;
        let bodies_max = api.bodies_max.max(api.body_max).max(api.create_body_max);
        let identity = Identity::new(config.registry.area.clone(), key);
        let federation = Federation::new(&config)?;
        let stopping = CancellationToken::new();
        let etcd = federation.as_ref().and_then(Federation::etcd);
        let etcd = etcd.filter(|_| config.workflow.takeover).cloned();
        let takeover = etcd.map(|it| Takeover::new(it, &identity, &config, stopping.clone()));
        let workflows = Workflows::open(&store, &config, &identity.key, takeover)?;
        let node = Self {
            room: Room::new(bodies_max),
            identity,
            catalog: Catalog::default(),
            pool,
            async_calls,
            workflows,
            store,
            code,
            fetcher: Fetcher::new(config.code.url.limits()),
            name_locks: std::iter::repeat_with(Default::default)
                .take(NAME_LOCKS)
                .collect(),
            federation,
            objects: Objects::new(&config)?,
            qos: Qos::new(&config, Federation::policy_of(&config)),
            backend,
            wasm,
            last_request: AtomicU64::new(0),
            stopping,
            config,
        };
        node.load_catalog()?;
        Ok((Arc::new(node), queue))
    }

    /// Serves until `stop` has a message, lets what runs end and stops everything in order. Another
    /// message cuts short what runs, as `shutdown.drain` does.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        queue: Queue,
        mut stop: mpsc::Receiver<()>,
    ) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        self.publish_address(address);
        workflows::definition::settle(&self).await?;
        let fleet = federation::start(&self, address).await;
        info!(%address, node = self.identity.key, functions = self.catalog.names().len(), "ready");
        let janitor = tokio::spawn(janitor(Arc::clone(&self)));
        let dispatcher = tokio::spawn(async_calls::run(Arc::clone(&self), queue));
        let wakes = tokio::spawn(workflows::run(Arc::clone(&self)));
        let means = tokio::spawn(workflows::handover::dump(Arc::clone(&self)));

        let told_to_stop = async {
            stop.recv().await;
        };
        let requests = crate::http::serve(Arc::clone(&self), listener, told_to_stop).await;

        if let Some(fleet) = &fleet {
            fleet.leave();
            // Calls that others have on their way would be lost with connections that seem idle.
            tokio::time::sleep(FAREWELL).await;
        }
        // No new work from here on. Asynchronous calls that wait stay in the store for the next
        // start, and so do those that are cut short.
        self.stopping.cancel();
        self.pool.drain();
        let mut running = pin!(async {
            tokio::join!(requests.shutdown(), dispatcher, async {
                let _ = wakes.await;
                self.workflows.close().await;
                let _ = means.await;
            })
        });
        let drain = self.config.shutdown.drain;
        let drained = tokio::select! {
            _ = &mut running => true,
            Some(()) = stop.recv() => false,
            () = tokio::time::sleep(drain) => {
                warn!("calls still running after {drain:?} (shutdown.drain) are cut short");
                false
            }
        };
        self.pool.close().await;
        if !drained {
            let _ = tokio::time::timeout(LAST_WORDS, running).await;
        }
        janitor.abort();
        if let Some(fleet) = fleet {
            fleet.stop().await;
        }
        self.store.close().await;
        let _ = std::fs::remove_file(self.address_file());
        info!("stopped");
        Ok(())
    }

    /// Cancelled when the node is on its way out.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// An identity for a call of `function`, unique on this node.
    pub fn request_id(&self, function: &str) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let last = self.last_request.fetch_max(now, Ordering::Relaxed);
        let unique = if now > last {
            now
        } else {
            self.last_request.fetch_add(1, Ordering::Relaxed) + 1
        };
        format!("{function}-{}{unique}", self.identity.suffix)
    }

    /// The wire's reply to a call that went well.
    pub fn reply(&self, report: Report) -> InvokeReply {
        InvokeReply {
            success: true,
            result: report.result,
            response_time: report.response.as_secs_f64(),
            is_warm_start: report.warm,
            init_time: report.init.as_secs_f64(),
            queueing_time: report.queueing.as_secs_f64(),
            offload_latency: 0.0,
            duration: report.duration.as_secs_f64(),
            output: report.output,
            execution_area: self.identity.area.clone(),
            execution_node: self.identity.key.clone(),
        }
    }

    /// A record as a function that can be invoked; `None` for a runtime this node doesn't have.
    pub(crate) fn function(&self, record: FunctionRecord) -> Option<Function> {
        let runtime = self.runtime(&record.runtime)?;
        let image = self.image(&record, runtime.language);
        let limit = &self.config.function;
        let timeout = record
            .timeout_seconds
            .map_or(limit.timeout, Duration::from_secs_f64);
        let network = self.network_policy(record.network.as_ref(), runtime.language);
        Some(Function {
            id: self.catalog.next_id(),
            limits: serverledge_core::Limits {
                memory_mb: record.memory_mb,
                cpu: record.cpu,
                max_concurrency: record.max_concurrency,
            },
            language: runtime.language,
            interpreter: self.interpreter(&record.runtime, runtime.language),
            image,
            network,
            timeout: timeout.min(limit.timeout_max),
            revision: OnceLock::new(),
            record,
        })
    }

    /// Where the interpreter of a runtime is.
    pub(crate) fn interpreter(&self, runtime: &str, language: Language) -> PathBuf {
        let configured = self.config.runtimes.get(&runtime.to_lowercase());
        let usual = Path::new(language.interpreter());
        let in_image = match self.backend.image_use() {
            ImageUse::Never => false,
            ImageUse::Possible => self.own_image(runtime, language).is_some(),
            ImageUse::Always => true,
        };
        // Where an image has it is found by its PATH.
        let usual = usual
            .file_name()
            .filter(|_| in_image)
            .map_or(usual, Path::new);
        configured
            .and_then(|runtime| runtime.path.clone())
            .unwrap_or_else(|| usual.to_owned())
    }

    /// Whom a function may talk to. One that was registered is kept to its word, or fails.
    fn network_policy(&self, network: Option<&Network>, language: Language) -> NetworkPolicy {
        match network {
            // What was stored was checked; if that was another node, better nothing than too much.
            Some(network) => NetworkPolicy::parse(network.words()).unwrap_or_default(),
            None if self.network_support(language) == NetworkSupport::Enforced => {
                self.config.network.default.clone()
            }
            None => NetworkPolicy::None,
        }
    }

    /// What this node does about the network of functions in a language.
    pub(crate) fn network_support(&self, language: Language) -> NetworkSupport {
        match language {
            Language::Wasm => NetworkSupport::Enforced,
            _ => self.backend.network(),
        }
    }

    /// The image for a function's sandboxes, if they are made from one.
    pub(crate) fn image(&self, record: &FunctionRecord, language: Language) -> Option<String> {
        match (self.backend.image_use(), language) {
            (_, Language::Wasm) => {
                Some(record.custom_image.clone()).filter(|image| !image.is_empty())
            }
            (ImageUse::Never, _) => None,
            (ImageUse::Always, Language::Custom) => Some(record.custom_image.clone()),
            (ImageUse::Possible, Language::Custom) if !record.custom_image.is_empty() => {
                Some(record.custom_image.clone())
            }
            (ImageUse::Possible, _) => self.own_image(&record.runtime, language),
            (ImageUse::Always, _) => {
                let original = || format!("{ORIGINAL_IMAGES}{}", record.runtime);
                let configured = self.configured_image(&record.runtime);
                Some(configured.unwrap_or_else(original))
            }
        }
    }

    /// The image of a runtime where the machine's interpreter would do.
    fn own_image(&self, runtime: &str, language: Language) -> Option<String> {
        let has_shim = matches!(language, Language::Python | Language::Node);
        self.configured_image(runtime).filter(|_| has_shim)
    }

    fn configured_image(&self, runtime: &str) -> Option<String> {
        let configured = self.config.runtimes.get(&runtime.to_lowercase());
        configured.and_then(|runtime| runtime.image.clone())
    }

    /// The runtime called `name`, from the table or the configuration.
    pub(crate) fn runtime(&self, name: &str) -> Option<Runtime> {
        let configured = self.config.runtimes.get(&name.to_lowercase());
        let configured = configured.and_then(|runtime| runtime.language);
        configured
            .map(Runtime::of)
            .or_else(|| Runtime::by_name(name))
    }

    fn load_catalog(&self) -> anyhow::Result<()> {
        let mut codes = std::collections::HashSet::new();
        self.store.visit_functions(|name, bytes| {
            let record: FunctionRecord = match serde_json::from_slice(bytes) {
                Ok(record) => record,
                Err(error) => {
                    warn!(function = name, %error, "stored function is unreadable; left out");
                    return;
                }
            };
            codes.extend(record.code.clone());
            match self.function(record) {
                Some(function) => {
                    self.pool.expect(&function);
                    self.catalog.insert(Arc::new(function));
                }
                None => warn!(
                    function = name,
                    "its runtime is no longer configured; left out"
                ),
            }
        })?;
        // Code whose registration was cut short by a crash.
        for digest in self.code.digests()? {
            if !codes.contains(digest.as_str()) {
                self.remove_code(&digest);
            }
        }
        Ok(())
    }

    fn remove_code(&self, digest: &Digest) {
        if let Err(error) = self.code.remove(digest) {
            warn!(%digest, error = %crate::chain(&error), "code could not be removed");
        }
    }

    /// Tells people and scripts where the node listens, which matters with `api.port: 0`. Where
    /// that can't be written (the disk is full, say), the node is of use all the same.
    fn publish_address(&self, address: SocketAddr) {
        let file = self.address_file();
        let temporary = file.with_extension("new");
        let written = std::fs::write(&temporary, format!("{address}\n"))
            .and_then(|()| std::fs::rename(&temporary, &file));
        if let Err(error) = written {
            warn!(file = %file.display(), %error, "the node's address could not be written");
            // It may be that of an earlier run.
            let _ = std::fs::remove_file(file);
        }
    }

    fn address_file(&self) -> PathBuf {
        self.config.storage.path.join("api.address")
    }
}

const NAME_LOCKS: usize = 64;

/// What the original's images are called, before the runtime's name.
const ORIGINAL_IMAGES: &str = "grussorusso/serverledge-";

/// What a sandbox without a function counts for, MiB: an interpreter, and not a small one.
const SPARE_MB: u64 = 32;

/// How long connections stay open while others hear that this node leaves.
const FAREWELL: Duration = Duration::from_millis(200);

/// What calls that were cut short have to tell those who made them.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn scheduler_config(config: &Config) -> SchedulerConfig {
    SchedulerConfig {
        memory_mb: config.container.pool_memory_mb,
        cpus: config.container.pool_cpus,
        keep_alive: config.container.expiration,
        // A call for which there is no room goes elsewhere, and waits for none here.
        queue_capacity: match Federation::policy_of(config) {
            Some(_) => 0,
            None => config.scheduler.queue_capacity,
        },
        wait_capacity: config.scheduler.wait_capacity,
        queue_timeout: config.scheduler.queue_timeout,
        starts_max: config.scheduler.starts_max,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        spare_mb: SPARE_MB,
    }
}

fn async_config(config: &Config) -> AsyncConfig {
    AsyncConfig {
        retention: config.async_calls.retention,
        pending_max: config.async_calls.pending_max,
        concurrency: config.async_calls.concurrency,
        attempts_max: config.async_calls.attempts_max,
    }
}

/// The node's own name, made at its first start and kept beside its data.
fn node_key(storage: &std::path::Path) -> anyhow::Result<String> {
    let file = storage.join("node.id");
    if let Ok(key) = std::fs::read_to_string(&file)
        && !key.trim().is_empty()
    {
        return Ok(key.trim().to_owned());
    }
    let mut random = [0_u8; 12];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut random))
        .context("reading /dev/urandom")?;
    let key = format!("node-{}", hex::encode(random));
    std::fs::write(&file, &key)
        .with_context(|| format!("writing {} (in storage.path)", file.display()))?;
    Ok(key)
}

/// Every `janitor.interval`: idle sandboxes past their time, expired results, code and images that
/// nobody uses.
async fn janitor(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(node.config.janitor.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        node.pool.expire();
        if let Some(federation) = &node.federation {
            federation.copies.sweep(&node);
        }
        if let Err(error) = node.store.sweep(crate::invoke::unix_now() as u64).await {
            warn!(error = %crate::chain(&error), "expired results could not be removed");
        }
        let now = crate::invoke::unix_now() as u64;
        if let Err(error) = node.store.sweep_executions(now).await {
            warn!(error = %crate::chain(&error), "expired executions could not be removed");
        }
        let current = |id: FunctionId, name: &str| {
            node.catalog
                .function(name)
                .is_some_and(|function| function.id == id)
        };
        for function in node.pool.forget_retired(|f| current(f.id, &f.record.name)) {
            node.collect_code(function.record.code.as_deref()).await;
        }
        node.collect_images().await;
    }
}

impl Node {
    /// Lets go of images that no function has and no setting names.
    async fn collect_images(&self) {
        let configured = self.config.runtimes.values();
        let configured = configured.filter_map(|runtime| runtime.image.clone());
        let mut keep = self.catalog.images();
        keep.extend(configured);
        let copies = self.federation.as_ref().map(|it| it.copies.images());
        keep.extend(copies.into_iter().flatten());
        self.backend.collect_images(keep.clone()).await;
        self.wasm.collect_images(keep).await;
    }

    /// Removes code that no function and no sandbox uses any more.
    async fn collect_code(self: &Arc<Self>, digest: Option<&str>) {
        let Some(Ok(digest)) = digest.map(Digest::parse) else {
            return;
        };
        // Registrations hold one of these locks while they store code and use it.
        let mut guards = Vec::with_capacity(NAME_LOCKS);
        for lock in &self.name_locks {
            guards.push(lock.lock().await);
        }
        let copies = self.federation.as_ref().map(|it| &it.copies);
        let is_copied = copies.is_some_and(|it| it.uses_code(digest.as_str()));
        if !is_copied && !self.catalog.uses_code(digest.as_str()) {
            let node = Arc::clone(self);
            let _ = tokio::task::spawn_blocking(move || node.remove_code(&digest)).await;
        }
    }
}
