//! What a function's next call will take, from those before: exponentially weighted means.

use std::time::Duration;

/// Weight of the newest sample.
const WEIGHT: f64 = 0.2;

/// Expected cold start before any was measured.
const COLD_START_PRIOR: Duration = Duration::from_millis(30);

/// No start is faster; timers that follow from it must not spin.
const COLD_START_MIN: Duration = Duration::from_millis(1);

/// Means of one function.
#[derive(Debug, Clone, Copy, Default)]
pub struct Estimate {
    service: Option<f64>,
    cold_start: Option<f64>,
}

impl Estimate {
    /// Takes the run time of a call into account.
    pub fn served(&mut self, service: Duration) {
        self.service = Some(mean(self.service, service));
    }

    /// Takes the duration of a start into account.
    pub fn started(&mut self, cold_start: Duration) {
        self.cold_start = Some(mean(self.cold_start, cold_start));
    }

    /// Expected run time; `None` before the first call ended.
    pub fn service(&self) -> Option<Duration> {
        self.service.map(Duration::from_secs_f64)
    }

    /// Expected duration of a start.
    pub fn cold_start(&self) -> Duration {
        self.cold_start
            .map_or(COLD_START_PRIOR, Duration::from_secs_f64)
            .max(COLD_START_MIN)
    }
}

fn mean(former: Option<f64>, sample: Duration) -> f64 {
    let sample = sample.as_secs_f64();
    former.map_or(sample, |former| former + WEIGHT * (sample - former))
}
