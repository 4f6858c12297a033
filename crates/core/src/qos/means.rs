//! Means of what was measured, newer samples weighing more.

/// Weight of a sample, at least: a hundred of them make nearly all of a mean.
const WEIGHT_MIN: f64 = 0.02;

/// No sample is longer, seconds: what another node reports may be anything.
const SECONDS_MAX: f64 = 86_400.0;

/// A mean. The first samples count alike.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Mean {
    value: f64,
    samples: u32,
}

impl Mean {
    /// Takes a sample into account.
    pub(super) fn add(&mut self, sample: f64) {
        if !sample.is_finite() {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let weight = (1.0 / f64::from(self.samples)).max(WEIGHT_MIN);
        self.value += weight * (sample - self.value);
    }

    /// The same for seconds, which are not negative, nor without end.
    pub(super) fn add_seconds(&mut self, sample: f64) {
        if !sample.is_nan() {
            self.add(sample.clamp(0.0, SECONDS_MAX));
        }
    }

    /// `None` without samples.
    pub(super) fn get(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_samples_count_alike_and_old_ones_fade() {
        let mut mean = Mean::default();
        assert_eq!(mean.get(), None);
        for sample in [1.0, 2.0, 6.0] {
            mean.add(sample);
        }
        assert!((mean.get().unwrap() - 3.0).abs() < 1e-9);
        for _ in 0..1000 {
            mean.add(10.0);
        }
        assert!((mean.get().unwrap() - 10.0).abs() < 1e-6);
    }

    #[test]
    fn what_others_report_may_be_anything() {
        let mut mean = Mean::default();
        mean.add_seconds(f64::NAN);
        assert_eq!(mean.get(), None);
        mean.add_seconds(-5.0);
        assert_eq!(mean.get(), Some(0.0));
        mean.add_seconds(f64::INFINITY);
        assert_eq!(mean.get(), Some(SECONDS_MAX / 2.0));
    }
}
