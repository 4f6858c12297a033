//! Why a call ran where it ran: what was rejected on the way, and for what reason.

use std::fmt;

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
    /// It answered that it knows no such function.
    #[error("doesn't know the function")]
    Unknown,
    /// The area has no member, or none is configured.
    #[error("has no member (registry.remote.area)")]
    Nobody,
    /// The caller or the way that the call has come forbids it.
    #[error("not allowed (CanDoOffloading, one hop)")]
    NotAllowed,
}

/// See the module. Shows as one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Trail {
    policy: &'static str,
    rejected: Vec<(String, Reason)>,
}

impl Trail {
    /// Of a call that nothing has been tried for.
    pub fn new(policy: &'static str) -> Self {
        Self {
            policy,
            rejected: Vec::new(),
        }
    }

    /// Notes that `place` is out of the question, once.
    pub fn reject(&mut self, place: &str, reason: Reason) {
        if !self.rejected.iter().any(|(known, _)| known == place) {
            self.rejected.push((place.to_owned(), reason));
        }
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}", self.policy)?;
        for (place, reason) in &self.rejected {
            write!(f, "; {place}: {reason}")?;
        }
        Ok(())
    }
}
