//! What this node knows of the others, shared between the task that asks them and the calls that
//! are sent to them.
//!
//! The lock is held for microseconds, and not by calls: they see a snapshot, made after each change.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use serverledge_core::Timestamp;
use serverledge_core::fleet::{Coordinates, Fleet, Health, Known, Status};

use super::Member;

/// A node with what it has told of late.
#[derive(Debug, Clone)]
pub struct Near {
    /// Who it is.
    pub member: Arc<Member>,
    /// How it is.
    pub known: Known,
}

/// See the module.
#[derive(Debug)]
pub struct Peers {
    fleet: Mutex<Fleet>,
    near: RwLock<Arc<[Near]>>,
    began: Instant,
}

impl Peers {
    /// Of a node whose questions have so many bytes.
    pub(super) fn new(question_bytes: usize) -> Self {
        // Each node its own, so that not all ask the same ones of several that are equally near.
        let seed = RandomState::new().hash_one(question_bytes);
        Self {
            fleet: Mutex::new(Fleet::new(question_bytes, seed)),
            near: RwLock::new(Arc::new([])),
            began: Instant::now(),
        }
    }

    /// The time as the fleet sees it.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.began.elapsed())
    }

    /// The nearest nodes, nearest first: of this node's area, then of the cloud's. What they have
    /// told is seconds old at most while they live; see [`Known::health`]. A snapshot; cheap.
    pub fn near(&self) -> Arc<[Near]> {
        Arc::clone(&self.near.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those of [`Peers::near`] that live, with what they have told.
    pub fn alive(&self) -> impl Iterator<Item = (Near, Arc<Status>)> {
        let (near, now) = (self.near(), self.now());
        let alive = move |near: &Near| {
            let is_alive = near.known.health(now) == Health::Alive;
            Some((
                near.clone(),
                near.known.status.clone().filter(|_| is_alive)?,
            ))
        };
        let alive: Vec<_> = near.iter().filter_map(alive).collect();
        alive.into_iter()
    }

    /// Where this node is.
    pub fn coordinates(&self) -> Coordinates {
        *self.fleet().coordinates()
    }

    /// What is known of a member, by its path in the registry.
    pub fn known(&self, path: &str) -> Option<Known> {
        self.fleet().peer(path)
    }

    pub(super) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets calls see what has changed.
    pub(super) fn publish(&self, near: Vec<Near>) {
        *self.near.write().unwrap_or_else(PoisonError::into_inner) = near.into();
    }
}
