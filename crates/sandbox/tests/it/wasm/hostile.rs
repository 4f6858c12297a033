//! Modules that are made to take more than their share: of the compiler, of the node that loads them,
//! of the thread that makes an instance.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use serverledge_sandbox::CreateError;
use serverledge_sandbox::wasm::{CompileLimits, WasmBackend, WasmConfig};

use super::{ECHO, Wasm, command, config, error, result, wasm};
use crate::harness::call;

fn with(change: impl FnOnce(&Path, &mut WasmConfig)) -> Wasm {
    let mut wasm = wasm();
    let mut changed = config(wasm.path());
    change(wasm.path(), &mut changed);
    wasm.backend = WasmBackend::new(changed);
    wasm
}

/// A program in the compiler's place.
fn with_compiler(script: &str) -> Wasm {
    let script = script.to_owned();
    with(|dir, config| {
        let script = format!("cd {}; {script}", dir.display());
        config.compiler = vec![
            "/bin/sh".into(),
            "-c".into(),
            script.into(),
            "compiler".into(),
        ];
    })
}

/// A module that is small and long to compile.
fn laborious() -> Vec<u8> {
    let work = "(local.set 0 (i32.mul (local.get 0) (i32.xor (local.get 0) (i32.const 3))))";
    let function = format!(
        "(func (param i32) (result i32) {} (local.get 0))",
        work.repeat(500)
    );
    let functions = function.repeat(200);
    let text =
        format!("(module (memory (export \"memory\") 1) (func (export \"_start\")) {functions})");
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn compiling_is_limited_in_time_and_not_tried_again() {
    let wasm = with(|_, config| {
        config.compile = CompileLimits {
            time: Duration::from_secs(1),
            ..CompileLimits::default()
        };
    });
    let module = laborious();
    let told = wasm.load_error(&module).await;
    assert!(
        told.contains("more than 1 s of processor time (wasm.compile_time_max)"),
        "{told}"
    );
    assert_eq!(wasm.load_error(&module).await, told);
    // Others are compiled.
    let echo = wasm.start(command(ECHO)).await;
    assert_eq!(result(&echo, json!({"a": 1})).await, json!({"a": 1}));
}

#[tokio::test]
async fn compiling_is_limited_in_memory() {
    let wasm = with(|_, config| {
        config.compile = CompileLimits {
            memory: 64 << 20,
            ..CompileLimits::default()
        };
    });
    // As large as a module may be, nearly, with nothing in it.
    let mut module = b"\0asm\x01\0\0\0\0".to_vec();
    let padding = 63 << 20;
    module.extend(leb128(padding));
    module.extend(b"\x01x");
    module.resize(module.len() + padding - 2, 0);
    let told = wasm.load_error(module).await;
    assert!(
        told.contains("64 MiB of memory (wasm.compile_memory_max)"),
        "{told}"
    );
}

/// A number as WebAssembly has it.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[tokio::test]
async fn a_fault_is_remembered_and_a_failure_is_not() {
    let wasm = with_compiler("echo x >> runs; cat > /dev/null & echo it is bad >&2; exit 10");
    let runs = || {
        std::fs::read_to_string(wasm.path().join("runs"))
            .unwrap()
            .len()
            / 2
    };
    for _ in 0..3 {
        assert_eq!(wasm.load_error(command(ECHO)).await, "it is bad");
        assert_eq!(runs(), 1);
    }
    let wasm = with_compiler("echo x >> runs; echo no disk >&2; exit 1");
    let runs = || {
        std::fs::read_to_string(wasm.path().join("runs"))
            .unwrap()
            .len()
            / 2
    };
    for n in 1..3 {
        match wasm.create(wasm.spec(command(ECHO))).await.map(drop) {
            Err(CreateError::Isolation(why)) => assert!(why.contains("no disk"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(runs(), n);
    }
}

#[tokio::test]
async fn what_a_compiler_gives_is_bounded_and_judged() {
    let endless = with_compiler("cat /dev/zero");
    let told = endless.load_error(command(ECHO)).await;
    assert!(told.contains("bytes of machine code"), "{told}");
    let garbage = with_compiler("echo garbage");
    let told = garbage.load_error(command(ECHO)).await;
    assert!(told.contains("no machine code"), "{told}");
    let broken = with_compiler("kill -SEGV $$");
    let told = broken.load_error(command(ECHO)).await;
    assert!(told.contains("broke down"), "{told}");
    // It ends with the call that wanted it at the latest; the call does not wait for it.
    let hangs = with_compiler("exec sleep 1000");
    let mut spec = hangs.spec(command(ECHO));
    spec.timeout_start = Duration::from_millis(200);
    match hangs.create(spec).await.map(drop) {
        Err(CreateError::TimedOut(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_start_function_without_end_is_given_up_like_any_call() {
    let wasm = wasm();
    let source = "(module (memory (export \"memory\") 1)
        (func $endless (loop $forever (br $forever))) (start $endless)
        (func (export \"_start\")))";
    let sandbox = wasm.start(source).await;
    let limit = Duration::from_millis(100);
    let given_up = tokio::time::timeout(limit, sandbox.invoke(call(json!(1)))).await;
    assert!(given_up.is_err());
    // One thread serves all of this test, and it is free.
    let echo = wasm.start(command(ECHO)).await;
    assert_eq!(result(&echo, json!({"a": 1})).await, json!({"a": 1}));
    let trap = "(module (memory (export \"memory\") 1) (func $no unreachable) (start $no)
        (func (export \"_start\")))";
    assert_eq!(error(&wasm.start(trap).await).await.kind, "Trap");
}

#[tokio::test]
async fn tables_are_limited() {
    let wasm = wasm();
    let grows = "(module (memory (export \"memory\") 1) (table $t 1 funcref)
        (func (export \"_start\")
          (loop $more
            (br_if $more (i32.ne (i32.const -1)
              (table.grow $t (ref.null func) (i32.const 1000)))))
          (if (i32.gt_u (table.size $t) (i32.const 65536)) (then unreachable))))";
    let sandbox = wasm.start(grows).await;
    assert_eq!(result(&sandbox, json!({})).await, json!(null));
    let large = "(module (memory (export \"memory\") 1) (table 10000000 funcref)
        (func (export \"_start\")))";
    let told = wasm.load_error(large).await;
    assert!(told.contains("table"), "{told}");
}

#[tokio::test]
async fn what_is_nested_or_repeated_without_measure_is_refused() {
    let wasm = wasm();
    // A component in a component in a component.
    let mut nested = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..5_000 {
        let mut outer = b"\0asm\x0d\0\x01\0\x04".to_vec();
        outer.extend(leb128(nested.len()));
        outer.extend(&nested);
        nested = outer;
    }
    assert!(!wasm.load_error(nested).await.is_empty());
    // More instances than a component may have.
    let many = format!(
        "(component (core module $m) {})",
        "(core instance (instantiate $m))".repeat(1_000)
    );
    assert!(!wasm.load_error(many).await.is_empty());
    // As many exports as there may be.
    let mut exports =
        "(module (memory (export \"memory\") 1) (func $f (export \"_start\"))".to_owned();
    for n in 0..50_000 {
        write!(exports, "(export \"e{n}\" (func $f))").unwrap();
    }
    exports.push(')');
    let sandbox = wasm.start(exports).await;
    assert_eq!(result(&sandbox, json!({})).await, json!(null));
}
