//! Where single functions of an execution go that itself stays here: one that no other node could go
//! on with, or whose branches run at once.
//!
//! The plan is made when the first function is to run, and again when it is used up; then what has
//! run, and what led to the function at hand, is left out.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;
use serverledge_core::placement::Plan;

use super::graph::Graph;
use super::places::{Chosen, Question};
use crate::federation::Member;
use crate::node::Node;

/// See the module. Belongs to an execution.
#[derive(Debug, Default)]
pub(crate) struct Placing {
    graph: OnceLock<Option<Graph>>,
    /// Held while a plan is made: who needs one at the same time waits for that.
    plan: tokio::sync::Mutex<Plan>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    done: BTreeSet<usize>,
    shunned: BTreeSet<String>,
}

/// What is to be placed.
pub(crate) struct Function<'a> {
    pub(crate) workflow: &'a str,
    /// The name of the state that calls it.
    pub(crate) state: &'a str,
    /// What it is called with, bytes.
    pub(crate) input_bytes: usize,
    /// What is left of the wanted response time, s; 0 or less: none.
    pub(crate) deadline: f64,
}

impl Placing {
    /// The node that a function is to be sent to, and its key in plans; `None`: it runs here.
    pub(crate) async fn place(
        &self,
        node: &Node,
        function: &Function<'_>,
    ) -> Option<(String, Arc<Member>)> {
        let graph = self.graph.get_or_init(|| graph(node, function.workflow));
        let graph = graph.as_ref()?;
        let at = graph.index(function.state)?;
        let (done, shunned) = {
            let state = self.lock();
            (state.done.clone(), state.shunned.clone())
        };
        let led_here = led_to(graph, at);
        let is_left = |task: &usize| !done.contains(task) && !led_here.contains(task);
        let ready = [function.state.to_owned()];
        let question = Question {
            workflow: function.workflow,
            graph,
            left: (0..graph.tasks.len()).filter(is_left).collect(),
            ready: &ready,
            input_bytes: function.input_bytes as f64,
            deadline: function.deadline,
            shunned: &shunned,
        };
        let mut plan = self.plan.lock().await;
        let places = &node.workflows.places;
        match places.choose(node, &question, &mut plan).await {
            Chosen::Here => None,
            Chosen::There { key, member, .. } => Some((key, member)),
        }
    }

    /// A function has run.
    pub(crate) fn ran(&self, state: &str) {
        let graph = self.graph.get().and_then(Option::as_ref);
        if let Some(at) = graph.and_then(|graph| graph.index(state)) {
            self.lock().done.insert(at);
        }
    }

    /// A node could not take it.
    pub(crate) fn shun(&self, key: &str) {
        self.lock().shunned.insert(key.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Sets, changed in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the workflow as it is now: names that an execution of a former one has are not in it, or mean
/// the same.
fn graph(node: &Node, workflow: &str) -> Option<Graph> {
    let workflow = node.workflows.catalog.workflow(workflow)?;
    let definition: Value = serde_json::from_str(&workflow.record.text).ok()?;
    Some(Graph::of_definition(&definition))
}

/// All that a task comes after.
fn led_to(graph: &Graph, at: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut queue = vec![at];
    while let Some(task) = queue.pop() {
        for &(from, _) in graph.arcs.iter().filter(|(_, to)| *to == task) {
            if found.insert(from) {
                queue.push(from);
            }
        }
    }
    found
}
