//! What holds for every definition and input: nothing panics, every execution ends, and one that is
//! stored and read after every step, or stepped in parts, goes on as if it had not been.

use proptest::prelude::*;
use serde_json::{Value, json};
use serverledge_asl::{
    Effect, Event, Execution, Limits, Machine, Outcome, Start, check_text, check_value,
};

use crate::cases::files;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z$.*@?(){}'\\[\\]0-9-]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "$",
            "$.a",
            "$$.Execution.Id",
            "$.a[?(@.b)]",
            "States.Array($.a)",
            "$..a"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ab](\\.\\$)?", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A state whose fields are of the right names and often of the right types.
fn any_state(count: usize) -> impl Strategy<Value = Value> {
    let fields = prop::sample::subsequence(
        vec![
            "InputPath",
            "OutputPath",
            "Parameters",
            "ResultPath",
            "Result",
            "ResultSelector",
            "Assign",
            "Retry",
            "Catch",
            "Seconds",
            "SecondsPath",
            "Choices",
            "Default",
            "Branches",
            "ItemProcessor",
            "ItemsPath",
            "Resource",
            "Error",
            "Cause",
            "TimeoutSeconds",
        ],
        0..5,
    );
    let kind = prop::sample::select(vec![
        "Pass", "Task", "Choice", "Wait", "Succeed", "Fail", "Parallel", "Map",
    ]);
    (kind, fields, any_json(), any_json(), 0..count).prop_map(|(kind, fields, one, two, next)| {
        let mut state = json!({"Type": kind});
        for (at, field) in fields.iter().enumerate() {
            state[*field] = if at % 2 == 0 {
                one.clone()
            } else {
                two.clone()
            };
        }
        let target = format!("S{next}");
        match kind {
            "Succeed" | "Fail" => {}
            "Choice" => {
                state["Choices"] = json!([{"Variable": "$.a", "IsPresent": true, "Next": target}]);
            }
            _ => state["Next"] = target.into(),
        }
        if kind == "Task" {
            state["Resource"] = "f".into();
        }
        state
    })
}

fn any_machine() -> impl Strategy<Value = Value> {
    prop::collection::vec(any_state(3), 1..4).prop_map(|mut states| {
        states.push(json!({"Type": "Succeed"}));
        let states: serde_json::Map<_, _> = states
            .into_iter()
            .enumerate()
            .map(|(at, state)| (format!("S{at}"), state))
            .collect();
        json!({"StartAt": "S0", "States": states})
    })
}

/// How an execution is stepped.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// States at once.
    budget: usize,
    /// Whether it is stored and read after every part of a step.
    stores: bool,
}

const WHOLE: Manner = Manner {
    budget: usize::MAX,
    stores: false,
};

/// Runs to the end with tasks that echo.
fn run(definition: &Value, input: &Value, manner: Manner) -> Option<(Vec<Effect>, Outcome)> {
    let machine = check_value(definition).machine?;
    let mut execution = Execution::new(Start {
        input: input.clone(),
        limits: Limits {
            scope_events: 200,
            events: 2_000,
            ..Limits::default()
        },
        seed: 7,
        ..Start::default()
    });
    let mut now = 0;
    let mut events = std::collections::VecDeque::from([Event::Started]);
    let mut all = Vec::new();
    for _ in 0..10_000 {
        let event = match events.pop_front() {
            Some(event) => event,
            None => {
                now = execution
                    .wake_at()
                    .expect("it waits for something")
                    .max(now);
                Event::Woken
            }
        };
        let effects = step(&mut execution, &machine, event, (now, manner));
        for effect in &effects {
            if let Effect::Invoke(invocation) = effect {
                events.push_back(match invocation.task % 3 {
                    0 => Event::TaskFailed {
                        task: invocation.task,
                        error: Some("E".to_owned()),
                        cause: None,
                    },
                    _ => Event::TaskSucceeded {
                        task: invocation.task,
                        output: Value::clone(&invocation.arguments),
                    },
                });
            }
        }
        all.extend(effects);
        if let Some(outcome) = execution.outcome() {
            return Some((all, outcome.clone()));
        }
    }
    panic!("the execution doesn't end");
}

fn step(
    execution: &mut Execution,
    machine: &Machine,
    event: Event,
    (now, manner): (i64, Manner),
) -> Vec<Effect> {
    let mut event = Some(event);
    let mut all = Vec::new();
    loop {
        let (effects, has_more) = execution.step_some(machine, event.take(), now, manner.budget);
        all.extend(effects);
        if manner.stores {
            let stored = serde_json::to_string(&execution).unwrap();
            *execution = serde_json::from_str(&stored).unwrap();
        }
        if !has_more {
            return all;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_can_be_checked(text in "[\\[\\]{}\":,a-zA-Z0-9 $.\\\\-]{0,80}") {
        let _ = check_text(&text);
    }

    #[test]
    fn any_value_can_be_checked(value in any_json()) {
        let _ = check_value(&value);
    }

    #[test]
    fn any_machine_can_be_run(machine in any_machine(), input in any_json()) {
        let whole = run(&machine, &input, WHOLE);
        let manner = Manner { budget: 1, stores: false };
        prop_assert_eq!(run(&machine, &input, manner), whole);
    }
}

#[test]
fn stored_executions_go_on_as_if_they_were_not() {
    let mut count = 0;
    for (name, case) in files("cases") {
        let definition = &case["line"]["definition"];
        let input = &case["line"]["input"];
        let undisturbed = run(definition, input, WHOLE);
        count += usize::from(undisturbed.is_some());
        for budget in [1, 3, usize::MAX] {
            let manner = Manner {
                budget,
                stores: true,
            };
            let disturbed = run(definition, input, manner);
            assert_eq!(undisturbed, disturbed, "{name}, {manner:?}");
        }
    }
    assert!(count > 75);
}
