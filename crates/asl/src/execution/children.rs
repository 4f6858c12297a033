//! Branches of Parallel states, and what they have in common with iterations.

use std::sync::Arc;

use serde_json::Value;

use super::flow::{Flow, Step};
use super::thread::{Activity, Branches, Parent, Thread, ThreadId};
use super::{Effect, Stepper};
use crate::failure::Failure;
use crate::machine::{Kind, State};
use crate::template::Data;

impl Stepper<'_> {
    pub(super) fn fork(&mut self, thread: &mut Thread, state: &State, branches: &[usize]) -> Step {
        let input = self.arguments(thread, state, None)?;
        self.record(thread, "ParallelStateStarted");
        let mut threads = Vec::with_capacity(branches.len());
        for (index, scope) in branches.iter().enumerate() {
            let parent = Parent {
                thread: thread.id,
                index,
                is_apart: false,
                is_silent: thread.is_silent(),
            };
            let id = self.identifier();
            let start = self.machine.scopes[*scope].start;
            let mut child = Thread::child(id, parent, input.clone(), start);
            child.item.clone_from(&thread.item);
            self.x.threads.insert(id, child);
            self.x.ready.push_back(id);
            threads.push(id);
        }
        thread.activity = Activity::Branches(Branches {
            outputs: vec![None; threads.len()],
            pending: threads.len(),
            threads,
        });
        Ok(Flow::Blocked)
    }

    pub(super) fn child_succeeded(&mut self, parent: Parent, output: Data) {
        let Some(mut thread) = self.x.threads.remove(&parent.thread) else {
            return;
        };
        let state = &self.machine.states[thread.state];
        let activity = std::mem::replace(&mut thread.activity, Activity::Running);
        let step = match (activity, &state.kind) {
            (Activity::Branches(mut branches), _) => {
                branches.outputs[parent.index] = Some(output);
                branches.pending -= 1;
                if branches.pending > 0 {
                    thread.activity = Activity::Branches(branches);
                    Ok(Flow::Blocked)
                } else {
                    self.join(&mut thread, state, branches)
                }
            }
            (Activity::Mapping(mapping), Kind::Map(map)) => {
                self.iteration_succeeded(&mut thread, state, map, mapping, parent.index, output)
            }
            _ => Ok(Flow::Blocked),
        };
        self.go(thread, step);
    }

    fn join(&mut self, thread: &mut Thread, state: &State, branches: Branches) -> Step {
        let outputs: Value = branches
            .outputs
            .into_iter()
            .flatten()
            .map(Arc::unwrap_or_clone)
            .collect();
        self.check_size(thread, &outputs)?;
        self.record(thread, "ParallelStateSucceeded");
        self.complete(thread, state, Arc::new(outputs))
    }

    pub(super) fn child_failed(&mut self, parent: Parent, failure: Failure) {
        let Some(mut thread) = self.x.threads.remove(&parent.thread) else {
            return;
        };
        let state = &self.machine.states[thread.state];
        let activity = std::mem::replace(&mut thread.activity, Activity::Running);
        let step = match (activity, &state.kind) {
            (Activity::Branches(branches), _) => {
                for id in &branches.threads {
                    self.end(*id);
                }
                self.wreck.keep_work(&thread, Activity::Branches(branches));
                self.record(&mut thread, "ParallelStateFailed");
                Err(failure)
            }
            (Activity::Mapping(mapping), Kind::Map(map)) => {
                self.iteration_failed(&mut thread, state, map, mapping, parent.index, failure)
            }
            _ => Err(failure),
        };
        self.go(thread, step);
    }

    /// Ends a thread and all below it, whatever they do. False if it had ended before.
    pub(super) fn end(&mut self, id: ThreadId) -> bool {
        let Some(mut thread) = self.x.threads.remove(&id) else {
            return false;
        };
        self.clear_timer(&mut thread);
        match &thread.activity {
            Activity::Task(attempt) => {
                self.x.tasks.remove(&attempt.task);
                self.effects.push(Effect::Cancel(attempt.task));
            }
            Activity::Branches(branches) => {
                for id in &branches.threads {
                    self.end(*id);
                }
            }
            Activity::Mapping(mapping) => self.end_mapping(mapping),
            Activity::Running | Activity::Waiting | Activity::Backoff => {}
        }
        self.wreck.keep(thread);
        true
    }
}
