//! Going on after a failure: what was under way is kept, and begun again where it stood.
//!
//! A failure on its way up ends threads, one after the other. They are kept until somebody catches
//! it; if nobody does, they are what the execution can be redriven from. What has ended well has its
//! output in the Parallel or Map state above it and isn't run again.

use std::collections::BTreeMap;

use super::thread::{Activity, Thread, ThreadId};
use super::{Outcome, Stepper};
use crate::machine::Kind;

/// Threads that the current failure has ended.
#[derive(Default)]
pub(super) struct Wreck {
    threads: BTreeMap<ThreadId, Thread>,
    /// What threads above were doing, until the failure reaches them.
    work: BTreeMap<ThreadId, Activity>,
}

impl Wreck {
    /// Keeps a thread that has ended.
    pub(super) fn keep(&mut self, mut thread: Thread) {
        if let Some(activity) = self.work.remove(&thread.id) {
            thread.activity = activity;
        }
        thread.timer = None;
        self.threads.insert(thread.id, thread);
    }

    /// Keeps what a thread was doing, whose failure is now considered.
    pub(super) fn keep_work(&mut self, thread: &Thread, activity: Activity) {
        self.work.insert(thread.id, activity);
    }

    /// The failure was caught.
    pub(super) fn clear(&mut self) {
        self.threads.clear();
        self.work.clear();
    }

    /// All of it that leads somewhere: a thread whose parent begins anew is of no use.
    pub(super) fn into_threads(self) -> BTreeMap<ThreadId, Thread> {
        let mut kept: BTreeMap<ThreadId, Thread> = BTreeMap::new();
        // Parents have smaller numbers than their children.
        for (id, thread) in self.threads {
            let is_of_use = thread.parent.is_none_or(|parent| {
                kept.get(&parent.thread)
                    .is_some_and(|parent| parent.activity.has_children())
            });
            if is_of_use {
                kept.insert(id, thread);
            }
        }
        kept
    }
}

impl Activity {
    fn has_children(&self) -> bool {
        match self {
            Self::Branches(_) => true,
            Self::Mapping(mapping) => mapping.has_items(),
            _ => false,
        }
    }
}

impl Stepper<'_> {
    /// Takes up what was under way when the execution failed.
    pub(super) fn redrive(&mut self) {
        let has_failed = !matches!(self.x.outcome, None | Some(Outcome::Succeeded(_)));
        if !has_failed || self.x.fallen.is_empty() {
            return;
        }
        self.x.outcome = None;
        self.x.about.redrives += 1;
        self.set_deadline();
        self.note(None, "ExecutionRedriven");
        let mut maps = Vec::new();
        for (id, mut thread) in std::mem::take(&mut self.x.fallen) {
            thread.attempts.clear();
            match &thread.activity {
                Activity::Branches(_) => {}
                Activity::Mapping(mapping) if mapping.has_items() => maps.push(id),
                _ => {
                    thread.activity = Activity::Running;
                    self.x.ready.push_back(id);
                }
            }
            self.x.threads.insert(id, thread);
        }
        // In their order, whatever the budget.
        let budget = std::mem::replace(&mut self.budget, usize::MAX);
        for id in maps {
            let Some(mut thread) = self.x.threads.remove(&id) else {
                continue;
            };
            let state = &self.machine.states[thread.state];
            let activity = std::mem::replace(&mut thread.activity, Activity::Running);
            if let (Activity::Mapping(mapping), Kind::Map(map)) = (activity, &state.kind) {
                let step = self.resume_map(&mut thread, state, map, mapping);
                self.go(thread, step);
            }
        }
        self.budget = budget;
    }
}

impl super::Execution {
    /// Whether it can go on after its failure.
    pub fn is_redrivable(&self) -> bool {
        !self.fallen.is_empty()
    }
}
