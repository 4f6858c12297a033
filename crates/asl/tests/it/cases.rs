//! Executions, one file a case: `line` is what `serverledge asl run` reads, `expected` the part of
//! its answer that matters.

use std::path::PathBuf;

use serde_json::Value;
use serverledge_asl::Dialect;
use serverledge_asl::rehearsal::{self, Options};

pub(crate) fn files(folder: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let case =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, case)
        })
        .collect()
}

#[test]
fn executions_end_as_the_language_says() {
    let mut wrong = Vec::new();
    let cases = files("cases");
    assert!(cases.len() > 60);
    for (name, case) in cases {
        let options = Options {
            dialect: match case["dialect"].as_str() {
                Some("spec") => Dialect::Specification,
                _ => Dialect::Aws,
            },
            ..Options::default()
        };
        let report = rehearsal::line(&case["line"].to_string(), &options);
        let report = serde_json::to_value(&report).unwrap();
        for (key, expected) in case["expected"].as_object().unwrap() {
            if report.get(key) != Some(expected) {
                wrong.push(format!("{name}: {key}: expected {expected}\n  {report}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn data_is_limited_as_in_aws() {
    let run = |length: usize, dialect| {
        let line = serde_json::json!({
            "definition": {
                "StartAt": "T",
                "States": {"T": {"Type": "Task", "Resource": "f", "End": true}},
            },
            "mocks": {"f": {"return": "x".repeat(length)}},
        });
        let options = Options {
            dialect,
            ..Options::default()
        };
        rehearsal::line(&line.to_string(), &options).error
    };
    // Two bytes are the quotes.
    assert_eq!(run(262_142, Dialect::Aws), None);
    let limited = Some("States.DataLimitExceeded".to_owned());
    assert_eq!(run(262_143, Dialect::Aws), limited);
    assert_eq!(run(262_143, Dialect::Specification), None);
}

#[test]
fn data_that_grow_for_ever_end_an_execution() {
    for (parameters, dialects) in [
        (
            r#"{"a.$":"$"}"#,
            &[Dialect::Aws, Dialect::Specification][..],
        ),
        (r#"{"a.$":"$","b.$":"$"}"#, &[Dialect::Aws]),
    ] {
        let line = format!(
            r#"{{"definition":{{"StartAt":"A","States":{{
                "A":{{"Type":"Pass","Parameters":{parameters},"Next":"B"}},
                "B":{{"Type":"Choice","Choices":[{{"Variable":"$.never","IsPresent":true,"Next":"C"}}],"Default":"A"}},
                "C":{{"Type":"Succeed"}}}}}}}}"#
        );
        for &dialect in dialects {
            let options = Options {
                dialect,
                ..Options::default()
            };
            let report = rehearsal::line(&line, &options);
            assert_eq!(report.status, "FAILED");
            assert!(report.history.len() < 500);
        }
    }
}
