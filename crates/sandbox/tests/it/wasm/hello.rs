//! What works.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ECHO, command, error, reply, result, wasm};

#[tokio::test]
async fn parameters_come_in_and_results_go_out() {
    let wasm = wasm();
    let sandbox = wasm.start(command(ECHO)).await;
    for params in [
        json!({"a": [1, "ü"]}),
        json!(null),
        json!({"b": "x".repeat(50_000)}),
    ] {
        assert_eq!(result(&sandbox, params.clone()).await, params);
    }
    let silent = wasm.start(command("")).await;
    assert_eq!(result(&silent, json!({})).await, json!(null));
    let words = "(call $write (i32.const 1) (i32.const 16) (i32.const 5))";
    let sandbox = wasm.start(command(words)).await;
    assert_eq!(result(&sandbox, json!({})).await, json!("words"));
}

#[tokio::test]
async fn standard_error_is_the_output_if_it_is_asked_for() {
    let wasm = wasm();
    let words = "(call $write (i32.const 2) (i32.const 16) (i32.const 5))";
    let sandbox = wasm.start(command(words)).await;
    let answer = reply(&sandbox, json!({})).await.unwrap();
    assert_eq!(*answer.outcome.unwrap(), *b"null");
    assert_eq!(answer.output, "words");
    let answer = sandbox.invoke(crate::harness::call(json!({}))).await;
    assert_eq!(answer.unwrap().output, "");
}

#[tokio::test]
async fn an_exit_with_status_0_is_a_success() {
    let wasm = wasm();
    let source = format!("{ECHO} (call $exit (i32.const 0)) unreachable");
    let sandbox = wasm.start(command(&source)).await;
    assert_eq!(result(&sandbox, json!({"a": 1})).await, json!({"a": 1}));
}

#[tokio::test]
async fn each_call_has_memory_and_randomness_of_its_own() {
    let wasm = wasm();
    // A page of memory has something in it, or becomes random.
    let source = "(if (i32.load (i32.const 2048)) (then unreachable))
        (drop (call $random (i32.const 2048) (i32.const 16)))
        (local.set $n (i32.const 16))
        (loop $each
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (i32.store8 (i32.add (i32.const 2048) (local.get $n))
            (i32.add (i32.const 97) (i32.and (i32.const 15)
              (i32.load8_u (i32.add (i32.const 2048) (local.get $n))))))
          (br_if $each (local.get $n)))
        (call $write (i32.const 1) (i32.const 2048) (i32.const 16))";
    let sandbox = wasm.start(command(source)).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seen.insert(result(&sandbox, json!({})).await.to_string());
    }
    assert_eq!(seen.len(), 20, "{seen:?}");
}

/// NUL-terminated texts.
fn texts(result: &Value) -> Vec<String> {
    let texts = result.as_str().unwrap().trim_end_matches('\0').split('\0');
    texts.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_function_sees_its_name_and_its_call_and_nothing_of_the_node() {
    let wasm = wasm();
    let show = |what: &str| {
        command(&format!(
            "(drop (call ${what}_sizes (i32.const 32) (i32.const 36)))
             (drop (call ${what} (i32.const 2048) (i32.const 4096)))
             (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 36)))"
        ))
    };
    let sandbox = wasm.start(show("args")).await;
    assert_eq!(texts(&result(&sandbox, json!({})).await), ["test"]);
    let sandbox = wasm.start(show("environ")).await;
    let environment = texts(&result(&sandbox, json!({})).await);
    let mut environment: BTreeMap<&str, &str> = environment
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let deadline = environment.remove("DEADLINE").unwrap();
    assert!(deadline.parse::<f64>().unwrap() > 1e9);
    let expected = [
        ("FUNCTION_NAME", "test"),
        ("HANDLER", "f.wasm"),
        ("MEMORY_MB", "32"),
        ("REQUEST_ID", "test-1"),
    ];
    assert_eq!(environment, BTreeMap::from(expected));
}

#[tokio::test]
async fn there_are_no_files() {
    let wasm = wasm();
    // 8 is EBADF: not even the root is open.
    let source = "(if (i32.ne (i32.const 8) (call $prestat (i32.const 3) (i32.const 64)))
          (then (call $exit (i32.const 3))))
        (local.set $n (i32.const 0))
        (loop $each
          (if (i32.eqz (call $open (local.get $n) (i32.const 0) (i32.const 16) (i32.const 5)
                (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 64)))
            (then (call $exit (i32.const 4))))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $each (i32.lt_u (local.get $n) (i32.const 64))))";
    let sandbox = wasm.start(command(source)).await;
    assert_eq!(result(&sandbox, json!({})).await, json!(null));
    let status_9 = wasm.start(command("(call $exit (i32.const 9))")).await;
    assert!(error(&status_9).await.message.contains("status 9"));
}
