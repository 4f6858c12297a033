//! A fleet seen from one node, or from all: time, answers, losses and deaths are the test's.

use proptest::prelude::*;

use super::*;

/// Question and largest answer with their headers, as they cross the network.
const QUESTION: usize = 77;
const HEADERS: usize = 28;
const LONGEST: usize = 1024;

const TICK: Duration = Duration::from_millis(100);

fn key(index: usize) -> Arc<str> {
    format!("node-{index}").into()
}

fn at_tick(tick: u32) -> Timestamp {
    Timestamp(TICK * tick)
}

fn status(memory: u64, coordinates: Coordinates) -> Status {
    Status {
        memory_available: memory,
        coordinates,
        ..Status::default()
    }
}

/// One node's view of others that live on a line, 2 ms apart, and answer at once unless they are
/// dead.
struct World {
    fleet: Fleet,
    /// Of each peer.
    is_dead: Vec<bool>,
    answer_bytes: usize,
    bytes: usize,
    tick: u32,
}

impl World {
    fn new(neighbors: usize, cloud: usize) -> Self {
        let mut fleet = Fleet::new(QUESTION, 5);
        let count = neighbors + cloud;
        let group = |index| match index < neighbors {
            true => Group::Neighbor,
            false => Group::Cloud,
        };
        fleet.set_members((0..count).map(|index| (key(index), group(index))));
        Self {
            fleet,
            is_dead: vec![false; count],
            answer_bytes: LONGEST,
            bytes: 0,
            tick: 0,
        }
    }

    fn index(key: &str) -> usize {
        key.strip_prefix("node-").unwrap().parse().unwrap()
    }

    fn distance(index: usize) -> f64 {
        0.001 + 0.002 * index as f64
    }

    fn now(&self) -> Timestamp {
        at_tick(self.tick)
    }

    /// Passes a time, with `is_lost` for each datagram.
    fn pass(&mut self, time: Duration, mut is_lost: impl FnMut(u32) -> bool) {
        let end = self.now() + time;
        let mut datagrams = 0;
        while self.now() < end {
            self.tick += 1;
            let now = self.now();
            for key in self.fleet.tick(now) {
                self.bytes += QUESTION + HEADERS;
                datagrams += 1;
                let index = Self::index(&key);
                if self.is_dead[index] || is_lost(datagrams) {
                    continue;
                }
                self.bytes += self.answer_bytes + HEADERS;
                let position = [Self::distance(index), 0.0, 0.0];
                let coordinates = Coordinates {
                    position,
                    error: 0.1,
                    ..Coordinates::default()
                };
                let trip = Duration::from_secs_f64(Self::distance(index));
                let status = status(index as u64, coordinates);
                self.fleet
                    .answered(&key, status, self.answer_bytes, Some(trip), now);
            }
        }
    }

    fn pass_secs(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds), |_| false);
    }

    /// Those that calls may be sent to.
    fn alive(&self) -> Vec<usize> {
        let nearest = self.fleet.nearest();
        let alive = nearest
            .iter()
            .filter(|it| it.health(self.now()) == Health::Alive);
        alive.map(|it| Self::index(&it.key)).collect()
    }
}

#[test]
fn traffic_stays_small_with_a_thousand_peers_and_the_longest_answers() {
    let mut world = World::new(1000, 0);
    for round in 0..12 {
        world.bytes = 0;
        world.pass_secs(10);
        // Asking takes half of what a node's status may take; being asked takes the other.
        let per_second = world.bytes / 10;
        assert!(per_second <= 4_000, "{per_second} B/s in round {round}");
        // And it is used.
        assert!(per_second >= 2_500, "{per_second} B/s in round {round}");
    }
}

#[test]
fn with_a_thousand_peers_a_dead_one_is_not_chosen_for_three_seconds() {
    let mut world = World::new(1000, 0);
    world.pass_secs(300);
    for round in 0..8 {
        let alive = world.alive();
        assert!(alive.len() >= NEAREST_MIN, "{alive:?}");
        let victim = alive[round % alive.len()];
        world.is_dead[victim] = true;
        world.pass(FRESH, |_| false);
        assert!(!world.alive().contains(&victim), "{victim} is chosen still");
        let known = world.fleet.peer(&key(victim)).unwrap();
        assert_eq!(known.health(world.now()), Health::Dead);
        // Another takes its place.
        world.pass_secs(3);
        assert!(world.alive().len() >= NEAREST_MIN, "{:?}", world.alive());
    }
}

#[test]
fn the_nearest_are_found() {
    let mut world = World::new(200, 0);
    world.answer_bytes = 400;
    world.pass_secs(240);
    let alive = world.alive();
    assert!(alive.len() >= NEAREST_MIN);
    // Whether it is before or behind, a coordinate can't tell of a line seen from its end.
    assert!(
        alive.iter().all(|&index| index < 4 * NEAREST_MAX),
        "{alive:?}"
    );
}

#[test]
fn few_are_all_known_all_the_time() {
    let mut world = World::new(3, 1);
    world.pass_secs(2);
    for _ in 0..100 {
        world.pass(TICK * 3, |_| false);
        let mut alive = world.alive();
        alive.sort_unstable();
        assert_eq!(alive, [0, 1, 2, 3]);
    }
}

#[test]
fn both_groups_have_their_share() {
    let mut world = World::new(50, 50);
    world.pass_secs(60);
    let alive = world.alive();
    let cloud = alive.iter().filter(|&&index| index >= 50).count();
    assert!(cloud >= NEAREST_MIN / 2, "{alive:?}");
    assert!(alive.len() - cloud >= NEAREST_MIN / 2, "{alive:?}");
}

#[test]
fn one_lost_answer_kills_nobody() {
    let mut world = World::new(3, 0);
    world.pass_secs(2);
    // Never two in a row of one peer: they are asked in turn, and every seventh is lost.
    for _ in 0..200 {
        world.pass(TICK, |datagram| datagram == 1);
        world.pass_secs(2);
        assert_eq!(world.alive().len(), 3);
    }
}

#[test]
fn who_comes_back_is_used_again() {
    for others in [0, 1000] {
        let mut world = World::new(others, 1);
        world.pass_secs(10);
        world.is_dead[others] = true;
        world.pass_secs(60);
        assert!(!world.alive().contains(&others));
        world.is_dead[others] = false;
        world.pass_secs(4);
        assert!(world.alive().contains(&others), "{others}");
    }
}

#[test]
fn a_new_one_is_asked_soon() {
    let mut world = World::new(999, 0);
    world.pass_secs(100);
    world.is_dead.push(false);
    let members = (0..1000).map(|index| (key(index), Group::Neighbor));
    world.fleet.set_members(members);
    world.pass_secs(2);
    assert!(world.fleet.peer("node-999").unwrap().heard.is_some());
}

#[test]
fn who_never_answered_is_unknown() {
    let mut world = World::new(2, 0);
    world.is_dead[1] = true;
    world.pass_secs(30);
    let health = |index| {
        let known = world.fleet.peer(&key(index)).unwrap();
        known.health(world.now())
    };
    assert_eq!((health(0), health(1)), (Health::Alive, Health::Unknown));
    assert_eq!(world.fleet.peer("node-7"), None);
}

#[test]
fn an_answer_after_a_missed_one_tells_no_round_trip() {
    let mut fleet = Fleet::new(1, 1);
    fleet.set_members([(key(0), Group::Neighbor)]);
    let before = *fleet.coordinates();
    assert_eq!(fleet.tick(at_tick(1)), [key(0)]);
    // Too late; asked again, and this may be the answer to either question.
    fleet.tick(at_tick(7));
    fleet.tick(at_tick(30));
    let answer = || status(1, Coordinates::default());
    let trip = Some(Duration::from_millis(1));
    fleet.answered("node-0", answer(), 300, trip, at_tick(30));
    assert_eq!(*fleet.coordinates(), before);
    // Nobody asked.
    fleet.answered("node-0", answer(), 300, trip, at_tick(31));
    assert_eq!(*fleet.coordinates(), before);
    fleet.answered("stranger", answer(), 300, trip, at_tick(31));
    assert_eq!(fleet.tick(at_tick(46)), [key(0)]);
    fleet.answered("node-0", answer(), 300, trip, at_tick(46));
    assert_ne!(*fleet.coordinates(), before);
}

/// All nodes at one place, so that none is nearer than another: nobody is asked by everybody, and
/// whoever is asked much answers shortly.
#[test]
fn asking_and_answering_stay_small_for_every_node_together() {
    const NODES: usize = 80;
    const SHORT: usize = 300;
    let mut fleets: Vec<Fleet> = (0..NODES)
        .map(|node| {
            let mut fleet = Fleet::new(QUESTION, 1000 + node as u64);
            let others = (0..NODES).filter(|&other| other != node);
            fleet.set_members(others.map(|other| (key(other), Group::Neighbor)));
            fleet
        })
        .collect();
    let mut answers = vec![Answers::default(); NODES];
    let mut bytes = vec![0; NODES];
    for tick in 1..=400 {
        let now = at_tick(tick);
        if tick == 200 {
            bytes.fill(0);
        }
        for node in 0..NODES {
            for key in fleets[node].tick(now) {
                let other = World::index(&key);
                let answer = match answers[other].allow_long(now) {
                    true => LONGEST,
                    false => SHORT,
                };
                answers[other].count(QUESTION + answer);
                let cost = QUESTION + answer + 2 * HEADERS;
                bytes[node] += cost;
                bytes[other] += cost;
                let status = status(1, *fleets[other].coordinates());
                let trip = Some(Duration::from_millis(1));
                fleets[node].answered(&key, status, answer, trip, now);
            }
        }
    }
    let most = bytes.iter().max().unwrap() / 20;
    assert!(most <= 10_000, "{most} B/s");
}

proptest! {
    /// Whatever comes, in whatever order: nobody is asked twice at once, few are asked all the time,
    /// and the budget holds.
    #[test]
    fn it_keeps_its_promises(
        steps in prop::collection::vec((0_u8..4, 0_usize..40, 0_u64..3000), 1..200),
    ) {
        let mut fleet = Fleet::new(QUESTION, 9);
        let mut now = Timestamp::default();
        let (mut began, mut asked_bytes) = (None, 0.0);
        for (what, which, amount) in steps {
            match what {
                0 => {
                    let group = |index: usize| match index % 3 {
                        0 => Group::Cloud,
                        _ => Group::Neighbor,
                    };
                    fleet.set_members((which / 2..which).map(|it| (key(it), group(it + which % 2))));
                }
                1 => {
                    now = now + Duration::from_millis(amount);
                }
                2 => {
                    let trip = Duration::from_millis(amount);
                    let answer = status(amount, Coordinates::default());
                    fleet.answered(&key(which), answer, 700, Some(trip), now);
                }
                _ => {
                    began.get_or_insert(now);
                    let asked = fleet.tick(now);
                    let mut sorted = asked.clone();
                    sorted.sort_unstable();
                    sorted.dedup();
                    prop_assert_eq!(sorted.len(), asked.len());
                    for key in &asked {
                        prop_assert_eq!(fleet.asked(key), Some(now));
                    }
                    asked_bytes += (asked.len() * (QUESTION + HEADERS)) as f64;
                }
            }
            prop_assert!(fleet.nearest.len() <= NEAREST_MAX);
            prop_assert!(fleet.nearest().len() == fleet.nearest.len());
            prop_assert!(fleet.coordinates().is_sound());
            prop_assert!(fleet.unanswered.iter().all(|key| fleet.peers.contains_key(key)));
        }
        if let Some(began) = began {
            // Answers are 700 bytes at least; those unanswered may be all that are near, once more.
            let most = BYTES_PER_SECOND * (now.since(began).as_secs_f64() + 1.0);
            let near = (2 * NEAREST_MAX * (QUESTION + HEADERS + LONGEST)) as f64;
            prop_assert!(asked_bytes <= most + near, "{} of {}", asked_bytes, most);
        }
    }
}
