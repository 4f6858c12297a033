//! What the cloud has cost within the last hour.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Timestamp;

/// The hour is kept in parts of this length.
const PART: Duration = Duration::from_secs(60);
const PARTS: usize = 60;

/// Money spent, by the minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spending {
    /// Number of a minute since the node's start, and what was spent in it. Oldest first.
    parts: VecDeque<(u64, f64)>,
}

impl Spending {
    /// Something was spent.
    pub fn spend(&mut self, cost: f64, now: Timestamp) {
        if !cost.is_finite() || cost <= 0.0 {
            return;
        }
        let part = minute(now);
        match self.parts.back_mut() {
            // A clock doesn't go back; if one did, no matter.
            Some((newest, sum)) if *newest >= part => *sum += cost,
            _ => self.parts.push_back((part, cost)),
        }
        while self.parts.len() > PARTS {
            self.parts.pop_front();
        }
    }

    /// Within the last hour.
    pub fn spent(&self, now: Timestamp) -> f64 {
        let since = (minute(now) + 1).saturating_sub(PARTS as u64);
        let recent = self.parts.iter().filter(|(part, _)| *part >= since);
        recent.map(|(_, cost)| cost).sum()
    }

    /// An hour's worth of spending as in the time since the start, or in the last hour of it. The
    /// first minute counts as a whole one.
    pub fn rate(&self, now: Timestamp) -> f64 {
        let hour = PART.as_secs_f64() * PARTS as f64;
        let elapsed = now.0.as_secs_f64().clamp(PART.as_secs_f64(), hour);
        self.spent(now) / elapsed * hour
    }
}

fn minute(now: Timestamp) -> u64 {
    now.0.as_secs() / PART.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(Duration::from_secs(seconds))
    }

    #[test]
    fn an_hour_is_remembered_and_no_more() {
        let mut spending = Spending::default();
        for minute in 0..120 {
            spending.spend(1.0, at(minute * 60));
        }
        assert_eq!(spending.spent(at(119 * 60)), 60.0);
        assert_eq!(spending.rate(at(119 * 60)), 60.0);
        assert_eq!(spending.spent(at(149 * 60)), 30.0);
        assert_eq!(spending.spent(at(1000 * 60)), 0.0);
        assert!(spending.parts.len() <= PARTS);
    }

    #[test]
    fn the_rate_is_that_of_the_time_there_was() {
        let mut spending = Spending::default();
        spending.spend(1.0, at(1));
        spending.spend(f64::NAN, at(1));
        spending.spend(-1.0, at(1));
        assert_eq!(spending.rate(at(1)), 60.0);
        assert_eq!(spending.rate(at(600)), 6.0);
        assert_eq!(spending.rate(at(1800)), 2.0);
    }
}
