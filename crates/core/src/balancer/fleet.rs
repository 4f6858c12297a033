//! What is known of the targets, and which of them a request may go to.

use std::collections::BTreeMap;

use super::health::Health;
use super::ring::{Ring, mix};
use super::types::{Architecture, Ask, BalancerConfig, HealthConfig, Needs, NoTarget, Stock};
use super::types::{Target, TargetId};
use crate::Timestamp;

/// A target and what it does.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) target: Target,
    /// Requests under way.
    pub(super) inflight: usize,
    /// As it said last, less what was sent since.
    pub(super) stock: Stock,
    pub(super) health: Health,
}

impl State {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            inflight: 0,
            stock: Stock::default(),
            health: Health::new(),
        }
    }

    /// Whether it seems to have room. What isn't known doesn't speak against it.
    pub(super) fn has_room(&self, needs: Option<&Needs>) -> bool {
        let enough = |free: Option<f64>, wanted: f64| free.is_none_or(|free| free >= wanted);
        needs.is_none_or(|needs| {
            enough(self.stock.memory_free, needs.memory_mb)
                && enough(self.stock.cpu_free, needs.cpu)
        })
    }
}

/// All targets, by key.
#[derive(Debug, Clone)]
pub(super) struct Fleet {
    pub(super) states: Vec<State>,
    pub(super) ring: Ring,
    places: BTreeMap<TargetId, usize>,
    /// Requests under way, at those that are still here.
    pub(super) inflight: usize,
    ejected: usize,
    health: HealthConfig,
    inflight_max: usize,
}

/// A request, and which targets are open to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) ask: &'a Ask<'a>,
    /// If only targets of one will do.
    pub(super) architecture: Option<Architecture>,
    /// Whether targets that are being let in again are left out beyond their share.
    pub(super) is_gentle: bool,
    pub(super) now: Timestamp,
}

impl Fleet {
    pub(super) fn new(config: &BalancerConfig, ring: Ring, targets: Vec<Target>) -> Self {
        let place = |(at, target): (usize, &Target)| (target.id, at);
        Self {
            places: targets.iter().enumerate().map(place).collect(),
            states: targets.into_iter().map(State::new).collect(),
            ring,
            inflight: 0,
            ejected: 0,
            health: config.health,
            inflight_max: config.inflight_max,
        }
    }

    /// Takes over what `former` knows of those that are still there.
    pub(super) fn inherit(&mut self, former: Self) {
        for state in former.states {
            if let Some(place) = self.place(state.target.id) {
                let target = self.states[place].target.clone();
                self.states[place] = State { target, ..state };
            }
        }
        self.inflight = self.states.iter().map(|state| state.inflight).sum();
        self.ejected = self
            .states
            .iter()
            .filter(|it| it.health.is_ejected())
            .count();
    }

    pub(super) fn place(&self, id: TargetId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// Targets that are not ejected.
    pub(super) fn live(&self) -> usize {
        self.states.len() - self.ejected
    }

    /// Whether another may be ejected and at least half are still in.
    pub(super) fn can_spare(&self) -> bool {
        (self.ejected + 1) * 2 <= self.states.len()
    }

    /// Changes the health of a target, and keeps count.
    pub(super) fn judge<T>(
        &mut self,
        place: usize,
        change: impl FnOnce(&mut Health, &HealthConfig) -> T,
    ) -> T {
        let health = &mut self.states[place].health;
        let was = health.is_ejected();
        let result = change(health, &self.health);
        match (was, health.is_ejected()) {
            (false, true) => self.ejected += 1,
            (true, false) => self.ejected -= 1,
            _ => {}
        }
        result
    }

    /// Which part of its requests the target gets.
    pub(super) fn share(&self, place: usize, now: Timestamp) -> f64 {
        self.states[place].health.share(now, &self.health)
    }

    pub(super) fn health_name(&self, place: usize, now: Timestamp) -> &'static str {
        self.states[place].health.name(now, &self.health)
    }

    fn fits(&self, place: usize, query: &Query<'_>) -> bool {
        let Some(architecture) = self.states[place].target.architecture else {
            return true;
        };
        let wanted = query.ask.needs.map_or(&[][..], |it| &it.architectures);
        query.architecture.is_none_or(|only| only == architecture)
            && (wanted.is_empty() || wanted.contains(&architecture))
    }

    /// Whether the request may go to the target.
    pub(super) fn is_open(&self, place: usize, query: &Query<'_>) -> bool {
        let state = &self.states[place];
        if state.health.is_ejected()
            || state.inflight >= self.inflight_max
            || !self.fits(place, query)
            || query.ask.tried.contains(&state.target.id)
        {
            return false;
        }
        let share = self.share(place, query.now);
        if !query.is_gentle || share >= 1.0 {
            return true;
        }
        // One draw a request and target.
        let draw = mix(query.ask.draw ^ mix(state.target.id.0));
        (draw as f64) < share * u64::MAX as f64
    }

    /// Why no target is open to the request.
    pub(super) fn why_none(&self, query: &Query<'_>) -> NoTarget {
        if self.states.is_empty() {
            return NoTarget::Nobody;
        }
        let all = || (0..self.states.len()).filter(|place| self.fits(*place, query));
        let tried = |place: usize| query.ask.tried.contains(&self.states[place].target.id);
        match () {
            () if all().next().is_none() => NoTarget::Unfit,
            () if all().any(|at| !tried(at) && !self.states[at].health.is_ejected()) => {
                NoTarget::Full
            }
            () if query.ask.tried.is_empty() => NoTarget::Ejected,
            () => NoTarget::Tried,
        }
    }

    /// Takes what a target says of itself.
    pub(super) fn report(&mut self, place: usize, told: Stock) {
        // What is no number, or negative, is nonsense; a total of zero means that it isn't known.
        let sane = |value: Option<f64>| value.filter(|it| it.is_finite() && *it >= 0.0);
        let total = |value: Option<f64>| sane(value).filter(|it| *it > 0.0);
        let stock = &mut self.states[place].stock;
        *stock = Stock {
            memory_free: sane(told.memory_free).or(stock.memory_free),
            memory_total: total(told.memory_total).or(stock.memory_total),
            cpu_free: sane(told.cpu_free).or(stock.cpu_free),
            cpu_total: total(told.cpu_total).or(stock.cpu_total),
        };
    }

    /// Which part of the memory of targets of an architecture is in use.
    pub(super) fn memory_use(&self, architecture: Architecture) -> f64 {
        let of = |state: &&State| state.target.architecture == Some(architecture);
        let (mut total, mut free) = (0.0, 0.0);
        for state in self.states.iter().filter(of) {
            let all = state.stock.memory_total.unwrap_or(0.0);
            total += all;
            free += state.stock.memory_free.unwrap_or(all).min(all);
        }
        // Nothing known: nothing in use.
        if total > 0.0 {
            (total - free) / total
        } else {
            0.0
        }
    }
}
