//! UCB1: the arm with the highest upper confidence bound of its mean reward, `mean + c sqrt(ln T / N)`.
//!
//! Auer, Cesa-Bianchi and Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", Machine
//! Learning 47 (2002), figure 1, where `c` is the square root of 2.

use super::bandit::{ARMS, Arm, Bandit, Choice, Lesson, best, reward};

#[derive(Debug, Clone, Copy, Default)]
struct History {
    /// How often it was chosen, calls under way included: `N`.
    chosen: u64,
    /// Of which so many have a reward.
    rewarded: u64,
    sum: f64,
}

/// A bandit without context.
#[derive(Debug)]
pub(super) struct Ucb1 {
    c: f64,
    arms: [History; ARMS],
}

impl Ucb1 {
    /// `c`: how much it explores.
    pub(super) fn new(c: f64) -> Self {
        Self {
            c,
            arms: Default::default(),
        }
    }

    /// The mean reward of an arm. One whose first calls are under way is taken for an average one:
    /// rewards are negative, and zero would draw every call to it until the first has ended.
    fn mean(&self, arm: &History) -> f64 {
        if arm.rewarded > 0 {
            return arm.sum / arm.rewarded as f64;
        }
        let (sum, rewarded) = self.arms.iter().fold((0.0, 0), |(sum, rewarded), other| {
            (sum + other.sum, rewarded + other.rewarded)
        });
        sum / rewarded.max(1) as f64
    }
}

impl Bandit for Ucb1 {
    fn choose(&mut self, arms: &[Arm]) -> Option<Choice> {
        let untried = arms.iter().find(|arm| self.arms[arm.index].chosen == 0);
        let total: u64 = self.arms.iter().map(|arm| arm.chosen).sum();
        let bound = |arm: &Arm| {
            let history = &self.arms[arm.index];
            let spread = ((total as f64).ln() / history.chosen as f64).sqrt();
            self.mean(history) + self.c * spread
        };
        let arm = untried.copied().or_else(|| best(arms, bound))?;
        self.arms[arm.index].chosen += 1;
        Some(Choice {
            arm: arm.index,
            memory_use: arm.memory_use,
        })
    }

    fn learn(&mut self, choice: &Choice, lesson: Lesson) {
        let arm = &mut self.arms[choice.arm];
        match lesson {
            Lesson::Took(took) => {
                arm.rewarded += 1;
                arm.sum += reward(took);
            }
            Lesson::Void => arm.chosen = arm.chosen.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balancer::bandit::tests::BOTH;

    /// Two arms, worked out by hand: means -ln 10 = -2.303 and -ln 20 = -2.996.
    #[test]
    fn the_formula_is_the_papers() {
        let mut bandit = Ucb1::new(0.8);
        for (arm, milliseconds) in [(0, 10), (1, 20)] {
            let choice = bandit.choose(&BOTH).unwrap();
            assert_eq!(choice.arm, arm, "untried arms come first");
            bandit.learn(&choice, Lesson::Took(Duration::from_millis(milliseconds)));
        }
        // T = 2: both bounds get 0.8 sqrt(ln 2 / 1) = 0.666.
        let mut order = Vec::new();
        for _ in 0..6 {
            let choice = bandit.choose(&BOTH).unwrap();
            order.push(choice.arm);
            let milliseconds = [10, 20][choice.arm];
            bandit.learn(&choice, Lesson::Took(Duration::from_millis(milliseconds)));
        }
        // T = 3, N = (2, 1): -2.303 + 0.593 = -1.710 against -2.996 + 0.839 = -2.157.
        // T = 5, N = (4, 1): -2.303 + 0.507 = -1.796 against -2.996 + 1.015 = -1.981.
        // T = 6, N = (5, 1): -2.303 + 0.479 = -1.824 against -2.996 + 1.071 = -1.925.
        // T = 7, N = (6, 1): -2.303 + 0.456 = -1.847 against -2.996 + 1.116 = -1.880.
        assert_eq!(order, [0, 0, 0, 0, 0, 0]);
        // T = 8, N = (7, 1): -2.303 + 0.436 = -1.867 against -2.996 + 1.154 = -1.842.
        assert_eq!(bandit.choose(&BOTH).unwrap().arm, 1);
    }

    #[test]
    fn an_arm_whose_first_call_is_under_way_is_no_magnet() {
        let mut bandit = Ucb1::new(0.8);
        let first = bandit.choose(&BOTH).unwrap();
        bandit.learn(&first, Lesson::Took(Duration::from_millis(10)));
        let slow = bandit.choose(&BOTH).unwrap();
        assert_eq!(slow.arm, 1);
        let mut counts = [0; ARMS];
        for _ in 0..20 {
            let choice = bandit.choose(&BOTH).unwrap();
            counts[choice.arm] += 1;
        }
        assert!(counts[0] >= 8 && counts[1] >= 8, "{counts:?}");
    }
}
