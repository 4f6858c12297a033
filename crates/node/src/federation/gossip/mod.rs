//! Who is in the fleet, without a registry: nodes tell each other (`federation.peers`).
//!
//! A node knows of some addresses, its peers, says at each who it is, and is told who else is there.
//! From then on all ask each other, one a second, and news spread with that. What a member is told to
//! be is what a registry would say of it, and ends in the same list ([`super::Members`]). Messages
//! share the port of the status. See `docs/decisions/0025-membership-by-gossip.md`.

mod seen;
mod swim;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::seen::Seen;
use self::swim::{Sent, Swim};
use self::wire::Sealer;
pub(super) use self::wire::{DATAGRAM_MAX, MAGIC};
use super::member::{Member, Members};
use super::seal::Secret;
use super::unix_micros;

/// Datagrams that wait to be looked at; more are dropped, as by a network.
const WAITING_MAX: usize = 256;

/// Datagrams that are taken a second where nobody can prove to be a node.
const PLAIN_MAX: u32 = 1000;

/// How often peers are told of this node: all of them, while it knows nobody that lives; then one
/// after the other of those that are not on the list, so that two parts of a fleet that know nothing
/// of each other find together.
const LONELY_PERIOD: Duration = Duration::from_millis(500);
const PEER_PERIOD: Duration = Duration::from_secs(5);

/// Longer by this for each member: what a peer is told that calls itself something else than it is
/// called here stays bounded.
const PEER_PERIOD_EACH: Duration = Duration::from_millis(250);

/// How long looking up a name may take, how many are looked up at once, and how many addresses of one
/// are used.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);
const LOOKUPS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 8;

/// How long the address of a member's name is taken to be the same.
const ADDRESS_AGE_MAX: Duration = Duration::from_secs(30);

/// After an error of the socket, such as one that an earlier message met.
const PAUSE: Duration = Duration::from_millis(10);

/// Good-byes, in case one is lost, and what is between them.
const GOODBYES: usize = 3;
const GOODBYE_PERIOD: Duration = Duration::from_millis(30);

/// How often a node that lives may be declared dead before somebody should look at why.
const REVIVALS_MAX: u64 = 10;

/// Where datagrams are handed in.
#[derive(Debug)]
pub(super) struct Inbox {
    secret: Option<Secret>,
    queue: mpsc::Sender<Vec<u8>>,
    /// The second, and what was taken in it.
    second: AtomicU64,
    taken: AtomicU32,
}

impl Inbox {
    /// Of a fleet with this secret, if it has one; and what comes in.
    pub(super) fn new(secret: Option<Secret>) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (queue, incoming) = mpsc::channel(WAITING_MAX);
        let inbox = Self {
            secret,
            queue,
            second: AtomicU64::new(0),
            taken: AtomicU32::new(0),
        };
        (inbox, incoming)
    }

    /// Takes a datagram, if it is by who has the secret, so that what isn't is in nobody's way.
    pub(super) fn offer(&self, datagram: &[u8]) {
        let now = unix_micros();
        if self.secret.is_none() && !self.is_allowed(now / 1_000_000) {
            return;
        }
        if wire::open(self.secret.as_ref(), datagram, now).is_some() {
            // Full: it is as if it were lost on its way.
            let _ = self.queue.try_send(datagram.to_vec());
        }
    }

    fn is_allowed(&self, second: u64) -> bool {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.taken.store(0, Ordering::Relaxed);
        }
        self.taken.fetch_add(1, Ordering::Relaxed) < PLAIN_MAX
    }
}

/// Who gossips, as whom, and with whom to begin.
pub(super) struct Gossip<'a> {
    pub(super) own: Member,
    pub(super) members: &'a Members,
    /// `host:port` each.
    pub(super) peers: &'a [String],
    pub(super) secret: Option<Secret>,
    pub(super) socket: Arc<UdpSocket>,
}

impl Gossip<'_> {
    /// Gossips until `leaving` is cancelled, and says good-bye then.
    pub(super) async fn run(self, incoming: mpsc::Receiver<Vec<u8>>, leaving: CancellationToken) {
        info!(member = self.own.path(), peers = ?self.peers, "no registry: gossiping");
        if self.secret.is_none() {
            warn!(
                "without federation.secret, whoever reaches the port of the status can say to be a \
                 node: for closed networks only"
            );
        }
        let (found, lookups) = mpsc::channel(LOOKUPS_MAX);
        let seed = unix_micros() ^ u64::from(std::process::id()) << 48;
        let mut shell = Shell {
            swim: Swim::new(Arc::new(self.own.clone()), unix_micros(), seed),
            sealer: Sealer::new(self.secret.clone()),
            seen: Seen::default(),
            began: Instant::now(),
            next_peer: 0,
            addresses: BTreeMap::new(),
            asking: BTreeSet::new(),
            looking: JoinSet::new(),
            found,
            revivals_told: 0,
            gossip: self,
        };
        let mut kept = Box::pin(shell.keep(incoming, lookups));
        let _: Option<()> = leaving.run_until_cancelled(&mut kept).await;
        drop(kept);
        shell.leave().await;
    }
}

/// Gossips as `own` from a socket at `address`, for who tells no status there, until `leaving` is
/// cancelled.
pub(super) async fn take_part(
    mut own: Member,
    members: &Members,
    peers: &[String],
    secret: Option<Secret>,
    address: SocketAddr,
    leaving: CancellationToken,
) {
    let Some(socket) = super::datagram::bind(address.ip(), address.port()).await else {
        error!("without its port (registry.udp.port) this can't be in a fleet");
        return;
    };
    own.udp_port = socket.local_addr().map_or(own.udp_port, |it| it.port());
    let socket = Arc::new(socket);
    let (inbox, incoming) = Inbox::new(secret.clone());
    let gossip = Gossip {
        own,
        members,
        peers,
        secret,
        socket: Arc::clone(&socket),
    };
    let heard = async {
        let mut received = [0; DATAGRAM_MAX + 1];
        loop {
            match socket.recv_from(&mut received).await {
                Ok((length, _)) => inbox.offer(&received[..length]),
                Err(error) => {
                    debug!(%error, "gossip: no datagram received");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = gossip.run(incoming, leaving) => {}
        () = heard => {}
    }
}

/// Until peers are told again, by a node that knows so many others.
fn peer_period(others: usize) -> Duration {
    match others {
        0 => LONELY_PERIOD,
        others => PEER_PERIOD + PEER_PERIOD_EACH * u32::try_from(others).unwrap_or(u32::MAX),
    }
}

/// What a name was looked up for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    /// To tell a peer of this node.
    Peer(String),
    /// To know where a member is.
    Member(String, u16),
}

struct Shell<'a> {
    gossip: Gossip<'a>,
    swim: Swim,
    sealer: Sealer,
    seen: Seen,
    began: Instant,
    /// Of the peers, the one that is told next.
    next_peer: usize,
    /// Of members with names, and since when.
    addresses: BTreeMap<(String, u16), (SocketAddr, Instant)>,
    /// What is being looked up.
    asking: BTreeSet<Wanted>,
    looking: JoinSet<()>,
    found: mpsc::Sender<(Wanted, Vec<SocketAddr>)>,
    revivals_told: u64,
}

impl Shell<'_> {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn keep(
        &mut self,
        mut incoming: mpsc::Receiver<Vec<u8>>,
        mut lookups: mpsc::Receiver<(Wanted, Vec<SocketAddr>)>,
    ) {
        let mut tell_peers = Duration::ZERO;
        loop {
            let now = self.now();
            if now >= tell_peers {
                let is_lonely = self.swim.is_lonely();
                self.tell_peers(is_lonely).await;
                tell_peers = now + peer_period(self.swim.others());
            }
            if let Err(error) = self.swim.tick(now) {
                debug!(%error, "gossip: not done");
            }
            self.flush().await;
            let due = self.swim.due().min(tell_peers).saturating_sub(self.now());
            tokio::select! {
                Some(datagram) = incoming.recv() => self.hear(&datagram),
                Some((wanted, addresses)) = lookups.recv() => self.locate(wanted, addresses).await,
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    fn hear(&mut self, datagram: &[u8]) {
        let (now, secret) = (unix_micros(), self.gossip.secret.as_ref());
        let Some((number, message)) = wire::open(secret, datagram, now) else {
            return;
        };
        if secret.is_some()
            && !wire::sender(message).is_some_and(|sender| self.seen.is_new(sender, number, now))
        {
            debug!("gossip: a datagram that was here before");
            return;
        }
        if let Err(error) = self.swim.receive(message, self.now()) {
            debug!(%error, "gossip: a datagram that can't be used");
        }
    }

    /// Sends what there is to be sent, and lets the node see who is there.
    async fn flush(&mut self) {
        for Sent { to, message } in self.swim.take_sent() {
            if let Some(address) = self.address(&to) {
                self.send(&message, address).await;
            }
        }
        if let Some(members) = self.swim.take_members() {
            debug!(members = members.len(), "gossip: somebody has come or gone");
            self.gossip.members.replace(members);
        }
        let revivals = self.swim.revivals();
        if revivals >= self.revivals_told + REVIVALS_MAX {
            self.revivals_told = revivals;
            warn!(
                revivals,
                "this node was declared dead again and again: the network to it is bad, or another \
                 node has the same area and registry.node.id"
            );
        }
    }

    async fn send(&mut self, message: &[u8], address: SocketAddr) {
        let datagram = self.sealer.seal(message, unix_micros());
        if let Err(error) = self.gossip.socket.send_to(&datagram, address).await {
            debug!(%address, %error, "gossip: not sent");
        }
    }

    /// Says to peers that this node is there.
    async fn tell_peers(&mut self, all: bool) {
        let peers = self.gossip.peers;
        let count = if all { peers.len() } else { 1 };
        for _ in 0..count.min(peers.len()) {
            let peer = &peers[self.next_peer % peers.len()];
            self.next_peer = (self.next_peer + 1) % peers.len();
            match peer.parse::<SocketAddr>() {
                Ok(address) => self.announce(address).await,
                Err(_) if self.knows(peer) => {}
                // Names are looked up each time: they move.
                Err(_) => self.look_up(Wanted::Peer(peer.clone())),
            }
        }
    }

    /// Whether a peer is a member under the name by which it is called here.
    fn knows(&self, peer: &str) -> bool {
        let parts = peer.rsplit_once(':');
        let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        parts.is_some_and(|(host, port)| self.swim.knows(host, port))
    }

    /// Says at an address that this node is there, unless who is there knows.
    async fn announce(&mut self, address: SocketAddr) {
        if self.swim.knows(&address.ip().to_string(), address.port()) {
            return;
        }
        let announcement = self.swim.announcement();
        self.send(&announcement, address).await;
    }

    /// Where a member is; `None` if that has to be looked up first. What was to be sent is lost then,
    /// as by a network.
    fn address(&mut self, member: &Member) -> Option<SocketAddr> {
        if let Ok(ip) = member.host.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, member.udp_port));
        }
        let name = (member.host.clone(), member.udp_port);
        let known = self.addresses.get(&name).copied();
        if known.is_none_or(|(_, since)| since.elapsed() > ADDRESS_AGE_MAX) {
            self.look_up(Wanted::Member(name.0, name.1));
        }
        known.map(|(address, _)| address)
    }

    fn look_up(&mut self, wanted: Wanted) {
        while self.looking.try_join_next().is_some() {}
        if self.asking.len() >= LOOKUPS_MAX || !self.asking.insert(wanted.clone()) {
            return;
        }
        let found = self.found.clone();
        let is_ipv4 = self.gossip.socket.local_addr().is_ok_and(|it| it.is_ipv4());
        self.looking.spawn(async move {
            let looked = async {
                let addresses: Vec<SocketAddr> = match &wanted {
                    Wanted::Peer(peer) => lookup_host(peer.as_str()).await?.collect(),
                    Wanted::Member(host, port) => {
                        lookup_host((host.as_str(), *port)).await?.collect()
                    }
                };
                Ok::<_, std::io::Error>(addresses)
            };
            let mut addresses = match timeout(LOOKUP_TIME_MAX, looked).await {
                Ok(Ok(addresses)) => addresses,
                _ => {
                    debug!(?wanted, "gossip: a name could not be looked up");
                    Vec::new()
                }
            };
            addresses.retain(|address| address.is_ipv4() == is_ipv4);
            addresses.truncate(ADDRESSES_MAX);
            let _ = found.send((wanted, addresses)).await;
        });
    }

    async fn locate(&mut self, wanted: Wanted, addresses: Vec<SocketAddr>) {
        self.asking.remove(&wanted);
        match wanted {
            Wanted::Peer(_) => {
                for address in addresses {
                    self.announce(address).await;
                }
            }
            Wanted::Member(host, port) => {
                let fresh = |(_, since): &(SocketAddr, Instant)| since.elapsed() < ADDRESS_AGE_MAX;
                if self.addresses.len() >= swim::MEMBERS_MAX {
                    self.addresses.retain(|_, known| fresh(known));
                }
                if let Some(address) = addresses.first().filter(|_| {
                    self.addresses.len() < swim::MEMBERS_MAX
                        || self.addresses.contains_key(&(host.clone(), port))
                }) {
                    let known = (*address, Instant::now());
                    self.addresses.insert((host, port), known);
                }
            }
        }
    }

    async fn leave(&mut self) {
        for _ in 0..GOODBYES {
            let now = self.now();
            if let Err(error) = self.swim.leave(now) {
                debug!(%error, "gossip: no good-bye");
            }
            for Sent { to, message } in self.swim.take_sent() {
                if let Some(address) = self.address(&to) {
                    self.send(&message, address).await;
                }
            }
            tokio::time::sleep(GOODBYE_PERIOD).await;
        }
    }
}
