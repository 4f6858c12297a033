//! A workflow as placing its tasks sees it: which there are and which may follow which.
//!
//! Of a workflow in the original's form the tasks are its tasks; of any other definition they are the
//! states of all scopes, whose names are unique. The branches of a Parallel follow it and go on to
//! what comes after it, and so do the iterations of a Map, as one. Ways back, which loops need, are
//! left out: a task is placed once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use serverledge_api::SerializedWorkflow;
use serverledge_asl::resource::{Resource, function_name};
use serverledge_core::placement::Kind;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Graph {
    pub(crate) tasks: Vec<Task>,
    /// Indices: from, to.
    pub(crate) arcs: Vec<(usize, usize)>,
    by_id: BTreeMap<String, usize>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// The function that it calls.
    pub(crate) function: Option<String>,
}

impl Graph {
    /// Of a workflow in the original's form.
    pub(crate) fn of_original(workflow: &SerializedWorkflow) -> Self {
        let mut graph = Self::default();
        let tasks = workflow.tasks.iter().flatten();
        for (id, task) in tasks.clone() {
            let kind = match task.kind.as_str() {
                "FunctionTask" => Kind::Function,
                "ChoiceTask" => Kind::Choice,
                _ => Kind::Other,
            };
            graph.add(id, kind, task.function.clone());
        }
        for (id, task) in tasks {
            let alternatives = task.alternatives.iter().flatten();
            let next = task.next.iter().filter(|_| task.kind != "EndTask");
            for next in alternatives.chain(next) {
                graph.connect(id, next);
            }
        }
        let start = workflow.start.iter().map(|start| start.id.as_str());
        graph.without_loops(start)
    }

    /// Of a valid definition.
    pub(crate) fn of_definition(definition: &Value) -> Self {
        let mut graph = Self::default();
        let first = graph.scope(definition, &[]);
        graph.without_loops(first.iter().map(String::as_str))
    }

    /// Adds a scope, after whose end come tasks of others; gives what it begins with.
    fn scope(&mut self, scope: &Value, after: &[String]) -> Option<String> {
        let states = scope.get("States").and_then(Value::as_object);
        for (name, state) in states.into_iter().flatten() {
            let kind = match text(state, "Type") {
                Some("Task") => Kind::Function,
                Some("Choice") => Kind::Choice,
                _ => Kind::Other,
            };
            self.add(name, kind, function(state));
        }
        for (name, state) in states.into_iter().flatten() {
            let mut follow = successors(state);
            if follow.is_empty() && text(state, "Type") != Some("Fail") {
                follow = after.to_vec();
            }
            let inner = inner_scopes(state);
            for caught in caught(state) {
                self.connect(name, &caught);
            }
            // Depth is bounded: the definition was checked.
            let begun: Vec<String> = inner
                .into_iter()
                .filter_map(|inner| self.scope(inner, &follow))
                .collect();
            let follow = if begun.is_empty() { follow } else { begun };
            for next in follow {
                self.connect(name, &next);
            }
        }
        text(scope, "StartAt").map(str::to_owned)
    }

    fn add(&mut self, id: &str, kind: Kind, function: Option<String>) {
        if !self.by_id.contains_key(id) {
            self.by_id.insert(id.to_owned(), self.tasks.len());
            self.tasks.push(Task {
                id: id.to_owned(),
                kind,
                function,
            });
        }
    }

    /// Two alternatives that lead to one task are one arc.
    fn connect(&mut self, from: &str, to: &str) {
        if let (Some(from), Some(to)) = (self.index(from), self.index(to))
            && !self.arcs.contains(&(from, to))
        {
            self.arcs.push((from, to));
        }
    }

    /// The index of a task.
    pub(crate) fn index(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Ids of what may follow a task.
    pub(crate) fn follow(&self, id: &str) -> Vec<&str> {
        let from = self.index(id);
        let arcs = self.arcs.iter().filter(|(it, _)| Some(*it) == from);
        arcs.map(|(_, to)| self.tasks[*to].id.as_str()).collect()
    }

    /// Ids of what a task may follow.
    pub(crate) fn precede(&self, id: &str) -> Vec<&str> {
        let to = self.index(id);
        let arcs = self.arcs.iter().filter(|(_, it)| Some(*it) == to);
        arcs.map(|(from, _)| self.tasks[*from].id.as_str())
            .collect()
    }

    /// Ids of all that can be reached from a task, itself among them.
    pub(crate) fn reachable<'a>(&'a self, id: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::from([id]);
        let mut queue = vec![id];
        while let Some(task) = queue.pop() {
            for next in self.follow(task) {
                if seen.insert(next) {
                    queue.push(next);
                }
            }
        }
        seen
    }

    /// Leaves out every arc that leads back to a task on the way to it.
    fn without_loops<'a>(mut self, first: impl Iterator<Item = &'a str>) -> Self {
        let mut follow = vec![Vec::new(); self.tasks.len()];
        for &(from, to) in &self.arcs {
            follow[from].push(to);
        }
        let first = first.filter_map(|id| self.index(id));
        let starts: Vec<usize> = first.chain(0..self.tasks.len()).collect();
        let mut on_way = vec![false; self.tasks.len()];
        let mut done = vec![false; self.tasks.len()];
        let mut back = BTreeSet::new();
        for start in starts {
            // What is on the way, and how many of its arcs were followed.
            let mut way = vec![(start, 0)];
            if done[start] {
                continue;
            }
            on_way[start] = true;
            while let Some((task, followed)) = way.last_mut() {
                let task = *task;
                let Some(&next) = follow[task].get(*followed) else {
                    on_way[task] = false;
                    done[task] = true;
                    way.pop();
                    continue;
                };
                *followed += 1;
                if on_way[next] {
                    back.insert((task, next));
                } else if !done[next] {
                    on_way[next] = true;
                    way.push((next, 0));
                }
            }
        }
        self.arcs.retain(|arc| !back.contains(arc));
        self
    }
}

fn text<'a>(state: &'a Value, field: &str) -> Option<&'a str> {
    state.get(field).and_then(Value::as_str)
}

/// The function that a Task calls; none if it does something else.
fn function(state: &Value) -> Option<String> {
    match Resource::parse(text(state, "Resource")?) {
        Resource::Function(name) => Some(name.to_owned()),
        Resource::Invoke { .. } => {
            let arguments = state.get("Arguments").or_else(|| state.get("Parameters"))?;
            text(arguments, "FunctionName").map(|name| function_name(name).to_owned())
        }
        _ => None,
    }
}

fn successors(state: &Value) -> Vec<String> {
    let rules = state.get("Choices").and_then(Value::as_array);
    let rules = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| text(rule, "Next"));
    let own = [text(state, "Next"), text(state, "Default")];
    rules
        .chain(own.into_iter().flatten())
        .map(str::to_owned)
        .collect()
}

fn caught(state: &Value) -> Vec<String> {
    let catchers = state.get("Catch").and_then(Value::as_array);
    let targets = catchers
        .into_iter()
        .flatten()
        .filter_map(|it| text(it, "Next"));
    targets.map(str::to_owned).collect()
}

fn inner_scopes(state: &Value) -> Vec<&Value> {
    let branches = state.get("Branches").and_then(Value::as_array);
    let processor = [state.get("ItemProcessor"), state.get("Iterator")];
    branches
        .into_iter()
        .flatten()
        .chain(processor.into_iter().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arcs(graph: &Graph) -> Vec<String> {
        let name = |at: usize| graph.tasks[at].id.as_str();
        let mut arcs: Vec<String> = graph
            .arcs
            .iter()
            .map(|&(from, to)| format!("{}>{}", name(from), name(to)))
            .collect();
        arcs.sort();
        arcs
    }

    #[test]
    fn the_originals_form_is_a_graph_already() {
        let workflow: SerializedWorkflow = serde_json::from_value(json!({
            "Name": "w",
            "Start": {"Id": "s", "Type": "StartTask", "NextTask": "c"},
            "End": {"Id": "e", "Type": "EndTask"},
            "Tasks": {
                "s": {"Id": "s", "Type": "StartTask", "NextTask": "c"},
                "c": {"Id": "c", "Type": "ChoiceTask", "AlternativeNextTasks": ["a", "b", "a"]},
                "a": {"Id": "a", "Type": "FunctionTask", "Func": "f", "NextTask": "b"},
                "b": {"Id": "b", "Type": "FunctionTask", "Func": "g", "NextTask": "e"},
                "e": {"Id": "e", "Type": "EndTask"},
            },
        }))
        .unwrap();
        let graph = Graph::of_original(&workflow);
        assert_eq!(arcs(&graph), ["a>b", "b>e", "c>a", "c>b", "s>c"]);
        let a = &graph.tasks[graph.index("a").unwrap()];
        assert_eq!((a.kind, a.function.as_deref()), (Kind::Function, Some("f")));
        assert_eq!(graph.precede("b"), ["a", "c"]);
        assert_eq!(graph.reachable("a"), BTreeSet::from(["a", "b", "e"]));
    }

    #[test]
    fn branches_follow_their_parallel_and_lead_to_what_comes_after_it() {
        let branch = |name: &str| {
            json!({"StartAt": name, "States": {
                (name): {"Type": "Task", "Resource": "f", "End": true},
            }})
        };
        let graph = Graph::of_definition(&json!({"StartAt": "P", "States": {
            "P": {"Type": "Parallel", "Branches": [branch("A"), branch("B")], "Next": "M",
                  "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "X"}]},
            "M": {"Type": "Map", "ItemProcessor": branch("I"), "Next": "Z"},
            "X": {"Type": "Fail"},
            "Z": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke",
                  "Parameters": {"FunctionName": "g"}, "End": true},
        }}));
        let expected = ["A>M", "B>M", "I>Z", "M>I", "P>A", "P>B", "P>X"];
        assert_eq!(arcs(&graph), expected);
        let z = &graph.tasks[graph.index("Z").unwrap()];
        assert_eq!(z.function.as_deref(), Some("g"));
    }

    #[test]
    fn ways_back_are_left_out() {
        let graph = Graph::of_definition(&json!({"StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "f", "Next": "C"},
            "C": {"Type": "Choice", "Choices": [{"Next": "W"}], "Default": "Z"},
            "W": {"Type": "Wait", "Seconds": 1, "Next": "A"},
            "Z": {"Type": "Succeed"},
        }}));
        assert_eq!(arcs(&graph), ["A>C", "C>W", "C>Z"]);
    }
}
