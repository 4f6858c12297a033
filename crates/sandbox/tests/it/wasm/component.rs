//! Components. One that answers over HTTP is made by a compiler, in the tests of the node.

use serde_json::json;

use super::{error, result, wasm};

fn command(status: u32) -> String {
    format!(
        r#"(component
  (core module $m (func (export "run") (result i32) (i32.const {status})))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    )
}

/// A handler of HTTP that does this with the request and the place for its response.
fn handler(body: &str) -> String {
    format!(
        r#"(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $answer))
  (core module $m
    (memory (export "memory") 1)
    (func (export "handle") (param $request i32) (param $answer i32) {body}))
  (core instance $i (instantiate $m))
  (func $handle (param "request" (own $request)) (param "response-out" (own $answer))
    (canon lift (core func $i "handle")))
  (instance $exported (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $exported)))"#
    )
}

#[tokio::test]
async fn a_command_may_be_a_component() {
    let wasm = wasm();
    let sandbox = wasm.start(command(0)).await;
    for _ in 0..3 {
        assert_eq!(result(&sandbox, json!({})).await, json!(null));
    }
    let failed = error(&wasm.start(command(1)).await).await;
    assert_eq!(failed.message, "the function exited with status 1");
}

#[tokio::test]
async fn a_handler_that_gives_no_response_fails() {
    let wasm = wasm();
    let failed = error(&wasm.start(handler("")).await).await;
    assert_eq!(failed.message, "the function gave no response");
    let failed = error(&wasm.start(handler("unreachable")).await).await;
    assert_eq!(failed.kind, "Trap");
}
