//! The other nodes: how they are, how far away, and whom to ask next.
//!
//! A few of them, the nearest, are asked all the time: they are the ones that calls are sent to, and
//! one that dies is known to be dead within [`FRESH`]. The others are asked in turn with what is
//! left of a budget of bytes, to find out who is near. So a node's status traffic doesn't grow with
//! the fleet. The shell calls [`Fleet::tick`] often, sends what it says and tells of answers.
//!
//! Not here: who is in the fleet (the registry knows), datagrams, and where calls run (`policy`).

mod budget;
mod peer;
mod random;
#[cfg(test)]
mod tests;
mod vivaldi;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use self::budget::{Answers, BYTES_PER_SECOND};
pub use self::peer::{FRESH, Group, Health, Known, Status};
pub use self::vivaldi::Coordinates;

use self::budget::Budget;
use self::peer::Peer;
use self::random::{Random, mix};
use self::vivaldi::Vivaldi;
use crate::time::Timestamp;

/// How often the nearest are asked. With two answers missed a peer is dead after
/// `PERIOD + 2 * ANSWER_TIME`, which with a tick or two is less than [`FRESH`].
const PERIOD: Duration = Duration::from_millis(1500);

/// How long an answer is waited for before the next question.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// How often it is looked who the nearest are.
const ELECTION: Duration = Duration::from_secs(1);

/// How many are asked all the time, by what answers cost. The original has two.
const NEAREST_MIN: usize = 4;
const NEAREST_MAX: usize = 8;

/// Share of the budget for them; the rest finds out who is near.
const NEAREST_SHARE: f64 = 0.8;

/// Largest number of peers: of the others, nothing is known.
pub const PEERS_MAX: usize = 10_000;

/// What is known of the other nodes.
#[derive(Debug)]
pub struct Fleet {
    seed: u64,
    random: Random,
    vivaldi: Vivaldi,
    peers: BTreeMap<Arc<str>, Peer>,
    /// The nearest of each group, nearest first.
    nearest: Vec<Arc<str>>,
    elected: Option<Timestamp>,
    /// All of each group, the one that wasn't asked for longest first.
    queues: [VecDeque<Arc<str>>; 2],
    /// Which of these is next.
    turn: usize,
    /// Whose answers may come yet.
    unanswered: Vec<Arc<str>>,
    budget: Budget,
}

impl Fleet {
    /// Of a node whose questions have so many bytes. Nodes of one fleet need different seeds.
    pub fn new(question_bytes: usize, seed: u64) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            vivaldi: Vivaldi::default(),
            peers: BTreeMap::new(),
            nearest: Vec::new(),
            elected: None,
            queues: Default::default(),
            turn: 0,
            unanswered: Vec::new(),
            budget: Budget::new(question_bytes),
        }
    }

    /// This node's own coordinates.
    pub fn coordinates(&self) -> &Coordinates {
        self.vivaldi.coordinates()
    }

    /// Who there is from now on; what is known of those who stay is kept. Beyond [`PEERS_MAX`],
    /// peers are left out.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = (Arc<str>, Group)>) {
        let mut former = std::mem::take(&mut self.peers);
        for (key, group) in members.into_iter().take(PEERS_MAX) {
            let peer = match former.remove(&key) {
                Some(peer) if peer.group == group => peer,
                _ => {
                    self.queues[index(group)].push_front(Arc::clone(&key));
                    Peer::new(group)
                }
            };
            self.peers.insert(key, peer);
        }
        let peers = &self.peers;
        for group in [Group::Neighbor, Group::Cloud] {
            // One that changed its group is in two queues.
            self.queues[index(group)]
                .retain(|key| peers.get(key).is_some_and(|peer| peer.group == group));
        }
        self.nearest.retain(|key| peers.contains_key(key));
        self.unanswered.retain(|key| peers.contains_key(key));
        // Those who came may be near.
        self.elected = None;
    }

    /// Whom to ask now. Call it every 100 ms or so.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Arc<str>> {
        self.budget.refill(now);
        self.give_up_waiting(now);
        if self.elected.is_none_or(|then| now.since(then) >= ELECTION) {
            self.elect(now);
        }
        let due = |key: &&Arc<str>| {
            let peer = &self.peers.get(*key);
            peer.is_some_and(|it| !it.is_awaited && (it.missed > 0 || !it.was_asked(now, PERIOD)))
        };
        let mut asked: Vec<Arc<str>> = self.nearest.iter().filter(due).cloned().collect();
        for key in &asked {
            self.ask(key, now);
        }
        while self.budget.allows()
            && let Some(key) = self.explore(now)
        {
            self.ask(&key, now);
            asked.push(key);
        }
        asked
    }

    /// A peer told its status in so many bytes. `round_trip`: since it was asked, if it is sure which
    /// question this answers. What comes unasked is nothing.
    pub fn answered(
        &mut self,
        key: &str,
        status: Status,
        bytes: usize,
        round_trip: Option<Duration>,
        now: Timestamp,
    ) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        // After a question that was missed, the answer may be to that one.
        let round_trip = round_trip.filter(|_| peer.is_awaited && peer.missed == 0);
        if peer.is_awaited {
            peer.is_awaited = false;
            self.unanswered.retain(|other| **other != *key);
            self.budget.answered(bytes);
        }
        if let Some(time) = round_trip {
            self.vivaldi.learn(
                &status.coordinates,
                time.as_secs_f64(),
                &mut peer.round_trips,
                &mut self.random,
            );
        }
        let is_new = peer.heard.is_none() || peer.missed > 0;
        peer.missed = 0;
        peer.heard = Some(now);
        peer.status = Some(Arc::new(status));
        if is_new {
            self.elected = None;
        }
    }

    /// When this peer was asked last, if its answer may come yet.
    pub fn asked(&self, key: &str) -> Option<Timestamp> {
        self.peers.get(key).filter(|it| it.is_awaited)?.asked
    }

    /// The nearest that are asked all the time, nearest first: first neighbours, then the cloud's.
    pub fn nearest(&self) -> Vec<Known> {
        let known = |key| Some(self.peers.get(key)?.known(key, self.coordinates()));
        self.nearest.iter().filter_map(known).collect()
    }

    /// What is known of one.
    pub fn peer(&self, key: &str) -> Option<Known> {
        let (key, peer) = self.peers.get_key_value(key)?;
        Some(peer.known(key, self.coordinates()))
    }

    fn ask(&mut self, key: &Arc<str>, now: Timestamp) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.asked = Some(now);
        peer.is_awaited = true;
        self.unanswered.push(Arc::clone(key));
        self.budget.ask();
    }

    fn give_up_waiting(&mut self, now: Timestamp) {
        let mut died = false;
        let (peers, queues) = (&mut self.peers, &mut self.queues);
        self.unanswered.retain(|key| {
            let Some(peer) = peers.get_mut(key) else {
                return false;
            };
            if peer.was_asked(now, ANSWER_TIME) {
                return true;
            }
            peer.is_awaited = false;
            peer.missed = peer.missed.saturating_add(1);
            if peer.is_silent() && peer.is_near {
                died = true;
                // The first to be asked again: it may have been a bad moment of the network.
                let queue = &mut queues[index(peer.group)];
                queue.retain(|other| other != key);
                queue.push_front(Arc::clone(key));
            }
            false
        });
        if died {
            self.elected = None;
        }
    }

    /// The next of those that aren't asked all the time, if it isn't too soon for that.
    fn explore(&mut self, now: Timestamp) -> Option<Arc<str>> {
        for _ in 0..self.queues.len() {
            self.turn = (self.turn + 1) % self.queues.len();
            let queue = &mut self.queues[self.turn];
            // Past the nearest, which are asked anyway.
            for _ in 0..queue.len().min(NEAREST_MAX + 1) {
                let Some(key) = queue.pop_front() else { break };
                match self.peers.get(&key) {
                    Some(peer) if peer.is_near => queue.push_back(key),
                    Some(peer) if peer.is_awaited || peer.was_asked(now, PERIOD) => {
                        queue.push_front(key);
                        break;
                    }
                    Some(_) => {
                        queue.push_back(Arc::clone(&key));
                        return Some(key);
                    }
                    None => {}
                }
            }
        }
        None
    }

    /// Chooses whom to ask all the time: of each group the nearest who live.
    fn elect(&mut self, now: Timestamp) {
        self.elected = Some(now);
        let affordable = self.budget.pays_for(PERIOD, NEAREST_SHARE);
        let places = affordable.clamp(NEAREST_MIN, NEAREST_MAX);
        let mut neighbors = self.by_distance(Group::Neighbor, places);
        let mut cloud = self.by_distance(Group::Cloud, places);
        // Half of the places for each, and what one leaves for the other.
        let half = places / 2;
        cloud.truncate(half.max(places.saturating_sub(neighbors.len())));
        neighbors.truncate(places - cloud.len());
        for key in &self.nearest {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.is_near = false;
            }
        }
        neighbors.extend(cloud);
        self.nearest = neighbors;
        for key in &self.nearest {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.is_near = true;
            }
        }
    }

    /// The nearest of a group, at most `count`. Between equals each node decides differently, so that
    /// not all ask the same ones.
    fn by_distance(&self, group: Group, count: usize) -> Vec<Arc<str>> {
        let own = self.coordinates();
        let candidates = self.peers.iter().filter(|(_, peer)| peer.group == group);
        let mut candidates: Vec<_> = candidates
            .filter(|(_, peer)| !peer.is_silent())
            .filter_map(|(key, peer)| {
                let distance = own.distance(&peer.status.as_ref()?.coordinates);
                Some((step(distance), lot(self.seed, key), key))
            })
            .collect();
        candidates.sort_unstable();
        let nearest = candidates.into_iter().take(count);
        nearest.map(|(_, _, key)| Arc::clone(key)).collect()
    }
}

fn index(group: Group) -> usize {
    match group {
        Group::Neighbor => 0,
        Group::Cloud => 1,
    }
}

/// Distances that count as equal. Below 2 ms all do, and from there on what differs by less than half:
/// that much is noise, and without this all nodes of a site would ask those which the noise has put
/// into its middle.
fn step(distance: f64) -> u32 {
    let doublings = (distance / 0.002).log2();
    (doublings.max(0.0) * 2.0) as u32
}

/// What decides between equals.
fn lot(seed: u64, key: &str) -> u64 {
    key.bytes()
        .fold(seed, |state, byte| mix(state ^ u64::from(byte)))
}
