//! From creation to deletion: which code runs, in how many sandboxes, and who waits.

use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Function, Node, eventually, node, python};

/// Sleeps `params["s"]` seconds, then returns `value`.
fn says(name: &str, value: &str) -> Function {
    let source = format!(
        "import time\ndef handler(params, context):\n    time.sleep((params or {{}}).get('s', 0))\n    return {value:?}\n"
    );
    python(name, &source)
}

/// Calls `name` from `count` threads at the same moment.
fn at_once(node: &Node, name: &str, count: usize, params: &Value) -> Vec<Response> {
    let start = Barrier::new(count);
    thread::scope(|scope| {
        let call = || {
            start.wait();
            node.invoke(name, params.clone())
        };
        let callers: Vec<_> = (0..count).map(|_| scope.spawn(call)).collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    })
}

/// Waits until calls occupy memory.
#[track_caller]
fn until_busy(node: &Node) {
    eventually("a call that runs", || {
        (node.busy_memory() > 0).then_some(())
    });
}

#[test]
fn an_update_holds_for_every_later_call() {
    let node = node().memory(2048).start();
    node.create(&says("f", "version 0"));
    for version in 1..=8 {
        // Warm sandboxes with the old code, several of them.
        for reply in at_once(&node, "f", 4, &json!({ "s": 0.05 })) {
            assert_eq!(reply.result(), format!("version {}", version - 1));
        }
        node.update(&says("f", &format!("version {version}")));
        for reply in at_once(&node, "f", 4, &json!({})) {
            assert_eq!(reply.result(), format!("version {version}"));
        }
    }
}

#[test]
fn an_update_lets_running_calls_end_on_the_old_code_and_gives_it_no_others() {
    let node = node().memory(2048).start();
    node.create(&says("f", "old").concurrency(4));
    thread::scope(|scope| {
        let running = scope.spawn(|| node.invoke("f", json!({ "s": 4 })));
        until_busy(&node);
        node.update(&says("f", "new").concurrency(4));
        // The old sandbox has three free places; none of them may be taken.
        for _ in 0..5 {
            assert_eq!(node.invoke("f", json!({})).result(), "new");
        }
        assert_eq!(running.join().unwrap().result(), "old");
    });
    for reply in at_once(&node, "f", 8, &json!({})) {
        assert_eq!(reply.result(), "new");
    }
}

#[test]
fn an_update_changes_the_limits_too() {
    let node = node().memory(512).start();
    node.create(&says("f", "x"));
    node.invoke("f", json!({})).expect(200);
    assert_eq!(node.status()["FreeMemory"], 512 - 128);
    node.update(&says("f", "x").memory(256));
    node.invoke("f", json!({})).expect(200);
    eventually("only the new sandbox", || {
        (node.status()["FreeMemory"] == 512 - 256).then_some(())
    });
}

#[test]
fn a_deleted_function_is_gone_with_its_sandboxes() {
    let node = node().memory(512).start();
    node.create(&says("f", "first"));
    for reply in at_once(&node, "f", 3, &json!({ "s": 0.1 })) {
        reply.expect(200);
    }
    node.post(
        "/delete",
        &json!({ "Name": "f", "SupportedArchs": null, "Signature": null }),
    )
    .expect(200);
    assert_eq!(
        node.invoke("f", json!({})).expect(404).text(),
        "Function unknown"
    );
    assert!(node.functions().is_empty());
    eventually("its memory is free", || {
        (node.status()["FreeMemory"] == 512).then_some(())
    });
    // The name is free for other code.
    node.create(&says("f", "second"));
    assert_eq!(node.invoke("f", json!({})).result(), "second");
}

#[test]
fn a_call_that_runs_outlives_the_deletion_of_its_function() {
    let node = node().memory(512).start();
    node.create(&says("f", "done"));
    thread::scope(|scope| {
        let running = scope.spawn(|| node.invoke("f", json!({ "s": 3 })));
        until_busy(&node);
        node.post("/delete", &json!({ "Name": "f" })).expect(200);
        assert_eq!(running.join().unwrap().result(), "done");
    });
    eventually("its memory is free", || {
        (node.status()["FreeMemory"] == 512).then_some(())
    });
}

#[test]
fn a_prewarmed_function_starts_warm() {
    let node = node().memory(512).start();
    node.create(&says("f", "x"));
    let prewarm = |instances: i64| {
        node.post(
            "/prewarm",
            &json!({ "Function": "f", "Instances": instances }),
        )
        .expect(200)
        .json()
    };
    assert_eq!(prewarm(2), json!({ "Prewarmed": 2 }));
    assert_eq!(node.warm("f"), 2);
    assert_eq!(node.status()["FreeMemory"], 512 - 256);
    assert_eq!(node.status()["AvailableMemory"], 512);
    assert_eq!(
        node.invoke("f", json!({})).expect(200).field("IsWarmStart"),
        true
    );
    // As many as there is room for, and no more.
    assert_eq!(prewarm(10), json!({ "Prewarmed": 2 }));
    assert_eq!(prewarm(1), json!({ "Prewarmed": 0 }));
    assert_eq!(prewarm(-1), json!({ "Prewarmed": 0 }));
    // A function whose code doesn't load can't be prewarmed, and takes no memory.
    node.create(&python("broken", "import nothing_of_that_name\n").memory(1));
    node.create(&python("heavy", "raise RuntimeError('at import')\n").memory(64));
    node.post("/delete", &json!({ "Name": "f" })).expect(200);
    let reply = node.post("/prewarm", &json!({ "Function": "heavy", "Instances": 1 }));
    assert!(
        reply.status >= 500 || reply.json() == json!({ "Prewarmed": 0 }),
        "{}",
        reply.shown()
    );
    eventually("its memory is free", || {
        (node.status()["FreeMemory"] == 512).then_some(())
    });
}

#[test]
fn an_idle_sandbox_is_removed_when_its_keep_alive_ends() {
    let node = node()
        .set("container.expiration", 1)
        .set("janitor.interval", 1)
        .start();
    node.create(&says("f", "x"));
    assert_eq!(
        node.invoke("f", json!({})).expect(200).field("IsWarmStart"),
        false
    );
    assert_eq!(
        node.invoke("f", json!({})).expect(200).field("IsWarmStart"),
        true
    );
    node.post("/prewarm", &json!({ "Function": "f", "Instances": 1 }))
        .expect(200);
    assert_eq!(node.warm("f"), 2);
    eventually("no idle sandbox", || (node.warm("f") == 0).then_some(()));
    assert_eq!(node.status()["FreeMemory"], 1024);
    assert_eq!(
        node.invoke("f", json!({})).expect(200).field("IsWarmStart"),
        false
    );
    // One that works outlives its keep-alive.
    assert_eq!(node.invoke("f", json!({ "s": 2.5 })).result(), "x");
}

#[test]
fn the_least_recently_used_sandbox_makes_room() {
    let node = node().memory(256).start();
    for name in ["a", "b", "c"] {
        node.create(&says(name, name));
    }
    for name in ["a", "b", "a"] {
        node.invoke(name, json!({})).expect(200);
    }
    assert_eq!(node.status()["FreeMemory"], 0);
    assert_eq!(node.invoke("c", json!({})).result(), "c");
    assert_eq!(
        [node.warm("a"), node.warm("b"), node.warm("c")],
        [1, 0, 1],
        "b was idle longest"
    );
    // Every one of them is served in turn, for as long as one likes.
    for name in ["a", "b", "c"].iter().cycle().take(12) {
        assert_eq!(node.invoke(name, json!({})).result(), *name);
    }
    assert_eq!(node.status()["AvailableMemory"], 256);
}

#[test]
fn a_large_function_evicts_several_small_ones() {
    let node = node().memory(256).start();
    for name in ["a", "b", "c", "d"] {
        node.create(&says(name, name).memory(64));
        node.invoke(name, json!({})).expect(200);
    }
    node.create(&says("large", "large").memory(256));
    assert_eq!(node.invoke("large", json!({})).result(), "large");
    assert_eq!(node.status()["FreeMemory"], 0);
    assert_eq!(node.warm("large"), 1);
}

#[test]
fn a_sandbox_runs_as_many_calls_at_once_as_its_function_allows() {
    let node = node().start();
    let meet = "import os, threading\n\
                gate = threading.Barrier(4)\n\
                def handler(params, context):\n    \
                    gate.wait(timeout=10)\n    \
                    return os.getpid()\n";
    node.create(&python("meet", meet).concurrency(4));
    node.post("/prewarm", &json!({ "Function": "meet", "Instances": 1 }))
        .expect(200);
    for _ in 0..5 {
        let pids: Vec<Value> = at_once(&node, "meet", 4, &json!({}))
            .iter()
            .map(Response::result)
            .collect();
        assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    }
    assert_eq!(node.warm("meet"), 1);
    assert_eq!(node.status()["FreeMemory"], 1024 - 128);
}

#[test]
fn concurrent_calls_keep_their_output_apart() {
    let node = node().start();
    let source = "import time\n\
                  def handler(params, context):\n    \
                      for _ in range(20):\n        \
                          print(params['n'])\n        \
                          time.sleep(0.005)\n";
    node.create(&python("talk", source).concurrency(4));
    node.post("/prewarm", &json!({ "Function": "talk", "Instances": 1 }))
        .expect(200);
    thread::scope(|scope| {
        for n in 0..4 {
            let node = &node;
            scope.spawn(move || {
                let body = json!({ "Params": { "n": n }, "ReturnOutput": true });
                let output = node.post("/invoke/talk", &body).expect(200).field("Output");
                let lines: Vec<&str> = output.as_str().unwrap().split_whitespace().collect();
                assert_eq!(lines, vec![n.to_string(); 20], "call {n}");
            });
        }
    });
}

#[test]
fn a_call_waits_in_the_queue_for_room() {
    let node = node().memory(128).queue(8, 20.0).start();
    node.create(&says("hog", "hog"));
    node.create(&says("other", "other"));
    thread::scope(|scope| {
        let hog = scope.spawn(|| node.invoke("hog", json!({ "s": 3 })));
        until_busy(&node);
        let waited = node.invoke("other", json!({}));
        assert_eq!(waited.result(), "other");
        let reply = waited.json();
        assert!(reply["QueueingTime"].as_f64().unwrap() > 0.1, "{reply}");
        assert!(
            reply["ResponseTime"].as_f64() >= reply["QueueingTime"].as_f64(),
            "{reply}"
        );
        assert_eq!(hog.join().unwrap().result(), "hog");
    });
}

#[test]
fn a_full_queue_refuses_at_once_and_a_waiting_call_gives_up_in_time() {
    let node = node().memory(128).queue(2, 1.0).start();
    node.create(&says("hog", "hog"));
    node.create(&says("other", "other"));
    thread::scope(|scope| {
        let hog = scope.spawn(|| node.invoke("hog", json!({ "s": 10 })));
        until_busy(&node);
        let call = || node.invoke("other", json!({}));
        let callers: Vec<_> = (0..6).map(|_| scope.spawn(call)).collect();
        let mut waited = 0;
        for caller in callers {
            let problem = caller.join().unwrap().expect(429).problem(&[]);
            waited += usize::from(!problem.to_string().contains("too many"));
        }
        assert!(
            !hog.is_finished(),
            "what waits gives up before there is room"
        );
        assert_eq!(waited, 2, "as many waited as the queue holds");
        assert_eq!(hog.join().unwrap().result(), "hog");
    });
    assert_eq!(node.invoke("other", json!({})).result(), "other");
}

#[test]
fn without_a_queue_a_call_without_room_is_refused_at_once() {
    let node = node().memory(128).start();
    node.create(&says("hog", "hog"));
    node.create(&says("other", "other"));
    thread::scope(|scope| {
        let hog = scope.spawn(|| node.invoke("hog", json!({ "s": 5 })));
        until_busy(&node);
        let reply = node.invoke("other", json!({})).expect(429);
        assert!(!hog.is_finished(), "it waited");
        reply.problem(&["room"]);
        assert_eq!(reply.header("Serverledge-Free-Mem"), Some("0"));
        hog.join().unwrap().expect(200);
    });
}

#[test]
fn thirty_two_calls_at_once_from_cold_all_succeed() {
    for concurrency in [1, 8] {
        let node = node().memory(8192).start();
        node.create(&says("f", "x").concurrency(concurrency));
        for reply in at_once(&node, "f", 32, &json!({})) {
            assert_eq!(reply.result(), "x");
        }
        for reply in at_once(&node, "f", 32, &json!({ "s": 0.02 })) {
            assert_eq!(reply.result(), "x");
        }
    }
}

#[test]
fn a_function_larger_than_the_node_is_refused_with_the_figures() {
    let node = node().memory(256).queue(10, 600.0).start();
    node.create(&says("huge", "x").memory(512));
    // Were it to wait for what can't come, the reply would not come either.
    node.invoke("huge", json!({})).expect(429).problem(&["512"]);
}

#[test]
fn a_restart_finds_every_function_again() {
    let node = node().start();
    for n in 0..20 {
        node.create(&says(&format!("f{n:02}"), &format!("value {n}")));
    }
    node.update(&says("f03", "updated"));
    node.post("/delete", &json!({ "Name": "f05" })).expect(200);
    let id = node.invoke_async("f01", json!({}));
    let stored = node.poll(&id).json();
    let before = node.functions();
    let (status, stopped) = node.stop();
    assert!(status.success(), "{status}");
    let node = stopped.start();
    assert_eq!(node.functions(), before);
    assert_eq!(before.len(), 19);
    assert_eq!(node.invoke("f03", json!({})).result(), "updated");
    assert_eq!(node.invoke("f19", json!({})).result(), "value 19");
    node.invoke("f05", json!({})).expect(404);
    assert_eq!(node.poll(&id).json(), stored);
}

#[test]
fn a_start_that_takes_too_long_is_named_even_if_the_queue_is_less_patient() {
    let node = node()
        .queue(10, 1.0)
        .set("sandbox.start_timeout", 3)
        .start();
    node.create(&python("endless", "while True: pass\n"));
    let reply = node.invoke("endless", json!({})).expect(500);
    reply.problem(&["start", "3 s"]);
}

#[test]
fn the_path_of_the_storage_may_be_long() {
    let name = ["x".repeat(100), "y".repeat(100)].join("/");
    let node = node().storage_at(name).start();
    node.create(&says("f", "here"));
    assert_eq!(node.invoke("f", json!({})).result(), "here");
}
