//! Whether a target gets requests: ejected after failures, and let in again little by little.
//!
//! A target that can't be connected to runs nothing and is ejected at once. One that breaks off or
//! doesn't answer in time is ejected after several such requests in a row, and then only while most
//! of the targets are in: what is wrong may be the requests, and one bad function must not take all
//! targets away from the others. Ejections last twice as long each time. Afterwards the first probe
//! that is answered lets the target in, with a small share of its requests that grows to the whole.

use std::time::Duration;

use super::types::HealthConfig;
use crate::Timestamp;

/// Share of a target that has just come back.
const SHARE_MIN: f64 = 0.1;

/// Probes in a row that may fail.
const PROBES_FAILED_MAX: u32 = 2;

/// Why a target is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ejection {
    /// It can't be connected to.
    Unreachable,
    /// Requests broke off, or were not answered in time.
    Broken,
    /// It doesn't answer probes.
    Silent,
}

impl Ejection {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Silent => "silent",
        }
    }

    /// Whether the requests may be the cause.
    fn is_doubtful(self) -> bool {
        self != Self::Unreachable
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    In,
    Out { until: Timestamp },
    Returning { since: Timestamp },
}

/// What is known of a target's health.
#[derive(Debug, Clone)]
pub(super) struct Health {
    state: State,
    /// Requests that failed, in a row.
    failures: u32,
    /// Probes that failed, in a row.
    silences: u32,
    /// Ejections since the target was well for long.
    times: u32,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            state: State::In,
            failures: 0,
            silences: 0,
            times: 0,
        }
    }

    pub(super) fn is_ejected(&self) -> bool {
        matches!(self.state, State::Out { .. })
    }

    /// Which part of its requests it gets.
    pub(super) fn share(&self, now: Timestamp, config: &HealthConfig) -> f64 {
        match self.state {
            State::In => 1.0,
            State::Out { .. } => 0.0,
            State::Returning { since } => {
                let whole = config.readmission.as_secs_f64();
                let part = now.since(since).as_secs_f64() / whole;
                // Without a time for it, at once.
                let part = if part.is_nan() { 1.0 } else { part };
                (SHARE_MIN + (1.0 - SHARE_MIN) * part).min(1.0)
            }
        }
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, now: Timestamp, config: &HealthConfig) {
        self.failures = 0;
        if let State::Returning { since } = self.state
            && now.since(since) >= config.readmission
        {
            self.state = State::In;
            self.times = 0;
        }
    }

    /// A request failed, or a probe. `can_spare`: whether there are targets enough without it.
    /// Whether it is ejected for it.
    pub(super) fn failed(
        &mut self,
        why: Ejection,
        can_spare: bool,
        now: Timestamp,
        config: &HealthConfig,
    ) -> bool {
        let enough = match why {
            Ejection::Unreachable => true,
            Ejection::Broken => {
                self.failures = self.failures.saturating_add(1);
                self.failures >= config.failures_max
                    // On probation.
                    || matches!(self.state, State::Returning { .. })
            }
            Ejection::Silent => {
                self.silences = self.silences.saturating_add(1);
                self.silences >= PROBES_FAILED_MAX
            }
        };
        if self.is_ejected() || !enough || (why.is_doubtful() && !can_spare) {
            return false;
        }
        let doublings = self.times.min(16);
        let length = config.ejection.saturating_mul(1 << doublings);
        let length = length.min(config.ejection_max.max(config.ejection));
        self.state = State::Out {
            until: now + length,
        };
        self.times = self.times.saturating_add(1);
        self.failures = 0;
        true
    }

    /// A probe was answered. Whether that lets the target in.
    pub(super) fn probed(&mut self, now: Timestamp, config: &HealthConfig) -> bool {
        self.silences = 0;
        match self.state {
            State::Out { until } if now >= until => {
                let since = now;
                self.state = match config.readmission {
                    Duration::ZERO => State::In,
                    _ => State::Returning { since },
                };
                true
            }
            _ => false,
        }
    }

    /// For people.
    pub(super) fn name(&self, now: Timestamp, config: &HealthConfig) -> &'static str {
        match self.state {
            State::Out { .. } => "ejected",
            State::Returning { .. } if self.share(now, config) < 1.0 => "returning",
            _ => "in",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: HealthConfig = HealthConfig {
        failures_max: 3,
        ejection: Duration::from_secs(1),
        ejection_max: Duration::from_secs(5),
        readmission: Duration::from_secs(10),
    };

    fn at(seconds: f64) -> Timestamp {
        Timestamp(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn who_cannot_be_reached_is_out_at_once() {
        let mut health = Health::new();
        assert!(health.failed(Ejection::Unreachable, false, at(0.0), &CONFIG));
        assert!(health.is_ejected());
        // Once is once.
        assert!(!health.failed(Ejection::Unreachable, true, at(0.1), &CONFIG));
    }

    #[test]
    fn broken_requests_count_in_a_row_and_only_while_others_are_in() {
        let mut health = Health::new();
        for _ in 0..2 {
            assert!(!health.failed(Ejection::Broken, true, at(0.0), &CONFIG));
        }
        health.answered(at(0.0), &CONFIG);
        for _ in 0..2 {
            assert!(!health.failed(Ejection::Broken, true, at(0.0), &CONFIG));
        }
        assert!(!health.failed(Ejection::Broken, false, at(0.0), &CONFIG));
        assert!(health.failed(Ejection::Broken, true, at(0.0), &CONFIG));
    }

    #[test]
    fn it_comes_back_by_a_probe_and_little_by_little() {
        let mut health = Health::new();
        health.failed(Ejection::Unreachable, true, at(0.0), &CONFIG);
        assert!(!health.probed(at(0.9), &CONFIG));
        assert!(health.probed(at(1.0), &CONFIG));
        assert_eq!(health.share(at(1.0), &CONFIG), SHARE_MIN);
        assert_eq!(health.share(at(6.0), &CONFIG), 0.55);
        assert_eq!(health.share(at(11.0), &CONFIG), 1.0);
        assert_eq!(health.name(at(6.0), &CONFIG), "returning");
        // One failure is enough while it is being let in, and the next ejection is longer.
        assert!(health.failed(Ejection::Broken, true, at(6.0), &CONFIG));
        assert!(!health.probed(at(7.9), &CONFIG));
        assert!(health.probed(at(8.0), &CONFIG));
    }

    #[test]
    fn ejections_grow_to_a_limit_and_are_forgotten() {
        let mut health = Health::new();
        let mut now = 0.0;
        for length in [1.0, 2.0, 4.0, 5.0, 5.0] {
            health.failed(Ejection::Unreachable, true, at(now), &CONFIG);
            assert!(!health.probed(at(now + length - 0.01), &CONFIG), "{length}");
            now += length;
            assert!(health.probed(at(now), &CONFIG), "{length}");
        }
        health.answered(at(now + 10.0), &CONFIG);
        health.failed(Ejection::Unreachable, true, at(100.0), &CONFIG);
        assert!(health.probed(at(101.0), &CONFIG));
    }

    #[test]
    fn two_silent_probes_are_too_many() {
        let mut health = Health::new();
        assert!(!health.failed(Ejection::Silent, true, at(0.0), &CONFIG));
        health.probed(at(0.0), &CONFIG);
        assert!(!health.failed(Ejection::Silent, true, at(0.0), &CONFIG));
        assert!(!health.failed(Ejection::Silent, false, at(0.0), &CONFIG));
        assert!(health.failed(Ejection::Silent, true, at(0.0), &CONFIG));
    }
}
