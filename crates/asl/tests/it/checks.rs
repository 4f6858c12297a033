//! Definitions and what is wrong with them, one file a case: `problems` lists code and pointer of
//! every diagnostic, warnings with a `?` before their code.

use std::collections::BTreeSet;

use serverledge_asl::{Severity, check_text};

use crate::cases::files;

#[test]
fn every_problem_is_found_at_its_place() {
    let mut wrong = Vec::new();
    for (name, case) in files("checks") {
        let text = serde_json::to_string_pretty(&case["definition"]).unwrap();
        let checked = check_text(&text);
        let found: BTreeSet<_> = checked
            .diagnostics
            .iter()
            .map(|one| {
                let mark = match one.severity {
                    Severity::Error => "",
                    Severity::Warning => "?",
                };
                assert!(one.line.is_some() && one.column.is_some());
                (format!("{mark}{}", one.code), one.pointer.clone())
            })
            .collect();
        let expected: BTreeSet<(String, String)> =
            serde_json::from_value(case["problems"].clone()).unwrap();
        let is_valid = expected.iter().all(|(code, _)| code.starts_with('?'));
        if found != expected || checked.machine.is_some() != is_valid {
            wrong.push(format!("{name}:\n  found {found:?}\n  not   {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn places_and_suggestions_help() {
    let text = "{\n  \"StartAt\": \"Frist\",\n  \"States\": {\n    \"First\": {\"Type\": \"Pass\", \"Edn\": true, \"End\": true}\n  }\n}";
    let diagnostics = check_text(text).diagnostics;
    let found: Vec<_> = diagnostics
        .iter()
        .map(|one| (one.code, one.line, one.column, one.suggestion.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            (
                "MISSING_TRANSITION_TARGET",
                Some(2),
                Some(3),
                Some("did you mean 'First'?")
            ),
            (
                "SCHEMA_VALIDATION_FAILED",
                Some(4),
                Some(31),
                Some("did you mean 'End'?")
            ),
        ]
    );
}

#[test]
fn keys_given_twice_are_errors() {
    let text =
        r#"{"StartAt":"A","States":{"A":{"Type":"Pass","End":true},"A":{"Type":"Succeed"}}}"#;
    let checked = check_text(text);
    assert!(checked.machine.is_none());
    assert_eq!(checked.diagnostics[0].code, "DUPLICATE_KEY");
}
