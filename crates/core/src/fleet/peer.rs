//! One peer: what it has told, and whether it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::vivaldi::{Coordinates, RoundTrips};
use crate::time::Timestamp;

/// How long what a peer has told holds. A peer that dies is not chosen for longer.
pub const FRESH: Duration = Duration::from_secs(3);

/// Questions in a row without an answer, after which a peer counts as dead. One may get lost.
pub(super) const MISSED_MAX: u32 = 2;

/// Where a peer is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// In this node's own area.
    Neighbor,
    /// In the area that is this node's cloud.
    Cloud,
}

/// What a peer has told. Memory in MiB, CPU in cores.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Idle sandboxes, by function. May be left out.
    pub warm: BTreeMap<String, u64>,
    /// Memory of its pool.
    pub memory_total: u64,
    /// The pool less what runs.
    pub memory_available: u64,
    /// The pool less what runs and what is warm.
    pub memory_free: u64,
    /// Cores of its pool.
    pub cpu_total: f64,
    /// Cores in use.
    pub cpu_used: f64,
    /// Where it is.
    pub coordinates: Coordinates,
}

/// How a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It told its status within [`FRESH`].
    Alive,
    /// It wasn't asked of late, or has never answered: nothing is known for or against it.
    Unknown,
    /// It answered once and doesn't any more.
    Dead,
}

/// What is known of a peer. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// By which name the fleet knows it.
    pub key: Arc<str>,
    /// Where it is.
    pub group: Group,
    /// What it told last.
    pub status: Option<Arc<Status>>,
    /// When that was.
    pub heard: Option<Timestamp>,
    /// Estimated round trip, seconds.
    pub distance: Option<f64>,
    /// Whether it left the last questions unanswered.
    pub(super) is_silent: bool,
}

impl Known {
    /// How it is, as of `now`.
    pub fn health(&self, now: Timestamp) -> Health {
        match self.heard {
            None => Health::Unknown,
            Some(_) if self.is_silent => Health::Dead,
            Some(heard) if now.since(heard) <= FRESH => Health::Alive,
            Some(_) => Health::Unknown,
        }
    }
}

/// A peer, as the fleet keeps it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) group: Group,
    pub(super) status: Option<Arc<Status>>,
    pub(super) heard: Option<Timestamp>,
    /// When it was asked last.
    pub(super) asked: Option<Timestamp>,
    /// Whether an answer to that may come yet.
    pub(super) is_awaited: bool,
    /// Questions in a row without an answer.
    pub(super) missed: u32,
    pub(super) round_trips: RoundTrips,
    /// Whether it is asked all the time.
    pub(super) is_near: bool,
}

impl Peer {
    pub(super) fn new(group: Group) -> Self {
        Self {
            group,
            status: None,
            heard: None,
            asked: None,
            is_awaited: false,
            missed: 0,
            round_trips: RoundTrips::default(),
            is_near: false,
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.missed >= MISSED_MAX
    }

    /// Whether it was asked within `time`.
    pub(super) fn was_asked(&self, now: Timestamp, time: Duration) -> bool {
        self.asked.is_some_and(|asked| now.since(asked) < time)
    }

    pub(super) fn known(&self, key: &Arc<str>, from: &Coordinates) -> Known {
        let status = self.status.clone();
        let distance = status.as_ref().map(|it| from.distance(&it.coordinates));
        Known {
            key: Arc::clone(key),
            group: self.group,
            status,
            heard: self.heard,
            distance,
            is_silent: self.is_silent(),
        }
    }
}
