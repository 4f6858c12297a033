//! Plain workflows: those whose data flow as the original's do, by the signatures of functions.
//!
//! A Task is plain if it says nothing of its input and output, and its function has a signature. In a
//! workflow that has nothing but plain Tasks, Choices and ends, a Choice sees the execution's
//! parameters beneath the current data: it is rewritten to look there for what is missing, and to
//! take what is in neither place for something that nothing is true of.

use serde_json::{Map, Value, json};

/// Fields that say how data flow; a state with one of them follows the language.
const FLOW: [&str; 9] = [
    "InputPath",
    "OutputPath",
    "Parameters",
    "ResultSelector",
    "ResultPath",
    "Arguments",
    "Output",
    "Assign",
    "QueryLanguage",
];

/// Whether a Task's data flow by its function's signature, if that has one.
pub fn is_plain_task(state: &Map<String, Value>) -> bool {
    let is_task = state.get("Type").and_then(Value::as_str) == Some("Task");
    is_task && FLOW.iter().all(|field| !state.contains_key(*field))
}

/// The resources of plain Tasks by the names of their states, of all scopes of a valid definition.
pub fn plain_tasks(definition: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if definition.get("QueryLanguage").and_then(Value::as_str) == Some("JSONata") {
        return found;
    }
    // Depth is bounded: the definition was checked.
    let mut scopes = vec![definition];
    while let Some(scope) = scopes.pop() {
        let states = scope.get("States").and_then(Value::as_object);
        for (name, state) in states.into_iter().flatten() {
            let Some(state) = state.as_object() else {
                continue;
            };
            if is_plain_task(state)
                && let Some(resource) = state.get("Resource").and_then(Value::as_str)
            {
                found.push((name.clone(), resource.to_owned()));
            }
            let branches = state.get("Branches").and_then(Value::as_array);
            scopes.extend(branches.into_iter().flatten());
            scopes.extend(state.get("ItemProcessor"));
            scopes.extend(state.get("Iterator"));
        }
    }
    found
}

/// Whether all data of a valid definition flow by signatures; `has_signature` tells of functions.
pub fn is_plain(definition: &Value, has_signature: impl Fn(&str) -> bool) -> bool {
    let is_plain = |state: &Value| {
        let Some(state) = state.as_object() else {
            return false;
        };
        if FLOW.iter().any(|field| state.contains_key(*field)) {
            return false;
        }
        let resource = state.get("Resource").and_then(Value::as_str);
        match state.get("Type").and_then(Value::as_str) {
            Some("Task") => resource.is_some_and(&has_signature),
            Some("Choice" | "Succeed" | "Fail") => true,
            _ => false,
        }
    };
    let states = definition.get("States").and_then(Value::as_object);
    definition.get("QueryLanguage").is_none()
        && states.is_some_and(|states| states.values().all(is_plain))
}

/// What is run of a plain definition: its Choices see the execution's parameters as well.
pub fn overlaid(definition: &Value) -> Value {
    let mut definition = definition.clone();
    let states = definition.get_mut("States").and_then(Value::as_object_mut);
    for state in states.into_iter().flat_map(Map::values_mut) {
        let rules = state.get_mut("Choices").and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten() {
            if let Some(rule) = rule.as_object_mut() {
                let own: Vec<_> = ["Next", "Comment"]
                    .iter()
                    .filter_map(|key| rule.remove_entry(*key))
                    .collect();
                *rule = beneath(std::mem::take(rule));
                rule.extend(own);
            }
        }
    }
    definition
}

/// A rule without its `Next`, or part of one, so that it looks at the parameters too.
fn beneath(mut rule: Map<String, Value>) -> Map<String, Value> {
    rule.remove("Comment");
    for operator in ["And", "Or"] {
        if let Some(Value::Array(inner)) = rule.remove(operator) {
            let inner: Vec<Value> = inner.into_iter().map(inside).collect();
            return object(json!({ operator: inner }));
        }
    }
    if let Some(inner) = rule.remove("Not") {
        return object(json!({"Not": inside(inner)}));
    }
    if let Some(wanted) = rule.get("IsPresent").cloned() {
        let Some((here, there)) = places(rule.get("Variable")) else {
            return rule;
        };
        let tests = [here, there].map(|path| json!({"Variable": path, "IsPresent": wanted}));
        // Absent is what is in neither place.
        let operator = if wanted == true { "Or" } else { "And" };
        return object(json!({ operator: tests }));
    }
    let paths: Vec<String> = rule
        .keys()
        .filter(|key| *key == "Variable" || key.ends_with("Path"))
        .cloned()
        .collect();
    paths.iter().fold(rule, |rule, field| chosen(rule, field))
}

fn inside(rule: Value) -> Value {
    match rule {
        Value::Object(rule) => Value::Object(beneath(rule)),
        other => other,
    }
}

/// The comparison with the path in `field` taken from the data where it is there, else from the
/// parameters. What is in neither place compares with nothing: that is no error, as in the original.
fn chosen(rule: Map<String, Value>, field: &str) -> Map<String, Value> {
    // What an earlier field has made of it: two alternatives, each with the comparison last.
    if let Some(Value::Array(alternatives)) = rule.get("Or") {
        let alternatives = alternatives.iter().map(|alternative| {
            let mut parts = alternative["And"].as_array().cloned().unwrap_or_default();
            if let Some(Value::Object(test)) = parts.pop() {
                parts.push(Value::Object(chosen(test, field)));
            }
            json!({"And": parts})
        });
        return object(json!({"Or": alternatives.collect::<Vec<_>>()}));
    }
    let Some((here, there)) = places(rule.get(field)) else {
        return rule;
    };
    let mut elsewhere = rule.clone();
    elsewhere.insert(field.to_owned(), there.as_str().into());
    object(json!({"Or": [
        {"And": [{"Variable": here, "IsPresent": true}, rule]},
        {"And": [
            {"Variable": here, "IsPresent": false},
            {"Variable": there, "IsPresent": true},
            elsewhere,
        ]},
    ]}))
}

/// The path of a parameter, in the data and in what the execution was started with.
fn places(path: Option<&Value>) -> Option<(String, String)> {
    let here = path?.as_str()?;
    let name = here.strip_prefix("$.")?;
    is_name(name).then(|| (here.to_owned(), format!("$$.Execution.Input.{name}")))
}

/// Whether it is the plain name of a field, so that `$.` before it is a path of one step.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// What is run where a Fail is to end an execution as the original has it: well, with its error as
/// the output. Only of the machine's own states, and only where it says its error literally.
pub fn failing_well(definition: &Value) -> Value {
    let mut definition = definition.clone();
    let states = definition.get_mut("States").and_then(Value::as_object_mut);
    for state in states.into_iter().flat_map(Map::values_mut) {
        let is_fail = state.get("Type").and_then(Value::as_str) == Some("Fail");
        let text = |field: &str, default: &str| match state.get(field) {
            None => Some(default.to_owned()),
            Some(value) => {
                let text = value.as_str().filter(|text| !text.starts_with("{%"));
                text.map(str::to_owned)
            }
        };
        let is_literal = state.get("ErrorPath").is_none() && state.get("CausePath").is_none();
        if let (true, true, Some(error), Some(cause)) = (
            is_fail,
            is_literal,
            text("Error", "GenericError"),
            text("Cause", "Execution failed due to a generic error"),
        ) {
            *state = json!({
                "Type": "Pass", "QueryLanguage": "JSONPath",
                "Result": Value::Object(Map::from_iter([(error, cause.into())])), "End": true,
            });
        }
    }
    definition
}

#[cfg(test)]
mod tests {
    use serverledge_asl::check_value;

    use super::*;

    #[test]
    fn tasks_that_say_nothing_of_data_are_plain() {
        let definition = json!({"StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "f", "Retry": [], "Next": "B"},
            "B": {"Type": "Task", "Resource": "g", "ResultPath": "$.x", "Next": "C"},
            "C": {"Type": "Map", "End": true, "ItemProcessor": {"StartAt": "D", "States": {
                "D": {"Type": "Task", "Resource": "h", "End": true},
            }}},
        }});
        let plain = plain_tasks(&definition);
        let plain: Vec<_> = plain.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(plain, [("A", "f"), ("D", "h")]);
        assert!(!is_plain(&definition, |_| true));
    }

    #[test]
    fn a_choice_sees_what_the_execution_was_started_with() {
        let definition = json!({"StartAt": "C", "States": {
            "C": {"Type": "Choice", "Default": "No", "Choices": [
                {"Variable": "$.n", "NumericEqualsPath": "$.m", "Next": "Yes"},
                {"And": [{"Variable": "$.s", "IsPresent": false},
                         {"Not": {"Variable": "$.n", "NumericGreaterThan": 5}}], "Next": "Yes"},
            ]},
            "Yes": {"Type": "Succeed"}, "No": {"Type": "Fail", "Error": "E", "Cause": "c"},
        }});
        assert!(is_plain(&definition, |_| false));
        let overlaid = overlaid(&definition);
        let checked = check_value(&overlaid);
        assert!(checked.machine.is_some(), "{:?}", checked.diagnostics);
        // The first rule: both places of both paths.
        let text = overlaid["States"]["C"]["Choices"][0].to_string();
        assert_eq!(text.matches("NumericEqualsPath").count(), 4, "{text}");
        assert_eq!(
            overlaid["States"]["C"]["Choices"][1]["And"][0]["And"][1],
            json!({"Variable": "$$.Execution.Input.s", "IsPresent": false})
        );
    }

    #[test]
    fn a_fail_can_end_well() {
        let definition = json!({"StartAt": "F", "States": {
            "F": {"Type": "Fail", "Error": "E", "Cause": "why"},
        }});
        let well = failing_well(&definition);
        assert_eq!(well["States"]["F"]["Result"], json!({"E": "why"}));
        assert!(check_value(&well).machine.is_some());
        let by_path = json!({"States": {"F": {"Type": "Fail", "CausePath": "$.c"}}});
        assert_eq!(failing_well(&by_path), by_path);
    }
}
