//! What ends a sandbox, and that nothing is left.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use serverledge_sandbox::oci::{OciBackend, reap};
use serverledge_sandbox::{CallError, Shim};

use crate::harness::{config, invoke, machine};

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

#[tokio::test]
async fn dropping_and_destroying_remove_everything() {
    let (machine, _) = machine().await;
    let dir = machine.dir.path().join("state/sandboxes");
    let count = || std::fs::read_dir(&dir).unwrap().count();
    let source = "def handler(p, c): return 1";
    let sandbox = machine.python(source).await;
    assert_eq!(count(), 1);
    drop(sandbox);
    until("the directory of a dropped sandbox is gone", || {
        count() == 0
    })
    .await;
    let sandbox = machine.python(source).await;
    sandbox.destroy().await;
    sandbox.destroy().await;
    // Either it is noticed before the call is sent, or after.
    assert!(matches!(
        invoke(&sandbox, json!({})).await,
        Err(CallError::Stale(_) | CallError::Died(_))
    ));
    until("the directory of a destroyed sandbox is gone", || {
        count() == 0
    })
    .await;
    // A start that is given up halfway.
    for wait_ms in [0, 1, 3, 10, 30] {
        let create = machine.create(machine.spec(Shim::Python, source));
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), create).await;
    }
    until("directories of starts given up are gone", || count() == 0).await;
    machine.backend.shutdown().await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn threads_that_outlive_their_call_stand_still_until_the_next() {
    let (machine, _) = machine().await;
    let source = r#"
import threading, time
n = 0
def count():
    global n
    while True: n += 1; time.sleep(0.01)
def handler(p, c):
    if p.get('start'): threading.Thread(target=count, daemon=True).start()
    if p.get('wait'):
        before = n
        while n < before + 3: time.sleep(0.01)
    return n
"#;
    let sandbox = machine.python(source).await;
    let call = async |params| invoke(&sandbox, params).await.unwrap().unwrap();
    let before = call(json!({"start": true})).await.as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = call(json!({})).await.as_u64().unwrap();
    assert!(after - before < 100, "it counted from {before} to {after}");
    // They go on during calls, and a frozen sandbox can be destroyed.
    call(json!({"wait": true})).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    sandbox.destroy().await;
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn processes_that_outlive_their_call_stand_still_too() {
    let (machine, _) = machine().await;
    let source = r#"
import os, time
def handler(p, c):
    if p.get('start') and os.fork() == 0:
        for n in range(100_000):
            with open('/tmp/n', 'w') as file: file.write(str(n))
            time.sleep(0.01)
        os._exit(0)
    try: return int(open('/tmp/n').read() or 0)
    except OSError: return 0
"#;
    let sandbox = machine.python(source).await;
    let call = async |params| invoke(&sandbox, params).await.unwrap().unwrap();
    let before = call(json!({"start": true})).await.as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = call(json!({})).await.as_u64().unwrap();
    assert!(after - before < 100, "it counted from {before} to {after}");
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn sandboxes_die_with_the_helper_and_a_new_one_comes() {
    let (machine, backend) = machine().await;
    let source = "import time\ndef handler(p, c): time.sleep(p['s']); return 1";
    let sandbox = machine.python(source).await;
    let helper = Pid::from_raw(backend.helper_pid().await as i32).unwrap();
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        kill_process(helper, Signal::KILL).unwrap();
    };
    let (result, ()) = tokio::join!(invoke(&sandbox, json!({"s": 10})), kill);
    assert!(matches!(result, Err(CallError::Died(_))), "{result:?}");
    let sandbox = machine.python(source).await;
    assert_eq!(
        invoke(&sandbox, json!({"s": 0})).await.unwrap(),
        Ok(json!(1))
    );
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn a_failed_step_is_named() {
    let (machine, _) = machine().await;
    let mut spec = machine.spec(Shim::Python, "");
    spec.code_dir = "/nonexistent".into();
    let error = machine
        .create(spec)
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("mounting /app: No such file"), "{error}");
    let mut spec = machine.spec(Shim::Python, "");
    spec.interpreter = "/usr/bin/no-such-interpreter".into();
    let error = machine
        .create(spec)
        .await
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("starting the interpreter: No such file"),
        "{error}"
    );
    machine.backend.shutdown().await;
}

/// The stand-in for a node that is killed: another process, this test binary again.
#[tokio::test]
async fn what_a_killed_node_leaves_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let exe = std::env::current_exe().unwrap();
    let mut node = std::process::Command::new(exe)
        .args(["--exact", "ends::victim", "--nocapture"])
        .env("VICTIM_STATE", &state)
        .spawn()
        .unwrap();
    until("the victim is up", || state.join("up").exists()).await;
    let helper: i32 = std::fs::read_to_string(state.join("up"))
        .unwrap()
        .parse()
        .unwrap();
    node.kill().unwrap();
    kill_process(Pid::from_raw(helper).unwrap(), Signal::KILL).unwrap();
    node.wait().unwrap();
    let reaped = reap(&state).unwrap();
    assert_eq!(reaped.sandboxes, 3);
    assert_eq!(reaped.problems, Vec::<String>::new());
    assert_eq!(
        std::fs::read_dir(state.join("sandboxes")).unwrap().count(),
        0
    );
    let again = reap(&state).unwrap();
    assert_eq!(again, Default::default());
}

#[tokio::test]
async fn victim() {
    let Some(state) = std::env::var_os("VICTIM_STATE") else {
        return; // not a test of its own
    };
    let backend = OciBackend::start(config(Path::new(&state))).await.unwrap();
    let dir = tempfile::tempdir_in(&state).unwrap();
    let helper = backend.helper_pid().await;
    let machine = crate::harness::Machine::new(backend, dir);
    let mut sandboxes = Vec::new();
    for _ in 0..3 {
        sandboxes.push(machine.python("def handler(p, c): return 1").await);
    }
    let temporary = Path::new(&state).join("up.new");
    std::fs::write(&temporary, helper.to_string()).unwrap();
    std::fs::rename(temporary, Path::new(&state).join("up")).unwrap();
    std::future::pending().await
}
