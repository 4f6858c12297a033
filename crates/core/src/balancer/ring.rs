//! Hash rings: each target has many points on a circle, a name belongs to the first point after its
//! own. A target that comes or goes moves the names next to its points, and no others.
//!
//! The original's ring is here to the bit. Its hash, FNV-1a in 32 bits, differs little between the
//! near-identical labels of a target's points, so that they cluster: the heaviest of eight targets
//! gets 1.6 times its share. The default ring finishes a 64-bit FNV-1a with the mixer of MurmurHash3
//! (Appleby, `fmix64`), in which every bit of the input changes half of the output's.

/// How labels and names become places on the circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    /// The original's.
    Fnv32,
    /// Ours.
    Mixed64,
}

impl Hash {
    /// The place of a name.
    pub(super) fn of(self, text: &[u8]) -> u64 {
        match self {
            Self::Fnv32 => u64::from(fnv1a32(text)),
            Self::Mixed64 => mix(fnv1a64(text)),
        }
    }
}

fn fnv1a32(text: &[u8]) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    text.iter().fold(0x811c_9dc5, step)
}

fn fnv1a64(text: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    text.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Spreads a difference in any bit over all bits.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// Points of all targets, which are known by their place in a list.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    hash: Hash,
    /// Place and target, by place.
    points: Vec<(u64, u32)>,
    targets: usize,
}

impl Ring {
    /// Of targets with these keys, each with so many points labelled `<key>#<number>`.
    pub(super) fn new<'a>(
        hash: Hash,
        replicas: u32,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut points = Vec::new();
        let mut targets = 0;
        let mut label = String::new();
        for (target, key) in keys.into_iter().enumerate() {
            targets += 1;
            for number in 0..replicas {
                label.clear();
                label.push_str(key);
                label.push('#');
                label.push_str(&number.to_string());
                points.push((hash.of(label.as_bytes()), target as u32));
            }
        }
        points.sort_unstable();
        Self {
            hash,
            points,
            targets,
        }
    }

    /// The targets clockwise from the place of `name`, each once.
    pub(super) fn walk<'a>(&'a self, name: &str, visited: &'a mut Visited) -> Walk<'a> {
        let place = self.hash.of(name.as_bytes());
        visited.clear(self.targets);
        Walk {
            start: self.points.partition_point(|point| point.0 < place),
            step: 0,
            left: self.targets,
            ring: self,
            visited,
        }
    }
}

/// Which targets a walk has come by; kept between walks, so that none allocates.
#[derive(Debug, Clone, Default)]
pub(super) struct Visited {
    /// The walk in which each target was seen last.
    seen: Vec<u64>,
    walk: u64,
}

impl Visited {
    fn clear(&mut self, targets: usize) {
        self.walk += 1;
        self.seen.resize(targets, 0);
    }

    fn is_new(&mut self, target: usize) -> bool {
        std::mem::replace(&mut self.seen[target], self.walk) != self.walk
    }
}

/// A way round the ring.
pub(super) struct Walk<'a> {
    ring: &'a Ring,
    visited: &'a mut Visited,
    start: usize,
    step: usize,
    /// Targets not seen yet.
    left: usize,
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let count = self.ring.points.len();
        while self.left > 0 && self.step < count {
            let (_, target) = self.ring.points[(self.start + self.step) % count];
            self.step += 1;
            let target = target as usize;
            if self.visited.is_new(target) {
                self.left -= 1;
                return Some(target);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_hash_has_its_check_values() {
        for (text, expected) in [
            ("hello", 1_335_831_723),
            ("node-a#0", 3_560_668_768),
            ("func", 243_156_999),
        ] {
            assert_eq!(Hash::Fnv32.of(text.as_bytes()), expected, "{text}");
        }
    }

    fn keys(count: usize) -> Vec<String> {
        let random = |at: usize| mix(at as u64 + 1);
        (0..count)
            .map(|at| format!("node-{:x}", random(at)))
            .collect()
    }

    fn ring(hash: Hash, keys: &[String]) -> Ring {
        Ring::new(hash, 128, keys.iter().map(String::as_str))
    }

    fn owner(ring: &Ring, name: &str) -> usize {
        ring.walk(name, &mut Visited::default()).next().unwrap()
    }

    /// Byte for byte: the points of two targets, worked out one by one, and who follows whom.
    #[test]
    fn the_first_point_at_or_after_a_name_has_it() {
        let keys = ["node-a".to_owned(), "node-b".to_owned()];
        let ring = ring(Hash::Fnv32, &keys);
        for name in ["hello", "func", "a", "zz", "node-a#0", "node-b#127"] {
            let place = u64::from(fnv1a32(name.as_bytes()));
            let points = keys.iter().enumerate().flat_map(|(target, key)| {
                let label = move |number| u64::from(fnv1a32(format!("{key}#{number}").as_bytes()));
                (0..128).map(move |number| (label(number), target))
            });
            // The distance clockwise, around the end of 32 bits.
            let distance = |point: u64| point.wrapping_sub(place) & 0xffff_ffff;
            let (_, expected) = points.min_by_key(|(point, _)| distance(*point)).unwrap();
            assert_eq!(owner(&ring, name), expected, "{name}");
        }
        // A name whose place is a point has that point.
        assert_eq!(owner(&ring, "node-a#0"), 0);
        assert_eq!(owner(&ring, "node-b#127"), 1);
    }

    #[test]
    fn a_walk_comes_by_every_target_once() {
        let ring = ring(Hash::Mixed64, &keys(7));
        let mut visited = Visited::default();
        for name in ["a", "b", "c"] {
            let mut order: Vec<usize> = ring.walk(name, &mut visited).collect();
            assert_eq!(order.len(), 7);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
        }
        let none = Ring::new(Hash::Mixed64, 128, []);
        assert_eq!(none.walk("a", &mut visited).next(), None);
    }

    #[test]
    fn a_target_that_goes_moves_its_own_names_only() {
        let all = keys(8);
        let (before, after) = (
            ring(Hash::Mixed64, &all),
            ring(Hash::Mixed64, &all[..all.len() - 1]),
        );
        let mut moved = 0;
        for number in 0..2000 {
            let name = format!("function-{number}");
            let (was, is) = (owner(&before, &name), owner(&after, &name));
            if was == all.len() - 1 {
                moved += 1;
            } else {
                assert_eq!(was, is, "{name}");
            }
        }
        assert!((100..500).contains(&moved), "{moved}");
    }

    /// The heaviest share, over the mean one, of this many targets: mean over many sets of keys.
    fn heaviest(hash: Hash, count: usize) -> f64 {
        let draws = 40;
        let mut sum = 0.0;
        for draw in 0..draws {
            let keys: Vec<String> = (0..count)
                .map(|at| format!("node-{:024x}", mix((draw * 1000 + at + 1) as u64)))
                .collect();
            let ring = ring(hash, &keys);
            let whole = match hash {
                Hash::Fnv32 => 2_f64.powi(32),
                Hash::Mixed64 => 2_f64.powi(64),
            };
            let mut shares = vec![0.0; count];
            let points = &ring.points;
            for (at, &(place, target)) in points.iter().enumerate() {
                let before = match at {
                    0 => points[points.len() - 1].0 as f64 - whole,
                    at => points[at - 1].0 as f64,
                };
                shares[target as usize] += (place as f64 - before) / whole;
            }
            sum += shares.iter().copied().fold(0.0, f64::max) * count as f64;
        }
        sum / draws as f64
    }

    #[test]
    fn our_hash_shares_better_than_the_originals() {
        for (count, most) in [(2, 1.09), (4, 1.16), (8, 1.2)] {
            let (ours, originals) = (heaviest(Hash::Mixed64, count), heaviest(Hash::Fnv32, count));
            assert!(ours < most, "{count} targets: {ours}");
            assert!(
                ours < originals,
                "{count} targets: {ours}, the original {originals}"
            );
        }
    }
}
