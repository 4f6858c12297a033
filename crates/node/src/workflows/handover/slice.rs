//! One task of a workflow as a definition of its own: what it does is the interpreter's to say.
//!
//! The data that the task begins with are the result of a first state, because the execution's input
//! is what the whole workflow was started with. Where the task would go on is told by the output.

use serde_json::{Map, Value, json};

/// Where an execution of a slice has come to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reached {
    /// What would follow; `None` at the end.
    pub(crate) next: Option<String>,
    /// What it would begin with.
    pub(crate) data: Value,
}

/// The definition of the state `name` alone, beginning with `data`; `None` if there is no such state
/// or the machine isn't one whose states can stand alone.
pub(crate) fn cut(definition: &Value, name: &str, data: &Value) -> Option<Value> {
    // In a machine of JSONata, data can't be given as they are: texts in them would be expressions.
    let language = definition.get("QueryLanguage").and_then(Value::as_str);
    if language.is_some_and(|language| language != "JSONPath") {
        return None;
    }
    let mut state = definition.get("States")?.get(name)?.as_object()?.clone();
    let mut targets = Vec::new();
    let end = free_name(&state, name, "End");
    if state.get("Type").and_then(Value::as_str) == Some("Succeed") {
        state.insert("Type".to_owned(), "Pass".into());
        state.insert("End".to_owned(), true.into());
    }
    if state.remove("End") == Some(Value::Bool(true)) {
        state.insert("Next".to_owned(), end.as_str().into());
    }
    collect(&state, &mut targets);
    let begin = free_name(&state, name, "Begin");
    let mut states = Map::new();
    states.insert(
        begin.clone(),
        json!({"Type": "Pass", "QueryLanguage": "JSONPath", "Result": data, "Next": name}),
    );
    for target in targets {
        let next = if target == end {
            Value::Null
        } else {
            target.as_str().into()
        };
        let exit = json!({
            "Type": "Pass", "QueryLanguage": "JSONPath", "End": true,
            "Parameters": {"next": next, "data.$": "$"},
        });
        // A state that leads to itself is met again, not left.
        if target != name {
            states.insert(target, exit);
        }
    }
    states.insert(name.to_owned(), Value::Object(state));
    Some(json!({"StartAt": begin, "States": states}))
}

/// What the output of an execution of a slice says.
pub(crate) fn reached(output: &Value) -> Option<Reached> {
    let object = output.as_object()?;
    Some(Reached {
        next: object.get("next")?.as_str().map(str::to_owned),
        data: object.get("data")?.clone(),
    })
}

/// Where the state may go on.
fn collect(state: &Map<String, Value>, targets: &mut Vec<String>) {
    let lists = ["Choices", "Catch"].map(|field| state.get(field).and_then(Value::as_array));
    let rules = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|rule| rule.get("Next"));
    let own = [state.get("Next"), state.get("Default")];
    for target in rules.chain(own).flatten().filter_map(Value::as_str) {
        if !targets.iter().any(|known| known == target) {
            targets.push(target.to_owned());
        }
    }
}

/// A name that none of the slice's states has.
fn free_name(state: &Map<String, Value>, name: &str, wish: &str) -> String {
    let mut targets = vec![name.to_owned()];
    collect(state, &mut targets);
    let mut free = wish.to_owned();
    while targets.contains(&free) {
        free.push('_');
    }
    free
}

#[cfg(test)]
mod tests {
    use serverledge_asl::{Effect, Event, Execution, Outcome, Start, check_value};

    use super::*;

    fn definition() -> Value {
        json!({"StartAt": "A", "States": {
            "A": {"Type": "Pass", "Parameters": {"m.$": "$.n", "start.$": "$$.Execution.Input.n"},
                  "Next": "C"},
            "C": {"Type": "Choice", "Default": "End", "Choices": [
                {"Variable": "$.m", "NumericGreaterThan": 1, "Next": "Z"},
            ]},
            "End": {"Type": "Succeed", "OutputPath": "$.m"},
            "Z": {"Type": "Pass", "End": true},
        }})
    }

    #[track_caller]
    fn check(name: &str, data: Value, expected: (Option<&str>, Value)) {
        let slice = cut(&definition(), name, &data).unwrap();
        let checked = check_value(&slice);
        let machine = checked
            .machine
            .unwrap_or_else(|| panic!("{:?}", checked.diagnostics));
        let mut execution = Execution::new(Start {
            input: json!({"n": 7}),
            ..Start::default()
        });
        let effects = execution.step(&machine, Event::Started, 0);
        let Some(Effect::Finished(Outcome::Succeeded(output))) = effects.last() else {
            panic!("{effects:?}");
        };
        let reached = reached(output).unwrap();
        assert_eq!((reached.next.as_deref(), reached.data), expected);
    }

    #[test]
    fn a_state_alone_says_where_it_would_go_on() {
        check(
            "A",
            json!({"n": 1}),
            (Some("C"), json!({"m": 1, "start": 7})),
        );
        check("C", json!({"m": 2}), (Some("Z"), json!({"m": 2})));
        check("C", json!({"m": 1}), (Some("End"), json!({"m": 1})));
        check("End", json!({"m": 1}), (None, json!(1)));
        check(
            "Z",
            json!({"x": "{% $uuid() %}"}),
            (None, json!({"x": "{% $uuid() %}"})),
        );
    }

    #[test]
    fn what_cannot_stand_alone_is_not_cut() {
        assert_eq!(cut(&definition(), "B", &json!({})), None);
        let jsonata = json!({"QueryLanguage": "JSONata", "StartAt": "Z", "States": {
            "Z": {"Type": "Pass", "End": true},
        }});
        assert_eq!(cut(&jsonata, "Z", &json!({})), None);
    }
}
