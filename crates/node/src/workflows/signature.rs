//! The data flow of plain workflows: by the signatures of their functions, as the original has it.
//!
//! The state is a flat object. A function sees what the one before it declared as outputs, and what
//! it declares as inputs is filled from the execution's parameters where it is missing. What it
//! declares as outputs is all that goes on. Values are checked, never converted, except for a result
//! that is no object: that is the value of the one output.

use serde_json::{Map, Value};
use serverledge_api::{Field, Signature};

use crate::node::Node;

/// Why data don't fit a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The data are no object.
    #[error("the input of a function with a signature is an object, not {0}")]
    NotAnObject(&'static str),
    /// Neither the data nor the parameters have it.
    #[error("the input '{0}' is missing")]
    MissingInput(String),
    /// It has another type.
    #[error("the input '{name}' is {found}, and {expected} is declared")]
    Input {
        /// Of the input.
        name: String,
        /// What is declared.
        expected: String,
        /// What it is.
        found: &'static str,
    },
    /// The function didn't return it.
    #[error("the function didn't return the output '{0}' that it declares")]
    MissingOutput(String),
    /// The function returned something else.
    #[error("the function returned {found} as '{name}', and declares {expected}")]
    Output {
        /// Of the output.
        name: String,
        /// What is declared.
        expected: String,
        /// What it is.
        found: &'static str,
    },
    /// A single value for several outputs, or none.
    #[error("the function returned no object, and declares {0} outputs")]
    NotOneOutput(usize),
}

/// A function's signature, if it declares anything: the client sends an empty one for those that
/// have none.
pub fn of(signature: &Option<Signature>) -> Option<&Signature> {
    signature
        .as_ref()
        .filter(|it| !it.inputs.is_empty() || !it.outputs.is_empty())
}

/// Whether a function is known here and has a signature.
pub(crate) fn is_of(node: &Node, function: &str) -> bool {
    let function = node.catalog.function(function);
    function.is_some_and(|function| of(&function.record.signature).is_some())
}

/// What a function is called with: `data`, and from the execution's `params` what is declared and
/// missing there.
pub fn inputs(signature: &Signature, data: &Value, params: &Value) -> Result<Value, Misfit> {
    let mut inputs = match data {
        Value::Object(data) => data.clone(),
        Value::Null => Map::new(),
        other => return Err(Misfit::NotAnObject(kind(other))),
    };
    for Field { name, kind: wanted } in &signature.inputs {
        if !inputs.contains_key(name)
            && let Some(value) = params.get(name)
        {
            inputs.insert(name.clone(), value.clone());
        }
        let Some(value) = inputs.get(name) else {
            return Err(Misfit::MissingInput(name.clone()));
        };
        if !fits(wanted, value) {
            return Err(Misfit::Input {
                name: name.clone(),
                expected: wanted.clone(),
                found: kind(value),
            });
        }
    }
    Ok(Value::Object(inputs))
}

/// What goes on of a function's result, which is a JSON text (or any text of a program).
pub fn outputs(signature: &Signature, result: &str) -> Result<Value, Misfit> {
    let Ok(Value::Object(result)) = serde_json::from_str::<Value>(result) else {
        return single(signature, result);
    };
    let mut outputs = Map::new();
    for Field { name, kind: wanted } in &signature.outputs {
        let Some(value) = result.get(name) else {
            return Err(Misfit::MissingOutput(name.clone()));
        };
        if !fits(wanted, value) {
            return Err(Misfit::Output {
                name: name.clone(),
                expected: wanted.clone(),
                found: kind(value),
            });
        }
        outputs.insert(name.clone(), value.clone());
    }
    Ok(Value::Object(outputs))
}

/// A result that is no object, as the one output.
fn single(signature: &Signature, result: &str) -> Result<Value, Misfit> {
    let [Field { name, kind: wanted }] = signature.outputs.as_slice() else {
        return Err(Misfit::NotOneOutput(signature.outputs.len()));
    };
    let text = result.trim();
    let parsed = match wanted.as_str() {
        "Int" => text.parse::<i64>().ok().map(Value::from),
        "Float" => text
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number),
        "Bool" => match text {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(Value::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(Value::Bool(false)),
            _ => None,
        },
        // As text, quotes of JSON included: what the original's users find in their results.
        _ => Some(Value::String(result.to_owned())),
    };
    let value = parsed.ok_or_else(|| Misfit::Output {
        name: name.clone(),
        expected: wanted.clone(),
        found: "something else",
    })?;
    Ok(Value::Object(Map::from_iter([(name.clone(), value)])))
}

/// Whether a value may be passed as this type.
fn fits(wanted: &str, value: &Value) -> bool {
    if let Some(element) = wanted.strip_prefix("Array") {
        return match value {
            Value::Array(values) => values.iter().all(|value| fits(element, value)),
            // A lone value stands for an array of it.
            value => fits(element, value),
        };
    }
    match (wanted, value) {
        ("Int" | "Float", Value::Number(_)) => true,
        ("Int", Value::String(text)) => text.parse::<i64>().is_ok(),
        ("Float", Value::String(text)) => text.parse::<f64>().is_ok_and(f64::is_finite),
        ("Bool", Value::Bool(_)) | ("Text", Value::String(_)) | ("Void", Value::Null) => true,
        ("Bool", Value::Number(number)) => matches!(number.as_i64(), Some(0 | 1)),
        ("Bool", Value::String(text)) => {
            matches!(
                text.as_str(),
                "true" | "True" | "false" | "False" | "1" | "0"
            )
        }
        _ => false,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(list: &[(&str, &str)]) -> Vec<Field> {
        let field = |&(name, kind): &(&str, &str)| Field {
            name: name.into(),
            kind: kind.into(),
        };
        list.iter().map(field).collect()
    }

    fn signature(inputs: &[(&str, &str)], outputs: &[(&str, &str)]) -> Signature {
        Signature {
            inputs: fields(inputs),
            outputs: fields(outputs),
        }
    }

    #[test]
    fn missing_inputs_come_from_the_parameters() {
        let inc = signature(&[("n", "Int")], &[("m", "Int")]);
        let params = json!({"n": 1, "other": 2});
        let first = inputs(&inc, &params, &params).unwrap();
        assert_eq!(first, params);
        // `inc` three times, with the output `m`: each gets the original `n`.
        let out = outputs(&inc, "2").unwrap();
        assert_eq!(out, json!({"m": 2}));
        assert_eq!(
            inputs(&inc, &out, &params).unwrap(),
            json!({"m": 2, "n": 1})
        );
        assert_eq!(
            inputs(&inc, &json!({}), &Value::Null),
            Err(Misfit::MissingInput("n".into()))
        );
        assert!(matches!(
            inputs(&inc, &json!([1]), &params),
            Err(Misfit::NotAnObject("an array"))
        ));
    }

    #[test]
    fn results_are_cut_to_the_declared_outputs() {
        let both = signature(&[], &[("a", "Text"), ("b", "ArrayInt")]);
        let out = outputs(&both, r#"{"a": "x", "b": [1, "2"], "c": 0}"#).unwrap();
        assert_eq!(out, json!({"a": "x", "b": [1, "2"]}));
        assert_eq!(
            outputs(&both, r#"{"a": "x"}"#),
            Err(Misfit::MissingOutput("b".into()))
        );
        assert!(matches!(
            outputs(&both, r#"{"a": 1, "b": 1}"#),
            Err(Misfit::Output { .. })
        ));
        assert_eq!(outputs(&both, "3"), Err(Misfit::NotOneOutput(2)));
        assert_eq!(
            outputs(&signature(&[], &[]), "null"),
            Err(Misfit::NotOneOutput(0))
        );
    }

    #[test]
    fn a_single_value_is_the_one_output() {
        for (kind, result, expected) in [
            ("Int", "2", Some(json!(2))),
            ("Int", "2.5", None),
            ("Float", "2.5", Some(json!(2.5))),
            ("Float", "NaN", None),
            ("Bool", "True", Some(json!(true))),
            ("Bool", "maybe", None),
            ("Text", "\"hi\"", Some(json!("\"hi\""))),
            ("ArrayInt", "[1]", Some(json!("[1]"))),
        ] {
            let out = outputs(&signature(&[], &[("x", kind)]), result).ok();
            assert_eq!(
                out,
                expected.map(|it| json!({ "x": it })),
                "{kind} {result}"
            );
        }
    }

    #[test]
    fn types_are_as_lenient_as_the_originals() {
        for (kind, good, bad) in [
            (
                "Int",
                vec![json!(1), json!("1"), json!(1.5)],
                vec![json!("x"), json!(true)],
            ),
            (
                "Float",
                vec![json!(1), json!("1.5")],
                vec![json!(""), json!("inf")],
            ),
            (
                "Bool",
                vec![json!(false), json!(1), json!("True")],
                vec![json!(2), json!("yes")],
            ),
            ("Text", vec![json!("")], vec![json!(1), json!(null)]),
            ("Void", vec![json!(null)], vec![json!(0)]),
            (
                "ArrayText",
                vec![json!([]), json!(["a"]), json!("a")],
                vec![json!([1])],
            ),
            (
                "ArrayArrayInt",
                vec![json!([[1], [2]]), json!([1]), json!(1)],
                vec![json!([["x"]])],
            ),
            ("int", vec![], vec![json!(1)]),
        ] {
            for value in good {
                assert!(fits(kind, &value), "{kind} {value}");
            }
            for value in bad {
                assert!(!fits(kind, &value), "{kind} {value}");
            }
        }
    }
}
