//! Components with the project's own interface, as `sdk/wasm/serverledge.wit` has it.

use std::time::Duration;

use serde_json::json;

use super::{LOOP, error, result, wasm};
use crate::harness::call;

/// What the interface is called.
const NAME: &str = "serverledge:function/handler@0.1.0";

/// A component whose function does this with `$params` and what else it is given, and returns the
/// address of a result: `$ok` of a text, or `$failure`.
fn handler(body: &str) -> String {
    named(NAME, "string", body)
}

/// One whose interface may be called otherwise, and whose result may be of another type.
fn named(name: &str, result: &str, body: &str) -> String {
    format!(
        r#"(component
  (core module $m
    (memory (export "memory") 2)
    (data (i32.const 16) "words")
    (global $free (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
    (func $ok (param $at i32) (param $length i32) (result i32)
      (i32.store (i32.const 36) (local.get $at))
      (i32.store (i32.const 40) (local.get $length))
      (i32.const 32))
    (func $failure (result i32)
      (i32.store (i32.const 32) (i32.const 1))
      (i32.store (i32.const 36) (i32.const 16))
      (i32.store (i32.const 40) (i32.const 4))
      (i32.store (i32.const 44) (i32.const 16))
      (i32.store (i32.const 48) (i32.const 5))
      (i32.const 32))
    (func (export "handle") (param $params i32) (param $length i32)
        (param $name i32) (param $name_length i32) (param $id i32) (param $id_length i32)
        (param $memory_mb i32) (param $deadline f64) (result i32)
      {body}))
  (core instance $i (instantiate $m))
  (type $record (record (field "function-name" string) (field "request-id" string)
    (field "memory-mb" u32) (field "deadline" float64)))
  (export $context "context" (type $record))
  (type $texts (record (field "name" string) (field "message" string)))
  (export $failure "failure" (type $texts))
  (func $handle (param "params" string) (param "context" $context)
      (result (result {result} (error $failure)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc"))))
  (instance $exported (export "context" (type $context)) (export "failure" (type $failure))
    (export "handle" (func $handle)))
  (export "{name}" (instance $exported)))"#
    )
}

const ECHO: &str = "(call $ok (local.get $params) (local.get $length))";

#[tokio::test]
async fn a_text_comes_in_and_a_text_goes_out() {
    let wasm = wasm();
    let echo = wasm.start(handler(ECHO)).await;
    let large = json!({"large": "x".repeat(100_000)});
    // Each call begins with the memory that was compiled: what they take doesn't add up.
    for params in [json!({"a": [1, "ü"]}), json!(null), large.clone(), large] {
        assert_eq!(result(&echo, params.clone()).await, params);
    }
    for (length, expected) in [(5, json!("words")), (0, json!(null))] {
        let body = format!("(call $ok (i32.const 16) (i32.const {length}))");
        let sandbox = wasm.start(handler(&body)).await;
        assert_eq!(result(&sandbox, json!({})).await, expected);
    }
}

#[tokio::test]
async fn a_function_is_given_its_context() {
    let wasm = wasm();
    let check = "(if (i32.ne (local.get $memory_mb) (i32.const 32)) (then unreachable))
        (if (f64.lt (local.get $deadline) (f64.const 1e9)) (then unreachable))";
    for (what, expected) in [("name", "test"), ("id", "test-1")] {
        let text = format!("{check} (call $ok (local.get ${what}) (local.get ${what}_length))");
        let sandbox = wasm.start(handler(&text)).await;
        assert_eq!(result(&sandbox, json!({})).await, json!(expected));
    }
}

#[tokio::test]
async fn a_failure_has_a_name_and_a_message() {
    let wasm = wasm();
    let sandbox = wasm.start(handler("(call $failure)")).await;
    let failed = error(&sandbox).await;
    assert_eq!((&*failed.kind, &*failed.message), ("word", "words"));
    let failed = error(&wasm.start(handler("unreachable")).await).await;
    assert_eq!(failed.kind, "Trap");
    // A text outside of its memory, and one that is none.
    let outside = "(call $ok (i32.const 16) (i32.const -1))";
    let failed = error(&wasm.start(handler(outside)).await).await;
    assert_eq!(failed.kind, "Error", "{failed}");
    let garbage = "(i32.store8 (i32.const 16) (i32.const 255))
        (call $ok (i32.const 16) (i32.const 5))";
    let failed = error(&wasm.start(handler(garbage)).await).await;
    assert!(failed.message.contains("utf-8"), "{failed}");
}

#[tokio::test]
async fn the_limits_of_other_forms_hold() {
    let wasm = wasm();
    let endless = format!("{LOOP} unreachable");
    let endless = wasm.start(handler(&endless)).await;
    let limit = Duration::from_millis(100);
    let given_up = tokio::time::timeout(limit, endless.invoke(call(json!(1)))).await;
    assert!(given_up.is_err());
    let hog = "(loop $more
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
        (br $more)) unreachable";
    let failed = error(&wasm.start(handler(hog)).await).await;
    assert_eq!(failed.kind, "OutOfMemory");
    // 58 MiB of zeros, which are a text.
    let long = "(drop (memory.grow (i32.const 1000)))
        (call $ok (i32.const 65536) (i32.const 60817408))";
    let mut spec = wasm.spec(handler(long));
    spec.memory_mb = 128;
    let failed = error(&wasm.create(spec).await.unwrap()).await;
    assert_eq!(failed.kind, "ResultTooLarge");
}

#[tokio::test]
async fn other_interfaces_and_other_types_are_refused() {
    let wasm = wasm();
    let other = named("local:app/greeter", "string", ECHO);
    let told = wasm.load_error(other).await;
    for part in [
        "`local:app/greeter`",
        NAME,
        "wasi:cli/run",
        "wasi:http/incoming-handler",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let later = NAME.replace("0.1.0", "0.2.0");
    let told = wasm.load_error(named(&later, "string", ECHO)).await;
    assert!(told.contains(&later) && told.contains(NAME), "{told}");
    let numbers = wasm.spec(named(NAME, "(list u8)", ECHO));
    let told = match wasm.create(numbers).await {
        Err(why) => why.to_string(),
        Ok(sandbox) => error(&sandbox).await.message,
    };
    assert!(told.contains("type mismatch"), "{told}");
}
