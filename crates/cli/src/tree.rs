//! An execution as a tree: its states in the order in which they were first entered, with what became
//! of them, those of branches and iterations below the state that has them.
//!
//! The history is flat. A state that is entered while a Parallel or Map is open belongs to the one
//! opened last, which is right unless such states are open beside each other.

use serde::Deserialize;

/// An event of the history, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Event {
    pub(crate) id: u64,
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    pub(crate) state: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) cause: Option<String>,
}

/// What is known of an execution.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    states: Vec<State>,
    /// Those that have branches or iterations now, as places in `states`.
    open: Vec<usize>,
}

#[derive(Debug)]
struct State {
    name: String,
    depth: usize,
    is_container: bool,
    entered: u64,
    exited: u64,
    /// Attempts of its task that failed.
    failures: u64,
    /// What the last failure was.
    problem: Option<String>,
    /// Whether it ended the execution.
    failed: bool,
}

/// Longest explanation that is shown, characters.
const PROBLEM_MAX: usize = 120;

impl Tree {
    /// Takes an event in.
    pub(crate) fn add(&mut self, event: &Event) {
        let kind = event.kind.as_str();
        let Some(name) = &event.state else {
            if let "ExecutionFailed" | "ExecutionAborted" | "ExecutionTimedOut" = kind {
                self.end(event);
            }
            return;
        };
        if kind.ends_with("StateEntered") {
            return self.enter(name, kind);
        }
        let Some(at) = self.states.iter().rposition(|state| state.name == *name) else {
            return;
        };
        let state = &mut self.states[at];
        if kind.ends_with("StateExited") {
            state.exited += 1;
            if state.is_container && state.exited == state.entered {
                self.open.retain(|open| *open != at);
            }
        } else if kind.ends_with("Failed") || kind.ends_with("TimedOut") {
            state.failures += 1;
            state.problem = problem(event);
        }
    }

    fn enter(&mut self, name: &str, kind: &str) {
        let is_container = kind.starts_with("Map") || kind.starts_with("Parallel");
        let known = self.states.iter().position(|state| state.name == name);
        let at = known.unwrap_or(self.states.len());
        if known.is_none() {
            self.states.push(State {
                name: name.to_owned(),
                depth: self.open.len(),
                is_container,
                entered: 0,
                exited: 0,
                failures: 0,
                problem: None,
                failed: false,
            });
        }
        self.states[at].entered += 1;
        if is_container && !self.open.contains(&at) {
            self.open.push(at);
        }
    }

    /// The execution is over: what is open will never be left.
    fn end(&mut self, event: &Event) {
        let problem = problem(event);
        for state in &mut self.states {
            if state.exited < state.entered {
                state.failed = true;
                state.problem = state.problem.take().or_else(|| problem.clone());
            }
        }
        self.open.clear();
    }

    /// One line a state.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.states.iter().map(State::line).collect()
    }
}

impl State {
    fn line(&self) -> String {
        let mark = match () {
            () if self.failed => '✗',
            () if self.exited < self.entered => '…',
            () => '✓',
        };
        let mut line = format!(
            "{:indent$}{mark} {}",
            "",
            self.name,
            indent = self.depth * 2
        );
        if self.entered > 1 {
            line.push_str(&format!(" {}/{}", self.exited, self.entered));
        }
        if self.failures > 0 {
            line.push_str(&format!(" ({} failed)", self.failures));
        }
        if let Some(problem) = &self.problem {
            line.push_str(&format!(" {problem}"));
        }
        line
    }
}

/// Error and cause in one line that a terminal takes as text.
fn problem(event: &Event) -> Option<String> {
    let parts: Vec<&str> = [&event.error, &event.cause]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let text = parts.join(": ");
    let plain = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(PROBLEM_MAX);
    (!text.is_empty()).then(|| plain.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(events: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (kind, state) in events {
            tree.add(&Event {
                kind: (*kind).to_owned(),
                state: (!state.is_empty()).then(|| (*state).to_owned()),
                error: kind.contains("Failed").then(|| "Busy".to_owned()),
                ..Event::default()
            });
        }
        tree
    }

    #[test]
    fn states_are_shown_as_they_go() {
        let tree = tree(&[
            ("ExecutionStarted", ""),
            ("TaskStateEntered", "Charge"),
            ("TaskFailed", "Charge"),
            ("TaskSucceeded", "Charge"),
            ("TaskStateExited", "Charge"),
            ("MapStateEntered", "Each"),
            ("PassStateEntered", "Item"),
            ("PassStateExited", "Item"),
            ("PassStateEntered", "Item"),
        ]);
        assert_eq!(
            tree.lines(),
            ["✓ Charge (1 failed) Busy", "… Each", "  … Item 1/2"]
        );
    }

    #[test]
    fn what_an_execution_failed_in_is_marked() {
        let tree = tree(&[
            ("ParallelStateEntered", "Both"),
            ("TaskStateEntered", "A"),
            ("TaskStateEntered", "B"),
            ("TaskStateExited", "B"),
            ("ExecutionFailed", ""),
            ("PassStateEntered", "After"),
        ]);
        assert_eq!(
            tree.lines(),
            ["✗ Both Busy", "  ✗ A Busy", "  ✓ B", "… After"]
        );
    }
}
