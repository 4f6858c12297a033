//! Randomness that replays, for directions and samples: nothing that must not be guessed.

/// SplitMix64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A vector of length one.
    pub(super) fn direction(&mut self) -> [f64; 3] {
        let vector: [f64; 3] = std::array::from_fn(|_| self.unit() - 0.5);
        let length = vector.iter().map(|part| part * part).sum::<f64>().sqrt();
        match length > 1e-6 {
            true => vector.map(|part| part / length),
            false => [1.0, 0.0, 0.0],
        }
    }

    /// Uniform below `count`, which is not 0.
    #[cfg(test)]
    pub(super) fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }
}

/// Sixty-four bits in which each depends on all of the given ones.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
