//! The fleet: who is in it, which functions it has, and where results are, by way of etcd. Without
//! one, nodes tell each other who is there (`gossip`), and a function goes along with the call that
//! needs it (`copies`).
//!
//! Everything that calls need is in memory and follows etcd's watches, so that nothing here is on
//! the path of a call of a known function, and an etcd that is away stops nobody: what is known
//! stays, what can wait waits, and all is caught up with when etcd is back. What can't be done
//! without it is to change functions: an acknowledged change is known to the fleet.

mod ask;
pub(crate) mod code;
pub(crate) mod copies;
mod datagram;
pub(crate) mod etcd;
mod follow;
pub(crate) mod forward;
mod functions;
mod gossip;
mod member;
mod mirror;
pub(crate) mod offload;
mod peers;
mod places;
mod question;
mod registration;
mod results;
pub(crate) mod route;
mod seal;
pub(crate) mod seat;
mod signature;
mod targets;
pub(crate) mod tls;
mod workflows;

use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use hyper::header::HeaderMap;
use serverledge_core::policy::Policy;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

pub use self::code::PullError;
use self::code::Transfers;
use self::copies::Copies;
use self::etcd::{Etcd, EtcdError, Values};
pub(crate) use self::follow::Change;
use self::gossip::{Gossip, Inbox};
pub use self::member::{Member, Members};
use self::mirror::Kind as _;
pub use self::mirror::ShareError;
use self::offload::Offloader;
pub use self::peers::{Near, Peers};
use self::question::Protocol;
use self::results::Outbox;
use self::seal::Secret;
pub(crate) use self::targets::Place;
pub use self::tls::TlsError;
use crate::catalog::{Function, FunctionRecord};
use crate::config::Config;
use crate::node::Node;
use crate::workflows::definition::{Record, Workflow};
use crate::workflows::takeover;

/// How long a start waits for etcd to tell which functions there are.
const FIRST_READ_MAX: Duration = Duration::from_secs(3);

/// How long a stop waits for results to be sent.
const LAST_RESULTS_MAX: Duration = Duration::from_secs(2);

/// Changes on their way to where they belong.
const CHANGES_MAX: usize = 64;

/// What a node with `etcd.address` or `federation.peers` has.
pub struct Federation {
    /// `None`: there is no registry, and nodes gossip.
    etcd: Option<Arc<Etcd>>,
    members: Members,
    peers: Peers,
    /// What the nodes of the fleet share, if they do.
    secret: Option<Secret>,
    protocol: Protocol,
    outbox: Outbox,
    offloader: Offloader,
    pub(crate) transfers: Transfers,
    /// Functions of others, where there is no registry.
    pub(crate) copies: Copies,
    policy: Option<&'static dyn Policy>,
    /// Calls sent on, to share them among equals.
    turn: AtomicU64,
}

/// Tasks of a running node.
pub(crate) struct Running {
    node: Arc<Node>,
    registration: AbortOnDropHandle<()>,
    leaving: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Federation {
    /// `None` without `etcd.address` and `federation.peers`. Connects to nothing yet.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, TlsError> {
        if !config.is_in_fleet() {
            return Ok(None);
        }
        let etcd = match config.etcd.endpoints.is_empty() {
            true => None,
            false => Some(Arc::new(Etcd::new(&config.etcd)?)),
        };
        let secret = config.federation.secret.as_ref();
        let secret = secret.map(|secret| Secret::new(&secret.0));
        let protocol = Protocol::new(secret.clone());
        Ok(Some(Self {
            etcd,
            members: Members::default(),
            peers: Peers::new(protocol.question_bytes()),
            offloader: Offloader::new(secret.clone()),
            secret,
            protocol,
            outbox: Outbox::default(),
            policy: Self::policy_of(config),
            transfers: Transfers::new(),
            copies: Copies::default(),
            turn: AtomicU64::new(0),
        }))
    }

    fn seed(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Who is in the fleet, as far as is known.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Where the fleet's data are; `None` in a fleet that has no registry.
    pub(crate) fn etcd(&self) -> Option<&Arc<Etcd>> {
        self.etcd.as_ref()
    }

    /// How the others are, as far as is known.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Whether to believe what a request says of the way that it has come: from another node, if the
    /// nodes share a secret.
    pub(crate) fn is_trusted(
        &self,
        (method, path): (&Method, &str),
        headers: &HeaderMap,
        body: &[u8],
    ) -> bool {
        let Some(secret) = &self.secret else {
            return true;
        };
        signature::is_signed(secret, (method, path), headers, body, unix_micros())
    }

    /// Puts a function into etcd; its revision since. Without etcd it is this node's alone.
    pub(crate) async fn share(
        &self,
        node: &Arc<Node>,
        record: &FunctionRecord,
        new: bool,
    ) -> Result<Option<u64>, ShareError> {
        let Some(etcd) = &self.etcd else {
            return Ok(None);
        };
        let value = functions::value(node, record).await?;
        let shared = mirror::put::<Function>(etcd, &record.name, value, new).await;
        shared.map(Some)
    }

    /// Removes a function from etcd.
    pub(crate) async fn withdraw(&self, name: &str) -> Result<(), EtcdError> {
        match &self.etcd {
            Some(etcd) => mirror::delete::<Function>(etcd, name).await,
            None => Ok(()),
        }
    }

    /// Takes over a function that this node doesn't know, if the fleet does.
    pub(crate) async fn fetch_function(&self, node: &Arc<Node>, name: &str) {
        if let Some(etcd) = &self.etcd {
            // An error has been logged, once, by who met it first.
            let _ = mirror::fetch::<Function>(etcd, node, name).await;
        }
    }

    /// Puts a workflow into etcd; its revision since. Without etcd it is this node's alone.
    pub(crate) async fn share_workflow(
        &self,
        node: &Node,
        record: &Record,
        new: bool,
    ) -> Result<Option<u64>, ShareError> {
        let Some(etcd) = &self.etcd else {
            return Ok(None);
        };
        let value = workflows::value(node, record);
        let shared = mirror::put::<Workflow>(etcd, &record.name, value, new).await;
        shared.map(Some)
    }

    /// Removes a workflow from etcd.
    pub(crate) async fn withdraw_workflow(&self, name: &str) -> Result<(), EtcdError> {
        match &self.etcd {
            Some(etcd) => mirror::delete::<Workflow>(etcd, name).await,
            None => Ok(()),
        }
    }

    /// Takes over a workflow that this node doesn't know, if the fleet does.
    pub(crate) async fn fetch_workflow(&self, node: &Arc<Node>, name: &str) {
        if let Some(etcd) = &self.etcd {
            // An error has been logged, once, by who met it first.
            let _ = mirror::fetch::<Workflow>(etcd, node, name).await;
        }
    }

    /// Lets the fleet have the result of the call `id`, which is in the store, soon. Without etcd it is
    /// found where the call was accepted.
    pub(crate) fn share_result(&self, id: &str) {
        if self.etcd.is_some() {
            self.outbox.add(id);
        }
    }

    /// The result of a call that some node has run.
    pub(crate) async fn find_result(&self, id: &str) -> Result<Option<Vec<u8>>, EtcdError> {
        match &self.etcd {
            Some(etcd) => results::find(etcd, id).await,
            None => Ok(None),
        }
    }
}

/// Joins the fleet with the API at `address`, if the node is to be in one. The functions of the
/// fleet are known when this returns, if there is an etcd and it answers.
pub(crate) async fn start(node: &Arc<Node>, address: SocketAddr) -> Option<Running> {
    let federation = node.federation.as_ref()?;
    let mut tasks = JoinSet::new();
    if let Some(etcd) = &federation.etcd {
        follow_etcd(node, etcd, &mut tasks).await;
    }
    let mut entry = own_entry(node, address);
    let own = question::id(&entry.path());
    let socket = datagram::bind(address.ip(), entry.udp_port).await;
    let socket = socket.map(Arc::new);
    if let Some(socket) = &socket {
        // With port 0, the one that it got.
        entry.udp_port = socket.local_addr().map_or(entry.udp_port, |it| it.port());
    }
    let leaving = CancellationToken::new();
    let (inbox, registration) = match (&federation.etcd, &socket) {
        (Some(etcd), _) => {
            let kept = registration::keep(Arc::clone(etcd), entry, leaving.clone());
            (None, tokio::spawn(kept))
        }
        (None, Some(socket)) => {
            let (inbox, kept) = gossiping(node, entry, Arc::clone(socket), leaving.clone());
            (Some(inbox), tokio::spawn(kept))
        }
        (None, None) => {
            error!("without its port (registry.udp.port) this node can't be in a fleet");
            (None, tokio::spawn(async {}))
        }
    };
    if let Some(socket) = socket {
        tasks.spawn(datagram::serve(Arc::clone(node), own, socket, inbox));
    }
    tasks.spawn(crate::qos::keep_planning(Arc::clone(node)));
    tasks.spawn(ask::ask(Arc::clone(node), own, address.ip()));
    Some(Running {
        node: Arc::clone(node),
        registration: AbortOnDropHandle::new(registration),
        leaving,
        _tasks: tasks,
    })
}

/// Lets this node know what etcd has, from now on.
async fn follow_etcd(node: &Arc<Node>, etcd: &Arc<Etcd>, tasks: &mut JoinSet<()>) {
    let refresh = node.config.registry.monitoring_interval;
    let mut follow = |prefix, values| {
        let (sender, receiver) = mpsc::channel(CHANGES_MAX);
        let etcd = Arc::clone(etcd);
        tasks.spawn(follow::follow(etcd, prefix, values, refresh, sender));
        receiver
    };
    let functions = follow(Function::PREFIX, Values::Left);
    let workflows = follow(Workflow::PREFIX, Values::Left);
    let mut members = follow(member::PREFIX, Values::Included);
    let owners = node.workflows.takeover.as_ref();
    let owners = owners.map(|_| follow(takeover::NODES, Values::Included));
    if let Some(owners) = owners {
        takeover::start(node, owners, tasks);
    }
    let (told, mut read) = watch::channel(false);
    let (this, asked) = (Arc::clone(node), Arc::clone(etcd));
    tasks.spawn(mirror::mirror::<Function>(this, asked, functions, told));
    let (this, asked) = (Arc::clone(node), Arc::clone(etcd));
    let (told, _) = watch::channel(false);
    tasks.spawn(mirror::mirror::<Workflow>(this, asked, workflows, told));
    let this = Arc::clone(node);
    tasks.spawn(async move {
        while let (Some(change), Some(federation)) = (members.recv().await, &this.federation) {
            federation.members.change(change);
        }
    });
    let (this, etcd) = (Arc::clone(node), Arc::clone(etcd));
    tasks.spawn(async move {
        if let Some(federation) = &this.federation {
            let retention = this.config.async_calls.retention;
            federation.outbox.send(&etcd, &this.store, retention).await;
        }
    });
    if tokio::time::timeout(FIRST_READ_MAX, read.wait_for(|read| *read))
        .await
        .is_err()
    {
        warn!("etcd doesn't tell which functions there are; starting with those known");
    }
    crate::objects::codes::keep_all(node, functions::ARCHIVE_MAX as u64);
}

/// What keeps this node known to the others, as `entry`, where there is no etcd, and where it gets
/// what they say.
fn gossiping(
    node: &Arc<Node>,
    entry: Member,
    socket: Arc<UdpSocket>,
    leaving: CancellationToken,
) -> (Inbox, impl Future<Output = ()> + use<>) {
    let node = Arc::clone(node);
    let secret = node.federation.as_ref().and_then(|it| it.secret.clone());
    let (inbox, incoming) = Inbox::new(secret.clone());
    let kept = async move {
        let Some(federation) = &node.federation else {
            return;
        };
        federation.offloader.tell_functions_of(&entry.path());
        let gossip = Gossip {
            own: entry,
            members: &federation.members,
            peers: &node.config.federation.peers,
            secret,
            socket,
        };
        gossip.run(incoming, leaving).await;
    };
    (inbox, kept)
}

impl Running {
    /// Begins to leave: others are told to send no more calls.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }

    /// Ends everything, after a moment for results that are on their way.
    pub(crate) async fn stop(self) {
        self.leave();
        let outbox = self.node.federation.as_ref().map(|it| &it.outbox);
        let sent = async {
            while outbox.is_some_and(|outbox| !outbox.is_empty()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = self.registration.await;
        };
        let _ = tokio::time::timeout(LAST_RESULTS_MAX, sent).await;
    }
}

/// What others are told of this node.
fn own_entry(node: &Node, address: SocketAddr) -> Member {
    let config = &node.config;
    let host = match &config.api.ip {
        Some(ip) => ip.clone(),
        None if address.ip().is_unspecified() => outbound_address(),
        None => address.ip().to_string(),
    };
    Member {
        key: node.identity.key.clone(),
        area: node.identity.area.clone(),
        is_balancer: false,
        host,
        api_port: address.port(),
        udp_port: config.registry.udp_port,
        architecture: node.identity.architecture.to_owned(),
    }
}

/// Microseconds since 1970.
fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// This machine's address on the way to the world. Nothing is sent to find it.
fn outbound_address() -> String {
    let connected = net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    connected.map_or("127.0.0.1".into(), |address| address.ip().to_string())
}
