//! What works.

use serde_json::json;
use serverledge_sandbox::process::ProcessBackend;
use serverledge_sandbox::{CallError, Exit, Shim};

use crate::harness::{Machine, invoke, machine};

#[tokio::test]
async fn python_says_hello() {
    let (machine, _) = machine().await;
    let sandbox = machine
        .python("def handler(p, c): return p['a'] + p['b']")
        .await;
    for b in 0..3 {
        let sum = invoke(&sandbox, json!({"a": 2, "b": b})).await.unwrap();
        assert_eq!(sum, Ok(json!(2 + b)));
    }
    machine.backend.shutdown().await;
    assert!(!machine.dir.path().join("state/sandboxes").exists());
}

#[tokio::test]
async fn plain_processes_work_too() {
    let dir = tempfile::tempdir().unwrap();
    let backend = ProcessBackend::start(dir.path().join("state")).unwrap();
    let machine = Machine::new(backend, dir);
    let sandbox = machine
        .python("import os\ndef handler(p, c): return p['x']")
        .await;
    assert_eq!(
        invoke(&sandbox, json!({"x": "y"})).await.unwrap(),
        Ok(json!("y"))
    );
    sandbox.destroy().await;
    sandbox.destroy().await;
    assert_eq!(sandbox.ended().await.exit, Exit::Signal(9));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn slots_run_at_once_and_not_more() {
    let (machine, _) = machine().await;
    // None of them ends before all three run.
    let source = "import threading\nall_run = threading.Barrier(3)\n\
                  def handler(p, c): all_run.wait(50); return 1";
    let mut spec = machine.spec(Shim::Python, source);
    spec.slots = 3;
    let sandbox = machine.create(spec).await.unwrap();
    let one = || invoke(&sandbox, json!({}));
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    for result in [a, b, c] {
        assert_eq!(result.unwrap(), Ok(json!(1)));
    }
    assert!(matches!(d, Err(CallError::Protocol(_))));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn node_says_hello() {
    let (machine, _) = machine().await;
    let source = "exports.handler = async (p, c) => ({sum: p.a + p.b, name: c.functionName ?? 0})";
    let mut spec = machine.spec(Shim::Node, source);
    spec.slots = 2;
    let sandbox = machine.create(spec).await.unwrap();
    let sum = invoke(&sandbox, json!({"a": 2, "b": 3}))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(sum["sum"], json!(5));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn a_cpu_limit_is_kept() {
    let (machine, _) = machine().await;
    let source = "import time\ndef handler(p, c):\n s = time.process_time(); e = time.time() + 1\n \
                  while time.time() < e: pass\n return time.process_time() - s";
    let mut spec = machine.spec(Shim::Python, source);
    spec.cpu = 0.2;
    let sandbox = machine.create(spec).await.unwrap();
    let used = invoke(&sandbox, json!({}))
        .await
        .unwrap()
        .unwrap()
        .as_f64()
        .unwrap();
    assert!(used < 0.4, "{used} s of CPU in a second");
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn multiprocessing_works_in_all_its_ways() {
    let (machine, _) = machine().await;
    let source = r#"
import multiprocessing
def double(n): return 2 * n
def handler(p, c):
    with multiprocessing.get_context(p["way"]).Pool(2) as pool: return pool.map(double, [1, 2, 3])
"#;
    let sandbox = machine.python(source).await;
    for way in ["fork", "spawn", "forkserver"] {
        let result = invoke(&sandbox, json!({ "way": way })).await.unwrap();
        assert_eq!(result, Ok(json!([2, 4, 6])), "{way}");
    }
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_made_ahead_takes_a_function_with_its_code_and_limits() {
    let (machine, _) = machine().await;
    let source = r"
import os
def handler(p, c):
    limit = None
    try: open('/app/x', 'w')
    except OSError as error: limit = error.strerror
    return [sorted(os.listdir('/app')), c['memory_mb'], limit]
";
    for shim in [Shim::Python, Shim::Node] {
        let mut spec = machine.spec(shim, source);
        if shim == Shim::Node {
            let source = "exports.handler = (p, c) => [require('fs').readdirSync('/app'), c.memoryMb, 'Read-only file system']";
            std::fs::write(spec.code_dir.join("f.js"), source).unwrap();
        }
        spec.slots = 2;
        let made = machine
            .backend
            .prestart(spec.kind().unwrap(), spec.id, spec.timeout_start)
            .await
            .unwrap()
            .expect("this machine has the cgroups for it");
        assert!(made.is_alive());
        let file = if shim == Shim::Python { "f.py" } else { "f.js" };
        let sandbox = made.load(spec).await.unwrap();
        for _ in 0..2 {
            let result = invoke(&sandbox, json!({})).await.unwrap().unwrap();
            assert_eq!(result, json!([[file], 128, "Read-only file system"]));
        }
    }
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_made_ahead_keeps_its_functions_memory_limit() {
    let (machine, _) = machine().await;
    let bomb = "def handler(p, c): return len(bytearray(1 << 30))";
    let spec = machine.spec(Shim::Python, bomb);
    let made = machine
        .backend
        .prestart(spec.kind().unwrap(), spec.id, spec.timeout_start)
        .await
        .unwrap()
        .unwrap();
    let sandbox = made.load(spec).await.unwrap();
    match invoke(&sandbox, json!({})).await {
        Err(CallError::Died(cause)) => {
            assert!(
                matches!(cause.exit, Exit::OutOfMemory { memory_mb: 128 }),
                "{cause}"
            );
        }
        other => panic!("{other:?}"),
    }
    // Dropped without a function, one leaves nothing.
    let spec = machine.spec(Shim::Python, "");
    let made = machine
        .backend
        .prestart(spec.kind().unwrap(), spec.id, spec.timeout_start)
        .await
        .unwrap();
    drop(made);
    machine.backend.shutdown().await;
}
