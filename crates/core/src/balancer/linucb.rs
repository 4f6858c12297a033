//! LinUCB with disjoint linear models: the expected reward of an arm depends on how much of the
//! memory of its targets is in use.
//!
//! Li, Chu, Langford and Schapire, "A Contextual-Bandit Approach to Personalized News Article
//! Recommendation" (WWW 2010), algorithm 1: `A = I + sum x xT`, `b = sum r x`, and the arm with the
//! highest `xT A^-1 b + alpha sqrt(xT A^-1 x)`. With the original's context `x = (1, 1/(1-u+0.01))`,
//! where `u` is the part in use.

use super::bandit::{ARMS, Arm, Bandit, Choice, Lesson, best, reward};

/// The use of memory from which rewards suffer.
const CROWDED: f64 = 0.75;

type Vector = [f64; 2];

/// A linear model of an arm's reward. `A` is symmetric: its two diagonal elements and the other.
#[derive(Debug, Clone, Copy)]
struct Model {
    a: [f64; 3],
    b: Vector,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            a: [1.0, 1.0, 0.0],
            b: [0.0; 2],
        }
    }
}

impl Model {
    /// `A^-1 v`. `A` is the identity and something positive: its determinant is 1 at least.
    fn solve(&self, v: Vector) -> Vector {
        let [p, q, r] = self.a;
        let determinant = p * q - r * r;
        [
            (q * v[0] - r * v[1]) / determinant,
            (p * v[1] - r * v[0]) / determinant,
        ]
    }

    fn score(&self, x: Vector, alpha: f64) -> f64 {
        let spread = dot(x, self.solve(x)).max(0.0).sqrt();
        dot(x, self.solve(self.b)) + alpha * spread
    }

    fn learn(&mut self, x: Vector, reward: f64) {
        self.a[0] += x[0] * x[0];
        self.a[1] += x[1] * x[1];
        self.a[2] += x[0] * x[1];
        self.b[0] += reward * x[0];
        self.b[1] += reward * x[1];
    }
}

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1]
}

fn context(memory_use: f64) -> Vector {
    let u = memory_use.clamp(0.0, 1.0);
    [1.0, 1.0 / (1.0 - u + 0.01)]
}

/// A bandit with the use of memory as its context.
#[derive(Debug)]
pub(super) struct LinUcb {
    alpha: f64,
    lambda: f64,
    models: [Model; ARMS],
}

impl LinUcb {
    /// `alpha`: how much it explores; `lambda`: what full memory takes off a reward.
    pub(super) fn new(alpha: f64, lambda: f64) -> Self {
        Self {
            alpha,
            lambda,
            models: Default::default(),
        }
    }
}

impl Bandit for LinUcb {
    fn choose(&mut self, arms: &[Arm]) -> Option<Choice> {
        let score = |arm: &Arm| self.models[arm.index].score(context(arm.memory_use), self.alpha);
        let arm = best(arms, score)?;
        Some(Choice {
            arm: arm.index,
            memory_use: arm.memory_use,
        })
    }

    fn learn(&mut self, choice: &Choice, lesson: Lesson) {
        let Lesson::Took(took) = lesson else {
            return;
        };
        let crowded = (choice.memory_use - CROWDED) / (1.0 - CROWDED);
        let reward = reward(took) - self.lambda * crowded.clamp(0.0, 1.0);
        self.models[choice.arm].learn(context(choice.memory_use), reward);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balancer::bandit::tests::BOTH;

    #[test]
    fn the_formula_is_the_papers() {
        let mut model = Model::default();
        // x = (1, 2), r = -3: A = [[2, 2], [2, 5]], b = (-3, -6), A^-1 = [[5, -2], [-2, 2]] / 6.
        model.learn([1.0, 2.0], -3.0);
        // A^-1 b = (-0.5, -1); with x = (1, 1): -1.5, and xT A^-1 x = (5 - 4 + 2) / 6 = 0.5.
        let score = model.score([1.0, 1.0], 0.1);
        assert!(
            (score - (-1.5 + 0.1 * 0.5_f64.sqrt())).abs() < 1e-12,
            "{score}"
        );
    }

    #[test]
    fn nobody_stays_with_an_arm_that_fills_up() {
        let mut bandit = LinUcb::new(0.1, 0.0);
        // The first arm is fast while it is empty and slow when it is full; the second is even.
        let duration = |arm: &Arm| match arm.index {
            0 if arm.memory_use > 0.5 => Duration::from_millis(400),
            0 => Duration::from_millis(10),
            _ => Duration::from_millis(80),
        };
        let arms = |first: f64| {
            let mut arms = BOTH;
            arms[0].memory_use = first;
            arms
        };
        for number in 0..400 {
            let arms = arms(if number % 2 == 0 { 0.05 } else { 0.95 });
            // Every arm at every use, so that both models have seen all.
            let arm = &arms[number / 2 % 2];
            let choice = Choice {
                arm: arm.index,
                memory_use: arm.memory_use,
            };
            bandit.learn(&choice, Lesson::Took(duration(arm)));
        }
        assert_eq!(bandit.choose(&arms(0.05)).unwrap().arm, 0);
        assert_eq!(bandit.choose(&arms(0.95)).unwrap().arm, 1);
    }

    #[test]
    fn lambda_is_taken_off_above_three_quarters() {
        let took = Lesson::Took(Duration::from_millis(1));
        let learned = |memory_use| {
            let mut bandit = LinUcb::new(0.1, 2.0);
            let choice = Choice { arm: 0, memory_use };
            bandit.learn(&choice, took);
            // The first part of b is the reward.
            bandit.models[0].b[0]
        };
        assert_eq!(learned(0.75), 0.0);
        assert_eq!(learned(0.875), -1.0);
        assert_eq!(learned(1.0), -2.0);
    }

    #[test]
    fn a_use_beyond_all_is_all() {
        for strange in [-1.0, 100.0] {
            let [one, x] = context(strange);
            assert!(one == 1.0 && (0.9..=100.1).contains(&x), "{strange}: {x}");
        }
    }
}
