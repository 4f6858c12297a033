//! A definition in the original's own form, where that can say the same.
//!
//! Ids are those of the definition: a task is called as its state is, and what comes first and last
//! is named after all of the definition, so that nodes that have the same text agree without asking.
//! What the original can't express, a node of it doesn't get in a form that does something else: it
//! gets a workflow that says so.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use serverledge_api::{Condition, SerializedWorkflow, WorkflowTask};
use sha2::{Digest as _, Sha256};

/// Fields that the original understands, or may ignore, by the type of state.
const FIELDS: [(&str, &[&str]); 5] = [
    ("Task", &["Type", "Comment", "Resource", "Next", "End"]),
    ("Choice", &["Type", "Comment", "Choices", "Default"]),
    ("Succeed", &["Type", "Comment", "End"]),
    ("Fail", &["Type", "Comment", "Error", "Cause"]),
    ("Pass", &["Type", "Comment", "Next", "End"]),
];

/// Fields of a machine that the original understands, or may ignore.
const MACHINE: [&str; 4] = ["Comment", "StartAt", "States", "Version"];

/// Characters of short ids, without those that look alike.
const ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const ID_LENGTH: usize = 22;

/// The definition, which must be valid, in the original's form; `None` if that can't express it.
/// `is_plain` tells of a resource whether it is a function with a signature.
pub fn export(
    name: &str,
    definition: &Value,
    is_plain: impl Fn(&str) -> bool,
) -> Option<SerializedWorkflow> {
    let machine = definition.as_object()?;
    if !has_only(machine, &MACHINE) {
        return None;
    }
    let states = machine.get("States")?.as_object()?;
    let first = machine.get("StartAt")?.as_str()?;
    if !is_acyclic(states, first) {
        return None;
    }
    let [start_id, end_id] = ["start", "end"].map(|which| id(which, name, definition));
    if states.contains_key(&start_id) || states.contains_key(&end_id) {
        return None;
    }
    let mut tasks = BTreeMap::new();
    for (id, state) in states {
        let task = task(id, state.as_object()?, &end_id, &is_plain)?;
        tasks.insert(id.clone(), task);
    }
    Some(whole(name, tasks, first, start_id, end_id))
}

/// What a node of the original gets of a workflow that it can't run: one that fails, and says why.
pub fn stub(name: &str, definition: &Value) -> SerializedWorkflow {
    let [start_id, end_id] = ["start", "end"].map(|which| id(which, name, definition));
    let fail = WorkflowTask {
        id: "NotSupported".to_owned(),
        kind: "Fail".to_owned(),
        error: Some("NotSupported".to_owned()),
        cause: Some("this node can't run what the workflow uses".to_owned()),
        next: Some(end_id.clone()),
        ..WorkflowTask::default()
    };
    let tasks = BTreeMap::from([(fail.id.clone(), fail)]);
    whole(name, tasks, "NotSupported", start_id, end_id)
}

fn whole(
    name: &str,
    mut tasks: BTreeMap<String, WorkflowTask>,
    first: &str,
    start_id: String,
    end_id: String,
) -> SerializedWorkflow {
    let start = WorkflowTask {
        id: start_id,
        kind: "StartTask".to_owned(),
        next: Some(first.to_owned()),
        ..WorkflowTask::default()
    };
    let end = WorkflowTask {
        id: end_id,
        kind: "EndTask".to_owned(),
        ..WorkflowTask::default()
    };
    tasks.insert(start.id.clone(), start.clone());
    tasks.insert(end.id.clone(), end.clone());
    SerializedWorkflow {
        name: name.to_owned(),
        start: Some(start),
        tasks: Some(tasks),
        end: Some(end),
    }
}

/// An id that says nothing and is the same wherever the definition is.
fn id(which: &str, name: &str, definition: &Value) -> String {
    let mut hash = Sha256::new();
    // Neither `which` nor a definition holds a zero byte.
    for part in [which, &definition.to_string(), name] {
        hash.update(part);
        hash.update([0]);
    }
    let digest = hash.finalize();
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest.iter().take(ID_LENGTH).map(letter).collect()
}

fn has_only(object: &Map<String, Value>, known: &[&str]) -> bool {
    object.keys().all(|key| known.contains(&key.as_str()))
}

fn task(
    id: &str,
    state: &Map<String, Value>,
    end_id: &str,
    is_plain: impl Fn(&str) -> bool,
) -> Option<WorkflowTask> {
    let kind = state.get("Type")?.as_str()?;
    let (_, known) = FIELDS.iter().find(|(name, _)| *name == kind)?;
    if !has_only(state, known) {
        return None;
    }
    let text = |field: &str| state.get(field).and_then(Value::as_str).map(str::to_owned);
    let next = text("Next").or_else(|| Some(end_id.to_owned()));
    let task = WorkflowTask {
        id: id.to_owned(),
        next,
        ..WorkflowTask::default()
    };
    Some(match kind {
        "Task" => WorkflowTask {
            kind: "FunctionTask".to_owned(),
            function: Some(text("Resource").filter(|name| is_plain(name))?),
            ..task
        },
        "Pass" => WorkflowTask {
            kind: "PassTask".to_owned(),
            result: Some(String::new()),
            result_path: Some(String::new()),
            ..task
        },
        "Succeed" => WorkflowTask {
            kind: "SuccessTask".to_owned(),
            ..task
        },
        "Fail" => WorkflowTask {
            kind: "Fail".to_owned(),
            error: Some(text("Error").unwrap_or_else(|| "GenericError".to_owned())),
            cause: Some(text("Cause").unwrap_or_else(|| GENERIC_CAUSE.to_owned())),
            ..task
        },
        _ => choice(state, task)?,
    })
}

const GENERIC_CAUSE: &str = "Execution failed due to a generic error";

fn choice(state: &Map<String, Value>, task: WorkflowTask) -> Option<WorkflowTask> {
    let mut conditions = Vec::new();
    let mut alternatives = Vec::new();
    for rule in state.get("Choices")?.as_array()? {
        let mut rule = rule.as_object()?.clone();
        rule.remove("Comment");
        alternatives.push(rule.remove("Next")?.as_str()?.to_owned());
        conditions.push(condition(&rule)?);
    }
    // Without it the original would go nowhere, and say nothing.
    alternatives.push(state.get("Default")?.as_str()?.to_owned());
    conditions.push(literal("Const", Value::Bool(true)));
    Some(WorkflowTask {
        kind: "ChoiceTask".to_owned(),
        conditions: Some(conditions),
        alternatives: Some(alternatives),
        next: None,
        ..task
    })
}

fn literal(kind: &str, value: Value) -> Condition {
    Condition {
        kind: kind.to_owned(),
        find: vec![false],
        operands: vec![value],
        inner: None,
    }
}

fn of(kind: &str, inner: Vec<Condition>) -> Condition {
    Condition {
        kind: kind.to_owned(),
        inner: Some(inner),
        ..Condition::default()
    }
}

/// A rule, or part of one, without its `Next`.
fn condition(rule: &Map<String, Value>) -> Option<Condition> {
    let mut operators = rule
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "Variable" | "Comment"));
    let (operator, operand) = operators.next()?;
    if operators.next().is_some() {
        return None;
    }
    let inner = |value: &Value| condition(value.as_object()?);
    match operator.as_str() {
        "And" | "Or" => {
            let inner: Option<Vec<_>> = operand.as_array()?.iter().map(inner).collect();
            return Some(of(operator, inner?));
        }
        "Not" => return Some(of("Not", vec![inner(operand)?])),
        _ => {}
    }
    let variable = parameter(rule.get("Variable")?)?;
    let find = |kind: &str| Condition {
        kind: kind.to_owned(),
        find: vec![true],
        operands: vec![variable.clone()],
        inner: None,
    };
    if let "IsPresent" | "IsNull" | "IsString" | "IsBoolean" | "IsTimestamp" = operator.as_str() {
        let test = find(operator);
        return Some(match operand.as_bool()? {
            true => test,
            false => of("Not", vec![test]),
        });
    }
    if operator == "StringMatches" {
        let mut test = find(operator);
        // The original fails where a star or backslash is escaped.
        test.operands.push(Value::from(
            operand.as_str().filter(|it| !it.contains('\\'))?,
        ));
        test.find.push(false);
        return Some(test);
    }
    let (plain, is_path) = match operator.strip_suffix("Path") {
        Some(plain) => (plain, true),
        None => (operator.as_str(), false),
    };
    let operand = match is_path {
        true => parameter(operand)?,
        false => operand.clone(),
    };
    let compare = |kind: &str| Condition {
        kind: kind.to_owned(),
        find: vec![true, is_path],
        operands: vec![variable.clone(), operand.clone()],
        inner: None,
    };
    let kinds = ["String", "Numeric", "Boolean", "Timestamp"];
    let relation = kinds.iter().find_map(|kind| plain.strip_prefix(kind))?;
    Some(match relation {
        "Equals" => compare("Eq"),
        "LessThan" => compare("Smaller"),
        "GreaterThan" => compare("Greater"),
        "LessThanEquals" => of("Or", vec![compare("Smaller"), compare("Eq")]),
        "GreaterThanEquals" => of("Or", vec![compare("Greater"), compare("Eq")]),
        _ => return None,
    })
}

/// The parameter that a path of the form `$.name` means.
fn parameter(path: &Value) -> Option<Value> {
    let name = path.as_str()?.strip_prefix("$.")?;
    super::super::plain::is_name(name).then(|| Value::from(name))
}

/// Whether no state can be entered twice: the original runs each task once.
fn is_acyclic(states: &Map<String, Value>, first: &str) -> bool {
    // Depth first, with a stack of our own: a state that is met again on its own way closes a loop.
    let mut done = BTreeSet::new();
    let mut way = BTreeSet::new();
    let mut stack = vec![(first, false)];
    while let Some((name, is_left)) = stack.pop() {
        if is_left {
            way.remove(name);
            done.insert(name);
            continue;
        }
        if way.contains(name) {
            return false;
        }
        if done.contains(name) {
            continue;
        }
        way.insert(name);
        stack.push((name, true));
        for next in states.get(name).into_iter().flat_map(successors) {
            if way.contains(next) {
                return false;
            }
            stack.push((next, false));
        }
    }
    true
}

fn successors(state: &Value) -> Vec<&str> {
    let rules = state.get("Choices").and_then(Value::as_array);
    let rules = rules.into_iter().flatten().map(|rule| rule.get("Next"));
    let own = [state.get("Next"), state.get("Default")];
    rules
        .chain(own)
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}
