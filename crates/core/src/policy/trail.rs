//! Why a call ran where it ran: what was chosen on the way, and what was rejected for what reason.

use std::fmt;

use crate::fleet::Known;
use crate::qos::{Choice, Odds};
use crate::scheduler::DropReason;

/// Why a place was rejected.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Reason {
    /// This node's scheduler refused.
    #[error("{0}")]
    Refused(DropReason),
    /// The function is for another architecture.
    #[error("has not the function's architecture")]
    Architecture,
    /// No connection, now or a moment ago.
    #[error("can't be reached")]
    Unreachable,
    /// It answered that it has no room.
    #[error("has no room")]
    Full,
    /// Its status says so. It may be asked all the same, after all others.
    #[error("told that it has no room")]
    Crowded,
    /// It doesn't tell its status any more.
    #[error("doesn't answer any more")]
    Silent,
    /// It never told its status, or not in the last seconds.
    #[error("hasn't told its status of late")]
    NotHeard,
    /// It answered that it knows no such function.
    #[error("doesn't know the function")]
    Unknown,
    /// The area has no member, or none is configured.
    #[error("has no member (registry.remote.area)")]
    Nobody,
    /// No other node of this one's area has told its status.
    #[error("there are none (registry.area)")]
    Alone,
    /// The caller or the way that the call has come forbids it.
    #[error("not allowed (CanDoOffloading, one hop)")]
    NotAllowed,
}

#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    Rejected(Reason),
    /// With the memory that it told of, MiB, and its distance, seconds.
    Chosen(Option<(u64, f64)>),
}

/// Places that are named, at most: a large fleet rejected as a whole must fit a header.
const PLACES_MAX: usize = 24;

/// See the module. Shows as one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Trail {
    policy: &'static str,
    places: Vec<(String, Verdict)>,
    /// Those beyond.
    more: usize,
    lot: Option<Lot>,
}

/// What was planned for the call, and what it drew.
#[derive(Debug, Clone, PartialEq)]
struct Lot {
    class: String,
    odds: Odds,
    drawn: Vec<Choice>,
}

impl Trail {
    /// Of a call that nothing has been tried for.
    pub fn new(policy: &'static str) -> Self {
        Self {
            policy,
            places: Vec::new(),
            more: 0,
            lot: None,
        }
    }

    /// Notes that the call goes by lot, in this class.
    pub fn by_lot(&mut self, class: &str, odds: &Odds) {
        self.lot = Some(Lot {
            class: class.to_owned(),
            odds: *odds,
            drawn: Vec::new(),
        });
    }

    /// Notes what a call that goes by lot has drawn.
    pub fn draw(&mut self, choice: Choice) {
        if let Some(lot) = &mut self.lot
            && lot.drawn.last() != Some(&choice)
        {
            lot.drawn.push(choice);
        }
    }

    /// Notes that `place` is out of the question, for the first reason given.
    pub fn reject(&mut self, place: &str, reason: Reason) {
        let known = |(known, verdict): &(String, Verdict)| {
            known == place && matches!(verdict, Verdict::Rejected(_))
        };
        if !self.places.iter().any(known) {
            self.add(place, Verdict::Rejected(reason));
        }
    }

    /// Notes that `place` is tried next, and what is known of it.
    pub fn choose(&mut self, place: &str, known: Option<&Known>) {
        let told = known.and_then(|it| Some((it.status.as_ref()?.memory_available, it.distance?)));
        self.add(place, Verdict::Chosen(told));
    }

    fn add(&mut self, place: &str, verdict: Verdict) {
        match self.places.len() < PLACES_MAX {
            true => self.places.push((place.to_owned(), verdict)),
            false => self.more += 1,
        }
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}", self.policy)?;
        if let Some(lot) = &self.lot {
            write!(f, "{lot}")?;
        }
        for (place, verdict) in &self.places {
            match verdict {
                Verdict::Rejected(reason) => write!(f, "; {place}: {reason}")?,
                Verdict::Chosen(None) => write!(f, "; {place}: chosen")?,
                Verdict::Chosen(Some((available, distance))) => write!(
                    f,
                    "; {place}: chosen ({available} MiB available, {:.1} ms away)",
                    distance * 1e3
                )?,
            }
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl fmt::Display for Lot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, odds, drawn } = self;
        write!(f, "; class {class}")?;
        match odds.is_planned {
            true => write!(f, "; planned {}", odds.planned)?,
            false => write!(f, "; nothing planned yet")?,
        }
        match (odds.spent_up, odds.over_budget) {
            (true, _) => write!(f, "; the cloud's budget is spent")?,
            (false, true) => write!(f, "; the cloud costs more than its budget")?,
            (false, false) => {}
        }
        for (index, choice) in drawn.iter().enumerate() {
            let before = if index == 0 { "; drew " } else { ", then " };
            write!(f, "{before}{choice}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qos::Probabilities;

    #[test]
    fn a_lot_is_told_with_its_odds() {
        let mut trail = Trail::new("qosaware");
        let odds = Odds {
            planned: Probabilities {
                local: 0.25,
                cloud: 0.75,
                edge: 0.0,
                drop: 0.0,
            },
            is_planned: true,
            over_budget: true,
            ..Odds::unplanned(1)
        };
        trail.by_lot("critical", &odds);
        for choice in [Choice::Local, Choice::Cloud, Choice::Cloud] {
            trail.draw(choice);
        }
        trail.reject("here", Reason::Refused(DropReason::NoRoom));
        assert_eq!(
            trail.to_string(),
            "policy qosaware; class critical; planned local 0.25, cloud 0.75, edge 0.00, drop 0.00; \
             the cloud costs more than its budget; drew local, then cloud; here: the node has no \
             room for another sandbox, and no queue is configured"
        );
        let mut trail = Trail::new("qosaware");
        trail.by_lot("default", &Odds::unplanned(1));
        trail.draw(Choice::Drop);
        let text = trail.to_string();
        assert_eq!(
            text,
            "policy qosaware; class default; nothing planned yet; drew drop"
        );
    }
}
