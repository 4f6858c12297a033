//! The original's routes: what is registered, run and polled for, how data flow, what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::examples::create_workflow;
use crate::support::http::Response;
use crate::support::{Node, eventually, node, python};

/// A function that adds one to `n`, and calls that `output`.
fn create_inc(node: &Node, name: &str, output: &str) {
    let mut body = python(
        name,
        "def handler(params, context):\n    return int(params['n']) + 1\n",
    )
    .body();
    body["Signature"] = json!({
        "Inputs": [{"Name": "n", "Type": "Int"}],
        "Outputs": [{"Name": output, "Type": "Int"}],
    });
    node.post("/create", &body).expect(200);
}

fn create(node: &Node, name: &str, definition: &Value) {
    create_workflow(node, name, &definition.to_string());
}

fn invoke(node: &Node, name: &str, params: Value) -> Response {
    node.post(
        &format!("/workflow/invoke/{name}"),
        &json!({ "Params": params }),
    )
}

fn thrice(function: &str) -> Value {
    json!({"StartAt": "A", "States": {
        "A": {"Type": "Task", "Resource": function, "Next": "B"},
        "B": {"Type": "Task", "Resource": function, "Next": "C"},
        "C": {"Type": "Task", "Resource": function, "End": true},
    }})
}

#[test]
fn data_flow_by_signatures() {
    let node = node().start();
    create_inc(&node, "inc", "n");
    create_inc(&node, "inc-m", "m");
    create(&node, "counts", &thrice("inc"));
    create(&node, "keeps", &thrice("inc-m"));
    let reply = invoke(&node, "counts", json!({"n": 1})).expect(200).json();
    assert_eq!(reply["Result"], json!({"n": 4}));
    assert_eq!(reply["Reports"]["Function_B"]["Result"], "3");
    // Each function gets the original `n`, as the one before it has no such output.
    let reply = invoke(&node, "keeps", json!({"n": 1, "other": true}));
    assert_eq!(reply.expect(200).json()["Result"], json!({"m": 2}));

    // With any word on its input or output, a state follows the language.
    let mut definition = thrice("inc-m");
    for state in ["A", "B", "C"] {
        definition["States"][state]["ResultPath"] = "$.n".into();
    }
    create(&node, "language", &definition);
    let reply = invoke(&node, "language", json!({"n": 1, "other": true}));
    assert_eq!(
        reply.expect(200).json()["Result"],
        json!({"n": 4, "other": true})
    );

    // A result that is no object is put into one, and without a signature anything goes.
    node.create(&python(
        "bare",
        "def handler(params, context):\n    return [1]\n",
    ));
    create(
        &node,
        "bare",
        &json!({"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "bare", "End": true}}}),
    );
    let reply = invoke(&node, "bare", Value::Null).expect(200).json();
    assert_eq!(reply["Result"], json!({"Result": [1]}));
}

#[test]
fn a_choice_sees_the_parameters_beneath_the_data() {
    let node = node().start();
    create_inc(&node, "inc-m", "m");
    create(
        &node,
        "w",
        &json!({"StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "inc-m", "Next": "C"},
            "C": {"Type": "Choice", "Default": "F", "Choices": [
                {"Variable": "$.mode", "StringEquals": "again", "Next": "B"},
                {"And": [{"Variable": "$.m", "NumericEquals": 6},
                         {"Variable": "$.mode", "IsPresent": false}], "Next": "S"}]},
            "B": {"Type": "Task", "Resource": "inc-m", "End": true},
            "S": {"Type": "Succeed", "End": true},
            "F": {"Type": "Fail", "Error": "E", "Cause": "why"},
        }}),
    );
    let again = invoke(&node, "w", json!({"n": 5, "mode": "again"})).expect(200);
    let again = again.json();
    assert!(again["Reports"]["Function_B"].is_object(), "{again}");
    let reply = invoke(&node, "w", json!({"n": 5})).expect(200).json();
    assert_eq!(reply["Result"], json!({"m": 6}));
    assert!(reply["Reports"].get("Function_B").is_none());
    let failed = invoke(&node, "w", json!({"n": 1, "mode": "x"})).expect(500);
    assert_eq!(failed.json(), "failed wflow execution: E: why");
}

#[test]
fn a_fail_succeeds_where_that_is_wanted() {
    let builder = node().set("workflow.fail_succeeds", true);
    let definition = json!({"StartAt": "F", "States": {
        "F": {"Type": "Fail", "Error": "E", "Cause": "why"}}});
    let node = builder.start();
    create(&node, "fails", &definition);
    let reply = invoke(&node, "fails", json!({"n": 1})).expect(200).json();
    assert_eq!(reply["Success"], true);
    assert_eq!(reply["Result"], json!({"E": "why"}));
    assert_eq!(reply["Reports"], json!({}));
    // And no more where it no longer is.
    let (_, builder) = node.stop();
    let node = builder.set("workflow.fail_succeeds", false).start();
    let failed = invoke(&node, "fails", json!({})).expect(500).json();
    assert_eq!(failed, "failed wflow execution: E: why");
    let body = json!({"Workflow": "fails", "Wait": 60});
    let execution = node.post("/v1/executions", &body).expect(200).json();
    assert_eq!(execution["Status"], "FAILED");
}

#[test]
fn what_is_registered_is_listed_and_removed() {
    let node = node().start();
    create_inc(&node, "inc", "n");
    let list = || node.get("/workflow/list").expect(200).json();
    assert_eq!(list(), json!([]));
    create(&node, "a b/ü", &thrice("inc"));
    assert_eq!(list(), json!(["a b/ü"]));
    let escaped = "a%20b/%C3%BC";
    assert_eq!(
        invoke(&node, escaped, json!({"n": 1})).expect(200).json()["Result"],
        json!({"n": 4})
    );
    let source = BASE64.encode(thrice("inc").to_string());
    let again = |overwrite: bool| {
        let body = json!({"name": "a b/ü", "aslsrc": source, "overwriteifexists": overwrite});
        node.post("/workflow/create", &body)
    };
    assert_eq!(again(false).expect(409).json(), "workflow already exists");
    again(true).expect(200);
    let delete = || node.post("/workflow/delete", &json!({"Name": "a b/ü"}));
    assert_eq!(delete().expect(200).json(), json!({"Deleted": "a b/ü"}));
    assert_eq!(
        delete().expect(404).json(),
        "the request function workflow to delete does not exist"
    );
    assert_eq!(list(), json!([]));
    assert_eq!(
        invoke(&node, escaped, json!({})).expect(404).json(),
        "function workflow 'a b/ü' does not exist"
    );
}

#[test]
fn functions_that_do_not_exist_are_refused_with_place_and_suggestion() {
    let node = node().start();
    create_inc(&node, "increase", "n");
    let source = "{\"StartAt\": \"A\", \"States\": {\n  \"A\": {\"Type\": \"Task\", \"Resource\": \"increese\", \"End\": true}}}";
    let body = json!({"Name": "w", "ASLSrc": BASE64.encode(source)});
    let refused = node.post("/workflow/create", &body).expect(400);
    let problem = refused.problem(&["increese"]);
    let diagnostic = &problem["diagnostics"][0];
    assert_eq!(diagnostic["pointer"], "/States/A/Resource");
    assert_eq!(diagnostic["line"], 2);
    let suggestion = diagnostic["suggestion"].as_str().unwrap();
    assert!(suggestion.contains("increase"), "{suggestion}");
    assert_eq!(node.get("/workflow/list").json(), json!([]));
}

/// A workflow of one function in the original's form.
fn serialized(name: &str, function: &str) -> Value {
    let (start, end) = (
        json!({"Id": "s", "Type": "StartTask", "NextTask": "A"}),
        json!({"Id": "e", "Type": "EndTask"}),
    );
    json!({"Name": name, "Start": start, "End": end, "Tasks": {
        "s": start, "e": end,
        "A": {"Id": "A", "Type": "FunctionTask", "Func": function, "NextTask": "C"},
        "C": {"Id": "C", "Type": "ChoiceTask",
            "Conditions": [
                {"Type": "Greater", "Find": [true, false], "Op": ["limit", 5], "Sub": null},
                {"Type": "Const", "Find": [false], "Op": [true], "Sub": null}],
            "AlternativeNextTasks": ["F", "e"]},
        "F": {"Id": "F", "Type": "Fail", "Error": "E", "Cause": "too much", "NextTask": "e"},
    }})
}

#[test]
fn the_originals_form_is_imported() {
    let node = node().start();
    create_inc(&node, "inc", "n");
    node.create(&python(
        "unsigned",
        "def handler(params, context):\n    return 1\n",
    ));
    let import = |workflow: &Value| node.post("/workflow/import", workflow);
    assert_eq!(
        import(&serialized("w", "inc")).expect(200).json(),
        json!({"Created": "w"})
    );
    assert_eq!(
        import(&serialized("w", "inc")).expect(409).json(),
        "workflow already exists"
    );
    assert_eq!(
        import(&serialized("x", "gone")).expect(400).json(),
        "workflow with non-existing function"
    );
    let said = import(&serialized("x", "unsigned")).expect(400).json();
    assert!(said.as_str().unwrap().contains("signature"), "{said}");
    let reply = invoke(&node, "w", json!({"n": 1, "limit": 5}))
        .expect(200)
        .json();
    assert_eq!(reply["Result"], json!({"n": 2}));
    assert!(reply["Reports"]["Function_A"].is_object());
    let failed = invoke(&node, "w", json!({"n": 1, "limit": 6})).expect(500);
    assert_eq!(failed.json(), "failed wflow execution: E: too much");
    for wrong in [
        json!({"Name": "x"}),
        json!({"Name": "x", "Start": {"Id": 5}}),
        json!({"Name": 1}),
        json!([]),
    ] {
        import(&wrong).expect(400).problem(&[]);
    }
}

#[test]
fn an_asynchronous_run_is_polled_for_and_survives_the_node() {
    let node = node().start();
    create_inc(&node, "inc", "n");
    create(
        &node,
        "slow",
        &json!({"StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "inc", "Next": "W"},
            "W": {"Type": "Wait", "Seconds": 3, "Next": "B"},
            "B": {"Type": "Task", "Resource": "inc", "End": true},
        }}),
    );
    let begin = |node: &Node, params: Value| {
        let body = json!({"Params": params, "Async": true});
        let reply = node.post("/workflow/invoke/slow", &body).expect(200).json();
        reply["ReqId"].as_str().unwrap().to_owned()
    };
    let id = begin(&node, json!({"n": 1}));
    assert!(id.starts_with("slow-"), "{id}");
    node.get(&format!("/poll/{id}")).expect(404);
    let node = node.kill9().start();
    let result = node.poll(&id);
    assert_eq!(result.json()["Result"], json!({"n": 3}));
    assert_eq!(result.json()["Success"], true);

    // What fails says why, beside what the original says.
    let id = begin(&node, json!({}));
    let failed = node.poll(&id).json();
    assert_eq!(
        (&failed["Success"], &failed["Result"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(failed["Reports"], Value::Null);
    let error = failed["Error"].as_str().unwrap();
    assert!(error.contains("'n' is missing"), "{error}");
}

#[test]
fn a_run_that_failed_is_resumed() {
    let node = node().start();
    let fails = "def handler(params, context):\n    raise ValueError('not yet')\n";
    let mends = "def handler(params, context):\n    return {'done': params['n']}\n";
    node.create(&python("mended", fails));
    create(
        &node,
        "w",
        &json!({"StartAt": "A", "States": {
            "A": {"Type": "Task", "Resource": "mended", "ResultPath": "$.a", "End": true}}}),
    );
    let body = json!({"Params": {"n": 7}, "Async": true});
    let reply = node.post("/workflow/invoke/w", &body).expect(200).json();
    let id = reply["ReqId"].as_str().unwrap().to_owned();
    assert_eq!(node.poll(&id).json()["Success"], false);
    node.update(&python("mended", mends));
    let resume = |id: &str| {
        let body = json!({"ReqId": id, "Params": {"n": 7}, "Plan": {"ToExecute": null}});
        node.post("/workflow/resume/w", &body)
    };
    let resumed = resume(&id).expect(200).json();
    assert_eq!(resumed["Result"], json!({"n": 7, "a": {"done": 7}}));
    // Again changes nothing.
    assert_eq!(resume(&id).expect(200).json()["Result"], resumed["Result"]);
    assert!(resume("w-ode-a1").expect(404).json().is_string());
}

#[test]
fn what_is_malformed_is_refused() {
    let node = node().start();
    create_inc(&node, "inc", "n");
    create(&node, "w", &thrice("inc"));
    let deep = format!(
        "{{\"Params\": {{\"n\": {}1{}}}}}",
        "[".repeat(400),
        "]".repeat(400)
    );
    for (path, body) in [
        ("/workflow/create", "{not JSON"),
        ("/workflow/create", r#"{"Name": "x", "ASLSrc": 5}"#),
        ("/workflow/create", r#"{"Name": "x", "ASLSrc": "gIA="}"#),
        ("/workflow/create", "{}"),
        ("/workflow/delete", "{not JSON"),
        ("/workflow/invoke/w", "{not JSON"),
        ("/workflow/invoke/w", r#"{"Params": [1]}"#),
        ("/workflow/invoke/w", r#"{"Params": {"n": 1}, "QoS": 5}"#),
        ("/workflow/invoke/w", &deep),
        ("/workflow/resume/w", r#"{"ReqId": 5}"#),
    ] {
        node.send("POST", path, body).expect(400).problem(&[]);
    }
    for (method, path) in [
        ("GET", "/workflow/create"),
        ("POST", "/workflow/list"),
        ("GET", "/workflow/invoke/w"),
    ] {
        node.send(method, path, "").expect(405);
    }
    for path in [
        "/workflow/",
        "/workflow/invoke/",
        "/workflow/create/x",
        "/workflow/other",
    ] {
        node.send("POST", path, "{}").expect(404);
    }
    // It is none the worse for it.
    assert_eq!(
        invoke(&node, "w", json!({"n": "1"})).expect(200).json()["Result"],
        json!({"n": 4})
    );
    eventually("nothing to run any more", || {
        (node.busy_memory() == 0).then_some(())
    });
}
