//! Executions as resources: started, found, shown, stopped, gone on with.

use serde_json::{Value, json};

use super::{ended, events_of, execution, express, history, id_of, register, register_as, start};
use crate::support::function::echo;
use crate::support::{Node, eventually, node, python};

/// A machine of these states, one after the other.
fn chain(states: &[(&str, Value)]) -> Value {
    let mut members = serde_json::Map::new();
    for (at, (name, state)) in states.iter().enumerate() {
        let mut state = state.clone();
        match states.get(at + 1) {
            Some((next, _)) => state["Next"] = json!(next),
            None => state["End"] = json!(true),
        }
        members.insert((*name).to_owned(), state);
    }
    json!({"StartAt": states[0].0, "States": members})
}

fn task(function: &str) -> Value {
    json!({"Type": "Task", "Resource": function})
}

#[test]
fn express_and_standard_executions_give_the_same() {
    let node = node().start();
    node.create(&echo("echo"));
    let items = json!({
        "Type": "Map",
        "ItemsPath": "$.items",
        "ItemProcessor": {"StartAt": "Each", "States": {"Each": {
            "Type": "Task", "Resource": "echo", "End": true,
        }}},
    });
    let wrapped = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": "echo", "Payload": {"got.$": "$"}},
        "OutputPath": "$.Payload",
    });
    register(
        &node,
        "both",
        &chain(&[("Echo", task("echo")), ("Items", items), ("Wrap", wrapped)]),
    );
    let input = json!({"items": [1, "two", {"three": [3.5, null]}]});
    let expected = json!({"got": input["items"]});
    let reply = express(&node, "both", input.clone());
    assert_eq!(reply["Status"], "SUCCEEDED", "{reply}");
    assert_eq!(
        (&reply["Output"], &reply["Type"]),
        (&expected, &json!("EXPRESS"))
    );
    let id = start(&node, "both", input.clone());
    let reply = ended(&node, &id);
    assert_eq!(
        (&reply["Output"], &reply["Input"]),
        (&expected, &input),
        "{reply}"
    );
    assert_eq!(reply["Type"], "STANDARD");
    assert!(reply["StopDate"].as_str().is_some());
    // Nothing is kept of an express one.
    let list = node.get("/v1/executions?workflow=both").expect(200).json();
    assert_eq!(list["Executions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_definition_with_unknown_functions_is_refused_with_the_place() {
    let node = node().start();
    node.create(&echo("echo"));
    let text = "{\n  \"StartAt\": \"A\",\n  \"States\": {\"A\": {\"Type\": \"Task\",\n    \
                \"Resource\": \"ecko\", \"End\": true}}}";
    let spec = json!({"Definition": text}).to_string();
    let refused = node.send("PUT", "/v1/workflows/w", spec).expect(400);
    let problem = refused.problem(&["no function 'ecko'", "line 4", "did you mean 'echo'"]);
    let diagnostic = &problem["diagnostics"][0];
    assert_eq!(diagnostic["pointer"], "/States/A/Resource");
    assert_eq!(
        (&diagnostic["line"], &diagnostic["column"]),
        (&json!(4), &json!(5))
    );
    let sqs = chain(&[("A", task("arn:aws:states:::sqs:sendMessage"))]);
    let spec = json!({"Definition": sqs}).to_string();
    let refused = node.send("PUT", "/v1/workflows/w", spec).expect(400);
    refused.problem(&["sqs:sendMessage"]);
    let spec = json!({"Definition": {"StartAt": "A"}, "OnCrash": "explode"}).to_string();
    node.send("PUT", "/v1/workflows/w", spec)
        .expect(400)
        .problem(&["OnCrash"]);
    node.get("/v1/workflows/w").expect(404);
    let missing = json!({"Workflow": "w"});
    node.post("/v1/executions", &missing)
        .expect(404)
        .problem(&["'w' does not exist"]);
}

#[test]
fn an_execution_is_started_once_by_its_name() {
    let node = node().start();
    register(&node, "pass", &chain(&[("A", json!({"Type": "Pass"}))]));
    let request = json!({"Workflow": "pass", "Name": "one", "Input": {"a": 1, "b": [2]}});
    let first = node.post("/v1/executions", &request).expect(200);
    let again = json!({"Workflow": "pass", "Name": "one", "Input": {"b": [2], "a": 1}});
    let second = node.post("/v1/executions", &again).expect(200);
    assert_eq!(id_of(&first), id_of(&second));
    let other = json!({"Workflow": "pass", "Name": "one", "Input": {"a": 2}});
    node.post("/v1/executions", &other)
        .expect(409)
        .problem(&["another input"]);
    let wrong = json!({"Workflow": "pass", "Name": "a b"});
    node.post("/v1/executions", &wrong).expect(400);
    // Another workflow's names are others.
    register(&node, "pass2", &chain(&[("A", json!({"Type": "Pass"}))]));
    let elsewhere = json!({"Workflow": "pass2", "Name": "one", "Input": {"a": 2}});
    let third = node.post("/v1/executions", &elsewhere).expect(200);
    assert_ne!(id_of(&first), id_of(&third));
}

#[test]
fn executions_are_listed_by_workflow_and_status_page_by_page() {
    let node = node().start();
    register(&node, "pass", &chain(&[("A", json!({"Type": "Pass"}))]));
    let fail = json!({"StartAt": "F", "States": {"F": {"Type": "Fail", "Error": "E"}}});
    register(&node, "fail", &fail);
    let passed: Vec<String> = (0..5).map(|n| start(&node, "pass", json!(n))).collect();
    let failed = start(&node, "fail", json!({}));
    for id in passed.iter().chain([&failed]) {
        ended(&node, id);
    }
    let ids = |query: &str| -> Vec<String> {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/executions?limit=2&after={after}&{query}");
            let page = node.get(&path).expect(200).json();
            let executions = page["Executions"].as_array().unwrap().clone();
            assert!(executions.len() <= 2, "{page}");
            found.extend(
                executions
                    .iter()
                    .map(|it| it["Id"].as_str().unwrap().to_owned()),
            );
            match page["Next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return found,
            }
        }
    };
    let mut expected = passed.clone();
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(ids("workflow=pass"), expected);
    assert_eq!(ids("workflow=pass&status=failed"), Vec::<String>::new());
    assert_eq!(ids("status=FAILED"), std::slice::from_ref(&failed));
    assert_eq!(ids("").len(), 6);
    assert_eq!(execution(&node, &failed)["Error"], "E");
    node.get("/v1/executions?status=lost").expect(400);
    node.get("/v1/executions?after=x").expect(404);
    node.get("/v1/executions/x").expect(404);
}

#[test]
fn a_history_shows_inputs_and_outputs() {
    let node = node().start();
    node.create(&echo("echo"));
    register(
        &node,
        "w",
        &chain(&[("A", task("echo")), ("B", json!({"Type": "Pass"}))]),
    );
    let id = start(&node, "w", json!({"x": 1}));
    ended(&node, &id);
    let path = format!("/v1/executions/{id}/history");
    let events = node.get(&path).expect(200).json();
    let events = events["Events"].as_array().unwrap();
    let kinds: Vec<_> = events
        .iter()
        .map(|it| it["Type"].as_str().unwrap())
        .collect();
    let expected = [
        "ExecutionStarted",
        "TaskStateEntered",
        "TaskScheduled",
        "TaskStarted",
        "TaskSucceeded",
        "TaskStateExited",
        "PassStateEntered",
        "PassStateExited",
        "ExecutionSucceeded",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(events[2]["Input"], json!({"x": 1}));
    assert_eq!(events[2]["Resource"], "echo");
    assert_eq!(events[4]["Output"], json!({"x": 1}));
    assert_eq!(events[8]["Output"], json!({"x": 1}));
    assert_eq!(history(&node, &id).len(), expected.len());
}

/// Events after one, of the history of an execution.
#[track_caller]
fn page(node: &Node, id: &str, after: u64, limit: usize) -> Vec<Value> {
    let path = format!("/v1/executions/{id}/history?after={after}&limit={limit}");
    let page = node.get(&path).expect(200).json();
    let events = page["Events"].as_array().unwrap().clone();
    let last = events.last().map(|it| it["Id"].clone());
    assert!(page["Next"].is_null() || Some(&page["Next"]) == last.as_ref());
    events
}

#[test]
fn a_history_is_the_same_in_whatever_pages_and_order_it_is_read() {
    let node = node().start();
    node.create(&echo("echo"));
    let each = json!({"Type": "Map", "ItemsPath": "$.items", "ResultPath": null,
        "ItemProcessor": {"StartAt": "Each", "States": {"Each": {"Type": "Pass", "End": true}}}});
    let states = [
        ("Before", task("echo")),
        ("All", each),
        ("Hold", json!({"Type": "Wait", "Seconds": 3600})),
    ];
    register(&node, "w", &chain(&states));
    let items: Vec<u32> = (0..150).collect();
    let id = start(&node, "w", json!({ "items": items }));
    let whole = eventually("the execution to wait", || {
        let events = page(&node, &id, 0, 1000);
        let waits = events.iter().any(|it| it["Type"] == "WaitStateEntered");
        waits.then_some(events)
    });
    let count = whole.len() as u64;
    assert!(count > 600, "{count}");
    for limit in [1, 7, 333, 1000] {
        let mut found: Vec<Value> = Vec::new();
        // One event at a time would be many requests.
        let from = if limit == 1 { count - 20 } else { 0 };
        while let next = page(&node, &id, from + found.len() as u64, limit)
            && !next.is_empty()
        {
            found.extend(next);
        }
        assert_eq!(found, whole[from as usize..], "{limit}");
    }
    for after in [count, count - 1, 100, 0, 400, 400, 399, 401, count + 5] {
        let rest = whole.iter().skip(after as usize).take(50);
        let rest: Vec<Value> = rest.cloned().collect();
        assert_eq!(page(&node, &id, after, 50), rest, "{after}");
    }
    // What happens later comes after it.
    let path = format!("/v1/executions/{id}/stop");
    node.post(&path, &json!({"Error": "E"})).expect(200);
    let last = page(&node, &id, count, 50);
    assert_eq!(last.last().unwrap()["Type"], "ExecutionAborted");
    assert_eq!(last[0]["Id"], count + 1);
    let node = node.kill9().start();
    assert_eq!(page(&node, &id, 0, 1000), [whole, last].concat());
}

#[test]
fn inputs_of_functions_are_saved_where_that_is_wanted() {
    let node = node().set("workflow.profiling.saveinput", true).start();
    let storage = node.storage();
    let saved = storage.parent().unwrap().join("saved-inputs");
    node.create(&echo("../x"));
    register(&node, "w", &chain(&[("A/../B", task("../x"))]));
    let body = json!({"Workflow": "w", "Name": "first", "Input": {"x": 1}, "Wait": 30});
    let ended = node.post("/v1/executions", &body).expect(200).json();
    assert_eq!(ended["Status"], "SUCCEEDED", "{ended}");
    let file = saved.join("%2E%2E%2Fx/A%2F%2E%2E%2FB-first.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({"x": 1})
    );
}

#[test]
fn a_functions_error_has_its_name_and_can_be_caught() {
    let node = node().start();
    let source = "def handler(params, context):\n    raise ValueError('not ' + params['what'])\n";
    node.create(&python("picky", source));
    let mut state = task("picky");
    state["Catch"] = json!([{"ErrorEquals": ["ValueError"], "Next": "Caught"}]);
    let definition = json!({"StartAt": "A", "States": {
        "A": {"Type": "Task", "Resource": "picky", "End": true, "Catch": state["Catch"]},
        "Caught": {"Type": "Pass", "End": true},
    }});
    register(&node, "w", &definition);
    let reply = express(&node, "w", json!({"what": "this"}));
    assert_eq!(reply["Output"]["Error"], "ValueError", "{reply}");
    let cause: Value = serde_json::from_str(reply["Output"]["Cause"].as_str().unwrap()).unwrap();
    assert_eq!(cause["errorMessage"], "not this");
    assert_eq!(cause["errorType"], "ValueError");
    // A missing key, which nobody catches.
    let reply = express(&node, "w", json!({}));
    assert_eq!(
        (&reply["Status"], &reply["Error"]),
        (&json!("FAILED"), &json!("KeyError"))
    );
}

#[test]
fn a_task_that_takes_too_long_times_out_and_gives_its_sandbox_back() {
    let node = node().start();
    let source = "import time\ndef handler(params, context):\n    time.sleep(200)\n";
    node.create(&python("sleeper", source));
    let mut state = task("sleeper");
    state["TimeoutSeconds"] = json!(1);
    register(&node, "w", &chain(&[("A", state)]));
    let id = start(&node, "w", json!({}));
    let reply = ended(&node, &id);
    assert_eq!(reply["Error"], "States.Timeout", "{reply}");
    eventually("its sandbox is gone", || {
        (node.busy_memory() == 0).then_some(())
    });
}

#[test]
fn a_stopped_execution_leaves_nothing_running() {
    let node = node().start();
    let source = "import time\ndef handler(params, context):\n    time.sleep(200)\n";
    node.create(&python("sleeper", source));
    register(&node, "w", &chain(&[("A", task("sleeper"))]));
    let id = start(&node, "w", json!({}));
    eventually("it runs", || (node.busy_memory() > 0).then_some(()));
    let path = format!("/v1/executions/{id}/stop");
    let reason = json!({"Error": "Enough", "Cause": "of it"});
    let stopped = node.post(&path, &reason).expect(200).json();
    assert_eq!(stopped["Status"], "ABORTED");
    assert_eq!(
        (&stopped["Error"], &stopped["Cause"]),
        (&reason["Error"], &reason["Cause"])
    );
    eventually("its sandbox is gone", || {
        (node.busy_memory() == 0).then_some(())
    });
    // Again changes nothing.
    let again = node
        .post(&path, &json!({"Error": "Other"}))
        .expect(200)
        .json();
    assert_eq!(again["Error"], "Enough");
    node.post(
        "/v1/executions/00000000000000000000000000000000/stop",
        &json!({}),
    )
    .expect(404);
}

#[test]
fn waiting_calls_of_a_stopped_execution_take_no_sandbox() {
    // Room for one sandbox.
    let node = node().memory(128).start();
    let source = "import time\ndef handler(params, context):\n    time.sleep(200)\n";
    node.create(&python("sleeper", source));
    node.create(&echo("echo"));
    register(&node, "sleep", &chain(&[("A", task("sleeper"))]));
    register(&node, "echo", &chain(&[("A", task("echo"))]));
    let busy = start(&node, "sleep", json!({}));
    eventually("it runs", || (node.busy_memory() > 0).then_some(()));
    let waiting: Vec<String> = (0..3).map(|_| start(&node, "sleep", json!({}))).collect();
    for id in waiting.iter().chain([&busy]) {
        let path = format!("/v1/executions/{id}/stop");
        node.post(&path, &json!({})).expect(200);
    }
    // The room goes to whoever is still there.
    let id = start(&node, "echo", json!({"x": 1}));
    assert_eq!(ended(&node, &id)["Output"], json!({"x": 1}));
    eventually("nothing is busy", || {
        (node.busy_memory() == 0).then_some(())
    });
}

#[test]
fn a_failed_execution_goes_on_where_it_failed() {
    let node = node().start();
    node.create(&echo("good"));
    node.create(&python(
        "bad",
        "def handler(params, context):\n    raise IOError('down')\n",
    ));
    let branch = |name: &str, function: &str| {
        json!({"StartAt": name, "States": {
            name: {"Type": "Task", "Resource": function, "End": true},
        }})
    };
    let both = json!({
        "Type": "Parallel",
        "Branches": [branch("Good", "good"), branch("Bad", "bad")],
    });
    let wait = json!({"Type": "Wait", "Seconds": 0});
    let definition = chain(&[("First", task("good")), ("Both", both), ("Last", wait)]);
    register(&node, "w", &definition);
    let id = start(&node, "w", json!({"x": 1}));
    let failed = ended(&node, &id);
    assert_eq!(failed["Status"], "FAILED", "{failed}");
    node.update(&echo("bad"));
    let path = format!("/v1/executions/{id}/redrive");
    let reply = node.post(&path, &json!({})).expect(200).json();
    assert_eq!(reply["RedriveCount"], 1, "{reply}");
    let reply = ended(&node, &id);
    assert_eq!(reply["Status"], "SUCCEEDED", "{reply}");
    assert_eq!(reply["Output"], json!([{"x": 1}, {"x": 1}]));
    let first = events_of(&node, &id, "First");
    assert_eq!(
        first.iter().filter(|kind| *kind == "TaskSucceeded").count(),
        1
    );
    let bad = events_of(&node, &id, "Bad");
    let count = |kind: &str| bad.iter().filter(|it| *it == kind).count();
    assert_eq!(
        (count("TaskFailed"), count("TaskSucceeded")),
        (1, 1),
        "{bad:?}"
    );
    node.post(&path, &json!({}))
        .expect(409)
        .problem(&["succeeded"]);
    // Anew: another execution with the same input.
    let path = format!("/v1/executions/{id}/retry");
    let retried = node.post(&path, &json!({"Name": "again"})).expect(200);
    assert_ne!(id_of(&retried), id);
    let reply = ended(&node, &id_of(&retried));
    assert_eq!(
        (&reply["RetryOf"], &reply["Name"]),
        (&json!(id), &json!("again"))
    );
    assert_eq!(reply["Input"], json!({"x": 1}));
}

/// The token that a task's function was given.
fn token(node: &crate::support::Node, id: &str) -> String {
    eventually("the task has a token", || {
        let path = format!("/v1/executions/{id}/history");
        let page = node.get(&path).expect(200).json();
        let events = page["Events"].as_array()?.clone();
        let scheduled = events
            .iter()
            .rev()
            .find(|it| it["Type"] == "TaskScheduled")?;
        Some(scheduled["Input"]["Payload"]["token"].as_str()?.to_owned())
    })
}

fn by_callback() -> Value {
    json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {"FunctionName": "echo", "Payload": {"token.$": "$$.Task.Token"}},
    })
}

#[test]
fn a_task_ends_when_its_token_is_used() {
    let node = node().start();
    node.create(&echo("echo"));
    register(&node, "w", &chain(&[("Ask", by_callback())]));
    let post = |path: &str, body: Value| node.post(&format!("/v1/tasks/{path}"), &body);
    let id = start(&node, "w", json!({}));
    let used = token(&node, &id);
    assert_eq!(execution(&node, &id)["Status"], "RUNNING");
    post(&format!("{used}/heartbeat"), json!({})).expect(200);
    post(&format!("{used}x/success"), json!({})).expect(404);
    post("nonsense/success", json!({})).expect(404);
    post(&format!("{used}/laugh"), json!({})).expect(404);
    post(&format!("{used}/success"), json!({"Output": {"by": "Ada"}})).expect(200);
    assert_eq!(ended(&node, &id)["Output"], json!({"by": "Ada"}));
    post(&format!("{used}/success"), json!({"Output": 2})).expect(404);

    let id = start(&node, "w", json!({}));
    let used = token(&node, &id);
    let reason = json!({"Error": "Refused", "Cause": "too dear"});
    post(&format!("{used}/failure"), reason).expect(200);
    let reply = ended(&node, &id);
    assert_eq!(
        (&reply["Error"], &reply["Cause"]),
        (&json!("Refused"), &json!("too dear"))
    );

    register_as(
        &node,
        "x",
        json!({"Definition": chain(&[("Ask", by_callback())]), "Type": "express"}),
    );
    let reply = express(&node, "x", json!({}));
    assert_eq!(reply["Status"], "FAILED", "{reply}");
}

#[test]
fn a_workflow_runs_another() {
    let node = node().start();
    node.create(&echo("echo"));
    register(&node, "child", &chain(&[("A", task("echo"))]));
    let nested = |form: &str| {
        json!({
            "Type": "Task",
            "Resource": format!("arn:aws:states:::states:startExecution{form}"),
            "Parameters": {"StateMachineArn": "child", "Input": {"v.$": "$.v"}},
        })
    };
    register(&node, "json", &chain(&[("Run", nested(".sync:2"))]));
    register(&node, "text", &chain(&[("Run", nested(".sync"))]));
    register(&node, "fire", &chain(&[("Run", nested(""))]));
    let input = json!({"v": 7});
    let output =
        |workflow: &str| ended(&node, &start(&node, workflow, input.clone()))["Output"].clone();
    let reply = output("json");
    assert_eq!(
        (&reply["Output"], &reply["Status"]),
        (&input, &json!("SUCCEEDED")),
        "{reply}"
    );
    assert_eq!(output("text")["Output"], "{\"v\":7}");
    let fired = output("fire");
    assert_eq!(
        ended(&node, fired["ExecutionArn"].as_str().unwrap())["Output"],
        input
    );
    let own = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Parameters": {"StateMachineArn": "itself"},
    });
    register(&node, "itself", &chain(&[("Run", own)]));
    let reply = ended(&node, &start(&node, "itself", json!({})));
    assert_eq!(reply["Status"], "FAILED", "{reply}");
}

#[test]
fn a_stopped_execution_stops_the_one_it_waits_for() {
    let node = node().start();
    let wait = json!({"Type": "Wait", "Seconds": 86_400});
    register(&node, "child", &chain(&[("W", wait)]));
    let run = json!({
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Parameters": {"StateMachineArn": "child"},
    });
    register(&node, "parent", &chain(&[("Run", run)]));
    let id = start(&node, "parent", json!({}));
    let child = eventually("the child runs", || {
        let list = node.get("/v1/executions?workflow=child").expect(200).json();
        Some(list["Executions"][0]["Id"].as_str()?.to_owned())
    });
    let path = format!("/v1/executions/{id}/stop");
    node.post(&path, &json!({})).expect(200);
    assert_eq!(ended(&node, &child)["Status"], "ABORTED");
}

#[test]
fn items_of_an_express_execution_wait_for_each_others_room() {
    // Room for two.
    let node = node().memory(256).start();
    node.create(&echo("echo"));
    let map = json!({
        "Type": "Map",
        "ItemProcessor": {"StartAt": "Each", "States": {"Each": {
            "Type": "Task", "Resource": "echo", "End": true,
        }}},
    });
    register(&node, "w", &chain(&[("Map", map)]));
    let items: Value = (0..50).collect();
    let reply = express(&node, "w", items.clone());
    assert_eq!(
        (&reply["Status"], &reply["Output"]),
        (&json!("SUCCEEDED"), &items),
        "{reply}"
    );
}

#[test]
fn everything_has_a_limit() {
    let node = node()
        .set("workflow.executions_max", 2)
        .set("workflow.definition_max", 1024)
        .set("workflow.definitions_max", 2)
        .set("workflow.express_timeout", 1)
        .start();
    let wait = chain(&[("W", json!({"Type": "Wait", "Seconds": 3600}))]);
    register(&node, "wait", &wait);
    let request = json!({"Workflow": "wait", "Type": "express"});
    let reply = node.post("/v1/executions", &request).expect(200);
    assert_eq!(reply.field("Status"), "TIMED_OUT");
    start(&node, "wait", json!({}));
    start(&node, "wait", json!({}));
    let request = json!({"Workflow": "wait"});
    let refused = node.post("/v1/executions", &request).expect(429);
    refused.problem(&["workflow.executions_max"]);
    let comment = chain(&[("P", json!({"Type": "Pass", "Comment": "x".repeat(1024)}))]);
    let spec = json!({"Definition": comment}).to_string();
    node.send("PUT", "/v1/workflows/large", spec).expect(413);
    register(&node, "two", &wait);
    let spec = json!({"Definition": wait}).to_string();
    node.send("PUT", "/v1/workflows/three", &spec).expect(429);
    // One that is there can be replaced, and makes room when it goes.
    register(&node, "two", &wait);
    assert_eq!(
        node.get("/v1/workflows/two").expect(200).field("Revision"),
        2
    );
    node.send("DELETE", "/v1/workflows/two", "").expect(200);
    node.send("DELETE", "/v1/workflows/two", "").expect(404);
    node.send("PUT", "/v1/workflows/three", spec).expect(200);
}

#[test]
fn a_machine_that_computes_without_end_is_stopped() {
    let node = node().start();
    let endless = json!({"StartAt": "A", "States": {
        "A": {"Type": "Pass", "Next": "B"},
        "B": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.never", "IsPresent": true, "Next": "C"}],
            "Default": "A",
        },
        "C": {"Type": "Succeed"},
    }});
    register(&node, "endless", &endless);
    let reply = ended(&node, &start(&node, "endless", json!({})));
    assert_eq!(reply["Error"], "States.Runtime", "{reply}");
    // It would end so again.
    let path = format!("/v1/executions/{}/redrive", reply["Id"].as_str().unwrap());
    node.post(&path, &json!({})).expect(409).problem(&["limit"]);
}

#[test]
fn executions_are_kept_for_their_time_and_then_forgotten() {
    let node = node()
        .set("workflow.retention", 1)
        .set("janitor.interval", 0.1)
        .start();
    register(&node, "w", &chain(&[("A", json!({"Type": "Pass"}))]));
    let request = json!({"Workflow": "w", "Name": "one", "Input": 1, "Wait": 30});
    let first = node.post("/v1/executions", &request).expect(200);
    assert_eq!(first.field("Status"), "SUCCEEDED");
    let path = format!("/v1/executions/{}", id_of(&first));
    eventually("it is forgotten", || {
        (node.get(&path).status == 404).then_some(())
    });
    node.get(&format!("{path}/history")).expect(404);
    let list = node.get("/v1/executions").expect(200).json();
    assert_eq!(list["Executions"], json!([]));
    // Its name is free for another input, and its definition was not its alone.
    let request = json!({"Workflow": "w", "Name": "one", "Input": 2, "Wait": 30});
    let second = node.post("/v1/executions", &request).expect(200);
    assert_eq!(second.field("Output"), 2);
}

#[test]
fn an_execution_goes_on_with_the_definition_it_began_with() {
    let node = node().start();
    let waiting = |result: &str| {
        chain(&[
            ("W", json!({"Type": "Wait", "Seconds": 4})),
            ("P", json!({"Type": "Pass", "Result": result})),
        ])
    };
    register(&node, "w", &waiting("old"));
    let id = start(&node, "w", json!({}));
    register(&node, "w", &waiting("new"));
    node.send("DELETE", "/v1/workflows/w", "").expect(200);
    let node = node.kill9().start();
    assert_eq!(ended(&node, &id)["Output"], "old");
    node.get("/v1/workflows/w").expect(404);
}
