//! The original's choice: the first target clockwise that seems to have room for the function. Where
//! none seems to, the original fails; here the first one that is open decides for itself.

use super::fleet::{Fleet, Query};
use super::ring::Visited;
use super::types::How;

/// The target for a request of `name`.
pub(super) fn pick(
    fleet: &Fleet,
    visited: &mut Visited,
    name: &str,
    query: &Query<'_>,
) -> Option<(usize, How)> {
    let mut first = None;
    for place in fleet.ring.walk(name, visited) {
        if !fleet.is_open(place, query) {
            continue;
        }
        if fleet.states[place].has_room(query.ask.needs) {
            let how = if first.is_none() {
                How::First
            } else {
                How::Spilled
            };
            return Some((place, how));
        }
        first = first.or(Some(place));
    }
    Some((first?, How::Crowded))
}
