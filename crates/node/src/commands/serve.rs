//! `serverledge [CONFIG]`: runs a node until it is told to stop.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serverledge::config::{Config, Files, LogFormat};
use serverledge::node::Node;
use serverledge_core::Ipv4Network;
use tokio::net::{TcpListener, lookup_host};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::backend;

/// Loads the configuration and runs a node in the foreground.
pub(crate) fn run(files: Files<'_>) -> anyhow::Result<()> {
    let (config, warnings) = Config::load(files, environment(), &search_dirs())?;
    init_logging(config.log_format);
    for warning in warnings {
        warn!("{warning}");
    }
    raise_descriptor_limit();
    runtime()?.block_on(async {
        let listener = listen(&config).await?;
        let (_, stop) = stop_signals()?;
        serve(config, listener, stop).await
    })
}

/// Builds the node on the machine's isolation and serves until `stop` has a message.
pub(crate) async fn serve(
    mut config: Config,
    listener: TcpListener,
    stop: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    deny_etcd(&mut config).await;
    let store = Node::open_store(&config)?;
    let backend = backend::start(&config).await?;
    let (node, queue) = Node::build(config, store, backend)?;
    node.run(listener, queue, stop).await
}

/// How long looking up an endpoint of etcd may take at the start.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(3);

/// Adds the addresses that etcd has now to those that no function reaches, whatever makes the
/// sandboxes: it knows all of every node, and may change it.
async fn deny_etcd(config: &mut Config) {
    for endpoint in config.etcd.addresses() {
        let looked = tokio::time::timeout(LOOKUP_TIME_MAX, lookup_host(endpoint)).await;
        let Ok(Ok(found)) = looked else {
            warn!(
                endpoint,
                "the address of etcd can't be found out: functions may reach it, unless network.deny \
                 names it"
            );
            continue;
        };
        // Sandboxes have no IPv6.
        let found = found.filter_map(|address| match address.ip() {
            IpAddr::V4(address) => Ipv4Network::new(address, 32),
            IpAddr::V6(_) => None,
        });
        config.network.deny.extend(found);
    }
}

/// The listener of the API.
pub(crate) async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = (config.api.host.as_str(), config.api.port);
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "listening on {}:{} (is another node running? api.port chooses another port)",
            address.0, address.1
        )
    })
}

/// A message at each SIGINT and SIGTERM, and the sender for other reasons to stop.
pub(crate) fn stop_signals() -> anyhow::Result<(mpsc::Sender<()>, mpsc::Receiver<()>)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, stop) = mpsc::channel(2);
    let signals = sender.clone();
    tokio::spawn(async move {
        let effects = [
            "finishing what runs (again: stop at once)",
            "stopping at once",
        ];
        for effect in effects {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            info!("{name}: {effect}");
            let _ = signals.send(()).await;
        }
        // Further signals change nothing.
        std::future::pending::<()>().await;
    });
    Ok((sender, stop))
}

/// The async runtime. Few threads: the functions need the cores more than the node does.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads((cores / 2).max(1)).enable_all();
    builder.build().context("starting the async runtime")
}

/// Logs on standard error; `RUST_LOG` chooses what.
pub(crate) fn init_logging(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match format {
        LogFormat::Text => builder.with_target(false).with_ansi(colour).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// The environment, as far as it is text.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.into_string().ok();
    std::env::vars_os().filter_map(move |(key, value)| Some((text(key)?, text(value)?)))
}

/// Connections and sandboxes take several descriptors each; shells give programs 1024.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files could not be raised");
    }
}

/// Where a configuration is looked for.
pub(crate) fn search_dirs() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    [Some("/etc/serverledge".into()), home, Some(".".into())]
        .into_iter()
        .flatten()
        .collect()
}
