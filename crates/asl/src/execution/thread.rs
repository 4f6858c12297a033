//! A thread goes from state to state in one scope: the machine's, a branch's, an iteration's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TaskId;
use super::map::Mapping;
use crate::context::Item;
use crate::template::{Data, Variables};

pub(super) type ThreadId = u64;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Thread {
    pub(super) id: ThreadId,
    pub(super) parent: Option<Parent>,
    pub(super) state: usize,
    /// The state's raw input.
    pub(super) input: Data,
    pub(super) variables: Variables,
    pub(super) item: Option<Arc<Item>>,
    /// When and with which history event the state was entered.
    pub(super) entered: i64,
    pub(super) entered_event: u64,
    /// Attempts of each retrier; empty until one is used.
    pub(super) attempts: Vec<u64>,
    pub(super) retries: u32,
    pub(super) events: u64,
    pub(super) timer: Option<i64>,
    pub(super) activity: Activity,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Parent {
    pub(super) thread: ThreadId,
    /// Number of the branch or iteration.
    pub(super) index: usize,
    /// In a distributed Map: an execution of its own, which keeps its history to itself and can't
    /// see the variables around it.
    pub(super) is_apart: bool,
    /// Whether any thread above is apart.
    pub(super) is_silent: bool,
}

/// What a thread that isn't running waits for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Activity {
    Running,
    Waiting,
    Task(Attempt),
    Backoff,
    Branches(Branches),
    Mapping(Box<Mapping>),
}

/// A task under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) task: TaskId,
    pub(super) deadline: Option<i64>,
    pub(super) heartbeat_ms: Option<i64>,
    pub(super) heartbeat_deadline: Option<i64>,
}

/// The branches of a Parallel state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Branches {
    pub(super) threads: Vec<ThreadId>,
    pub(super) outputs: Vec<Option<Data>>,
    pub(super) pending: usize,
}

impl Thread {
    pub(super) fn root(input: Data, state: usize) -> Self {
        Self {
            id: 0,
            parent: None,
            state,
            input,
            variables: Variables::new(),
            item: None,
            entered: 0,
            entered_event: 0,
            attempts: Vec::new(),
            retries: 0,
            events: 0,
            timer: None,
            activity: Activity::Running,
        }
    }

    pub(super) fn child(id: ThreadId, parent: Parent, input: Data, state: usize) -> Self {
        Self {
            id,
            parent: Some(parent),
            ..Self::root(input, state)
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.parent.is_some_and(|parent| parent.is_silent)
    }
}
