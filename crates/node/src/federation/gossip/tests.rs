//! Fleets in virtual time: real members, a network that is a heap of messages.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use foca::{Codec as _, Header, Message, State};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::super::member::Member;
use super::super::question::{AGE_MAX, id};
use super::super::seal::Secret;
use super::peer_period;
use super::seen::Seen;
use super::swim::{MEMBERS_MAX, Swim};
use super::wire::{DATAGRAM_MAX, IDENTITY_MAX, Identity, Sealer, Wire, fits, open, sender};

const SECOND: Duration = Duration::from_secs(1);
const NOW: u64 = 1_800_000_000_000_000;

fn member(number: usize) -> Arc<Member> {
    Arc::new(Member {
        key: format!("node-{number}"),
        area: "EDGE".into(),
        is_balancer: false,
        host: "192.0.2.1".into(),
        api_port: 1323,
        udp_port: u16::try_from(number + 1).unwrap(),
        architecture: "amd64".into(),
    })
}

struct Node {
    swim: Swim,
    peers: Vec<u16>,
    tell: Duration,
    next_peer: usize,
    sees: BTreeSet<String>,
    bytes: usize,
}

/// When, for an order, to which port, and what.
type Coming = (Duration, u64, u16, Vec<u8>);

/// Nodes by port, and messages on their way.
struct World {
    now: Duration,
    nodes: BTreeMap<u16, Node>,
    coming: BinaryHeap<Reverse<Coming>>,
    sent: u64,
    random: SmallRng,
    loss: f64,
    /// Ports between which nothing goes: of those inside, and all others.
    island: BTreeSet<u16>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            coming: BinaryHeap::new(),
            sent: 0,
            random: SmallRng::seed_from_u64(seed),
            loss: 0.0,
            island: BTreeSet::new(),
        }
    }

    /// Of so many nodes, each of which knows of the first.
    fn of(count: usize, seed: u64) -> Self {
        let mut world = Self::new(seed);
        for number in 0..count {
            world.join(number, &[0]);
        }
        world
    }

    fn join(&mut self, number: usize, peers: &[usize]) {
        let generation = NOW + self.now.as_micros() as u64;
        self.join_as(member(number), generation, peers);
    }

    fn join_as(&mut self, member: Arc<Member>, generation: u64, peers: &[usize]) {
        let port = member.udp_port;
        let node = Node {
            swim: Swim::new(member, generation, self.random.random()),
            peers: peers.iter().map(|number| *number as u16 + 1).collect(),
            tell: self.now,
            next_peer: 0,
            sees: BTreeSet::new(),
            bytes: 0,
        };
        self.nodes.insert(port, node);
    }

    fn kill(&mut self, number: usize) {
        self.nodes.remove(&(number as u16 + 1));
    }

    fn send(&mut self, from: u16, to: u16, message: Vec<u8>) {
        if let Some(node) = self.nodes.get_mut(&from) {
            node.bytes += message.len() + 44;
        }
        let is_cut = self.island.contains(&from) != self.island.contains(&to);
        if is_cut || self.random.random_bool(self.loss) {
            return;
        }
        // 1 to 20 ms: messages overtake each other.
        let delay = Duration::from_micros(self.random.random_range(1_000..20_000));
        self.sent += 1;
        self.coming
            .push(Reverse((self.now + delay, self.sent, to, message)));
    }

    /// What a node has to do and to say now.
    fn settle(&mut self, port: u16) {
        let Some(node) = self.nodes.get_mut(&port) else {
            return;
        };
        let mut out = Vec::new();
        if self.now >= node.tell {
            let is_lonely = node.swim.is_lonely();
            let count = if is_lonely { node.peers.len() } else { 1 };
            for _ in 0..count.min(node.peers.len()) {
                let peer = node.peers[node.next_peer % node.peers.len()];
                node.next_peer += 1;
                if !node.swim.knows("192.0.2.1", peer) {
                    out.push((peer, node.swim.announcement()));
                }
            }
            node.tell = self.now + peer_period(node.swim.others());
        }
        node.swim.tick(self.now).unwrap();
        let sent = node.swim.take_sent().into_iter();
        out.extend(sent.map(|it| (it.to.udp_port, it.message)));
        if let Some(members) = node.swim.take_members() {
            let own = |it: &Arc<Member>| it.key.clone();
            node.sees = members.values().map(own).collect();
        }
        for (to, message) in out {
            self.send(port, to, message);
        }
    }

    /// Lets time pass until `is_so`; how much, if no more than `max`.
    fn until(&mut self, max: Duration, is_so: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        let ports: Vec<u16> = self.nodes.keys().copied().collect();
        ports.into_iter().for_each(|port| self.settle(port));
        while self.now <= began + max {
            if is_so(self) {
                return Some(self.now - began);
            }
            let message = self.coming.peek().map(|Reverse((due, ..))| *due);
            let due = self.nodes.iter();
            let due = due.map(|(port, node)| (node.swim.due().min(node.tell), *port));
            let (due, port) = due.min()?;
            if message.is_some_and(|message| message <= due) {
                let Some(Reverse((due, _, to, message))) = self.coming.pop() else {
                    continue;
                };
                self.now = self.now.max(due);
                if let Some(node) = self.nodes.get_mut(&to) {
                    // An error is one's own message, or of a time that is over.
                    let _ = node.swim.receive(&message, self.now);
                    self.settle(to);
                }
            } else {
                self.now = self.now.max(due);
                self.settle(port);
            }
        }
        None
    }

    fn pass(&mut self, time: Duration) {
        assert_eq!(self.until(time, |_| false), None);
    }

    fn keys(&self, ports: impl Fn(u16) -> bool) -> BTreeSet<String> {
        let ports = self.nodes.keys().filter(|port| ports(**port));
        ports.map(|port| format!("node-{}", port - 1)).collect()
    }

    /// Whether everybody sees everybody that there is, and nobody else.
    fn is_one(&self) -> bool {
        let all = self.keys(|_| true);
        self.nodes.values().all(|node| node.sees == all)
    }
}

#[test]
fn who_joins_by_whomever_is_known_to_all_within_a_second() {
    let mut world = World::of(30, 1);
    assert!(world.until(15 * SECOND, World::is_one).is_some());
    world.join(30, &[17]);
    let key = "node-30".to_owned();
    let seen = world.until(SECOND, |it| {
        it.nodes.values().all(|it| it.sees.contains(&key))
    });
    assert!(seen.is_some(), "not known to all within a second");
    assert!(world.until(5 * SECOND, World::is_one).is_some());
}

#[test]
fn peers_may_be_late_dead_and_oneself() {
    let mut world = World::new(2);
    // Nobody is at 8 and 9; all know of 5, which comes last.
    for number in 0..5 {
        world.join(number, &[8, number, 5, 9]);
    }
    world.pass(10 * SECOND);
    assert!(world.nodes.values().all(|node| node.sees.len() == 1));
    world.join(5, &[5]);
    assert!(world.until(3 * SECOND, World::is_one).is_some());
}

#[test]
fn the_dead_are_off_the_list_within_fifteen_seconds_and_nobody_else() {
    for (count, seed) in [(2, 3), (3, 4), (12, 5), (40, 6)] {
        let mut world = World::of(count, seed);
        assert!(world.until(20 * SECOND, World::is_one).is_some());
        world.pass(5 * SECOND);
        world.kill(1);
        let all = world.keys(|_| true);
        let gone = world.until(15 * SECOND, |world| {
            let others = world.nodes.values();
            others.into_iter().all(|node| node.sees.is_superset(&all)) && world.is_one()
        });
        assert!(gone.is_some(), "of {count}");
    }
}

#[test]
fn who_says_good_bye_is_off_the_list_at_once() {
    let mut world = World::of(20, 7);
    assert!(world.until(15 * SECOND, World::is_one).is_some());
    let mut leaver = world.nodes.remove(&6).unwrap();
    leaver.swim.leave(world.now).unwrap();
    for it in leaver.swim.take_sent() {
        world.send(6, it.to.udp_port, it.message);
    }
    assert!(world.until(SECOND, World::is_one).is_some());
    // And can come back.
    world.join(5, &[0]);
    assert!(world.until(3 * SECOND, World::is_one).is_some());
}

#[test]
fn who_starts_again_is_found_at_its_new_address() {
    // Whether its clock goes on or was set back, and whether it was missed or not.
    for (case, set_back) in [0, 5_400_000_000].into_iter().enumerate() {
        let mut world = World::of(10, 8 + case as u64);
        assert!(world.until(15 * SECOND, World::is_one).is_some());
        world.kill(4);
        if case == 1 {
            world.pass(20 * SECOND);
        }
        let moved = Member {
            udp_port: 4000,
            ..Member::clone(&member(4))
        };
        let generation = NOW + world.now.as_micros() as u64 - set_back;
        world.join_as(Arc::new(moved), generation, &[0]);
        let is_found = |world: &World| {
            let mut others = world.nodes.values();
            others.all(|node| node.sees.len() == 10)
        };
        assert!(world.until(5 * SECOND, is_found).is_some(), "{case}");
        // It answers there: nobody thinks it dead.
        world.pass(30 * SECOND);
        assert!(is_found(&world), "{case}");
    }
}

#[test]
fn two_halves_find_together_again() {
    for apart in [3, 30, 120] {
        let mut world = World::of(16, 10 + apart);
        assert!(world.until(15 * SECOND, World::is_one).is_some());
        // Of those outside, none knows of a peer: the first is inside.
        world.island = (1..=8).collect();
        world.pass(SECOND * apart as u32);
        if apart >= 30 {
            let inside = world.keys(|port| port <= 8);
            let outside = world.keys(|port| port > 8);
            for (port, node) in &world.nodes {
                let own = if *port <= 8 { &inside } else { &outside };
                assert_eq!(node.sees, *own, "{port}");
            }
        }
        world.island.clear();
        assert!(world.until(20 * SECOND, World::is_one).is_some(), "{apart}");
        world.pass(30 * SECOND);
        assert!(world.is_one());
    }
}

#[test]
fn who_was_cut_off_alone_comes_back() {
    let mut world = World::of(5, 21);
    assert!(world.until(10 * SECOND, World::is_one).is_some());
    // The one that has no peer but itself.
    world.island = [1].into();
    world.pass(40 * SECOND);
    assert_eq!(world.nodes[&1].sees.len(), 1);
    world.island.clear();
    assert!(world.until(15 * SECOND, World::is_one).is_some());
}

#[test]
fn a_lossy_network_takes_nobody_off_the_list() {
    let mut world = World::of(12, 22);
    world.loss = 0.15;
    assert!(world.until(30 * SECOND, World::is_one).is_some());
    for second in 0..180 {
        world.pass(SECOND);
        assert!(world.is_one(), "after {second} s");
    }
}

#[test]
fn traffic_stays_small() {
    let mut world = World::of(60, 23);
    assert!(world.until(30 * SECOND, World::is_one).is_some());
    world.pass(20 * SECOND);
    let measure = |world: &mut World, seconds: u32| {
        world.nodes.values_mut().for_each(|node| node.bytes = 0);
        world.pass(SECOND * seconds);
        let most = world.nodes.values().map(|node| node.bytes).max();
        most.unwrap() / seconds as usize
    };
    let calm = measure(&mut world, 20);
    assert!(calm < 2_000, "{calm} bytes a second when nothing happens");
    // Twenty come and ten go.
    (60..80).for_each(|number| world.join(number, &[3]));
    (40..50).for_each(|number| world.kill(number));
    let churn = measure(&mut world, 10);
    assert!(churn < 7_500, "{churn} bytes a second when much happens");
    assert!(world.until(15 * SECOND, World::is_one).is_some());
}

#[test]
fn two_with_one_name_are_one_member_and_no_storm() {
    let mut world = World::of(8, 27);
    assert!(world.until(10 * SECOND, World::is_one).is_some());
    let twin = Member {
        udp_port: 5000,
        ..Member::clone(&member(3))
    };
    let generation = NOW + world.now.as_micros() as u64;
    world.join_as(Arc::new(twin), generation, &[0]);
    world.pass(5 * SECOND);
    world.nodes.values_mut().for_each(|node| node.bytes = 0);
    world.pass(30 * SECOND);
    let most = world.nodes.values().map(|node| node.bytes).max().unwrap() / 30;
    assert!(most < 8_000, "{most} bytes a second");
    for (port, node) in &world.nodes {
        let others = node.sees.iter().filter(|key| *key != "node-3");
        assert_eq!(others.count(), 7, "{port}: {:?}", node.sees);
    }
    // And when one of them has gone, all is well.
    world.nodes.remove(&5000);
    assert!(
        world
            .until(30 * SECOND, |world| {
                world.nodes.values().all(|node| node.sees.len() == 8)
            })
            .is_some()
    );
    let revived = world.nodes[&4].swim.revivals();
    world.pass(60 * SECOND);
    assert!(world.nodes[&4].swim.revivals() <= revived + 1);
}

fn announcement(from: usize, to: usize, updates: &[foca::Member<Identity>]) -> Vec<u8> {
    let mut wire = Wire { own: [1; 16] };
    let header = Header {
        src: Identity::new(member(from), NOW),
        src_incarnation: 0,
        dst: Identity::new(member(to), NOW),
        message: Message::Gossip,
    };
    let mut message = Vec::new();
    wire.encode_header(&header, &mut message).unwrap();
    message.extend(u16::try_from(updates.len()).unwrap().to_be_bytes());
    for update in updates {
        wire.encode_member(update, &mut message).unwrap();
    }
    message
}

#[test]
fn a_flood_of_members_drives_nobody_out() {
    let mut world = World::new(24);
    world.join(0, &[]);
    world.join(1, &[0]);
    assert!(world.until(3 * SECOND, World::is_one).is_some());
    let stranger = |number: usize| {
        let stranger = Member {
            key: format!("stranger-{number}"),
            ..Member::clone(&member(9))
        };
        foca::Member::alive(Identity::new(Arc::new(stranger), NOW))
    };
    let node = world.nodes.get_mut(&1).unwrap();
    for group in 0..MEMBERS_MAX / 10 + 50 {
        let updates: Vec<_> = (0..10).map(|it| stranger(group * 10 + it)).collect();
        let message = announcement(1, 0, &updates);
        node.swim.receive(&message, world.now).unwrap();
        drop(node.swim.take_sent());
    }
    let members = node.swim.take_members().unwrap();
    // And this node itself.
    assert_eq!(members.len(), MEMBERS_MAX + 1);
    // Who is known is heard, in a message with too many others, too; who isn't is not.
    let down = foca::Member::new(Identity::new(member(1), NOW), 0, State::Down);
    let late = announcement(77, 0, &[]);
    node.swim.receive(&late, world.now).unwrap();
    assert!(node.swim.take_members().is_none());
    let mixed = announcement(1, 0, &[stranger(1_000_000), down, stranger(1_000_001)]);
    node.swim.receive(&mixed, world.now).unwrap();
    let members = node.swim.take_members().unwrap();
    assert_eq!(members.len(), MEMBERS_MAX);
    assert!(!members.values().any(|it| it.key == "node-1"));
}

#[test]
fn forged_and_replayed_datagrams_change_nothing() {
    let secret = Secret::new("the secret of one fleet");
    let mut world = World::of(4, 25);
    assert!(world.until(5 * SECOND, World::is_one).is_some());
    let node = world.nodes.get_mut(&1).unwrap();
    let mut sealer = Sealer::new(Some(secret.clone()));
    let mut stranger = Sealer::new(Some(Secret::new("what somebody guessed")));
    let message = announcement(1, 0, &[]);
    let down = foca::Member::new(Identity::new(member(2), NOW), 9, State::Down);
    let lie = announcement(1, 0, &[down]);
    let mut seen = Seen::default();
    let genuine = sealer.seal(&message, NOW);
    let mut take = |datagram: &[u8], now: u64| {
        let (number, message) = open(Some(&secret), datagram, now)?;
        let sender = sender(message)?;
        seen.is_new(sender, number, now).then(|| message.to_vec())
    };
    assert_eq!(take(&genuine, NOW), Some(message.clone()));
    let before = node.swim.take_members();
    assert!(before.is_none());
    let mut random = SmallRng::seed_from_u64(26);
    for round in 0..100_000_u64 {
        let now = NOW + round;
        let mut forged = match round % 5 {
            0 => genuine.clone(),
            1 => stranger.seal(&lie, now),
            2 => Sealer::new(None).seal(&lie, now),
            3 => {
                let mut mixed = sealer.seal(&message, now);
                let at = random.random_range(12..mixed.len() - 32);
                mixed[at] ^= 1 << random.random_range(0..8);
                mixed
            }
            _ => (0..random.random_range(0..300))
                .map(|_| random.random())
                .collect(),
        };
        if round % 7 == 0 && !forged.is_empty() {
            forged.truncate(random.random_range(0..forged.len()));
        }
        if let Some(message) = take(&forged, now) {
            panic!("{round}: {message:?}");
        }
    }
    // Nor is one good later.
    let age = AGE_MAX.as_micros() as u64;
    let late = sealer.seal(&message, NOW + 200_000);
    assert_eq!(take(&late, NOW + 200_001 + age), None);
    assert_eq!(take(&vec![0; 1 << 16], NOW), None);
    assert!(take(&late, NOW + 200_000 + age).is_some());
}

#[test]
fn the_longest_member_fits_and_a_longer_one_is_none() {
    let named = |bytes: usize| {
        let mut member = Member::clone(&member(1));
        let rest = member.path().len() + member.value().len() - member.area.len();
        member.area = "x".repeat(bytes - rest);
        Arc::new(member)
    };
    let (long, longer) = (named(IDENTITY_MAX), named(IDENTITY_MAX + 1));
    assert!(fits(&long) && !fits(&longer));
    let mut wire = Wire { own: [1; 16] };
    let identity = |member: &Arc<Member>| Identity::new(Arc::clone(member), NOW);
    let header = |about: &Arc<Member>| Header {
        src: identity(&long),
        src_incarnation: 7,
        dst: identity(&long),
        message: Message::PingReq {
            target: identity(about),
            probe_number: 3,
        },
    };
    let mut bytes = Vec::new();
    wire.encode_header(&header(&long), &mut bytes).unwrap();
    assert!(bytes.len() + 2 * (IDENTITY_MAX + 13) < DATAGRAM_MAX);
    let read = wire.decode_header(&bytes[..]).unwrap();
    assert_eq!(read, header(&long));
    assert_eq!(read.src.member, Some(Arc::clone(&long)));
    let mut bytes = Vec::new();
    if wire.encode_header(&header(&longer), &mut bytes).is_ok() {
        assert!(wire.decode_header(&bytes[..]).is_err());
    }
    for (key, area) in [("a/b", "A"), ("a\n", "A"), ("a", "A/B")] {
        let odd = Member {
            key: key.into(),
            area: area.into(),
            ..Member::clone(&member(1))
        };
        let mut bytes = Vec::new();
        wire.encode_header(&header(&Arc::new(odd)), &mut bytes)
            .unwrap();
        assert!(wire.decode_header(&bytes[..]).is_err(), "{key} {area}");
    }
}

proptest! {
    #[test]
    fn no_message_breaks_anything(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        cut in any::<u16>(),
    ) {
        let mut swim = Swim::new(member(0), NOW, 1);
        let now = Duration::from_secs(1);
        let _ = swim.receive(&noise, now);
        let suspect = foca::Member::new(Identity::new(member(3), NOW), 1, State::Suspect);
        let mut message = announcement(1, 0, &[suspect]);
        for (at, value) in flips {
            let at = usize::from(at) % message.len();
            message[at] = value;
        }
        message.truncate(usize::from(cut) % (message.len() + 1));
        let _ = swim.receive(&message, now);
        let _ = swim.tick(now + SECOND);
        let members = swim.take_members().unwrap_or_default();
        // What was taken can be told on, and stands where it says.
        for (path, member) in members {
            prop_assert_eq!(&path, &member.path());
            prop_assert!(fits(&member));
        }
        prop_assert!(swim.take_sent().iter().all(|it| it.message.len() <= DATAGRAM_MAX));
    }
}

#[test]
fn the_identity_is_the_digest_of_the_path() {
    let identity = Identity::new(member(1), NOW);
    assert_eq!(identity.id, id("registry/EDGE/amd64/node-1"));
}
