//! The rows. The limits make the conversions in them exact.

use super::Effect::{None as NoEffect, Set as Sets};
use super::Set::{
    Bool, Choice, Duration, Integer, Number, Path, RuntimeLanguage, RuntimePath, Size, Text,
};
use super::{Effect, Isolation, Key, LogFormat};

/// Ten years of seconds: more is a mistake, and would overflow clocks.
const YEARS: f64 = 315_360_000.0;

/// More than any machine can use of what is counted one by one.
const MANY: u64 = 1 << 24;

const FEDERATION: &str = "has no effect yet: this version runs everything on its own node";
const METRICS: &str = "has no effect yet: this version exports no metrics";
const TRACING: &str = "has no effect yet: this version writes no traces";
const BALANCER: &str = "has no effect yet: this version has no load balancer";
const WORKFLOWS: &str = "has no effect yet: this version runs no workflows";
const IMAGES: &str = "has no effect yet: this version pulls no images";
const CACHE: &str = "has no effect: the catalog is always in memory and never stale";
const DEAD: &str = "has no effect, and never had one in the original";

const fn key(name: &'static str, default: &'static str, effect: Effect, doc: &'static str) -> Key {
    Key {
        name,
        default,
        doc,
        effect,
    }
}

#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    key("api.host", "127.0.0.1", Sets(Text(|c, v| c.api.host = v)),
        "Address or name the API listens on. Another than this machine's own needs api.insecure."),
    key("api.port", "1323", Sets(Integer(0..=65535, |c, v| c.api.port = v as u16)),
        "Port of the API. 0 takes any that is free and writes it to api.address in storage.path."),
    key("api.insecure", "false", Sets(Bool(|c, v| c.api.insecure = v)),
        "Confirms that others may reach the API, which asks nobody for a password."),
    key("api.body_max", "16MiB", Sets(Size(1..=(1 << 30), |c, v| c.api.body_max = v as usize)),
        "Largest body of an invocation."),
    key("api.create_body_max", "128MiB",
        Sets(Size(1..=(1 << 32), |c, v| c.api.create_body_max = v as usize)),
        "Largest body of a registration, which has the code in it."),
    key("api.connections_max", "1000",
        Sets(Integer(1..=MANY, |c, v| c.api.connections_max = v as usize)),
        "Connections to the API at once; more wait to be accepted."),
    key("api.ip", "", NoEffect(FEDERATION),
        "Address that other nodes are told."),

    key("storage.path", "(/var/lib/serverledge for root, else $XDG_DATA_HOME/serverledge)",
        Sets(Path(|c, v| c.storage.path = v)),
        "Directory of functions, code, asynchronous calls and results. One node at a time."),

    key("sandbox.isolation", "auto",
        Sets(Choice(&["auto", "builtin", "process"], |c, v| c.sandbox.isolation = match v {
            "process" => Isolation::Process,
            "builtin" => Isolation::Builtin,
            _ => Isolation::Auto,
        })),
        "How functions are kept apart from the machine and each other. 'process' is not at all."),
    key("sandbox.processes_max", "64",
        Sets(Integer(1..=MANY, |c, v| c.sandbox.processes_max = v as u32)),
        "Processes and threads in a sandbox, beside one for each call it serves at once."),
    key("sandbox.tmp_mb", "64", Sets(Integer(1..=MANY, |c, v| c.sandbox.tmp_mb = v)),
        "Size of a sandbox's own /tmp, MiB. What is in it counts as memory of the function."),
    key("sandbox.start_timeout", "30",
        Sets(Duration(0.001..=3600.0, |c, v| c.sandbox.start_timeout = v)),
        "How long a sandbox may take to start and load its function."),

    key("container.pool.memory", "1024",
        Sets(Integer(1..=(1 << 32), |c, v| c.container.pool_memory_mb = v)),
        "Memory for all sandboxes together, MiB."),
    key("container.pool.cpus", "(the machine's cores)",
        Sets(Number(0.001..=65536.0, |c, v| c.container.pool_cpus = v)),
        "Cores for all sandboxes together."),
    key("container.expiration", "600",
        Sets(Duration(0.0..=YEARS, |c, v| c.container.expiration = v)),
        "How long a sandbox may be idle before it is destroyed."),
    key("janitor.interval", "30", Sets(Duration(0.01..=YEARS, |c, v| c.janitor.interval = v)),
        "How often idle sandboxes, expired results and unused code are looked for."),

    key("scheduler.policy", "default", Sets(Text(|c, v| c.scheduler.policy = v.to_lowercase())),
        "Where calls run. 'default' and 'localonly' run them on this node."),
    key("scheduler.queue.capacity", "0",
        Sets(Integer(0..=MANY, |c, v| c.scheduler.queue_capacity = v as usize)),
        "Calls that may wait for lack of room; further ones are refused."),
    key("scheduler.queue.timeout", "30",
        Sets(Duration(0.0..=YEARS, |c, v| c.scheduler.queue_timeout = v)),
        "How long a call may wait for a sandbox."),
    key("scheduler.wait.capacity", "1000",
        Sets(Integer(0..=MANY, |c, v| c.scheduler.wait_capacity = v as usize)),
        "Calls that may wait because that is faster than starting a sandbox."),
    key("scheduler.starts_max", "16",
        Sets(Integer(1..=MANY, |c, v| c.scheduler.starts_max = v as usize)),
        "Sandboxes being started at once."),
    key("scheduler.fallback.local", "false", NoEffect(FEDERATION),
        "Run a call here if no neighbour suits."),

    key("function.timeout", "60", Sets(Duration(0.001..=YEARS, |c, v| c.function.timeout = v)),
        "How long a call may run if its function has no TimeoutSeconds."),
    key("function.timeout_max", "900",
        Sets(Duration(0.001..=YEARS, |c, v| c.function.timeout_max = v)),
        "The largest TimeoutSeconds that a function may have."),
    key("code.size_max", "256MiB", Sets(Size(0..=(1 << 40), |c, v| c.code.size_max = v)),
        "Size of a function's code, unpacked."),
    key("code.file_size_max", "256MiB",
        Sets(Size(0..=(1 << 40), |c, v| c.code.file_size_max = v)),
        "Size of one file of a function's code, unpacked."),
    key("code.entries_max", "20000",
        Sets(Integer(0..=MANY, |c, v| c.code.entries_max = v as usize)),
        "Files, directories and links of a function's code."),
    key("code.path_max", "1024", Sets(Integer(1..=3072, |c, v| c.code.path_max = v as usize)),
        "Length of a path in a function's code, bytes. The kernel's own limit is 4096."),
    key("code.depth_max", "64", Sets(Integer(1..=1024, |c, v| c.code.depth_max = v as usize)),
        "Names in a path in a function's code: how deep its directories may be."),

    key("async.retention", "1800", Sets(Duration(1.0..=YEARS, |c, v| c.async_calls.retention = v)),
        "How long the result of an asynchronous call is kept."),
    key("async.pending_max", "100000",
        Sets(Integer(1..=MANY, |c, v| c.async_calls.pending_max = v as usize)),
        "Asynchronous calls accepted and not finished; further ones are refused."),
    key("async.concurrency", "64",
        Sets(Integer(1..=MANY, |c, v| c.async_calls.concurrency = v as usize)),
        "Asynchronous calls being run at once."),
    key("async.attempts_max", "5",
        Sets(Integer(1..=MANY, |c, v| c.async_calls.attempts_max = v as u32)),
        "Attempts at an asynchronous call when the node, not the function, fails."),

    key("shutdown.drain", "10", Sets(Duration(0.0..=YEARS, |c, v| c.shutdown.drain = v)),
        "How long running calls may take to end when the node is told to stop."),
    key("log.format", "text", Sets(Choice(&["text", "json"], |c, v| c.log_format = match v {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        })),
        "How log lines are written. What is logged is chosen by the variable RUST_LOG."),

    key("runtime.<name>.language", "", Sets(RuntimeLanguage),
        "Adds a runtime of this language, under a name that functions may give."),
    key("runtime.<name>.path", "", Sets(RuntimePath),
        "Interpreter of a runtime, instead of the language's usual one under /usr/bin."),

    key("registry.area", "ROME", Sets(Text(|c, v| c.registry.area = v)),
        "Area this node is in; shown in replies."),
    key("registry.node.id", "(made at the first start and kept)",
        Sets(Text(|c, v| c.registry.node_id = Some(v).filter(|v| !v.is_empty()))),
        "Key of this node; shown in replies."),
    key("registry.remote.area", "", NoEffect(FEDERATION), "Area of the cloud."),
    key("registry.nearby.interval", "20", NoEffect(FEDERATION),
        "How often peers are asked for their status, seconds."),
    key("registry.monitoring.interval", "30", NoEffect(FEDERATION),
        "How often the registry is read, seconds."),
    key("registry.udp.port", "9876", NoEffect(FEDERATION), "Port where peers ask for the status."),
    key("registry.ttl", "", NoEffect(DEAD), "Documented by the original, which does not have it."),
    key("etcd.address", "", NoEffect("has no effect yet: this version keeps everything in storage.path"),
        "Address of etcd."),
    key("node.architecture", "(the machine's)", NoEffect(FEDERATION),
        "Architecture that other nodes are told."),
    key("offloading.cache.validity", "60", NoEffect(FEDERATION),
        "How long the choice of a neighbour holds, seconds."),
    key("federation.secret", "", NoEffect(FEDERATION), "Secret shared by the nodes."),
    key("cloud.server.url", "", NoEffect(DEAD),
        "Documented by the original, which does not have it."),
    key("factory.images.refresh", "false", NoEffect(IMAGES), "Pull images that are there already."),
    key("cache.size", "100", NoEffect(CACHE), "Entries of the original's metadata cache."),
    key("cache.cleanup", "60", NoEffect(CACHE), "Sweep of the original's metadata cache, seconds."),
    key("cache.expiration", "60", NoEffect(CACHE),
        "Life of an entry of the original's metadata cache, seconds."),

    key("metrics.enabled", "false", NoEffect(METRICS), "Whether metrics are exported."),
    key("metrics.prometheus.host", "127.0.0.1", NoEffect(METRICS), "Prometheus to retrieve from."),
    key("metrics.prometheus.port", "9090", NoEffect(METRICS), "Its port."),
    key("metrics.prometheus.pushgateway.host", "", NoEffect(METRICS), "Gateway to push to."),
    key("metrics.prometheus.pushgateway.port", "9091", NoEffect(METRICS), "Its port."),
    key("metrics.retriever.interval", "60", NoEffect(METRICS),
        "How often metrics are retrieved, seconds."),
    key("metrics.dump.json.file", "", NoEffect(METRICS), "File to write retrieved metrics to."),
    key("metrics.load.json.file", "", NoEffect(METRICS), "File to read metrics from."),
    key("tracing.enabled", "false", NoEffect(TRACING), "Whether traces are written."),
    key("tracing.outfile", "(traces-DATE-TIME.json)", NoEffect(TRACING),
        "File to write traces to."),

    key("lb.replicas", "128", NoEffect(BALANCER), "Points of a node on the hash ring."),
    key("lb.refresh_interval", "30", NoEffect(BALANCER),
        "How often targets are looked up, seconds."),
    key("lb.mode", "RoundRobin", NoEffect(BALANCER), "How the architecture is chosen."),
    key("lb.arch_awareness", "false", NoEffect(BALANCER), "Whether architectures are told apart."),
    key("mab.policy", "UCB1", NoEffect(BALANCER), "Bandit of the mode MAB."),
    key("mab.ucb1.c", "0.8", NoEffect(BALANCER), "Its exploration, UCB1."),
    key("mab.linucb.alpha", "0.1", NoEffect(BALANCER), "Its exploration, LinUCB."),
    key("mab.linucb.lambda", "0.0", NoEffect(BALANCER), "Its regularisation, LinUCB."),
    key("loadbalancer.policy", "", NoEffect(DEAD), "Declared by the original and never read."),
    key("loadbalancer.targets.interval", "", NoEffect(DEAD),
        "Declared by the original and never read."),

    key("workflow.always_save_progress", "false", NoEffect(WORKFLOWS),
        "Whether progress is saved after each task."),
    key("workflow.offloading.policy", "disable", NoEffect(WORKFLOWS), "Where tasks run."),
    key("workflow.offloading.policy.optimizer.host", "localhost", NoEffect(WORKFLOWS),
        "Optimiser of the policy ilp."),
    key("workflow.offloading.policy.optimizer.port", "8080", NoEffect(WORKFLOWS), "Its port."),
    key("workflow.offloading.policy.ilp.placement.ttl", "2", NoEffect(WORKFLOWS),
        "Invocations for which a placement holds."),
    key("workflow.offloading.policy.ilp.obj.violations", "0.3", NoEffect(WORKFLOWS),
        "Weight of violated deadlines."),
    key("workflow.offloading.policy.ilp.obj.data", "0.3", NoEffect(WORKFLOWS),
        "Weight of data moved."),
    key("workflow.offloading.policy.ilp.obj.cost", "0.3", NoEffect(WORKFLOWS), "Weight of money."),
    key("workflow.offloading.policy.ilp.obj.reclaimed", "0.1", NoEffect(WORKFLOWS),
        "Weight of memory reclaimed."),
    key("workflow.offloading.policy.region.cost.<name>", "", NoEffect(WORKFLOWS),
        "Cost of a region."),
    key("workflow.offloading.policy.node2datastore.bandwidth", "40", NoEffect(WORKFLOWS),
        "Bandwidth of a node to its data store."),
    key("workflow.offloading.policy.cloud2datastore.bandwidth", "1000", NoEffect(WORKFLOWS),
        "Bandwidth of the cloud to its data store."),
    key("workflow.offloading.policy.threshold", "0.75", NoEffect(WORKFLOWS),
        "Load from which tasks are offloaded."),
    key("workflow.offloading.policy.threshold.offloaded.max", "5", NoEffect(WORKFLOWS),
        "Tasks offloaded together."),
    key("workflow.profiling.saveinput", "false", NoEffect(WORKFLOWS),
        "Whether inputs of tasks are saved."),
];
