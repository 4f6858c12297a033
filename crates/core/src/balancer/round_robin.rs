//! One target after the other.

use super::fleet::{Fleet, Query};
use super::types::How;

/// The first open target from `turn` on, which is moved behind it.
pub(super) fn pick(fleet: &Fleet, turn: &mut usize, query: &Query<'_>) -> Option<(usize, How)> {
    let count = fleet.states.len();
    let place = (0..count)
        .map(|step| (*turn + step) % count)
        .find(|place| fleet.is_open(*place, query))?;
    *turn = place + 1;
    Some((place, How::Turn))
}
