//! Bandits: which architecture a function's calls go to, learned from how long they took. Arms are
//! architectures; the reward of a warm call is `-ln` of its run time in milliseconds, as in the
//! original.
//!
//! What the original gets wrong and is right here: a failed call has a reward, and a bad one, where
//! there it raises the mean of its arm by having none; and calls under way don't count in the mean.

use std::time::Duration;

use super::linucb::LinUcb;
use super::types::{BanditConfig, BanditKind};
use super::ucb1::Ucb1;

/// How many arms a bandit has.
pub(super) const ARMS: usize = 2;

/// An arm that can be chosen, and the part of its targets' memory that is in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arm {
    pub(super) index: usize,
    pub(super) memory_use: f64,
}

/// A bandit's choice, to be given back with what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The arm.
    pub(super) arm: usize,
    /// The part of memory that was in use.
    pub(super) memory_use: f64,
}

/// What came of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Lesson {
    /// A warm call that took this long, or something as bad.
    Took(Duration),
    /// Nothing can be learned, as from a cold start: as if it had not been made.
    Void,
}

/// Learns which arm is best.
pub(super) trait Bandit: std::fmt::Debug + Send {
    /// The arm to take, of at least one.
    fn choose(&mut self, arms: &[Arm]) -> Option<Choice>;

    /// Takes what came of a choice into account. Each choice has one end.
    fn learn(&mut self, choice: &Choice, lesson: Lesson);
}

/// One that knows nothing yet.
pub(super) fn new(config: &BanditConfig) -> Box<dyn Bandit> {
    match config.kind {
        BanditKind::Ucb1 => Box::new(Ucb1::new(config.ucb1_c)),
        BanditKind::LinUcb => Box::new(LinUcb::new(config.linucb_alpha, config.linucb_lambda)),
    }
}

/// `-ln` of the milliseconds. A time of zero, which no clock means, counts as a microsecond.
pub(super) fn reward(took: Duration) -> f64 {
    let milliseconds = took.as_secs_f64() * 1e3;
    -milliseconds.max(1e-3).ln()
}

/// The arm with the highest score; the first of equals.
pub(super) fn best(arms: &[Arm], score: impl Fn(&Arm) -> f64) -> Option<Arm> {
    let mut best: Option<(f64, Arm)> = None;
    for arm in arms {
        let score = score(arm);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, *arm));
        }
    }
    best.map(|(_, arm)| arm)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::balancer::ring::mix;

    /// Both arms, half of their memory in use.
    pub(crate) const BOTH: [Arm; ARMS] = [
        Arm {
            index: 0,
            memory_use: 0.5,
        },
        Arm {
            index: 1,
            memory_use: 0.5,
        },
    ];

    pub(crate) fn config(kind: BanditKind) -> BanditConfig {
        BanditConfig {
            kind,
            ucb1_c: 0.8,
            linucb_alpha: 0.1,
            linucb_lambda: 0.0,
            failure_as: Duration::from_secs(60),
        }
    }

    const KINDS: [BanditKind; 2] = [BanditKind::Ucb1, BanditKind::LinUcb];

    /// How often the second arm is chosen in 500 calls that end as `end` says.
    fn second(kind: BanditKind, end: impl Fn(usize, u64) -> Lesson) -> usize {
        let mut bandit = new(&config(kind));
        let mut count = 0;
        for number in 0..500 {
            let choice = bandit.choose(&BOTH).unwrap();
            count += choice.arm;
            bandit.learn(&choice, end(choice.arm, mix(number)));
        }
        count
    }

    fn took(milliseconds: u64) -> Lesson {
        Lesson::Took(Duration::from_millis(milliseconds))
    }

    #[test]
    fn the_faster_arm_is_found() {
        for kind in KINDS {
            // 20 to 39 ms against 10 to 19.
            let slow_first = |arm, noise| took((2 - arm as u64) * (10 + noise % 10));
            let count = second(kind, slow_first);
            assert!(count > 400, "{kind:?}: {count}");
            let slow_second = |arm, noise| took((1 + arm as u64) * (10 + noise % 10));
            let count = second(kind, slow_second);
            assert!(count < 100, "{kind:?}: {count}");
        }
    }

    #[test]
    fn failures_are_no_way_to_be_liked() {
        for kind in KINDS {
            let failing = |arm, _| match arm {
                0 => Lesson::Took(config(kind).failure_as),
                _ => took(500),
            };
            let count = second(kind, failing);
            assert!(count > 450, "{kind:?}: {count}");
        }
    }

    #[test]
    fn cold_starts_change_nothing() {
        for kind in KINDS {
            let mut bandit = new(&config(kind));
            let before = format!("{bandit:?}");
            for _ in 0..5 {
                let choice = bandit.choose(&BOTH).unwrap();
                bandit.learn(&choice, Lesson::Void);
            }
            assert_eq!(format!("{bandit:?}"), before);
        }
    }

    #[test]
    fn only_what_is_there_is_chosen() {
        for kind in KINDS {
            let mut bandit = new(&config(kind));
            for _ in 0..10 {
                let choice = bandit.choose(&BOTH[1..]).unwrap();
                assert_eq!(choice.arm, 1);
                bandit.learn(&choice, took(10_000));
            }
            assert_eq!(bandit.choose(&[]), None);
        }
    }

    #[test]
    fn rewards_are_finite() {
        for took in [Duration::ZERO, Duration::MAX, Duration::from_millis(1)] {
            assert!(reward(took).is_finite(), "{took:?}");
        }
        assert_eq!(reward(Duration::from_millis(1)), 0.0);
    }
}
