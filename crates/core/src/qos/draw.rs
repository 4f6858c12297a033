//! Drawing where a call goes, from the plan's probabilities and a number that is given.

use std::fmt;

/// Where a call can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Here.
    Local,
    /// To the cloud.
    Cloud,
    /// To a neighbor.
    Edge,
    /// Nowhere.
    Drop,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
            Self::Edge => "edge",
            Self::Drop => "drop",
        })
    }
}

/// How likely each is. They sum to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probabilities {
    /// Here.
    pub local: f64,
    /// In the cloud.
    pub cloud: f64,
    /// On a neighbor.
    pub edge: f64,
    /// Dropped.
    pub drop: f64,
}

/// Less than this is the solver's round-off.
const ROUND_OFF: f64 = 1e-7;

impl Probabilities {
    /// As for calls that nothing is planned for: here, and elsewhere for lack of room.
    pub const UNPLANNED: Self = Self {
        local: 1.0,
        cloud: 0.0,
        edge: 0.0,
        drop: 0.0,
    };

    /// Without round-off, summing to 1; `None` if nothing is left.
    pub fn normalized(self) -> Option<Self> {
        let clean = |value: f64| match value {
            value if value > ROUND_OFF => value.min(1.0),
            // NaN too.
            _ => 0.0,
        };
        let (local, cloud) = (clean(self.local), clean(self.cloud));
        let (edge, drop) = (clean(self.edge), clean(self.drop));
        let sum = local + cloud + edge + drop;
        (sum > 0.0).then(|| Self {
            local: local / sum,
            cloud: cloud / sum,
            edge: edge / sum,
            drop: drop / sum,
        })
    }

    /// What `unit`, at least 0 and below 1, falls on.
    pub fn draw(&self, unit: f64) -> Choice {
        let mut left = unit;
        for (choice, probability) in self.each() {
            if left < probability {
                return choice;
            }
            left -= probability;
        }
        // Round-off at the very end: the last one that can be.
        let mut possible = self.each().into_iter().filter(|(_, it)| *it > 0.0);
        possible
            .next_back()
            .map_or(Choice::Drop, |(choice, _)| choice)
    }

    /// All of them.
    pub fn each(&self) -> [(Choice, f64); 4] {
        [
            (Choice::Local, self.local),
            (Choice::Cloud, self.cloud),
            (Choice::Edge, self.edge),
            (Choice::Drop, self.drop),
        ]
    }
}

impl fmt::Display for Probabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            local,
            cloud,
            edge,
            drop,
        } = self;
        write!(
            f,
            "local {local:.2}, cloud {cloud:.2}, edge {edge:.2}, drop {drop:.2}"
        )
    }
}

/// What a call goes by: what was planned for its like, and its luck.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odds {
    /// As planned; see [`Probabilities::UNPLANNED`].
    pub planned: Probabilities,
    /// Whether the plan knows calls of this function and class.
    pub is_planned: bool,
    /// Decides what is drawn.
    pub seed: u64,
    /// Whether calls of the class are worth anything.
    pub is_worth: bool,
    /// Whether the cloud costs more than it may in the long run.
    pub over_budget: bool,
    /// Whether what the cloud may cost in an hour is spent.
    pub spent_up: bool,
}

/// What is left to try for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whether it can be tried here.
    pub local: bool,
    /// In the cloud.
    pub cloud: bool,
    /// On a neighbor.
    pub edge: bool,
    /// Whether it has been tried here, and there was no room.
    pub refused_here: bool,
    /// How much has failed so far.
    pub failures: u64,
}

impl Odds {
    /// Of a call that nothing is planned for, in a class that is worth something.
    pub fn unplanned(seed: u64) -> Self {
        Self {
            planned: Probabilities::UNPLANNED,
            is_planned: false,
            seed,
            is_worth: true,
            over_budget: false,
            spent_up: false,
        }
    }

    /// Draws among what is left, in the proportions of the plan. A plan's call that finds no room
    /// here may go to the cloud only within the budget.
    ///
    /// If nothing that was planned is possible, the call is tried here, and then in the cloud or on
    /// a neighbor if it is worth that.
    pub fn choose(&self, left: &Left) -> Choice {
        let cloud = left.cloud && !self.spent_up && !(left.refused_here && self.over_budget);
        let possible = |open: bool, planned: f64| if open { planned } else { 0.0 };
        let possible = Probabilities {
            local: possible(left.local, self.planned.local),
            cloud: possible(cloud, self.planned.cloud),
            edge: possible(left.edge, self.planned.edge),
            drop: self.planned.drop,
        };
        match possible.normalized() {
            Some(possible) => possible.draw(self.unit(left.failures)),
            None if left.local => Choice::Local,
            None if cloud && self.is_worth && !self.over_budget => Choice::Cloud,
            None if left.edge && self.is_worth => Choice::Edge,
            None => Choice::Drop,
        }
    }

    /// The number that decides the draw after so many failures: as good as independent of others.
    fn unit(&self, failures: u64) -> f64 {
        let mixed = mix(self.seed ^ mix(failures));
        // 53 bits are what a float holds.
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probabilities(local: f64, cloud: f64, edge: f64, drop: f64) -> Probabilities {
        Probabilities {
            local,
            cloud,
            edge,
            drop,
        }
    }

    #[test]
    fn round_off_is_removed_and_the_rest_sums_to_one() {
        let odd = probabilities(-1e-12, 1.0 + 1e-9, 3e-9, 0.0).normalized();
        assert_eq!(odd, Some(probabilities(0.0, 1.0, 0.0, 0.0)));
        let half = probabilities(0.25, 0.25, f64::NAN, 0.0).normalized();
        assert_eq!(half, Some(probabilities(0.5, 0.5, 0.0, 0.0)));
        assert_eq!(probabilities(0.0, 0.0, 1e-9, -1.0).normalized(), None);
    }

    #[test]
    fn each_is_drawn_as_often_as_it_should_be() {
        let planned = probabilities(0.1, 0.2, 0.3, 0.4);
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..100_000 {
            let odds = Odds {
                planned,
                ..Odds::unplanned(seed)
            };
            *counts.entry(planned.draw(odds.unit(0))).or_insert(0) += 1;
        }
        for (choice, probability) in planned.each() {
            let share = f64::from(counts[&choice]) / 100_000.0;
            assert!((share - probability).abs() < 0.005, "{choice}: {share}");
        }
    }

    #[test]
    fn what_has_no_chance_is_never_drawn() {
        let planned = probabilities(0.0, 1.0, 0.0, 0.0);
        for unit in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
            assert_eq!(planned.draw(unit), Choice::Cloud);
        }
        // Three thirds don't quite sum to 1.
        let third = 1.0 / 3.0;
        let thirds = probabilities(third, third, third, 0.0);
        assert_eq!(thirds.draw(1.0 - f64::EPSILON / 2.0), Choice::Edge);
    }

    const ALL: Left = Left {
        local: true,
        cloud: true,
        edge: true,
        refused_here: false,
        failures: 0,
    };
    const REFUSED: Left = Left {
        local: false,
        refused_here: true,
        failures: 1,
        ..ALL
    };

    fn odds(planned: Probabilities) -> Odds {
        Odds {
            planned,
            is_planned: true,
            ..Odds::unplanned(7)
        }
    }

    #[test]
    fn what_is_not_possible_is_left_out_of_the_draw() {
        let mixed = odds(probabilities(0.5, 0.25, 0.25, 0.0));
        for seed in 0..1000 {
            let odds = Odds { seed, ..mixed };
            assert_ne!(odds.choose(&REFUSED), Choice::Local);
            let poor = Odds {
                over_budget: true,
                ..odds
            };
            assert_eq!(poor.choose(&REFUSED), Choice::Edge);
        }
        let cloud = odds(probabilities(0.0, 1.0, 0.0, 0.0));
        let poor = Odds {
            over_budget: true,
            ..cloud
        };
        // In the long run: what is planned keeps to the budget by itself.
        assert_eq!(poor.choose(&ALL), Choice::Cloud);
        let broke = Odds {
            spent_up: true,
            ..cloud
        };
        assert_eq!(broke.choose(&ALL), Choice::Local);
    }

    #[test]
    fn when_no_planned_place_is_left_worth_decides() {
        let here = odds(Probabilities::UNPLANNED);
        assert_eq!(here.choose(&ALL), Choice::Local);
        assert_eq!(here.choose(&REFUSED), Choice::Cloud);
        let poor = Odds {
            over_budget: true,
            ..here
        };
        assert_eq!(poor.choose(&REFUSED), Choice::Edge);
        let worthless = Odds {
            is_worth: false,
            ..here
        };
        assert_eq!(worthless.choose(&REFUSED), Choice::Drop);
        // What may not leave runs here, though that was not planned.
        let cloud = odds(probabilities(0.0, 1.0, 0.0, 0.0));
        let bound = Left {
            cloud: false,
            edge: false,
            ..ALL
        };
        assert_eq!(cloud.choose(&bound), Choice::Local);
        let nothing = Left {
            local: false,
            ..bound
        };
        assert_eq!(cloud.choose(&nothing), Choice::Drop);
    }

    #[test]
    fn what_is_planned_to_be_dropped_is() {
        let dropped = odds(probabilities(0.0, 0.0, 0.0, 1.0));
        assert_eq!(dropped.choose(&ALL), Choice::Drop);
    }
}
