//! What the rest of the node sees of the configuration. Field docs: meaning, unit, default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serverledge_core::qos::{Class, ClassError, Classes};
use serverledge_core::{Ipv4Network, Language, NetworkPolicy};
use serverledge_sandbox::NetworkConfig;
use serverledge_sandbox::image::{ImageConfig, ImageLimits};
use serverledge_sandbox::wasm::CompileLimits;

use super::{Etcd, Federation, Placement, Registry};
use crate::code::CodeLimits;
use crate::fetch::FetchLimits;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// The HTTP API: `api.*`.
    pub api: Api,
    /// Where data is kept: `storage.*`.
    pub storage: Storage,
    /// How functions are isolated: `sandbox.*`.
    pub sandbox: Sandbox,
    /// What functions reach: `network.*`.
    pub network: Network,
    /// WebAssembly: `wasm.*`.
    pub wasm: Wasm,
    /// The pool of sandboxes: `container.*`.
    pub container: Container,
    /// Periodic cleaning: `janitor.*`.
    pub janitor: Janitor,
    /// Who waits, and how long: `scheduler.*`.
    pub scheduler: Scheduler,
    /// What calls are worth and what the cloud may cost: `qos.*` and others.
    pub qos: Qos,
    /// Limits of calls: `function.*`.
    pub function: Function,
    /// Limits of code: `code.*`.
    pub code: Code,
    /// Images in the built-in sandbox: `image.*`.
    pub image: Image,
    /// Asynchronous calls: `async.*`.
    pub async_calls: Async,
    /// Where tasks of workflows run: `workflow.offloading.*`.
    pub placement: Placement,
    /// Workflows: `workflow.*`.
    pub workflow: Workflow,
    /// The S3-compatible store: `object_store.*`.
    pub object_store: super::ObjectStore,
    /// Stopping: `shutdown.*`.
    pub shutdown: Shutdown,
    /// What the nodes of a fleet share: `etcd.*`.
    pub etcd: Etcd,
    /// How the nodes of a fleet treat each other: `federation.*`.
    pub federation: Federation,
    /// Who this node is: `registry.*`.
    pub registry: Registry,
    /// Runtimes added or changed, by name in lower case: `runtime.<name>.*`.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The load balancer: `lb.*` and `mab.*`.
    pub balancer: super::Balancer,
    /// `log.format`; text.
    pub log_format: LogFormat,
}

/// The HTTP API.
#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    /// Address or name to listen on; 127.0.0.1.
    pub host: String,
    /// Port to listen on, 0 = any that is free; 1323.
    pub port: u16,
    /// Listening where others can reach the API is meant; false.
    pub insecure: bool,
    /// Largest body of an invocation, bytes; 16 MiB.
    pub body_max: usize,
    /// Largest body of a registration, bytes; 128 MiB.
    pub create_body_max: usize,
    /// Memory for the bodies of all requests together, bytes; 256 MiB.
    pub bodies_max: usize,
    /// Connections at once; 1000.
    pub connections_max: usize,
    /// Address that other nodes are told; the one listened on, or that of the way to the world.
    pub ip: Option<String>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 1323,
            insecure: false,
            body_max: 16 << 20,
            create_body_max: 128 << 20,
            bodies_max: 256 << 20,
            connections_max: 1000,
            ip: None,
        }
    }
}

/// Where data is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// Directory; /var/lib/serverledge for root, in the XDG data directory otherwise.
    pub path: PathBuf,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            path: "/var/lib/serverledge".into(),
        }
    }
}

/// How functions are kept apart from the machine and each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The best that this node has; refuses to start if that is none.
    #[default]
    Auto,
    /// Namespaces, cgroups and filters of the kernel.
    Builtin,
    /// None: processes with the rights of the node.
    Process,
}

/// What makes the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxBackend {
    /// The built-in one where the machine can isolate, else Docker if an engine answers.
    #[default]
    Auto,
    /// This node itself, from the interpreters of the machine.
    Builtin,
    /// A Docker engine, from images.
    Docker,
}

/// How functions are isolated.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// By what means; auto.
    pub isolation: Isolation,
    /// By what technology; auto.
    pub backend: SandboxBackend,
    /// Where the Docker engine listens; /var/run/docker.sock.
    pub docker_socket: PathBuf,
    /// Processes and threads in a sandbox, beside one for each call it may serve at once; 64.
    pub processes_max: u32,
    /// Size of a sandbox's `/tmp`, MiB; 64.
    pub tmp_mb: u64,
    /// How long a sandbox may take to start and load its function; 30 s.
    pub start_timeout: Duration,
    /// Sandboxes of each runtime in use that are started ahead of their function; 2.
    pub prestart: usize,
    /// To how many their number may grow with demand; 8.
    pub prestart_max: usize,
    /// Whether Python sandboxes share the memory of what they preload; false.
    pub zygote: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            isolation: Isolation::Auto,
            backend: SandboxBackend::Auto,
            docker_socket: serverledge_sandbox::docker::SOCKET.into(),
            processes_max: 64,
            tmp_mb: 64,
            start_timeout: Duration::from_secs(30),
            prestart: 2,
            prestart_max: 8,
            zygote: false,
        }
    }
}

/// What functions reach, in the built-in sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// For functions that don't say; egress.
    pub default: NetworkPolicy,
    /// Networks that no function reaches, besides those that none ever does; none.
    pub deny: Vec<Ipv4Network>,
    /// Connections of a sandbox at once; 128.
    pub connections_max: usize,
    /// File that names the resolvers; /etc/resolv.conf.
    pub resolv_conf: PathBuf,
}

impl Network {
    /// What holds for all sandboxes.
    pub fn limits(&self) -> NetworkConfig {
        NetworkConfig {
            denied: self.deny.clone().into(),
            connections_max: self.connections_max,
            resolv_conf: self.resolv_conf.clone(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            default: NetworkPolicy::Egress,
            deny: Vec::new(),
            connections_max: 128,
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// How WebAssembly is compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Wasm {
    /// Processor time that compiling one module may take; 300 s.
    pub compile_time_max: Duration,
    /// Memory that it may take, bytes; 2 GiB.
    pub compile_memory_max: u64,
}

impl Wasm {
    /// What compiling one module may take.
    pub fn limits(&self) -> CompileLimits {
        CompileLimits {
            time: self.compile_time_max,
            memory: self.compile_memory_max,
        }
    }
}

impl Default for Wasm {
    fn default() -> Self {
        let CompileLimits { time, memory } = CompileLimits::default();
        Self {
            compile_time_max: time,
            compile_memory_max: memory,
        }
    }
}

/// The pool of sandboxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Memory for all sandboxes, MiB; 1024.
    pub pool_memory_mb: u64,
    /// Cores for all sandboxes; as many as there are.
    pub pool_cpus: f64,
    /// How long a sandbox may be idle; 600 s.
    pub expiration: Duration,
}

impl Default for Container {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            pool_memory_mb: 1024,
            pool_cpus: cores as f64,
            expiration: Duration::from_secs(600),
        }
    }
}

/// Periodic cleaning.
#[derive(Debug, Clone, PartialEq)]
pub struct Janitor {
    /// How often; 30 s.
    pub interval: Duration,
}

impl Default for Janitor {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
        }
    }
}

/// Who waits, and how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduler {
    /// Name of the policy; default.
    pub policy: String,
    /// Calls that may wait for room; 0.
    pub queue_capacity: usize,
    /// How long a call may wait; 30 s.
    pub queue_timeout: Duration,
    /// Calls that may wait because that is faster than a cold start; 1000.
    pub wait_capacity: usize,
    /// Sandboxes started at once; 16.
    pub starts_max: usize,
    /// Whether calls run here that find no other place; false.
    pub fallback_local: bool,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            policy: "default".into(),
            queue_capacity: 0,
            queue_timeout: Duration::from_secs(30),
            wait_capacity: 1000,
            starts_max: 16,
            fallback_local: false,
        }
    }
}

/// What calls are worth and what the cloud may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Qos {
    /// Classes of calls, by name in lower case: `qos.class.<name>.*`.
    pub classes: BTreeMap<String, Class>,
    /// How often a plan is made; 10 s.
    pub interval: Duration,
    /// Cost of a GB used for a second in the cloud; 0.00005.
    pub cloud_cost: f64,
    /// What the cloud may cost an hour, 0 = anything; 0.
    pub budget: f64,
    /// Bandwidth to the cloud, Mbit/s, 0 = any; 0.
    pub cloud_bandwidth_mbit: f64,
    /// Bandwidth to neighbors, Mbit/s, 0 = any; 0.
    pub edge_bandwidth_mbit: f64,
}

impl Qos {
    /// All classes, the default one included.
    pub fn classes(&self) -> Result<Classes, ClassError> {
        Classes::new(self.classes.values().cloned().collect())
    }
}

impl Default for Qos {
    fn default() -> Self {
        Self {
            classes: BTreeMap::new(),
            interval: Duration::from_secs(10),
            cloud_cost: 5e-5,
            budget: 0.0,
            cloud_bandwidth_mbit: 0.0,
            edge_bandwidth_mbit: 0.0,
        }
    }
}

/// Limits of calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// How long a call may run if its function doesn't say; 60 s.
    pub timeout: Duration,
    /// The longest a function may say; 900 s.
    pub timeout_max: Duration,
}

impl Default for Function {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            timeout_max: Duration::from_secs(900),
        }
    }
}

/// Limits of code.
#[derive(Debug, Clone, PartialEq)]
pub struct Code {
    /// Bytes of one function's code, unpacked; 256 MiB.
    pub size_max: u64,
    /// Bytes of one of its files, unpacked; 256 MiB.
    pub file_size_max: u64,
    /// Files, directories and links of one function's code; 20,000.
    pub entries_max: usize,
    /// Bytes of a path in it; 1024.
    pub path_max: usize,
    /// Names in a path; 64.
    pub depth_max: usize,
    /// Code by URL: `code.url.*`.
    pub url: CodeUrl,
}

impl Code {
    /// For the code store.
    pub fn limits(&self) -> CodeLimits {
        CodeLimits {
            unpacked_bytes_max: self.size_max,
            file_bytes_max: self.file_size_max,
            entries_max: self.entries_max,
            path_bytes_max: self.path_max,
            depth_max: self.depth_max,
        }
    }
}

impl Default for Code {
    fn default() -> Self {
        Self {
            size_max: 256 << 20,
            file_size_max: 256 << 20,
            entries_max: 20_000,
            path_max: 1024,
            depth_max: 64,
            url: CodeUrl::default(),
        }
    }
}

/// Limits of code that is fetched by URL.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeUrl {
    /// Networks that may be fetched from besides public addresses; none.
    pub networks: Vec<crate::fetch::Network>,
    /// Bytes as received; 128 MiB.
    pub size_max: u64,
    /// How long fetching may take in all; 60 s.
    pub timeout: Duration,
    /// Redirects that are followed; 5.
    pub redirects_max: usize,
    /// Fetches at once; 4.
    pub concurrency: usize,
}

impl CodeUrl {
    /// For the fetcher.
    pub fn limits(&self) -> FetchLimits {
        FetchLimits {
            networks: self.networks.clone(),
            bytes_max: self.size_max,
            time_max: self.timeout,
            redirects_max: self.redirects_max,
            concurrency: self.concurrency,
        }
    }
}

impl Default for CodeUrl {
    fn default() -> Self {
        Self {
            networks: Vec::new(),
            size_max: 128 << 20,
            timeout: Duration::from_secs(60),
            redirects_max: 5,
            concurrency: 4,
        }
    }
}

/// Images in the built-in sandbox.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Image {
    /// What images may take.
    pub limits: ImageLimits,
    /// Registries that are talked to without TLS; none.
    pub insecure_registries: Vec<String>,
    /// File with credentials for registries; none.
    pub auth_file: Option<PathBuf>,
}

impl Image {
    /// For the store of images, below this directory.
    pub fn store(&self, storage: &Path) -> ImageConfig {
        ImageConfig {
            limits: self.limits.clone(),
            insecure_registries: self.insecure_registries.clone(),
            auth_file: self.auth_file.clone(),
            ..ImageConfig::new(storage.join("images"))
        }
    }
}

/// Asynchronous calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Async {
    /// How long results are kept; 1800 s.
    pub retention: Duration,
    /// Accepted calls without a result; 100,000.
    pub pending_max: usize,
    /// Calls run at once; 64.
    pub concurrency: usize,
    /// Attempts at one call; 5.
    pub attempts_max: u32,
}

impl Default for Async {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(1800),
            pending_max: 100_000,
            concurrency: 64,
            attempts_max: 5,
        }
    }
}

/// Workflows.
#[derive(Debug, Clone, PartialEq)]
pub struct Workflow {
    /// How long executions are kept after their end; 7 days.
    pub retention: Duration,
    /// Standard executions that have not ended; 200,000.
    pub executions_max: usize,
    /// Functions called by workflows at once; 256.
    pub concurrency: usize,
    /// Tasks of one execution at once; 100.
    pub tasks_max: usize,
    /// Deaths of the node during a task after which it is given up; 3.
    pub crashes_max: u32,
    /// Largest definition, bytes; 1 MiB.
    pub definition_max: usize,
    /// Workflows that may be registered; 10,000.
    pub definitions_max: usize,
    /// How long an express execution may take; 300 s.
    pub express_timeout: Duration,
    /// Directories whose files workflows may read and write; none.
    pub files: Vec<PathBuf>,
    /// Buckets, or what begins with prefixes there, that workflows may read and write; none.
    pub s3_buckets: Vec<super::Location>,
    /// Most bytes of a Map's items that are read; 16 MiB.
    pub items_bytes_max: usize,
    /// Whether a Fail state ends an execution well; no.
    pub fail_succeeds: bool,
    /// Whether executions that somebody waits for are in the journal, too; no.
    pub always_save_progress: bool,
    /// Directory that the inputs of tasks are written to; none.
    pub inputs: Option<PathBuf>,
    /// Whether other nodes go on with standard executions when this one is gone; yes, with an etcd.
    pub takeover: bool,
    /// How long a node may be silent before they do; 10 s.
    pub takeover_lease: Duration,
    /// Largest journal of an execution that others go on with, bytes; 16 MiB.
    pub takeover_bytes_max: usize,
}

impl Default for Workflow {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(604_800),
            executions_max: 200_000,
            concurrency: 256,
            tasks_max: 100,
            crashes_max: 3,
            definition_max: 1 << 20,
            definitions_max: 10_000,
            express_timeout: Duration::from_secs(300),
            files: Vec::new(),
            s3_buckets: Vec::new(),
            items_bytes_max: 16 << 20,
            fail_succeeds: false,
            always_save_progress: false,
            inputs: None,
            takeover: true,
            takeover_lease: Duration::from_secs(10),
            takeover_bytes_max: 16 << 20,
        }
    }
}

/// Stopping.
#[derive(Debug, Clone, PartialEq)]
pub struct Shutdown {
    /// How long running calls may take to end; 10 s.
    pub drain: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(10),
        }
    }
}

/// A runtime added or changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuntimeConfig {
    /// Its interpreter, if not the language's usual one.
    pub path: Option<PathBuf>,
    /// Its language, if the name doesn't tell.
    pub language: Option<Language>,
    /// Its image: with Docker, if not the original's of that name; built in, none by default.
    pub image: Option<String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
