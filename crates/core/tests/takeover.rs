//! Many nodes, one registry, virtual time: nodes stop for a while and go on, die and come back, are cut
//! off, and their messages take any time. Whatever happens, one node at a time gets on with an
//! execution, and in the end one does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use serverledge_core::Timestamp;
use serverledge_core::takeover::{Owner, Tenure, Verdict, judge, turn};

const LIFE: Duration = Duration::from_millis(1_000);
const KEEP: u64 = 250;
const TURN: u64 = 200;
/// How long a function takes.
const WORK: u64 = 250;
const STEPS: u32 = 12;
const NODES: [&str; 3] = ["a", "b", "c"];

/// What happens to a node in a millisecond.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    at: u64,
    node: usize,
    kind: Kind,
    lasts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It does nothing, and doesn't know.
    Stopped,
    /// It can't reach the registry.
    Cut,
    /// It forgets everything but what is on its disk.
    Killed,
}

/// The registry: leases, the head, the journal.
#[derive(Default)]
struct Registry {
    /// Until when each node's key is there.
    leases: BTreeMap<usize, u64>,
    head: Option<(usize, u64)>,
    /// Who wrote each step, in which epoch.
    journal: Vec<(usize, u64)>,
    is_over: bool,
}

impl Registry {
    fn is_alive(&self, node: usize, now: u64) -> bool {
        self.leases.get(&node).is_some_and(|until| now < *until)
    }
}

#[derive(Default)]
struct Node {
    tenure: Tenure,
    /// Its epoch, and the tenure in which it has looked.
    held: Option<(u64, u64)>,
    /// When the keep-alive was sent whose answer is awaited.
    asked: Option<u64>,
    next_keep: u64,
    /// When it saw that the owner was gone.
    gone_since: Option<u64>,
    stopped_until: u64,
    cut_until: u64,
    /// Steps of which it knows.
    done: usize,
    /// When it decided to act, if it hasn't yet.
    acting: Option<u64>,
}

/// A call of a function: by whom, in which epoch, when, and for which step.
type Act = (usize, u64, u64, usize);

struct World {
    now: u64,
    registry: Registry,
    nodes: Vec<Node>,
    acts: Vec<Act>,
    /// Delay of messages, by turns.
    delays: Vec<u64>,
    sent: usize,
}

impl World {
    fn delay(&mut self) -> u64 {
        self.sent += 1;
        self.delays[self.sent % self.delays.len()]
    }

    fn at(&self) -> Timestamp {
        Timestamp(Duration::from_millis(self.now))
    }

    fn step(&mut self, index: usize) {
        let (now, at) = (self.now, self.at());
        if now < self.nodes[index].stopped_until {
            return;
        }
        let is_cut = now < self.nodes[index].cut_until;
        self.keep(index, is_cut);
        let tenure = self.nodes[index].tenure;
        if !tenure.holds(at) || is_cut {
            // It may act on what it has looked at in this tenure; what it writes would not arrive.
            self.act(index, tenure.holds(at));
            return;
        }
        match self.nodes[index].held {
            Some((epoch, seen)) if seen != tenure.generation() => self.look(index, epoch),
            Some((epoch, _)) => self.go_on(index, epoch),
            None => self.claim(index),
        }
    }

    /// Keeps the lease; the answer comes some time after.
    fn keep(&mut self, index: usize, is_cut: bool) {
        let (now, at) = (self.now, self.at());
        let delay = self.delay();
        let node = &mut self.nodes[index];
        match node.asked {
            Some(sent) if !is_cut && now >= sent + delay => {
                node.asked = None;
                // The registry begins the lease anew between then and now; the worst is at once.
                let until = sent + LIFE.as_millis() as u64;
                self.registry.leases.insert(index, until);
                let sent = Timestamp(Duration::from_millis(sent));
                node.tenure.kept(sent, LIFE, at);
            }
            None if now >= node.next_keep => {
                node.asked = Some(now);
                node.next_keep = now + KEEP;
            }
            _ => {}
        }
    }

    fn look(&mut self, index: usize, epoch: u64) {
        let owner = |(node, epoch)| Owner {
            node: NODES[node],
            epoch,
        };
        let found = self.registry.head.map(owner);
        let node = &mut self.nodes[index];
        node.held = match judge(found, owner((index, epoch))) {
            Verdict::Mine => Some((epoch, node.tenure.generation())),
            Verdict::Lost | Verdict::Unknown => None,
        };
    }

    /// Acts for the step that is next, then writes that it is done.
    fn go_on(&mut self, index: usize, epoch: u64) {
        if self.nodes[index].acting.is_some() {
            self.act(index, true);
            return;
        }
        let acted = |act: &Act| act.3 == self.nodes[index].done && (act.0, act.1) == (index, epoch);
        let Some(act) = self.acts.iter().find(|act| acted(act)) else {
            // Between looking at the clock and acting there is a moment.
            self.nodes[index].acting = Some(self.now + 1);
            return;
        };
        if self.now < act.2 + WORK {
            return;
        }
        if self.registry.head != Some((index, epoch)) {
            self.nodes[index].held = None;
            return;
        }
        self.registry.journal.push((index, epoch));
        self.nodes[index].done = self.registry.journal.len();
        if self.registry.journal.len() as u32 == STEPS {
            self.registry.is_over = true;
        }
    }

    fn act(&mut self, index: usize, may: bool) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some((epoch, seen)) = node.held else {
            node.acting = None;
            return;
        };
        let may = may && seen == node.tenure.generation();
        if node.acting.take_if(|when| now >= *when).is_some() && may {
            self.acts.push((index, epoch, now, node.done));
        }
    }

    fn claim(&mut self, index: usize) {
        let now = self.now;
        let Some((owner, epoch)) = self.registry.head else {
            return;
        };
        let is_alive = self.registry.is_alive(owner, now);
        if is_alive && owner != index {
            self.nodes[index].gone_since = None;
            return;
        }
        let since = *self.nodes[index].gone_since.get_or_insert(now);
        let alive = (0..NODES.len()).filter(|node| self.registry.is_alive(*node, now));
        let alive = alive.map(|node| (NODES[node], true));
        let turn = turn(7, NODES[index], alive) as u64;
        if owner == index || now >= since + turn * TURN {
            self.registry.head = Some((index, epoch + 1));
            let node = &mut self.nodes[index];
            node.held = Some((epoch + 1, node.tenure.generation()));
            node.done = self.registry.journal.len();
            node.gone_since = None;
            node.acting = None;
        }
    }

    fn strike(&mut self, trouble: &Trouble) {
        let until = self.now + trouble.lasts;
        let node = &mut self.nodes[trouble.node];
        match trouble.kind {
            Kind::Stopped => node.stopped_until = node.stopped_until.max(until),
            Kind::Cut => node.cut_until = node.cut_until.max(until),
            Kind::Killed => {
                *node = Node {
                    stopped_until: until,
                    ..Node::default()
                };
            }
        }
    }
}

fn run(troubles: &[Trouble], delays: Vec<u64>) -> World {
    let mut world = World {
        now: 0,
        registry: Registry::default(),
        nodes: NODES.iter().map(|_| Node::default()).collect(),
        acts: Vec::new(),
        delays,
        sent: 0,
    };
    world.registry.head = Some((0, 0));
    world.registry.leases.insert(0, 1);
    while world.now < 60_000 && !world.registry.is_over {
        let now = world.now;
        for trouble in troubles.iter().filter(|trouble| trouble.at == now) {
            world.strike(trouble);
        }
        for index in 0..NODES.len() {
            if !world.registry.is_over {
                world.step(index);
            }
        }
        world.now += 1;
    }
    world
}

fn troubles() -> impl Strategy<Value = Vec<Trouble>> {
    let kind = prop_oneof![Just(Kind::Stopped), Just(Kind::Cut), Just(Kind::Killed)];
    let one = (0..3_000_u64, 0..NODES.len(), kind, 1..4_000_u64);
    let one = one.prop_map(|(at, node, kind, lasts)| Trouble {
        at,
        node,
        kind,
        lasts,
    });
    proptest::collection::vec(one, 0..12)
}

/// What a node that is stopped between its look at the clock and its call does comes late: that is all
/// that may.
fn was_stopped(troubles: &[Trouble], (node, _, at, _): Act) -> bool {
    let around = |trouble: &&Trouble| {
        trouble.node == node && trouble.at <= at && at <= trouble.at + trouble.lasts + 2
    };
    let mut stops = troubles.iter().filter(around);
    stops.any(|trouble| trouble.kind == Kind::Stopped)
}

proptest! {
    #[test]
    fn one_node_at_a_time_gets_on(
        troubles in troubles(),
        delays in proptest::collection::vec(0..200_u64, 1..8),
    ) {
        let world = run(&troubles, delays);
        prop_assert!(world.registry.is_over, "it never ended: {:?}", world.registry.journal);
        // Epochs only grow, and each has one node: nobody writes after another has taken over.
        let mut nodes = BTreeMap::new();
        let mut last = 0;
        for (node, epoch) in &world.registry.journal {
            prop_assert!(*epoch >= last);
            last = *epoch;
            prop_assert_eq!(nodes.entry(*epoch).or_insert(*node), node);
        }
        // Nor does anybody call a function.
        let mut newest = 0;
        let mut epochs = BTreeSet::new();
        for act in &world.acts {
            if act.1 < newest {
                prop_assert!(was_stopped(&troubles, *act), "{act:?} after epoch {newest}");
            }
            newest = newest.max(act.1);
            prop_assert!(epochs.insert((act.1, act.3)), "{act:?} twice in one epoch");
        }
    }
}

#[test]
fn without_trouble_it_stays_where_it_is() {
    let world = run(&[], vec![3]);
    assert!(world.registry.is_over);
    let owners: BTreeSet<usize> = world
        .registry
        .journal
        .iter()
        .map(|(node, _)| *node)
        .collect();
    assert_eq!(owners, BTreeSet::from([0]));
    assert_eq!(world.acts.len(), STEPS as usize);
}

#[test]
fn a_node_that_was_stopped_for_long_finds_it_lost() {
    let stopped = Trouble {
        at: 10,
        node: 0,
        kind: Kind::Stopped,
        lasts: 3_000,
    };
    let world = run(&[stopped], vec![1]);
    let owners: Vec<usize> = world
        .registry
        .journal
        .iter()
        .map(|(node, _)| *node)
        .collect();
    assert_ne!(owners.last(), Some(&0), "{owners:?}");
    assert!(
        owners.is_sorted_by_key(|node| usize::from(*node != 0)),
        "{owners:?}"
    );
}
