//! Calls whose result is fetched later.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{eventually, node, python};

#[test]
fn an_async_call_is_acknowledged_at_once_and_its_result_polled() {
    let node = node().start();
    node.create(&python(
        "slow",
        "import time\ndef handler(params, context):\n    time.sleep(params['s'])\n    return params\n",
    ));
    let id = node.invoke_async("slow", json!({ "s": 1 }));
    assert!(id.starts_with("slow-"), "{id}");
    node.get(&format!("/poll/{id}")).expect(404).problem(&[]);
    let reply = node.poll(&id);
    assert_eq!(reply.result(), json!({ "s": 1 }));
    let reply = reply.json();
    assert_eq!(reply["IsWarmStart"], false);
    assert!(reply["Duration"].as_f64().unwrap() >= 1.0, "{reply}");
    // It stays there, word for word.
    assert_eq!(node.poll(&id).json(), reply);
}

#[test]
fn a_function_that_fails_leaves_success_false() {
    let node = node().start();
    node.create(&python(
        "boom",
        "def handler(params, context):\n    raise ValueError('boom')\n",
    ));
    node.create(&python(
        "exits",
        "import os\ndef handler(params, context):\n    os._exit(3)\n",
    ));
    node.create(&python("broken", "def handler(:\n"));
    node.create(&python("big", "def handler(params, context):\n    pass\n").memory(100_000));
    for name in ["boom", "exits", "broken", "big"] {
        let id = node.invoke_async(name, json!({}));
        let reply = node.poll(&id).expect(200).json();
        assert_eq!(reply["Success"], false, "{name}: {reply}");
        assert_eq!(reply["Result"], "", "{name}: {reply}");
    }
}

#[test]
fn a_call_that_cannot_be_made_is_refused_at_once() {
    let node = node().start();
    let reply = node
        .post("/invoke/nope", &json!({ "Params": {}, "Async": true }))
        .expect(404);
    assert_eq!(reply.text(), "Function unknown");
    node.create(&python(
        "echo",
        "def handler(params, context):\n    return params\n",
    ));
    node.post("/invoke/echo", &json!({ "Params": 1, "Async": true }))
        .expect(400)
        .problem(&["Params"]);
    for id in ["nope", "echo-", "a/b/c", "%20", "x".repeat(5000).as_str()] {
        node.get(&format!("/poll/{id}")).expect(404);
    }
}

#[test]
fn many_pending_calls_all_end_on_a_node_with_little_room() {
    // Room for four at a time, and no queue for calls that somebody waits for.
    let node = node().memory(256).start();
    node.create(&python(
        "work",
        "import time\ndef handler(params, context):\n    time.sleep(0.02)\n    return params['n']\n",
    ).memory(64));
    let ids: Vec<String> = (0..300)
        .map(|n| node.invoke_async("work", json!({ "n": n })))
        .collect();
    assert_eq!(
        ids.iter().collect::<BTreeSet<_>>().len(),
        ids.len(),
        "an id was given twice"
    );
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(node.poll(id).result(), json!(n));
    }
    eventually("no memory in use", || {
        (node.busy_memory() == 0).then_some(())
    });
}

#[test]
fn the_output_of_an_async_call_is_kept_for_those_who_ask() {
    let node = node().start();
    node.create(&python(
        "says",
        "def handler(params, context):\n    print('hello')\n",
    ));
    let body = json!({ "Params": {}, "Async": true, "ReturnOutput": true });
    let id = node.post("/invoke/says", &body).expect(200).field("ReqId");
    let output = node.poll(id.as_str().unwrap()).expect(200).field("Output");
    assert!(
        output.as_str().unwrap_or_default().starts_with("hello\n"),
        "{output}"
    );
}

#[test]
fn an_acknowledged_call_outlives_the_function_that_was_deleted() {
    let node = node().memory(128).start();
    node.create(&python(
        "fleeting",
        "import time\ndef handler(params, context):\n    time.sleep(0.2)\n    return 'done'\n",
    ));
    let ids: Vec<String> = (0..4)
        .map(|_| node.invoke_async("fleeting", json!({})))
        .collect();
    node.post("/delete", &json!({ "Name": "fleeting" }))
        .expect(200);
    // Run or refused, but each with a result: nobody polls for ever.
    for id in &ids {
        node.poll(id).expect(200);
    }
}
