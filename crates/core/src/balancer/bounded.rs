//! Consistent hashing with bounded loads: a name's requests go to the first target clockwise that
//! has less than its share of all requests under way.
//!
//! Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (SODA 2018): with
//! `m` requests and `n` targets, none has more than `ceil(c m / n)`; a target that comes or goes
//! moves a number of names that depends on `c` alone. One thing is added: a target is never too busy
//! for a request that it has a core for, as moving that would cost a cold start and win nothing.

use super::fleet::{Fleet, Query};
use super::ring::Visited;
use super::types::How;

/// The target for a request of `name`.
pub(super) fn pick(
    fleet: &Fleet,
    visited: &mut Visited,
    name: &str,
    load_factor: f64,
    query: &Query<'_>,
) -> Option<(usize, How)> {
    let bound = bound(load_factor, fleet.inflight + 1, fleet.live());
    // With room in its share though not in its memory; with the fewest requests.
    let (mut roomy, mut least): (Option<usize>, Option<usize>) = (None, None);
    let mut is_first = true;
    for place in fleet.ring.walk(name, visited) {
        if !fleet.is_open(place, query) {
            continue;
        }
        let state = &fleet.states[place];
        if state.inflight < capacity(fleet, place, bound, query) {
            if state.has_room(query.ask.needs) {
                return Some((place, if is_first { How::First } else { How::Spilled }));
            }
            roomy = roomy.or(Some(place));
        }
        is_first = false;
        if least.is_none_or(|least| state.inflight < fleet.states[least].inflight) {
            least = Some(place);
        }
    }
    Some((roomy.or(least)?, How::Crowded))
}

/// `ceil(c m / n)`.
fn bound(load_factor: f64, requests: usize, targets: usize) -> f64 {
    (load_factor * requests as f64 / targets.max(1) as f64).ceil()
}

/// How many requests a target may have.
fn capacity(fleet: &Fleet, place: usize, bound: f64, query: &Query<'_>) -> usize {
    let cores = fleet.states[place].stock.cpu_total.unwrap_or(0.0);
    let share = fleet.share(place, query.now);
    // A cast from a float saturates.
    ((bound.max(cores.floor()) * share) as usize).max(1)
}
