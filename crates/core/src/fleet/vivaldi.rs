//! Vivaldi network coordinates, as the original's library computes them (Serf's variant): from
//! round trips between some nodes, the distances between all of them.
//!
//! All in seconds. Three dimensions, a height for a node's own link, an adjustment for what the
//! space can't express, and a pull to the origin so that all stay there together.

use super::random::Random;

/// Dimensions of the space.
const DIMENSIONS: usize = 3;

/// Largest error: that of a node that knows nothing.
const ERROR_MAX: f64 = 1.5;

/// How much one round trip changes the error, and the position.
const ERROR_SHARE: f64 = 0.25;
const MOVE_SHARE: f64 = 0.25;

/// Round trips that the adjustment is the mean of.
const ADJUSTMENTS: usize = 20;

/// Least height, which keeps nodes apart that are at one place.
const HEIGHT_MIN: f64 = 1e-5;

/// Distance from the origin at which the pull to it is one second.
const GRAVITY: f64 = 150.0;

/// Below this, a distance counts as none.
const ZERO: f64 = 1e-6;

/// Longest round trip that is believed.
const ROUND_TRIP_MAX: f64 = 10.0;

/// Largest of a coordinate's numbers that is believed: no two places are that far apart, and one
/// node that says so must not carry others away.
const COORDINATE_MAX: f64 = 100.0;

/// Where a node is, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinates {
    /// Position.
    pub position: [f64; DIMENSIONS],
    /// How uncertain that is: 1.5 at most.
    pub error: f64,
    /// What is added to every distance.
    pub adjustment: f64,
    /// The node's own link.
    pub height: f64,
}

impl Default for Coordinates {
    fn default() -> Self {
        Self {
            position: [0.0; DIMENSIONS],
            error: ERROR_MAX,
            adjustment: 0.0,
            height: HEIGHT_MIN,
        }
    }
}

impl Coordinates {
    /// Estimated round trip, seconds.
    pub fn distance(&self, other: &Self) -> f64 {
        let raw = self.raw_distance(other);
        let adjusted = raw + self.adjustment + other.adjustment;
        if adjusted > 0.0 { adjusted } else { raw }
    }

    /// Whether these can be somebody's: finite and not absurd.
    pub fn is_sound(&self) -> bool {
        let numbers = [self.error, self.adjustment, self.height];
        let mut all = self.position.iter().chain(&numbers);
        // Not a number fails, too.
        all.all(|number| number.abs() <= COORDINATE_MAX) && self.error >= 0.0 && self.height >= 0.0
    }

    fn raw_distance(&self, other: &Self) -> f64 {
        magnitude(difference(self.position, other.position)) + self.height + other.height
    }

    /// Moves by `force` seconds away from `other`.
    fn push(&mut self, force: f64, other: &Self, random: &mut Random) {
        let apart = difference(self.position, other.position);
        let distance = magnitude(apart);
        let direction = match distance > ZERO {
            true => apart.map(|part| part / distance),
            false => random.direction(),
        };
        for (position, part) in self.position.iter_mut().zip(direction) {
            *position += part * force;
        }
        if distance > ZERO {
            let height = (self.height + other.height) * force / distance + self.height;
            self.height = height.max(HEIGHT_MIN);
        }
    }
}

/// The last three round trips to one peer. One slow reply is an accident: their median counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct RoundTrips {
    last: [f64; 3],
    count: usize,
}

impl RoundTrips {
    /// The median of the last three, this one included.
    pub(super) fn add(&mut self, round_trip: f64) -> f64 {
        self.last[self.count % 3] = round_trip;
        self.count += 1;
        if self.count >= 6 {
            self.count -= 3;
        }
        let mut known = self.last;
        let known = &mut known[..self.count.min(3)];
        known.sort_unstable_by(f64::total_cmp);
        known[known.len() / 2]
    }
}

/// A node's own coordinates, as they are learnt.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Vivaldi {
    own: Coordinates,
    adjustments: [f64; ADJUSTMENTS],
    next_adjustment: usize,
}

impl Vivaldi {
    pub(super) fn coordinates(&self) -> &Coordinates {
        &self.own
    }

    /// Learns that it takes `round_trip` seconds to a node at `other` and back; `history` is of that
    /// node. What can't be is left out.
    pub(super) fn learn(
        &mut self,
        other: &Coordinates,
        round_trip: f64,
        history: &mut RoundTrips,
        random: &mut Random,
    ) {
        if !(0.0..=ROUND_TRIP_MAX).contains(&round_trip) || !other.is_sound() {
            return;
        }
        let round_trip = history.add(round_trip).max(ZERO);
        let own = &mut self.own;
        let distance = own.distance(other);
        let wrong = (distance - round_trip).abs() / round_trip;
        // How much of the error is this node's own.
        let weight = own.error / (own.error + other.error).max(ZERO);
        let share = ERROR_SHARE * weight;
        own.error = (share * wrong + own.error * (1.0 - share)).min(ERROR_MAX);
        own.push(MOVE_SHARE * weight * (round_trip - distance), other, random);

        self.adjustments[self.next_adjustment] = round_trip - own.raw_distance(other);
        self.next_adjustment = (self.next_adjustment + 1) % ADJUSTMENTS;
        own.adjustment = self.adjustments.iter().sum::<f64>() / (2 * ADJUSTMENTS) as f64;

        let origin = Coordinates::default();
        let pull = origin.distance(own) / GRAVITY;
        own.push(-pull * pull, &origin, random);
        if !own.is_sound() {
            *self = Self::default();
        }
    }
}

fn difference(a: [f64; DIMENSIONS], b: [f64; DIMENSIONS]) -> [f64; DIMENSIONS] {
    std::array::from_fn(|index| a[index] - b[index])
}

fn magnitude(vector: [f64; DIMENSIONS]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(position: [f64; 3], error: f64, adjustment: f64, height: f64) -> Coordinates {
        Coordinates {
            position,
            error,
            adjustment,
            height,
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12
    }

    #[track_caller]
    fn check(own: &Coordinates, position: [f64; 3], [error, adjustment, height]: [f64; 3]) {
        let numbers = own
            .position
            .into_iter()
            .chain([own.error, own.adjustment, own.height]);
        let expected = position.into_iter().chain([error, adjustment, height]);
        for (number, expected) in numbers.zip(expected) {
            assert!(close(number, expected), "{own:?}: {expected}");
        }
    }

    /// The expected numbers were worked out by another program from the formulas.
    #[test]
    fn it_moves_as_the_formulas_say() {
        let mut random = Random::new(1);
        let mut vivaldi = Vivaldi {
            own: at([0.001, 0.0, 0.0], 1.5, 0.0, HEIGHT_MIN),
            ..Vivaldi::default()
        };
        let a = at([0.02, 0.01, 0.0], 0.4, 0.0005, 0.001);
        let b = at([-0.01, 0.03, 0.005], 0.8, 0.0, 0.002);
        assert!(close(vivaldi.own.raw_distance(&a), 0.022480910553583887));
        assert!(close(vivaldi.own.distance(&a), 0.022980910553583887));
        let (mut to_a, mut to_b) = (RoundTrips::default(), RoundTrips::default());

        vivaldi.learn(&a, 0.030, &mut to_a, &mut random);
        check(
            &vivaldi.own,
            [-0.0002259184393302033, -0.0006452202022329023, 0.0],
            [
                1.2501255884632638,
                0.0001517143900283584,
                7.516723932376935e-5,
            ],
        );
        vivaldi.learn(&b, 0.050, &mut to_b, &mut random);
        vivaldi.learn(&a, 0.2, &mut to_a, &mut random);
        vivaldi.learn(&a, 0.028, &mut to_a, &mut random);
        check(
            &vivaldi.own,
            [
                -0.021311632460915175,
                -0.017139371074418014,
                -0.0007539100490162388,
            ],
            [
                1.0686022888174744,
                0.0034664283776918415,
                0.0015872787467940707,
            ],
        );
        vivaldi.learn(&b, 0.045, &mut to_b, &mut random);
        for round in 0..60 {
            let slower = 0.001 * f64::from(round % 3);
            vivaldi.learn(&a, 0.030 + slower, &mut to_a, &mut random);
            vivaldi.learn(&b, 0.048, &mut to_b, &mut random);
        }
        check(
            &vivaldi.own,
            [
                -0.0006336303635407376,
                -0.010299062165885763,
                -0.0013187255000710813,
            ],
            [
                0.05899553004088841,
                0.0009168096149400308,
                0.0007811836957534728,
            ],
        );
    }

    #[test]
    fn the_median_of_three_counts() {
        let mut last = RoundTrips::default();
        let medians = [5.0, 1.0, 9.0, 9.0, 9.0, 1.0, 1.0, 7.0].map(|it| last.add(it));
        assert_eq!(medians, [5.0, 5.0, 5.0, 9.0, 9.0, 9.0, 1.0, 1.0]);
    }

    /// Nodes on a plane find out how far apart they are.
    #[test]
    fn distances_are_learnt() {
        let places: Vec<[f64; 2]> = (0..5_u32)
            .flat_map(|x| (0..4_u32).map(move |y| [f64::from(x) * 0.01, f64::from(y) * 0.01]))
            .collect();
        let true_distance = |a: usize, b: usize| {
            let (a, b) = (places[a], places[b]);
            (a[0] - b[0]).hypot(a[1] - b[1]) + 0.002
        };
        let mut random = Random::new(7);
        let mut nodes = vec![Vivaldi::default(); places.len()];
        let mut histories = vec![vec![RoundTrips::default(); places.len()]; places.len()];
        for _ in 0..4000 {
            for node in 0..nodes.len() {
                let other = random.below(nodes.len());
                if other != node {
                    let coordinates = *nodes[other].coordinates();
                    let history = &mut histories[node][other];
                    let round_trip = true_distance(node, other);
                    nodes[node].learn(&coordinates, round_trip, history, &mut random);
                }
            }
        }
        let mut wrong = Vec::new();
        for a in 0..nodes.len() {
            for b in 0..a {
                let learnt = nodes[a].own.distance(&nodes[b].own);
                wrong.push((learnt - true_distance(a, b)).abs() / true_distance(a, b));
            }
        }
        wrong.sort_unstable_by(f64::total_cmp);
        assert!(wrong[wrong.len() / 2] < 0.1, "{}", wrong[wrong.len() / 2]);
    }

    proptest! {
        /// Whatever others say, a node has coordinates that others can use.
        #[test]
        fn it_stays_sound(
            told in prop::collection::vec((prop::array::uniform6(any::<f64>()), any::<f64>()), 1..60),
            near in prop::collection::vec((prop::array::uniform6(-100.0..100.0), 0.0..10.0), 1..60),
        ) {
            let mut random = Random::new(3);
            let mut vivaldi = Vivaldi::default();
            let mut history = RoundTrips::default();
            for ([x, y, z, error, adjustment, height], round_trip) in told.into_iter().chain(near) {
                let other = at([x, y, z], error, adjustment, height);
                vivaldi.learn(&other, round_trip, &mut history, &mut random);
                prop_assert!(vivaldi.own.is_sound(), "{:?}", vivaldi.own);
                prop_assert!(vivaldi.own.error <= ERROR_MAX && vivaldi.own.height >= HEIGHT_MIN);
            }
        }
    }
}
