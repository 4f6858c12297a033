//! Executions that go on after they failed: what had ended well isn't run again.

use std::collections::VecDeque;

use serde_json::{Value, json};
use serverledge_asl::{Effect, Event, Execution, Machine, Outcome, Start, TaskId, check_value};

/// An execution whose tasks are answered by a function of state and arguments; an error fails it.
struct Play {
    machine: Machine,
    execution: Execution,
    /// States of the tasks that were run, with their arguments.
    ran: Vec<(String, Value)>,
    waiting: VecDeque<TaskId>,
}

impl Play {
    fn new(definition: &Value, input: Value) -> Self {
        let checked = check_value(definition);
        assert!(checked.machine.is_some(), "{:?}", checked.diagnostics);
        Self {
            machine: checked.machine.unwrap(),
            execution: Execution::new(Start {
                input,
                ..Start::default()
            }),
            ran: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Goes on with an event until the end, or until nothing is left but tasks that `answer` leaves
    /// without one.
    fn go(
        &mut self,
        event: Event,
        mut answer: impl FnMut(&str, &Value) -> Option<Result<Value, &'static str>>,
    ) -> Option<Outcome> {
        self.ran.clear();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.execution.step(&self.machine, event, 1_000) {
                let Effect::Invoke(invocation) = effect else {
                    continue;
                };
                let (task, arguments) = (invocation.task, Value::clone(&invocation.arguments));
                let answer = answer(&invocation.state, &arguments);
                self.ran.push((invocation.state, arguments));
                match answer {
                    None => self.waiting.push_back(task),
                    Some(Ok(output)) => events.push_back(Event::TaskSucceeded { task, output }),
                    Some(Err(error)) => events.push_back(Event::TaskFailed {
                        task,
                        error: Some(error.to_owned()),
                        cause: None,
                    }),
                }
            }
            // As it would be found after a restart.
            let stored = serde_json::to_string(&self.execution).unwrap();
            self.execution = serde_json::from_str(&stored).unwrap();
        }
        self.execution.outcome().cloned()
    }

    fn ran(&self) -> Vec<&str> {
        let mut ran: Vec<&str> = self.ran.iter().map(|(state, _)| state.as_str()).collect();
        ran.sort_unstable();
        ran
    }
}

fn task() -> Value {
    json!({"Type": "Task", "Resource": "f", "End": true})
}

fn echo(_: &str, arguments: &Value) -> Option<Result<Value, &'static str>> {
    Some(Ok(arguments.clone()))
}

#[track_caller]
fn succeeded(outcome: Option<Outcome>) -> Value {
    match outcome {
        Some(Outcome::Succeeded(output)) => Value::clone(&output),
        other => panic!("{other:?}"),
    }
}

fn parallel() -> Value {
    let branch = |first: &str, second: &str| {
        json!({"StartAt": first, "States": {
            first: {"Type": "Task", "Resource": "f", "Next": second},
            second: task(),
        }})
    };
    json!({"StartAt": "Fork", "States": {
        "Fork": {
            "Type": "Parallel",
            "Branches": [branch("A1", "A2"), branch("B1", "B2"), branch("C1", "C2")],
            "Next": "Last",
        },
        "Last": task(),
    }})
}

#[test]
fn only_failed_and_aborted_branches_go_on_and_where_they_were() {
    let mut play = Play::new(&parallel(), json!(7));
    let outcome = play.go(Event::Started, |state, arguments| match state {
        "B2" => Some(Err("E")),
        "C1" => None,
        _ => echo(state, arguments),
    });
    assert!(
        matches!(outcome, Some(Outcome::Failed { .. })),
        "{outcome:?}"
    );
    assert!(play.execution.is_redrivable());
    let output = succeeded(play.go(Event::Redriven, echo));
    assert_eq!(output, json!([7, 7, 7]));
    assert_eq!(play.ran(), ["B2", "C1", "C2", "Last"]);
    assert!(!play.execution.is_redrivable());
    assert_eq!(
        play.go(Event::Redriven, echo),
        Some(Outcome::Succeeded(output.into()))
    );
    assert_eq!(play.ran(), [""; 0]);
}

#[test]
fn an_execution_that_was_stopped_or_timed_out_goes_on_too() {
    let mut definition = parallel();
    definition["TimeoutSeconds"] = json!(1);
    let hang = |state: &str, arguments: &Value| match state {
        "A1" => None,
        _ => echo(state, arguments),
    };
    let mut play = Play::new(&definition, json!(7));
    play.go(Event::Started, hang);
    let stopped = Event::Stopped {
        error: None,
        cause: None,
    };
    assert!(matches!(
        play.go(stopped, hang),
        Some(Outcome::Aborted { .. })
    ));
    assert!(play.go(Event::Redriven, hang).is_none());
    assert_eq!(play.ran(), ["A1"]);
    play.execution.step(&play.machine, Event::Woken, 10_000);
    assert_eq!(play.execution.outcome(), Some(&Outcome::TimedOut));
    assert_eq!(succeeded(play.go(Event::Redriven, echo)), json!([7, 7, 7]));
    assert_eq!(play.ran(), ["A1", "A2", "Last"]);
}

fn map(extra: &Value) -> Value {
    let mut map = json!({
        "Type": "Map",
        "MaxConcurrency": 3,
        "ItemProcessor": {"StartAt": "One", "States": {
            "One": {"Type": "Task", "Resource": "f", "Next": "Two"},
            "Two": task(),
        }},
        "End": true,
    });
    for (key, value) in extra.as_object().unwrap() {
        map[key] = value.clone();
    }
    json!({"StartAt": "Map", "States": {"Map": map}})
}

#[test]
fn only_items_without_output_are_run_again() {
    let mut play = Play::new(&map(&json!({})), json!([0, 1, 2, 3, 4]));
    let outcome = play.go(Event::Started, |state, arguments| {
        match (state, arguments) {
            ("Two", Value::Number(n)) if n.as_u64() == Some(1) => Some(Err("E")),
            _ => echo(state, arguments),
        }
    });
    assert!(
        matches!(outcome, Some(Outcome::Failed { .. })),
        "{outcome:?}"
    );
    let output = succeeded(play.go(Event::Redriven, echo));
    assert_eq!(output, json!([0, 1, 2, 3, 4]));
    let again = |item: u64| play.ran.contains(&("One".to_owned(), json!(item)));
    assert!(!again(0) && !again(1), "{:?}", play.ran);
    assert!(
        play.ran.contains(&("Two".to_owned(), json!(1))),
        "{:?}",
        play.ran
    );
}

#[test]
fn a_distributed_map_runs_its_failed_items_again() {
    let mode = json!({"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"});
    let mut definition = map(&json!({"ToleratedFailureCount": 1}));
    definition["States"]["Map"]["ItemProcessor"]["ProcessorConfig"] = mode;
    let mut play = Play::new(&definition, json!([0, 1, 2, 3, 4]));
    let outcome = play.go(Event::Started, |state, arguments| {
        match (state, arguments) {
            ("One", Value::Number(n)) if n.as_u64().is_some_and(|n| n < 2) => Some(Err("E")),
            _ => echo(state, arguments),
        }
    });
    let Some(Outcome::Failed { error, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        error.as_deref(),
        Some("States.ExceedToleratedFailureThreshold")
    );
    let output = succeeded(play.go(Event::Redriven, echo));
    assert_eq!(output, json!([0, 1, 2, 3, 4]));
}

#[test]
fn a_caught_failure_leaves_nothing_to_go_on_with() {
    let mut definition = parallel();
    definition["States"]["Fork"]["Catch"] =
        json!([{"ErrorEquals": ["States.ALL"], "Next": "Last"}]);
    let mut play = Play::new(&definition, json!(7));
    let outcome = play.go(Event::Started, |state, arguments| match state {
        "B2" | "Last" => Some(Err("E")),
        _ => echo(state, arguments),
    });
    assert!(
        matches!(outcome, Some(Outcome::Failed { .. })),
        "{outcome:?}"
    );
    succeeded(play.go(Event::Redriven, echo));
    assert_eq!(play.ran(), ["Last"]);
}
