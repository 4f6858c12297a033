//! What is compiled is kept, and never trusted further than it is whole.

use std::time::SystemTime;

use serde_json::json;
use serverledge_sandbox::Backend as _;
use serverledge_sandbox::wasm::WasmBackend;

use super::{ECHO, command, config, result, wasm};

#[tokio::test]
async fn compiled_code_is_found_again_and_made_anew_if_it_is_damaged() {
    let mut wasm = wasm();
    let started = wasm.start(command(ECHO)).await;
    assert_eq!(result(&started, json!({"a": 1})).await, json!({"a": 1}));
    let file = wasm.compiled();
    let whole = std::fs::read(&file).unwrap();
    let old = SystemTime::UNIX_EPOCH;
    let set_old = || {
        let file = std::fs::File::options().append(true).open(&file).unwrap();
        file.set_modified(old).unwrap();
    };
    let is_old = || std::fs::metadata(&file).unwrap().modified().unwrap() == old;

    // Another node's start, in the same place.
    set_old();
    wasm.backend = WasmBackend::new(config(wasm.path()));
    let started = wasm.start(command(ECHO)).await;
    assert_eq!(result(&started, json!({"a": 2})).await, json!({"a": 2}));
    assert!(is_old(), "it was compiled again");

    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    set_old();
    wasm.backend = WasmBackend::new(config(wasm.path()));
    let started = wasm.start(command(ECHO)).await;
    assert_eq!(result(&started, json!({"a": 3})).await, json!({"a": 3}));
    assert!(!is_old() && std::fs::read(&file).unwrap() != damaged);
}

#[tokio::test]
async fn what_can_not_be_kept_runs_all_the_same() {
    let wasm = wasm();
    let spec = wasm.spec(command(ECHO));
    // Nothing can be renamed over a directory with something in it.
    let started = wasm.create(spec).await.unwrap();
    let file = wasm.compiled();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir_all(file.join("in the way")).unwrap();
    drop(started);
    wasm.backend.shutdown().await;
    let started = wasm.start(command(ECHO)).await;
    assert_eq!(result(&started, json!({"a": 4})).await, json!({"a": 4}));
}
