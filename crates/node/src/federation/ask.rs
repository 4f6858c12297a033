//! Asking the other nodes how they are, by datagrams as the original's nodes do: a byte there, the
//! status back. Whom to ask and when is `core::fleet`'s to say.
//!
//! One task has the socket, so that answers and members come in an order. Who answers shows in the
//! address, as the original's nodes say no more; with a secret, in what is sealed.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serverledge_core::fleet::Group;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{debug, warn};

use super::peers::{Near, Peers};
use super::question::{self, Id};
use super::{Federation, Member, datagram, unix_micros};
use crate::node::Node;

/// How often it is looked whom to ask.
const TICK: Duration = Duration::from_millis(100);

/// Longest answer that is read. The original's nodes send as much as they have to say.
const ANSWER_MAX: usize = 64 << 10;

/// How long looking up a member's name may take.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// Names looked up that wait to be taken over.
const LOOKUPS_MAX: usize = 64;

/// Questions to a peer whose answers are let in: the last, and the one before if that is late.
const QUESTIONS_MAX: usize = 2;

/// Asks for as long as the node runs, as `own`, from a port of its own at `ip`.
pub(super) async fn ask(node: Arc<Node>, own: Id, ip: IpAddr) {
    let Some(federation) = &node.federation else {
        return;
    };
    let socket = match UdpSocket::bind(SocketAddr::new(ip, 0)).await {
        Ok(socket) => socket,
        Err(error) => {
            warn!(%ip, %error, "neighbours can't be asked for their status");
            return;
        }
    };
    let mut members = federation.members.subscribe();
    let (found, mut lookups) = mpsc::channel(LOOKUPS_MAX);
    let mut asker = Asker {
        node: &node,
        federation,
        socket: &socket,
        own,
        last: 0,
        numbers: BTreeMap::new(),
        ids: BTreeMap::new(),
        members: BTreeMap::new(),
        addresses: BTreeMap::new(),
        at: BTreeMap::new(),
        found,
        looking: JoinSet::new(),
    };
    asker.follow();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut received = vec![0; ANSWER_MAX];
    loop {
        tokio::select! {
            changed = members.changed() => match changed {
                Ok(()) => asker.follow(),
                Err(_) => return,
            },
            Some((path, address)) = lookups.recv() => asker.locate(path, address),
            came = socket.recv_from(&mut received) => match came {
                Ok((length, from)) => asker.hear(&received[..length], from),
                // Of an earlier question: nobody listens there.
                Err(error) => debug!(%error, "no answer received"),
            },
            _ = ticks.tick(), if !asker.members.is_empty() => asker.tick().await,
        }
    }
}

struct Asker<'a> {
    node: &'a Node,
    federation: &'a Federation,
    socket: &'a UdpSocket,
    own: Id,
    /// The number of the last question.
    last: u64,
    /// Numbers of questions that may be answered yet, by peer; with a secret only.
    numbers: BTreeMap<Arc<str>, VecDeque<u64>>,
    /// Who is who; with a secret only.
    ids: BTreeMap<Id, Arc<str>>,
    /// Who is asked, by path in the registry.
    members: BTreeMap<Arc<str>, Arc<Member>>,
    addresses: BTreeMap<Arc<str>, SocketAddr>,
    /// Who is at an address: more than one, where one has left an entry behind.
    at: BTreeMap<SocketAddr, Vec<Arc<str>>>,
    found: mpsc::Sender<(Arc<str>, SocketAddr)>,
    looking: JoinSet<()>,
}

impl Asker<'_> {
    fn peers(&self) -> &Peers {
        &self.federation.peers
    }

    /// Takes over who is in the fleet.
    fn follow(&mut self) {
        let config = &self.node.config.registry;
        let mut groups = Vec::new();
        let former = std::mem::take(&mut self.members);
        for (path, member) in self.federation.members.all().iter() {
            let is_other = member.key != self.node.identity.key && !member.is_balancer;
            let group = match &member.area {
                _ if !is_other || member.udp_port == 0 => continue,
                area if *area == self.node.identity.area => Group::Neighbor,
                area if Some(area) == config.remote_area.as_ref() => Group::Cloud,
                _ => continue,
            };
            let known = former.get_key_value(path.as_str());
            let path = known.map_or_else(|| Arc::from(path.as_str()), |(path, _)| Arc::clone(path));
            groups.push((Arc::clone(&path), group));
            self.members.insert(path, Arc::clone(member));
        }
        self.addresses.retain(|path, _| {
            let same = |former: &Arc<Member>| {
                let now = self.members.get(path);
                now.is_some_and(|now| (&now.host, now.udp_port) == (&former.host, former.udp_port))
            };
            former.get(path).is_some_and(same)
        });
        self.index();
        let members: Vec<_> = self
            .members
            .iter()
            .map(|(p, m)| (Arc::clone(p), Arc::clone(m)))
            .collect();
        for (path, member) in members {
            match member.host.parse::<IpAddr>() {
                Ok(ip) => {
                    let address = SocketAddr::new(ip, member.udp_port);
                    if self.addresses.get(&path) != Some(&address) {
                        self.locate(path, address);
                    }
                }
                // Names are looked up each time: they move.
                Err(_) => self.look_up(path, member),
            }
        }
        let ids = self.members.keys();
        self.ids = ids.map(|it| (question::id(it), Arc::clone(it))).collect();
        let members = &self.members;
        self.numbers.retain(|path, _| members.contains_key(path));
        self.peers().fleet().set_members(groups);
        self.publish();
    }

    fn look_up(&mut self, path: Arc<str>, member: Arc<Member>) {
        while self.looking.try_join_next().is_some() {}
        let found = self.found.clone();
        let is_ipv4 = self.socket.local_addr().is_ok_and(|own| own.is_ipv4());
        self.looking.spawn(async move {
            let looked = lookup_host((member.host.as_str(), member.udp_port));
            let Ok(Ok(mut addresses)) = timeout(LOOKUP_TIME_MAX, looked).await else {
                debug!(host = member.host, "a member's name could not be looked up");
                return;
            };
            if let Some(address) = addresses.find(|address| address.is_ipv4() == is_ipv4) {
                let _ = found.send((path, address)).await;
            }
        });
    }

    fn locate(&mut self, path: Arc<str>, address: SocketAddr) {
        if self.members.contains_key(&path) && self.addresses.get(&path) != Some(&address) {
            self.addresses.insert(path, address);
            self.index();
        }
    }

    fn index(&mut self) {
        self.at.clear();
        for (path, address) in &self.addresses {
            self.at.entry(*address).or_default().push(Arc::clone(path));
        }
    }

    async fn tick(&mut self) {
        let asked = {
            let now = self.peers().now();
            self.peers().fleet().tick(now)
        };
        for path in asked {
            let Some(address) = self.addresses.get(&path) else {
                continue;
            };
            // Increasing even if the clock doesn't.
            self.last = unix_micros().max(self.last + 1);
            let numbers = self.numbers.entry(Arc::clone(&path)).or_default();
            if numbers.len() >= QUESTIONS_MAX {
                numbers.pop_front();
            }
            numbers.push_back(self.last);
            let protocol = &self.federation.protocol;
            let question = protocol.question(self.last, &self.own, &question::id(&path));
            if let Err(error) = self.socket.send_to(&question, *address).await {
                debug!(%address, %error, "question not sent");
            }
        }
        self.publish();
    }

    fn hear(&mut self, datagram: &[u8], from: SocketAddr) {
        let Some(answer) = self.federation.protocol.read_answer(datagram, &self.own) else {
            debug!(%from, "an answer without a seal");
            return;
        };
        let paths = match answer.sealed {
            None => self.at.get(&from).cloned().unwrap_or_default(),
            Some((id, number)) => self.expected(&id, number).into_iter().collect(),
        };
        if paths.is_empty() {
            return;
        }
        let Some(status) = datagram::decode(answer.json) else {
            debug!(%from, "an answer that is no status");
            return;
        };
        let now = self.peers().now();
        let mut fleet = self.peers().fleet();
        for path in paths {
            let round_trip = fleet.asked(&path).map(|asked| now.since(asked));
            fleet.answered(&path, status.clone(), datagram.len(), round_trip, now);
        }
        drop(fleet);
        self.publish();
    }

    /// Who answers the question with this number, if it waits for an answer: each does so once.
    fn expected(&mut self, id: &Id, number: u64) -> Option<Arc<str>> {
        let path = self.ids.get(id)?;
        let numbers = self.numbers.get_mut(path)?;
        let at = numbers.iter().position(|known| *known == number)?;
        numbers.remove(at);
        Some(Arc::clone(path))
    }

    fn publish(&self) {
        let nearest = self.peers().fleet().nearest();
        let near = nearest.into_iter().filter_map(|known| {
            let member = Arc::clone(self.members.get(&known.key)?);
            Some(Near { member, known })
        });
        self.peers().publish(near.collect());
    }
}
