//! What the `Resource` of a Task means on a node, and which functions a definition calls.

use serde_json::Value;

use crate::diagnostic::{self, Diagnostic, Severity, code};
use crate::json;

/// What a Task asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A function, whose parameters are the arguments and whose result is the task's.
    Function(&'a str),
    /// `arn:aws:states:::lambda:invoke`: the arguments name the function.
    Invoke {
        /// Whether the task ends by a callback rather than with the function.
        awaits_callback: bool,
    },
    /// `arn:aws:states:::states:startExecution`: the arguments name the workflow.
    StartExecution(Waiting),
    /// Something of AWS's that isn't here.
    Unknown,
}

/// What a started execution is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing.
    None,
    /// Its end; the output is a text.
    Text,
    /// Its end; the output is JSON.
    Json,
    /// A callback.
    Callback,
}

impl<'a> Resource<'a> {
    /// Reads a `Resource`.
    pub fn parse(resource: &'a str) -> Self {
        let parts: Vec<&str> = resource.split(':').collect();
        match parts.as_slice() {
            ["arn", _, "lambda", _, _, "function", name, ..] => Self::Function(name),
            ["arn", _, "states", "", "", "lambda", "invoke"] => Self::Invoke {
                awaits_callback: false,
            },
            [
                "arn",
                _,
                "states",
                "",
                "",
                "lambda",
                "invoke.waitForTaskToken",
            ] => Self::Invoke {
                awaits_callback: true,
            },
            ["arn", _, "states", "", "", "states", rest @ ..] => match rest {
                ["startExecution"] => Self::StartExecution(Waiting::None),
                ["startExecution.sync"] => Self::StartExecution(Waiting::Text),
                ["startExecution.sync", "2"] => Self::StartExecution(Waiting::Json),
                ["startExecution.waitForTaskToken"] => Self::StartExecution(Waiting::Callback),
                _ => Self::Unknown,
            },
            ["arn", ..] => Self::Unknown,
            _ => Self::Function(resource),
        }
    }
}

/// What readers and writers of Maps do with an S3-compatible store:
/// `arn:aws:states:::s3:getObject` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectAction {
    /// Items are in one object.
    Get,
    /// Items are the objects of a bucket.
    List,
    /// Results go to a bucket.
    Put,
}

impl ObjectAction {
    /// `None` for any other resource.
    pub fn parse(resource: &str) -> Option<Self> {
        match resource.split(':').collect::<Vec<_>>().as_slice() {
            ["arn", _, "states", "", "", "s3", action] => match *action {
                "getObject" => Some(Self::Get),
                "listObjectsV2" => Some(Self::List),
                "putObject" => Some(Self::Put),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The function's name in a name or an ARN of a function, without version or alias.
pub fn function_name(text: &str) -> &str {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", _, "lambda", _, _, "function", name, ..] => name,
        _ => text,
    }
}

/// The workflow's name in a name or an ARN of a state machine, without version or alias.
pub fn workflow_name(text: &str) -> &str {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", _, "states", _, _, "stateMachine", name, ..] => name,
        _ => text,
    }
}

/// A function that a definition names, where, and whether that is its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the function.
    pub function: String,
    /// JSON pointer of the text that names it.
    pub pointer: String,
}

/// All functions that a valid definition names. Those whose names are computed are not among them.
pub fn calls(definition: &Value) -> Vec<Call> {
    let mut calls = Vec::new();
    collect(definition, "", &mut |pointer, state| {
        let Some(resource) = state.get("Resource").and_then(Value::as_str) else {
            return;
        };
        match Resource::parse(resource) {
            Resource::Function(name) => calls.push(Call {
                function: name.to_owned(),
                pointer: format!("{pointer}/Resource"),
            }),
            Resource::Invoke { .. } => {
                for field in ["Parameters", "Arguments"] {
                    let name = state.get(field).and_then(|it| it.get("FunctionName"));
                    let Some(name) = name.and_then(Value::as_str) else {
                        continue;
                    };
                    if name.starts_with("{%") {
                        continue;
                    }
                    calls.push(Call {
                        function: function_name(name).to_owned(),
                        pointer: format!("{pointer}/{field}/FunctionName"),
                    });
                }
            }
            Resource::StartExecution(_) | Resource::Unknown => {}
        }
    });
    calls
}

/// Resources of Tasks that mean nothing on a node, as problems of the definition.
pub fn unknown(definition: &Value) -> Vec<Diagnostic> {
    let mut unknown = Vec::new();
    collect(definition, "", &mut |pointer, state| {
        let resource = state.get("Resource").and_then(Value::as_str);
        let is_task = state.get("Type").and_then(Value::as_str) == Some("Task");
        if let Some(resource) = resource.filter(|_| is_task)
            && Resource::parse(resource) == Resource::Unknown
        {
            unknown.push(problem(
                format!("{pointer}/Resource"),
                format!("'{resource}' is a service of AWS that this node doesn't have"),
                Some("functions, lambda:invoke and states:startExecution can be called".to_owned()),
            ));
        }
    });
    unknown
}

/// Functions that a definition names and that don't exist, as problems of the definition.
pub fn missing(
    definition: &Value,
    exists: impl Fn(&str) -> bool,
    names: &[impl AsRef<str>],
) -> Vec<Diagnostic> {
    let calls = calls(definition).into_iter();
    calls
        .filter(|call| !exists(&call.function))
        .map(|call| {
            let known = names.iter().map(AsRef::as_ref);
            let nearest = diagnostic::nearest(&call.function, known);
            problem(
                call.pointer,
                format!("there is no function '{}'", call.function),
                Some(match nearest {
                    Some(name) => format!("did you mean '{name}'?"),
                    None => "create the function first".to_owned(),
                }),
            )
        })
        .collect()
}

/// Finds line and column of each problem in the definition's text.
pub fn locate(diagnostics: &mut [Diagnostic], text: &str) {
    diagnostic::locate(diagnostics, text);
}

fn problem(pointer: String, message: String, suggestion: Option<String>) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: code::RESOURCE,
        message,
        pointer,
        line: None,
        column: None,
        suggestion,
    }
}

/// Shows all states of all scopes. A valid definition's scopes are not nested deeply.
fn collect(scope: &Value, pointer: &str, see: &mut dyn FnMut(&str, &Value)) {
    let Some(states) = scope.get("States").and_then(Value::as_object) else {
        return;
    };
    for (name, state) in states {
        let pointer = format!("{pointer}/States/{}", json::escape(name));
        see(&pointer, state);
        for field in ["ItemProcessor", "Iterator"] {
            if let Some(processor) = state.get(field) {
                collect(processor, &format!("{pointer}/{field}"), see);
            }
        }
        let branches = state.get("Branches").and_then(Value::as_array);
        for (index, branch) in branches.into_iter().flatten().enumerate() {
            collect(branch, &format!("{pointer}/Branches/{index}"), see);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_are_told_apart() {
        for (text, expected) in [
            ("pack", Resource::Function("pack")),
            ("a/b c", Resource::Function("a/b c")),
            (
                "arn:aws:lambda:us-east-1:123456789012:function:pack:prod",
                Resource::Function("pack"),
            ),
            (
                "arn:aws:states:::lambda:invoke",
                Resource::Invoke {
                    awaits_callback: false,
                },
            ),
            (
                "arn:aws:states:::states:startExecution.sync:2",
                Resource::StartExecution(Waiting::Json),
            ),
            ("arn:aws:states:::sqs:sendMessage", Resource::Unknown),
            (
                "arn:aws:states:us-east-1:123456789012:activity:wait",
                Resource::Unknown,
            ),
        ] {
            assert_eq!(Resource::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn functions_that_do_not_exist_are_found_everywhere() {
        let invoke = "arn:aws:states:::lambda:invoke";
        let definition = json!({"States": {
            "A": {"Type": "Task", "Resource": "pack"},
            "B": {"Type": "Parallel", "Branches": [{"States": {
                "C": {"Type": "Task", "Resource": "pak"},
            }}]},
            "D/E": {"Type": "Map", "ItemProcessor": {"States": {
                "F": {"Type": "Task", "Resource": invoke, "Parameters": {"FunctionName": "send"}},
                "G": {"Type": "Task", "Resource": invoke, "Arguments": {"FunctionName": "{% $f %}"}},
            }}},
        }});
        let found = missing(&definition, |name| name == "pack", &["pack"]);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.pointer.as_str(), one.suggestion.as_deref()))
            .collect();
        let pointer = "/States/D~1E/ItemProcessor/States/F/Parameters/FunctionName";
        assert_eq!(
            found,
            [
                (
                    "/States/B/Branches/0/States/C/Resource",
                    Some("did you mean 'pack'?")
                ),
                (pointer, Some("create the function first")),
            ]
        );
    }
}
