//! Functions that fail, and those that would take more than they may.

use std::time::Duration;

use serde_json::json;
use serverledge_sandbox::{Backend as _, CallError, Exit};

use super::{ECHO, LOOP, command, error, reply, result, wasm, with_memory};
use crate::harness::call;

#[tokio::test]
async fn a_status_is_told_with_the_last_words() {
    let wasm = wasm();
    let source = "(call $write (i32.const 2) (i32.const 16) (i32.const 5))
        (call $exit (i32.const 3))";
    let sandbox = wasm.start(command(source)).await;
    let error = error(&sandbox).await;
    assert_eq!(error.kind, "ExitStatus");
    let expected = "the function exited with status 3; its last output: words";
    assert_eq!(error.message, expected);
}

#[tokio::test]
async fn a_trap_ends_the_call_and_not_the_sandbox() {
    let wasm = wasm();
    // Traps if the parameters are longer than `null`.
    let source = "(if (i32.gt_u (call $read) (i32.const 4)) (then unreachable))";
    let sandbox = wasm.start(command(source)).await;
    for _ in 0..3 {
        let failed = reply(&sandbox, json!({"a": 1})).await.unwrap().outcome;
        let failed = failed.unwrap_err();
        assert_eq!(failed.kind, "Trap");
        assert!(failed.message.contains("unreachable"), "{failed}");
        assert!(failed.stack.contains("wasm function"), "{}", failed.stack);
        assert_eq!(result(&sandbox, json!(null)).await, json!(null));
    }
    let deep = "(module (memory (export \"memory\") 1)
        (func $f (export \"_start\") (call $f)))";
    let failed = error(&wasm.start(deep).await).await;
    assert!(failed.message.contains("stack exhausted"), "{failed}");
}

#[tokio::test]
async fn an_endless_call_lets_others_run_and_ends_when_it_is_given_up() {
    let wasm = wasm();
    let endless = wasm.start(with_memory("300", LOOP)).await;
    // One thread serves all of this test.
    let given_up = tokio::time::timeout(Duration::from_millis(100), endless.invoke(call(json!(1))));
    let other = wasm.start(command(ECHO)).await;
    let (given_up, others) = tokio::join!(given_up, async {
        for n in 0..10 {
            assert_eq!(result(&other, json!({"n": n})).await, json!({"n": n}));
        }
        true
    });
    assert!(given_up.is_err() && others);
    // Its 19 MB of 32 come back when it has ended, and not before.
    let again = || tokio::time::timeout(Duration::from_millis(20), endless.invoke(call(json!(1))));
    let freed = async {
        while let Ok(Ok(reply)) = again().await {
            assert_eq!(reply.outcome.unwrap_err().kind, "OutOfMemory");
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(30), freed).await;
    assert!(freed.is_ok(), "the given up instance lives on");
}

#[tokio::test]
async fn destroying_a_sandbox_ends_its_call() {
    let wasm = wasm();
    let endless = wasm.start(command(LOOP)).await;
    let (ended, ()) = tokio::join!(endless.invoke(call(json!(1))), async {
        tokio::task::yield_now().await;
        endless.destroy().await;
    });
    match ended {
        Err(CallError::Died(cause)) => assert_eq!(cause.exit, Exit::Destroyed),
        other => panic!("{other:?}"),
    }
    assert_eq!(endless.ended().await.exit, Exit::Destroyed);
    let another = wasm.start(command(LOOP)).await;
    let (ended, ()) = tokio::join!(another.invoke(call(json!(1))), wasm.backend.shutdown());
    assert!(matches!(ended, Err(CallError::Died(_))));
}

#[tokio::test]
async fn slots_run_at_once_and_not_more() {
    let wasm = wasm();
    let mut spec = wasm.spec(command(LOOP));
    spec.slots = 2;
    let sandbox = wasm.create(spec).await.unwrap();
    let one = || tokio::time::timeout(Duration::from_millis(100), sandbox.invoke(call(json!(1))));
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!(a.is_err() && b.is_err());
    assert!(matches!(c, Ok(Err(CallError::Protocol(_)))));
    let (a, b) = tokio::join!(one(), one());
    assert!(a.is_err() && b.is_err(), "slots come back");
}

#[tokio::test]
async fn memory_is_limited_and_the_error_says_so() {
    let wasm = wasm();
    // As an allocator does that can't go on.
    let hog = "(loop $more
        (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
        (br $more))";
    let sandbox = wasm.start(command(hog)).await;
    for _ in 0..2 {
        let failed = error(&sandbox).await;
        assert_eq!(failed.kind, "OutOfMemory");
        assert!(failed.message.contains("its 32 MB of memory"), "{failed}");
    }
    let large = wasm.start(with_memory("1000", "")).await;
    assert_eq!(error(&large).await.kind, "OutOfMemory");
    // One that can live with less is left alone.
    let modest = "(drop (memory.grow (i32.const 1000)))";
    let modest = wasm.start(command(modest)).await;
    assert_eq!(result(&modest, json!({})).await, json!(null));
    // Its own limit is its own business.
    let own = wasm.start(with_memory("1 2", hog)).await;
    assert_eq!(error(&own).await.kind, "Trap");
}

#[tokio::test]
async fn what_is_written_is_limited() {
    let wasm = wasm();
    let flood = |descriptor: u32, times: u32| {
        command(&format!(
            "(memory.fill (i32.const 1024) (i32.const 97) (i32.const 64000))
             (local.set $n (i32.const {times}))
             (loop $more
               (call $write (i32.const {descriptor}) (i32.const 1024) (i32.const 64000))
               (local.set $n (i32.sub (local.get $n) (i32.const 1)))
               (br_if $more (local.get $n)))"
        ))
    };
    let talkative = wasm.start(flood(2, 100)).await;
    let answer = reply(&talkative, json!({})).await.unwrap();
    assert!(answer.outcome.is_ok());
    assert_eq!(answer.output.len(), 1 << 20);
    let failed = error(&wasm.start(flood(1, 1000)).await).await;
    assert_eq!(failed.kind, "ResultTooLarge");
    assert!(failed.message.contains("larger than"), "{failed}");
}

#[tokio::test]
async fn what_can_not_be_run_is_explained() {
    let wasm = wasm();
    let library = wasm.load_error("(module (func (export \"f\")))").await;
    assert!(library.contains("`_start`"), "{library}");
    let import = "(module (import \"env\" \"magic\" (func)) (func (export \"_start\")))";
    let import = wasm.load_error(import).await;
    assert!(import.contains("magic"), "{import}");
    let empty = wasm.load_error("(component)").await;
    assert!(empty.contains("wasi:http/incoming-handler"), "{empty}");
    let broken = wasm.load_error(b"\0asm\x01\0\0\0garbage").await;
    assert!(!broken.is_empty());
    // No memory: there is nothing that WASI could write to.
    let source = "(module (import \"wasi_snapshot_preview1\" \"random_get\"
          (func $random (param i32 i32) (result i32)))
        (func (export \"_start\") (drop (call $random (i32.const 0) (i32.const 8)))))";
    let failed = error(&wasm.start(source).await).await;
    assert!(failed.message.contains("memory"), "{failed}");
}
