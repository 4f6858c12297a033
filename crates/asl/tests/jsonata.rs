//! The query language against cases in files, one file a topic. What is expected was derived from
//! the language's documentation and confirmed with the reference implementation, version 2.0.6;
//! `own.json` holds where this one parts from it on purpose.

#![expect(
    clippy::unwrap_used,
    reason = "a test that can't go on should fail, loudly and at the line"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;
use serverledge_asl::jsonata::{Environment, Expression, Flavour};

/// The files: name and text.
const FILES: [(&str, &str); 13] = [
    ("builtins", include_str!("jsonata/builtins.json")),
    ("dates", include_str!("jsonata/dates.json")),
    ("documents", include_str!("jsonata/documents.json")),
    ("functions", include_str!("jsonata/functions.json")),
    ("mixed", include_str!("jsonata/mixed.json")),
    ("numbers", include_str!("jsonata/numbers.json")),
    ("objects", include_str!("jsonata/objects.json")),
    ("operators", include_str!("jsonata/operators.json")),
    ("own", include_str!("jsonata/own.json")),
    ("parent", include_str!("jsonata/parent.json")),
    ("paths", include_str!("jsonata/paths.json")),
    ("states", include_str!("jsonata/states.json")),
    ("strings", include_str!("jsonata/strings.json")),
];

/// The answer in the shape of a case: a result, an error's code, or nothing for undefined.
fn answer(
    expr: &str,
    flavour: Flavour,
    data: Option<&Value>,
    bindings: &BTreeMap<String, Value>,
) -> (Option<Value>, Option<String>) {
    let mut environment = Environment::new(flavour, 1_521_801_216_617, 7);
    let result = Expression::parse_as(expr, flavour)
        .and_then(|expression| expression.evaluate_with_input(data, bindings, &mut environment));
    match result {
        Ok(result) => (result, None),
        Err(error) => (None, Some(error.code)),
    }
}

/// Numbers as they compare in the language: 1 and 1.0 are the same.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), normal(value)))
            .collect(),
        other => other.clone(),
    }
}

fn bindings(value: Option<&Value>) -> BTreeMap<String, Value> {
    let map = value
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    map.into_iter().collect()
}

#[test]
fn every_case_has_its_answer() {
    let mut count = 0;
    let mut wrong = Vec::new();
    for (name, text) in FILES {
        let file: Value = serde_json::from_str(text).unwrap();
        let flavour = match file.get("flavour") {
            Some(_) => Flavour::States,
            None => Flavour::Plain,
        };
        for case in file["cases"].as_array().unwrap() {
            let expr = case["expr"].as_str().unwrap();
            let data = case.get("data").or(file.get("data"));
            let bindings = bindings(case.get("bindings").or(file.get("bindings")));
            let (result, code) = answer(expr, flavour, data, &bindings);
            let expected_code = case.get("error").and_then(Value::as_str);
            let same = code.as_deref() == expected_code
                && result.as_ref().map(normal) == case.get("result").map(normal);
            count += 1;
            if !same {
                wrong.push(format!("{name}: {expr}: {result:?} {code:?}"));
            }
        }
    }
    assert!(count > 1500, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn undefined_is_not_null() {
    let none = BTreeMap::new();
    let evaluate = |expr, data| answer(expr, Flavour::Plain, data, &none).0;
    assert_eq!(evaluate("a", None), None);
    assert_eq!(evaluate("null", None), Some(Value::Null));
    assert_eq!(evaluate("$", Some(&Value::Null)), Some(Value::Null));
    assert_eq!(evaluate("$", None), None);
}

#[test]
fn keys_keep_their_order() {
    let data: Value = serde_json::from_str(r#"{"z": 1, "a": {"y": 2, "b": 3}}"#).unwrap();
    let (result, _) = answer("$string($)", Flavour::Plain, Some(&data), &BTreeMap::new());
    assert_eq!(result, Some(r#"{"z":1,"a":{"y":2,"b":3}}"#.into()));
}

#[test]
fn errors_say_where() {
    let error = Expression::parse_as("1 + (2", Flavour::Plain).unwrap_err();
    assert_eq!((error.code.as_str(), error.position), ("S0203", Some(6)));
    let expression = Expression::parse_as("1 + \"a\"", Flavour::Plain).unwrap();
    let mut environment = Environment::new(Flavour::Plain, 0, 0);
    let error = expression
        .evaluate(&BTreeMap::new(), &mut environment)
        .unwrap_err();
    assert_eq!((error.code.as_str(), error.position), ("T2002", Some(3)));
}

#[test]
fn equal_environments_give_equal_results() {
    let expression = Expression::parse("[$random(), $uuid(), $now(), $shuffle([1..9])]").unwrap();
    let evaluate = |seed| {
        let mut environment = Environment::new(Flavour::States, 5, seed);
        let first = expression
            .evaluate(&BTreeMap::new(), &mut environment)
            .unwrap();
        let second = expression
            .evaluate(&BTreeMap::new(), &mut environment)
            .unwrap();
        assert_ne!(first, second, "the state of the generator goes on");
        (first, second)
    };
    assert_eq!(evaluate(1), evaluate(1));
    assert_ne!(evaluate(1), evaluate(2));
}

/// Pieces of the language in any order, much of which parses.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "$",
        "$$",
        "$x",
        "%",
        "*",
        "**",
        ".",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "^(",
        "#$i",
        "@$v",
        "~>",
        "|",
        "?",
        ":",
        ":=",
        ";",
        ",",
        "..",
        "&",
        "=",
        "!=",
        "<",
        ">",
        "+",
        "-",
        "/",
        "in",
        "and",
        "or",
        "1",
        "0",
        "-1",
        "1e9",
        "\"s\"",
        "null",
        "true",
        "function($x){",
        "λ(",
        "$map(",
        "$sum(",
        "$string(",
        "$pad(",
        "$split(",
        "$match(",
        "/a+/",
        "$sort(",
        "$reduce(",
        "$fromMillis(",
        "$toMillis(",
        "\"[Y]\"",
        "$formatNumber(",
        "\"#0.0\"",
        "$formatInteger(",
        "$parseInteger(",
        "\"w\"",
        "$merge(",
        "$zip(",
        "$substring(",
        "$replace(",
        "$eval(",
        "[]",
        "[0]",
        "{\"k\":1}",
        "<n-:n>",
    ]);
    prop::collection::vec(piece, 1..14).prop_map(|pieces| pieces.join(""))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = Expression::parse_as(&text, Flavour::Plain);
    }

    #[test]
    fn no_soup_panics(text in soup()) {
        let data = serde_json::json!({"a": [{"b": 1}, {"b": [2, 3]}], "b": "s", "k": {"a": null}});
        if let Ok(expression) = Expression::parse_as(&text, Flavour::Plain) {
            let mut environment = Environment::new(Flavour::Plain, 0, 0);
            environment.limits.steps = 100_000;
            environment.limits.sequence = 10_000;
            let _ = expression.evaluate_with_input(Some(&data), &BTreeMap::new(), &mut environment);
        }
    }
}
