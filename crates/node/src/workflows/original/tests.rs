//! Definitions from the original's form and to it; what is imported is run by the interpreter.

use serde_json::{Value, json};
use serverledge_api::SerializedWorkflow;
use serverledge_asl::check_value;
use serverledge_asl::rehearsal::{Options, line};

use super::export::{export, stub};
use super::*;

/// As the original stored it: `http.jsonl`'s workflow of two functions.
const STORED: &str = r#"{"Name":"wf","Start":{"Id":"UaogAbqFEh8zioRTRSpUfZ","Type":"StartTask","NextTask":"A"},"Tasks":{"2FhUTKjau37dMJsEMxDF3i":{"Id":"2FhUTKjau37dMJsEMxDF3i","Type":"EndTask"},"A":{"Id":"A","Type":"FunctionTask","Func":"inc","NextTask":"B"},"B":{"Id":"B","Type":"FunctionTask","Func":"inc","NextTask":"2FhUTKjau37dMJsEMxDF3i"},"UaogAbqFEh8zioRTRSpUfZ":{"Id":"UaogAbqFEh8zioRTRSpUfZ","Type":"StartTask","NextTask":"A"}},"End":{"Id":"2FhUTKjau37dMJsEMxDF3i","Type":"EndTask"}}"#;

fn workflow(value: Value) -> SerializedWorkflow {
    serde_json::from_value(value).unwrap()
}

/// A workflow of these tasks, beginning with `first`.
fn of_tasks(first: &str, tasks: Value) -> SerializedWorkflow {
    let start = json!({"Id": "start", "Type": "StartTask", "NextTask": first});
    let end = json!({"Id": "end", "Type": "EndTask"});
    let mut all = tasks.as_object().unwrap().clone();
    all.insert("start".into(), start.clone());
    all.insert("end".into(), end.clone());
    workflow(json!({"Name": "w", "Start": start, "Tasks": all, "End": end}))
}

/// What becomes of an execution: its output, or its error.
fn run(definition: &Value, input: Value, mocks: Value) -> Value {
    let text = json!({"definition": definition, "input": input, "mocks": mocks}).to_string();
    let report = line(&text, &Options::default());
    match report.status {
        "SUCCEEDED" => report.output.unwrap(),
        _ => json!([report.error, report.cause, report.diagnostics]),
    }
}

#[test]
fn functions_in_a_row() {
    let stored: SerializedWorkflow = serde_json::from_str(STORED).unwrap();
    let definition = definition(&stored).unwrap();
    assert_eq!(
        definition,
        json!({"StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "inc", "Next": "B"},
            "B": {"Type": "Task", "Resource": "inc", "End": true},
        }})
    );
    // And back: the same but for the ids of what comes first and last.
    let exported = export("wf", &definition, |_| true).unwrap();
    let (start, end) = (
        exported.start.as_ref().unwrap(),
        exported.end.as_ref().unwrap(),
    );
    let text = serde_json::to_string(&exported).unwrap();
    let renamed = text
        .replace(&start.id, "UaogAbqFEh8zioRTRSpUfZ")
        .replace(&end.id, "2FhUTKjau37dMJsEMxDF3i");
    let (ours, theirs): (Value, Value) = (
        serde_json::from_str(&renamed).unwrap(),
        serde_json::from_str(STORED).unwrap(),
    );
    assert_eq!(ours, theirs);
    assert_eq!((start.id.len(), end.id.len()), (22, 22));
    assert_ne!(start.id, end.id);
    assert_eq!(export("wf", &definition, |_| true).unwrap(), exported);
    assert_ne!(
        export("wf2", &definition, |_| true).unwrap().start,
        exported.start
    );
}

#[test]
fn every_type_of_task_is_a_state() {
    let all = of_tasks(
        "C",
        json!({
            "C": {"Id": "C", "Type": "ChoiceTask",
                "Conditions": [
                    {"Type": "Eq", "Find": [true, false], "Op": ["n", 1], "Sub": null},
                    {"Type": "Eq", "Find": [true, false], "Op": ["n", 2], "Sub": null},
                    {"Type": "Eq", "Find": [true, false], "Op": ["n", 3], "Sub": null},
                    {"Type": "Const", "Find": [false], "Op": [true], "Sub": null}],
                "AlternativeNextTasks": ["P", "S", "end", "F"]},
            "P": {"Id": "P", "Type": "PassTask", "Result": "r", "ResultPath": "$.p", "NextTask": "T"},
            "T": {"Id": "T", "Type": "FunctionTask", "Func": "f", "NextTask": "end"},
            "S": {"Id": "S", "Type": "SuccessTask", "NextTask": "end"},
            "F": {"Id": "F", "Type": "Fail", "Error": "E", "Cause": "why", "NextTask": "end"},
            "unused": {"Id": "unused", "Type": "PassTask", "NextTask": "end"},
        }),
    );
    let definition = definition(&all).unwrap();
    assert!(definition["States"].get("unused").is_none());
    let mocks = json!({"f": {"return": {"done": true}}});
    let after = |n: i64| run(&definition, json!({ "n": n }), mocks.clone());
    assert_eq!(after(1), json!({"done": true}));
    assert_eq!(after(2), json!({"n": 2}));
    assert_eq!(after(3), json!({"n": 3}));
    assert_eq!(after(4), json!(["E", "why", []]));

    let nothing = of_tasks("end", json!({}));
    let definition = super::definition(&nothing).unwrap();
    assert_eq!(
        run(&definition, json!({"a": 1}), json!({})),
        json!({"a": 1})
    );
}

/// Whether a condition holds of data, after a function that returned `data` and with `params`.
fn holds(condition: &Value, params: Value, data: Value) -> bool {
    let workflow = of_tasks(
        "T",
        json!({
            "T": {"Id": "T", "Type": "FunctionTask", "Func": "f", "NextTask": "C"},
            "C": {"Id": "C", "Type": "ChoiceTask",
                "Conditions": [condition, {"Type": "Const", "Find": [false], "Op": [true]}],
                "AlternativeNextTasks": ["Y", "N"]},
            "Y": {"Id": "Y", "Type": "Fail", "Error": "Y", "NextTask": "end"},
            "N": {"Id": "N", "Type": "Fail", "Error": "N", "NextTask": "end"},
        }),
    );
    let definition = definition(&workflow).unwrap();
    let end = run(&definition, params, json!({"f": {"return": data}}));
    match end[0].as_str() {
        Some("Y") => true,
        Some("N") => false,
        _ => panic!("{condition}: {end}"),
    }
}

/// A condition of a parameter and a value.
fn find(kind: &str, name: &str, value: Value) -> Value {
    json!({"Type": kind, "Find": [true, false], "Op": [name, value], "Sub": null})
}

/// A condition of a parameter.
fn one(kind: &str, name: &str) -> Value {
    json!({"Type": kind, "Find": [true], "Op": [name]})
}

/// A condition of two parameters.
fn both(kind: &str, a: &str, b: &str) -> Value {
    json!({"Type": kind, "Find": [true, true], "Op": [a, b]})
}

/// Checks conditions against data of every type.
fn check(cases: &[(Value, bool)]) {
    let data = json!({
        "n": 5, "s": "ab/c*d", "ten": "10", "nine": "9", "t": "2024-01-01T00:00:00Z",
        "u": "2024-01-01T01:00:00+01:00", "yes": true, "nil": null, "none": "", "list": [], "a.b": 1,
    });
    for (condition, expected) in cases {
        let params = json!({"only": "params", "n": "hidden"});
        assert_eq!(
            holds(condition, params, data.clone()),
            *expected,
            "{condition}"
        );
    }
}

#[test]
fn comparisons_mean_the_same() {
    check(&[
        (find("Eq", "n", json!(5.0)), true),
        (find("Eq", "n", json!("5")), false),
        (find("Diff", "n", json!("5")), true),
        (find("Eq", "s", json!("ab/c*d")), true),
        (find("Eq", "a.b", json!(1)), true),
        (find("Eq", "missing", json!(1)), false),
        (find("Eq", "only", json!("params")), true),
        (find("Greater", "n", json!(4.5)), true),
        (find("Smaller", "n", json!(4.5)), false),
        (find("Smaller", "missing", json!(4.5)), false),
        (find("Greater", "ten", json!("9")), true),
        (find("Smaller", "ten", json!(11)), false),
        (find("Eq", "ten", json!("010")), true),
        (both("Greater", "ten", "nine"), true),
        (both("Eq", "t", "u"), true),
        (both("Smaller", "t", "u"), false),
    ]);
}

#[test]
fn tests_and_their_combinations_mean_the_same() {
    check(&[
        (one("IsPresent", "n"), true),
        (one("IsPresent", "nil"), false),
        (one("IsPresent", "missing"), false),
        (one("IsNull", "nil"), true),
        (one("IsNull", "missing"), true),
        (one("IsNull", "n"), false),
        (one("IsNumeric", "ten"), true),
        (one("IsNumeric", "s"), false),
        (one("IsString", "s"), true),
        (one("IsBoolean", "yes"), true),
        (one("IsBoolean", "n"), false),
        (one("IsTimestamp", "u"), true),
        (one("IsTimestamp", "ten"), false),
        (one("IsEmpty", "none"), true),
        (one("IsEmpty", "list"), true),
        (one("IsEmpty", "n"), false),
        (find("StringMatches", "s", json!("ab/*")), true),
        (find("StringMatches", "s", json!("*c\\*d")), true),
        (find("StringMatches", "s", json!("b*")), false),
        (find("StringMatches", "none", json!("*")), true),
        (find("StringMatches", "n", json!("*")), false),
        (
            json!({"Type": "And", "Sub": [one("IsString", "s"), find("Eq", "n", json!(5))]}),
            true,
        ),
        (
            json!({"Type": "Or", "Sub": [one("IsString", "n"), find("Eq", "n", json!(6))]}),
            false,
        ),
        (json!({"Type": "Not", "Sub": [one("IsString", "n")]}), true),
        (
            json!({"Type": "Const", "Find": [false], "Op": [false]}),
            false,
        ),
        (
            json!({"Type": "Const", "Find": [true], "Op": ["yes"]}),
            true,
        ),
    ]);
}

#[test]
fn what_is_no_workflow_is_refused_with_the_place() {
    let said = |workflow: SerializedWorkflow| definition(&workflow).unwrap_err().to_string();
    let choice = |condition: Value| {
        said(of_tasks(
            "C",
            json!({"C": {"Id": "C", "Type": "ChoiceTask", "Conditions": [condition],
                "AlternativeNextTasks": ["end"]}}),
        ))
    };
    for (text, words) in [
        (said(workflow(json!({"Name": "w"}))), "Start"),
        (said(of_tasks("gone", json!({}))), "'gone'"),
        (
            said(of_tasks("A", json!({"A": {"Type": "PassTask"}}))),
            "NextTask",
        ),
        (
            said(of_tasks(
                "A",
                json!({"A": {"Type": "WaitNode", "NextTask": "end"}}),
            )),
            "WaitNode",
        ),
        (
            said(of_tasks(
                "A",
                json!({"A": {"Type": "FunctionTask", "NextTask": "end"}}),
            )),
            "Func",
        ),
        (
            said(of_tasks(
                "A",
                json!({"A": {"Type": "ChoiceTask", "Conditions": [{}]}}),
            )),
            "1 conditions and 0",
        ),
        (choice(json!({"Type": "Perhaps"})), "Perhaps"),
        (
            choice(json!({"Type": "Eq", "Find": [true], "Op": ["n"]})),
            "operands",
        ),
        (choice(json!({"Type": "Not", "Sub": []})), "Not"),
        (
            choice(json!({"Type": "StringMatches", "Find": [true, true], "Op": ["a", "b"]})),
            "pattern",
        ),
    ] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn only_what_the_original_can_express_is_exported() {
    let definition = |state: Value| json!({"StartAt": "A", "States": {"A": state, "Z": {"Type": "Succeed", "End": true}}});
    let task = |field: &str, value: Value| {
        let mut state = json!({"Type": "Task", "Resource": "f", "Next": "Z"});
        state[field] = value;
        definition(state)
    };
    let choice = |rule: Value| {
        let mut rule = rule;
        rule["Next"] = "Z".into();
        definition(json!({"Type": "Choice", "Choices": [rule], "Default": "Z"}))
    };
    for (definition, expected) in [
        (task("Comment", json!("c")), true),
        (task("ResultPath", json!("$.x")), false),
        (task("Retry", json!([])), false),
        (task("Next", json!("A")), false),
        (definition(json!({"Type": "Pass", "Next": "Z"})), true),
        (
            definition(json!({"Type": "Pass", "Result": 1, "Next": "Z"})),
            false,
        ),
        (
            definition(json!({"Type": "Wait", "Seconds": 1, "Next": "Z"})),
            false,
        ),
        (choice(json!({"Variable": "$.n", "NumericEquals": 1})), true),
        (
            choice(json!({"Variable": "$.n", "StringLessThanEqualsPath": "$.m"})),
            true,
        ),
        (
            choice(json!({"Variable": "$.n.m", "NumericEquals": 1})),
            false,
        ),
        (choice(json!({"Variable": "$.n", "IsNumeric": true})), false),
        (choice(json!({"Variable": "$.n", "IsPresent": false})), true),
        (
            choice(json!({"Variable": "$.n", "StringMatches": "a*"})),
            true,
        ),
        (
            choice(json!({"Variable": "$.n", "StringMatches": "\\*"})),
            false,
        ),
        (
            choice(json!({"Or": [{"Not": {"Variable": "$.n", "BooleanEquals": true}}]})),
            true,
        ),
    ] {
        let exported = export("w", &definition, |_| true);
        assert_eq!(exported.is_some(), expected, "{definition}");
        if let Some(exported) = exported {
            let back = super::definition(&exported).unwrap();
            assert!(check_value(&back).machine.is_some(), "{back}");
        }
    }
    // A function without a signature fails in the original's workflows.
    assert!(export("w", &task("Comment", json!("c")), |_| false).is_none());
    let stub = stub("w", &json!({}));
    let definition = super::definition(&stub).unwrap();
    assert_eq!(run(&definition, json!({}), json!({}))[0], "NotSupported");
}

#[test]
fn a_choice_survives_the_way_out_and_back() {
    let there = json!({"StartAt": "C", "States": {
        "C": {"Type": "Choice", "Default": "N", "Choices": [
            {"And": [{"Variable": "$.n", "NumericGreaterThanEquals": 3},
                     {"Not": {"Variable": "$.s", "StringEquals": "x"}}], "Next": "Y"}]},
        "Y": {"Type": "Succeed"}, "N": {"Type": "Fail", "Error": "N"},
    }});
    let exported = export("w", &there, |_| true).unwrap();
    let back = definition(&exported).unwrap();
    for (input, expected) in [
        (json!({"n": 3, "s": "y"}), true),
        (json!({"n": 4, "s": "x"}), false),
        (json!({"n": 2, "s": "y"}), false),
    ] {
        for definition in [&there, &back] {
            let end = run(definition, input.clone(), json!({}));
            assert_eq!(end == input, expected, "{input}: {end}");
        }
    }
}
