//! The load balancer: `serverledge lb`. Clients talk to it as to a node; it passes their requests on
//! to the nodes of its area.
//!
//! Which node gets a request is decided in `core::balancer`. Here are the connections, what is
//! passed on and back, who the nodes are, and whether they answer. Nothing of a body is kept, except
//! of changes that must reach nodes that know nothing of each other (`change`).

mod body;
mod change;
mod error;
mod headers;
mod link;
mod metrics;
mod pages;
mod patient;
mod probe;
mod proxy;
mod reply;
mod router;
mod targets;

use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::header::HeaderValue;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use self::patient::Patient;
use self::router::Router;
use crate::config::{self, Config};
use crate::federation::seat::{News, Seat};

/// How long the head of a request may take to arrive, and a connection may be idle.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Largest head of a request, and what is read of a body at once, bytes.
const BUFFER_MAX: usize = 64 << 10;

/// Pause after a failed accept: the usual reason is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How long requests that are cut short have to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all requests share.
struct Shared {
    config: config::Balancer,
    body_max: u64,
    create_body_max: u64,
    router: Arc<Router>,
    /// Whether there is no etcd, so that nodes know nothing of each other.
    is_alone: bool,
    /// Who this is, for others and for itself to know its own messages by.
    name: String,
    via: HeaderValue,
    inflight: AtomicUsize,
    changes: Semaphore,
}

/// A load balancer.
pub struct Balancer {
    config: Config,
    shared: Arc<Shared>,
    seat: Option<Seat>,
}

impl Balancer {
    /// Connects to nothing yet.
    pub fn build(config: Config) -> anyhow::Result<Self> {
        let seat = Seat::new(&config).context("preparing to ask etcd")?;
        if seat.is_none() && config.balancer.targets.is_empty() {
            bail!(
                "there is nobody to send requests to: set etcd.address or federation.peers, or \
                 lb.targets to the nodes' host:port"
            );
        }
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .context("reading /dev/urandom")?;
        let (key, seed) = random.split_at(8);
        let made = || format!("lb-{}", hex::encode(key));
        let name = config.registry.node_id.clone().unwrap_or_else(made);
        let via = HeaderValue::try_from(format!("1.1 {name}"))
            .ok()
            .filter(|_| !name.contains([' ', ',']))
            .with_context(|| format!("registry.node.id: '{name}' can't be part of a header"))?;
        let rules = config.balancer.rules(config.function.timeout);
        let seed = seed
            .iter()
            .fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let shared = Shared {
            body_max: config.api.body_max as u64,
            create_body_max: config.api.create_body_max as u64,
            config: config.balancer.clone(),
            router: Arc::new(Router::new(rules, seed)),
            is_alone: seat.as_ref().is_none_or(Seat::is_without_registry),
            name,
            via,
            inflight: AtomicUsize::new(0),
            changes: Semaphore::new(change::AT_ONCE),
        };
        Ok(Self {
            config,
            shared: Arc::new(shared),
            seat,
        })
    }

    /// Serves until `stop` has a message, and lets what is under way end. Another message cuts that
    /// short, as `shutdown.drain` does.
    pub async fn run(
        mut self,
        listener: TcpListener,
        mut stop: mpsc::Receiver<()>,
    ) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        let members = self.seat.as_mut().map(Seat::members);
        if let Some(seat) = &mut self.seat {
            let router = Arc::clone(&self.shared.router);
            seat.functions(move |news| match news {
                News::Known(spec) => router.know(&spec),
                News::Gone(name) => router.forget(&name),
            });
        }
        let _targets = targets::follow(&self.config, &self.shared.router, members).await;
        let seat = self.seat.as_ref();
        let name = &self.shared.name;
        let entered = seat.map(|seat| seat.enter(&self.config, name, address));
        self.publish_address(address);
        info!(%address, balancer = name, "ready");

        let told_to_stop = async {
            stop.recv().await;
        };
        let requests = self.serve(listener, told_to_stop).await;
        if let Some(entered) = entered {
            entered.leave().await;
        }
        let mut ended = std::pin::pin!(requests.shutdown());
        let drain = self.config.shutdown.drain;
        tokio::select! {
            () = &mut ended => {}
            Some(()) = stop.recv() => {}
            () = tokio::time::sleep(drain) => {
                warn!("requests still under way after {drain:?} (shutdown.drain) are cut short");
                let _ = tokio::time::timeout(LAST_WORDS, ended).await;
            }
        }
        let _ = std::fs::remove_file(self.address_file());
        info!("stopped");
        Ok(())
    }

    async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> GracefulShutdown {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(self.config.api.connections_max));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // Above the limit, clients wait in the listener's backlog.
            let accepted = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = graceful.watch(connection(Arc::clone(&self.shared), stream));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(error = crate::chain(&error), "connection ended");
                }
                drop(permit);
            });
        }
        graceful
    }

    /// Tells people and scripts where it listens, which matters with `api.port: 0`.
    fn publish_address(&self, address: SocketAddr) {
        let file = self.address_file();
        let temporary = file.with_extension("new");
        let written = std::fs::create_dir_all(&self.config.storage.path)
            .and_then(|()| std::fs::write(&temporary, format!("{address}\n")))
            .and_then(|()| std::fs::rename(&temporary, &file));
        if let Err(error) = written {
            warn!(file = %file.display(), %error, "the balancer's address could not be written");
        }
    }

    /// Not the node's, which may keep its data in the same place.
    fn address_file(&self) -> PathBuf {
        self.config.storage.path.join("lb.address")
    }
}

fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
) -> impl GracefulConnection<Error = hyper::Error> {
    // Answers are passed on as they come; waiting to fill a segment only adds latency.
    let _ = stream.set_nodelay(true);
    let stream = Patient::new(stream, shared.config.stall_timeout);
    let service = hyper::service::service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(proxy::handle(&shared, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        // As nodes do: a client may have nothing more to send and wait for the answer.
        .half_close(true)
        .max_buf_size(BUFFER_MAX)
        .max_header_size(BUFFER_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service)
}
