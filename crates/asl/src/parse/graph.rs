//! What no single state shows: ways through a scope, and its variables.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Builder;
use super::fields::Fields;
use crate::diagnostic::code;

impl Builder {
    /// Every state can be reached, and some state ends the scope.
    pub(super) fn check_graph(&mut self, states: &Fields<'_>, start: Option<&str>) {
        let ends = states.map.values().any(|state| {
            let kind = state.get("Type").and_then(Value::as_str);
            matches!(kind, Some("Succeed" | "Fail")) || state.get("End") == Some(&Value::Bool(true))
        });
        if !ends {
            let message = "no state ends: one of type Succeed or Fail, or with \"End\": true";
            self.error(code::NO_END, states.place, message);
        }
        // Without a start everything would be reported.
        let Some(start) = start.filter(|start| states.has(start)) else {
            return;
        };
        let mut reached = BTreeSet::from([start]);
        let mut open = vec![start];
        while let Some(name) = open.pop() {
            for next in states.map.get(name).map(targets).unwrap_or_default() {
                if states.has(next) && reached.insert(next) {
                    open.push(next);
                }
            }
        }
        for name in states.map.keys() {
            if !reached.contains(name.as_str()) {
                let message = format!("no way leads to the state '{name}'");
                self.error(code::UNREACHABLE, &states.at(name), message);
            }
        }
    }
}

/// Names of all states that may follow.
fn targets(state: &Value) -> Vec<&str> {
    let mut targets = Vec::new();
    targets.extend(state.get("Next").and_then(Value::as_str));
    targets.extend(state.get("Default").and_then(Value::as_str));
    for list in ["Choices", "Catch"] {
        let entries = state.get(list).and_then(Value::as_array);
        for entry in entries.into_iter().flatten() {
            targets.extend(entry.get("Next").and_then(Value::as_str));
        }
    }
    targets
}

/// Names of all variables that the states of a scope assign.
pub(super) fn variables(states: &Map<String, Value>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for state in states.values() {
        let lists = ["Choices", "Catch"].into_iter();
        let entries = lists
            .filter_map(|list| state.get(list)?.as_array())
            .flatten();
        for owner in entries.chain([state]) {
            if let Some(Value::Object(assign)) = owner.get("Assign") {
                let plain = assign
                    .keys()
                    .map(|key| key.strip_suffix(".$").unwrap_or(key));
                names.extend(plain.map(str::to_owned));
            }
        }
    }
    names
}
