//! The target with the most free memory, among equals the one with the fewest requests.

use super::fleet::{Fleet, Query, State};
use super::types::How;

/// The target for a request.
pub(super) fn pick(fleet: &Fleet, query: &Query<'_>) -> Option<(usize, How)> {
    let open = || (0..fleet.states.len()).filter(|place| fleet.is_open(*place, query));
    let roomy = |place: &usize| fleet.states[*place].has_room(query.ask.needs);
    let best = most(fleet, open().filter(roomy)).map(|place| (place, How::First));
    best.or_else(|| Some((most(fleet, open())?, How::Crowded)))
}

fn most(fleet: &Fleet, places: impl Iterator<Item = usize>) -> Option<usize> {
    // What a target has not told of is taken for plenty: it is asked, and then it is known.
    let free = |state: &State| state.stock.memory_free.unwrap_or(f64::INFINITY);
    places.min_by(|a, b| {
        let (a, b) = (&fleet.states[*a], &fleet.states[*b]);
        let by_memory = free(b).total_cmp(&free(a));
        by_memory.then(a.inflight.cmp(&b.inflight))
    })
}
