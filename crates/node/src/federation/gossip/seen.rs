//! Which sealed datagrams have been here: one that comes again is not taken again.
//!
//! Networks overtake, so that a number may be below its sender's last: of each sender, the latest
//! numbers are remembered, and what is below all of them is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::super::question::{AGE_MAX, Id};
use super::swim::MEMBERS_MAX;

/// Numbers that are remembered of a sender.
const NUMBERS_MAX: usize = 64;

/// Senders whose numbers are remembered. With the secret, one could make up more.
const SENDERS_MAX: usize = 2 * MEMBERS_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seen {
    senders: BTreeMap<Id, Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    latest: BTreeSet<u64>,
    /// What is not above it was forgotten, or never came.
    floor: u64,
}

impl Seen {
    /// Whether the datagram with this number comes for the first time; `now` as numbers are,
    /// microseconds since 1970.
    pub(super) fn is_new(&mut self, sender: Id, number: u64, now: u64) -> bool {
        if self.senders.len() >= SENDERS_MAX && !self.senders.contains_key(&sender) {
            // Those are too old to be taken again, whatever is remembered.
            let oldest = now.saturating_sub(AGE_MAX.as_micros() as u64);
            self.senders
                .retain(|_, it| it.latest.last().is_some_and(|last| *last >= oldest));
            if self.senders.len() >= SENDERS_MAX {
                return false;
            }
        }
        let numbers = self.senders.entry(sender).or_default();
        if number <= numbers.floor || !numbers.latest.insert(number) {
            return false;
        }
        if numbers.latest.len() > NUMBERS_MAX
            && let Some(forgotten) = numbers.latest.pop_first()
        {
            numbers.floor = forgotten;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    #[test]
    fn each_comes_once_in_whatever_order() {
        let mut seen = Seen::default();
        let sender = [1; 16];
        for number in [5, 3, 9, 7] {
            assert!(seen.is_new(sender, NOW + number, NOW));
            assert!(!seen.is_new(sender, NOW + number, NOW));
        }
        assert!(seen.is_new([2; 16], NOW + 5, NOW));
        for number in 100..100 + NUMBERS_MAX as u64 {
            assert!(seen.is_new(sender, NOW + number, NOW));
        }
        // What was forgotten is not new, nor is what is as old as that.
        for number in [3, 4, 5, 9] {
            assert!(!seen.is_new(sender, NOW + number, NOW));
        }
        assert!(seen.senders[&sender].latest.len() <= NUMBERS_MAX);
    }

    #[test]
    fn few_senders_are_remembered() {
        let mut seen = Seen::default();
        for number in 0..SENDERS_MAX as u64 + 10 {
            let sender = super::super::super::question::id(&number.to_string());
            assert_eq!(
                seen.is_new(sender, NOW, NOW),
                number < SENDERS_MAX as u64,
                "{number}"
            );
        }
        let later = NOW + 2 * AGE_MAX.as_micros() as u64;
        assert!(seen.is_new([9; 16], later, later));
        assert_eq!(seen.senders.len(), 1);
    }
}
