//! Which target of a load balancer gets a request: rings, bandits, health. The balancer's shell asks
//! for a target, sends the request there, and says how it ended.
//!
//! Not here: who the targets are, connections, what is sent again. A balancer is asked under a lock,
//! so choosing allocates nothing and takes about a microsecond; membership changes, which sort the
//! ring, are prepared without the lock ([`Plan`]).

mod bandit;
mod bounded;
mod fleet;
mod health;
mod linucb;
mod memory;
mod original;
mod ring;
mod round_robin;
#[cfg(test)]
mod tests;
mod types;
mod ucb1;

use std::collections::BTreeMap;
use std::time::Duration;

use self::bandit::{ARMS, Arm, Bandit, Lesson};
use self::fleet::{Fleet, Query};
use self::ring::{Hash, Ring, Visited, mix};
use crate::Timestamp;

pub use self::bandit::Choice;
pub use self::health::Ejection;
pub use self::types::{
    Architecture, ArchitecturePolicy, Ask, BalancerConfig, BanditConfig, BanditKind, HealthConfig,
    How, Needs, NoTarget, Outcome, Picked, Run, Stock, Target, TargetId, TargetPolicy,
};

/// Functions that have a bandit; further ones take turns.
const BANDITS_MAX: usize = 10_000;

/// Chooses targets.
#[derive(Debug)]
pub struct Balancer {
    config: BalancerConfig,
    fleet: Fleet,
    visited: Visited,
    bandits: BTreeMap<String, Box<dyn Bandit>>,
    /// Whose turn it is.
    turn: usize,
    architecture_turn: usize,
}

/// Targets, prepared to be taken over at once.
#[derive(Debug)]
pub struct Plan(Fleet);

impl Plan {
    /// Of these targets; of several with one key, the last counts.
    pub fn new(config: &BalancerConfig, targets: impl IntoIterator<Item = Target>) -> Self {
        let by_key = targets.into_iter().map(|it| (it.key.clone(), it));
        let by_key: BTreeMap<String, Target> = by_key.collect();
        let hash = match config.policy {
            TargetPolicy::Ring => Hash::Fnv32,
            _ => Hash::Mixed64,
        };
        let ring = Ring::new(hash, config.replicas, by_key.keys().map(String::as_str));
        Self(Fleet::new(config, ring, by_key.into_values().collect()))
    }
}

/// A target, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Who.
    pub target: Target,
    /// `in`, `ejected` or `returning`.
    pub health: &'static str,
    /// The part of its requests that it gets.
    pub share: f64,
    /// Requests under way.
    pub inflight: usize,
    /// What it has left, as far as is known.
    pub stock: Stock,
}

impl Balancer {
    /// Without targets.
    pub fn new(config: BalancerConfig) -> Self {
        Self {
            fleet: Plan::new(&config, []).0,
            visited: Visited::default(),
            bandits: BTreeMap::new(),
            turn: 0,
            architecture_turn: 0,
            config,
        }
    }

    /// Goes over to these targets. What is known of those that stay is kept.
    pub fn install(&mut self, plan: Plan) {
        let former = std::mem::replace(&mut self.fleet, plan.0);
        self.fleet.inherit(former);
    }

    /// Forgets what was learned of a function.
    pub fn forget(&mut self, name: &str) {
        self.bandits.remove(name);
    }

    /// A target for the request, which counts as under way there until [`Balancer::end`].
    pub fn pick(&mut self, ask: &Ask<'_>, now: Timestamp) -> Result<Picked, NoTarget> {
        let mut query = Query {
            ask,
            architecture: None,
            is_gentle: true,
            now,
        };
        let mut chosen = self.home(&query);
        if chosen.is_none() {
            chosen = self.try_pick(&mut query);
        }
        if chosen.is_none() {
            // Better one that isn't wholly back than none.
            query.is_gentle = false;
            query.architecture = None;
            chosen = self.try_pick(&mut query);
        }
        query.architecture = None;
        let (place, how, choice) = chosen.ok_or_else(|| self.fleet.why_none(&query))?;
        let state = &mut self.fleet.states[place];
        state.inflight += 1;
        self.fleet.inflight += 1;
        let mut debit = (0.0, 0.0);
        if let Some(needs) = ask.needs {
            debit = (needs.memory_mb, needs.cpu);
            take(&mut state.stock.memory_free, debit.0);
            take(&mut state.stock.cpu_free, debit.1);
        }
        Ok(Picked {
            target: state.target.id,
            how,
            choice,
            debit,
        })
    }

    /// Who has what the request is about, if that is open to it.
    fn home(&self, query: &Query<'_>) -> Option<(usize, How, Option<Choice>)> {
        let query = Query {
            is_gentle: false,
            ..*query
        };
        let place = self.fleet.place(query.ask.home?)?;
        let is_open = self.fleet.is_open(place, &query);
        is_open.then_some((place, How::First, None))
    }

    fn try_pick(&mut self, query: &mut Query<'_>) -> Option<(usize, How, Option<Choice>)> {
        if self.config.architecture == ArchitecturePolicy::Unaware {
            return self.pick_target(query).map(|(at, how)| (at, how, None));
        }
        let (first, choice) = self.first_architecture(query)?;
        let others = Architecture::KNOWN.into_iter().filter(|it| *it != first);
        for architecture in [first].into_iter().chain(others) {
            query.architecture = Some(architecture);
            if let Some((place, how)) = self.pick_target(query) {
                let choice = choice.filter(|_| architecture == first);
                return Some((place, how, choice));
            }
        }
        self.void(query.ask.name, choice);
        None
    }

    fn pick_target(&mut self, query: &Query<'_>) -> Option<(usize, How)> {
        let Self { fleet, visited, .. } = self;
        let Some(name) = query.ask.name else {
            return round_robin::pick(fleet, &mut self.turn, query);
        };
        match self.config.policy {
            TargetPolicy::Bounded => {
                bounded::pick(fleet, visited, name, self.config.load_factor, query)
            }
            TargetPolicy::Ring => original::pick(fleet, visited, name, query),
            TargetPolicy::Memory => memory::pick(fleet, query),
            TargetPolicy::RoundRobin => round_robin::pick(fleet, &mut self.turn, query),
        }
    }

    /// The architecture that the request is meant for, if any target is open to it.
    fn first_architecture(&mut self, query: &Query<'_>) -> Option<(Architecture, Option<Choice>)> {
        let is_open = |architecture: &Architecture| {
            let query = Query {
                architecture: Some(*architecture),
                ..*query
            };
            (0..self.fleet.states.len()).any(|place| self.fleet.is_open(place, &query))
        };
        let mut open = Architecture::KNOWN.map(|it| Some(it).filter(is_open));
        // In front, those that there are.
        open.sort_by_key(Option::is_none);
        let [Some(first), second] = open else {
            return None;
        };
        let Some(second) = second else {
            return Some((first, None));
        };
        let turn = match self.config.architecture {
            ArchitecturePolicy::Random => (mix(query.ask.draw) & 1) as usize,
            ArchitecturePolicy::Bandit => {
                if let Some(choice) = self.ask_bandit(query.ask) {
                    return Some((Architecture::KNOWN[choice.arm], Some(choice)));
                }
                self.next_architecture()
            }
            _ => self.next_architecture(),
        };
        Some(([first, second][turn], None))
    }

    fn next_architecture(&mut self) -> usize {
        self.architecture_turn ^= 1;
        // The first of all goes to the first.
        self.architecture_turn ^ 1
    }

    /// Only of functions that are known: anybody can make up names.
    fn ask_bandit(&mut self, ask: &Ask<'_>) -> Option<Choice> {
        let name = ask.name.filter(|_| ask.needs.is_some())?;
        if !self.bandits.contains_key(name) {
            if self.bandits.len() >= BANDITS_MAX {
                return None;
            }
            let bandit = bandit::new(&self.config.bandit);
            self.bandits.insert(name.to_owned(), bandit);
        }
        let arms: [Arm; ARMS] = std::array::from_fn(|index| Arm {
            index,
            memory_use: self.fleet.memory_use(Architecture::KNOWN[index]),
        });
        self.bandits.get_mut(name)?.choose(&arms)
    }

    fn void(&mut self, name: Option<&str>, choice: Option<Choice>) {
        self.learn(name, choice, Lesson::Void);
    }

    fn learn(&mut self, name: Option<&str>, choice: Option<Choice>, lesson: Lesson) {
        let bandit = name.and_then(|name| self.bandits.get_mut(name));
        if let (Some(bandit), Some(choice)) = (bandit, choice) {
            bandit.learn(&choice, lesson);
        }
    }

    /// A request for `name` has ended. Why its target is ejected for it, if it is.
    pub fn end(
        &mut self,
        name: Option<&str>,
        picked: &Picked,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<Ejection> {
        let lesson = lesson(outcome, self.config.bandit.failure_as);
        self.learn(name, picked.choice, lesson);
        let place = self.fleet.place(picked.target)?;
        let state = &mut self.fleet.states[place];
        state.inflight = state.inflight.saturating_sub(1);
        self.fleet.inflight = self.fleet.inflight.saturating_sub(1);
        match outcome {
            Outcome::Abandoned => None,
            // Overloaded or on its way out: it says so itself.
            Outcome::Answered { status: 503, .. } | Outcome::Broken => {
                self.fail(place, Ejection::Broken, now)
            }
            Outcome::Answered { .. } => {
                self.fleet
                    .judge(place, |health, config| health.answered(now, config));
                None
            }
            Outcome::Unreachable => {
                let (memory, cpu) = picked.debit;
                take(&mut state.stock.memory_free, -memory);
                take(&mut state.stock.cpu_free, -cpu);
                self.fail(place, Ejection::Unreachable, now)
            }
        }
    }

    fn fail(&mut self, place: usize, why: Ejection, now: Timestamp) -> Option<Ejection> {
        let can_spare = self.fleet.can_spare();
        let fail = |health: &mut health::Health, config: &HealthConfig| {
            health.failed(why, can_spare, now, config)
        };
        self.fleet.judge(place, fail).then_some(why)
    }

    /// A target has said this of itself.
    pub fn report(&mut self, target: TargetId, stock: Stock) {
        if let Some(place) = self.fleet.place(target) {
            self.fleet.report(place, stock);
        }
    }

    /// A target has said what it is built for.
    pub fn learn_architecture(&mut self, target: TargetId, architecture: Architecture) {
        if let Some(place) = self.fleet.place(target) {
            self.fleet.states[place].target.architecture = Some(architecture);
        }
    }

    /// A probe was answered. Whether that lets the target in again.
    pub fn probed(&mut self, target: TargetId, now: Timestamp) -> bool {
        let place = self.fleet.place(target);
        place.is_some_and(|place| {
            self.fleet
                .judge(place, |health, config| health.probed(now, config))
        })
    }

    /// A probe failed. Whether the target is ejected for it.
    pub fn probe_failed(
        &mut self,
        target: TargetId,
        why: Ejection,
        now: Timestamp,
    ) -> Option<Ejection> {
        let place = self.fleet.place(target)?;
        self.fail(place, why, now)
    }

    /// The targets by key, for people.
    pub fn seen(&self, now: Timestamp) -> Vec<Seen> {
        let seen = |place: usize| {
            let state = &self.fleet.states[place];
            Seen {
                target: state.target.clone(),
                health: self.fleet.health_name(place, now),
                share: self.fleet.share(place, now),
                inflight: state.inflight,
                stock: state.stock,
            }
        };
        (0..self.fleet.states.len()).map(seen).collect()
    }
}

fn take(from: &mut Option<f64>, amount: f64) {
    if let Some(free) = from {
        *free = (*free - amount).max(0.0);
    }
}

/// What a bandit learns of it.
fn lesson(outcome: Outcome, failure_as: Duration) -> Lesson {
    match outcome {
        Outcome::Answered { status: 200, run } => match run {
            Some(run) if run.is_warm => Lesson::Took(run.duration),
            _ => Lesson::Void,
        },
        Outcome::Answered {
            status: 429 | 500..,
            ..
        }
        | Outcome::Unreachable
        | Outcome::Broken => Lesson::Took(failure_as),
        // The caller's fault, or nobody's.
        Outcome::Answered { .. } | Outcome::Abandoned => Lesson::Void,
    }
}
