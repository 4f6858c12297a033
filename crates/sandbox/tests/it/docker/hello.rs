//! What works in a container with our shim, and what it is kept from.

use serde_json::json;
use serverledge_sandbox::{CallError, Exit};

use super::engine::machine;
use crate::harness::{call, invoke};

#[tokio::test]
async fn python_says_hello_and_slots_run_at_once() {
    let machine = machine().await;
    let source = "import time\ndef handler(p, c):\n print('hi'); time.sleep(p['s']); return [p['s'], c['memory_mb']]";
    let mut spec = machine.spec(source);
    spec.slots = 2;
    let sandbox = machine.0.create(spec).await.unwrap();
    let one = || invoke(&sandbox, json!({"s": 0.2}));
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert_eq!(a.unwrap(), Ok(json!([0.2, 128])));
    assert_eq!(b.unwrap(), Ok(json!([0.2, 128])));
    assert!(matches!(c, Err(CallError::Protocol(_))), "{c:?}");
    let mut call = call(json!({"s": 0}));
    call.output = true;
    assert_eq!(sandbox.invoke(call).await.unwrap().output.trim(), "hi");
    machine.0.backend.shutdown().await;
    assert_eq!(machine.containers(), Vec::<String>::new());
    assert_eq!(machine.directories(), 0);
}

/// Tells what it is and can do.
const PROBE: &str = r#"
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
CALLS = {'mount': 165, 'ptrace': 101, 'bpf': 321, 'unshare': 272, 'setns': 308, 'keyctl': 250,
    'userfaultfd': 323, 'perf_event_open': 298, 'kexec_load': 246, 'io_uring_setup': 425}
def denied(number):
    return libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == 1
def writable(path):
    try: open(path + '/probe', 'w').close(); return True
    except OSError: return False
def handler(p, c):
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    try: raw = bool(socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    except OSError: raw = False
    ctypes.set_errno(0)
    return {
        'uid': os.getuid(), 'groups': os.getgroups(), 'raw': raw,
        'caps': [status[name].strip() for name in ('CapEff', 'CapPrm', 'CapBnd')],
        'no_new_privs': status['NoNewPrivs'].strip(), 'seccomp': status['Seccomp'].strip(),
        'processes': sum(name.isdigit() for name in os.listdir('/proc')),
        'interfaces': [name for _, name in socket.if_nameindex()],
        'writable': [path for path in ('/', '/app', '/run/serverledge', '/etc', '/tmp', '/dev/shm',
            '/proc', '/sys') if writable(path)],
        'allowed': [name for name, number in CALLS.items() if not denied(number)],
        'ambient': sorted(set(os.environ) - {'PATH', 'HOSTNAME'}),
    }
"#;

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn a_function_sees_and_may_do_little() {
    let machine = machine().await;
    let sandbox = machine.0.create(machine.spec(PROBE)).await.unwrap();
    let mut seen = invoke(&sandbox, json!({})).await.unwrap().unwrap();
    let uid = seen["uid"].take().as_u64().unwrap();
    assert!(uid >= 0x7000_0000, "{uid}");
    let none = "0000000000000000";
    let expected = json!({
        "uid": null,
        "groups": [uid],
        "raw": false,
        "caps": [none, none, none],
        "no_new_privs": "1",
        "seccomp": "2",
        "processes": 1,
        "interfaces": ["lo"],
        "writable": ["/tmp", "/dev/shm"],
        "allowed": [],
        "ambient": ["HOME", "LANG", "SERVERLEDGE_SOCKET", "USER"],
    });
    assert_eq!(seen, expected);
    machine.0.backend.shutdown().await;
}

#[tokio::test]
async fn limits_are_kept_and_told() {
    let machine = machine().await;
    let end = async |source: &str| {
        let sandbox = machine.0.create(machine.spec(source)).await.unwrap();
        match invoke(&sandbox, json!({})).await {
            Err(CallError::Died(cause)) => cause,
            other => panic!("{other:?}"),
        }
    };
    let cause = end("def handler(p, c): return len(bytearray(1 << 30))").await;
    assert_eq!(cause.exit, Exit::OutOfMemory { memory_mb: 128 });
    let cause =
        end("import os, sys\ndef handler(p, c): os.write(2, b'farewell'); os._exit(3)").await;
    assert_eq!(
        (cause.exit, cause.last_output.as_str()),
        (Exit::Code(3), "farewell")
    );
    let cause = end("import ctypes\ndef handler(p, c): ctypes.string_at(0)").await;
    assert_eq!(cause.exit, Exit::Signal(11));

    let forks = r"
import os, time
def handler(p, c):
    n = 0
    try:
        while True:
            if os.fork() == 0: time.sleep(60); os._exit(0)
            n += 1
    except OSError: return n
";
    let sandbox = machine.0.create(machine.spec(forks)).await.unwrap();
    let forked = invoke(&sandbox, json!({})).await.unwrap().unwrap();
    assert!((1..=65).contains(&forked.as_u64().unwrap()), "{forked}");
    let burns = "import time\ndef handler(p, c):\n s = time.process_time(); e = time.time() + 1\n \
                 while time.time() < e: pass\n return time.process_time() - s";
    let mut spec = machine.spec(burns);
    spec.cpu = 0.2;
    let sandbox = machine.0.create(spec).await.unwrap();
    let used = invoke(&sandbox, json!({})).await.unwrap().unwrap();
    assert!(used.as_f64().unwrap() < 0.4, "{used} s of CPU in a second");
    machine.0.backend.shutdown().await;
    assert_eq!(machine.containers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sandbox_made_ahead_takes_a_function_with_its_code_and_limits() {
    let machine = machine().await;
    let source = r"
import os
def handler(p, c):
    if p.get('bomb'): return len(bytearray(1 << 30))
    try: open('/app/x', 'w')
    except OSError as error: return [sorted(os.listdir('/app')), error.strerror]
";
    let spec = machine.spec(source);
    std::fs::create_dir(spec.code_dir.join("inside")).unwrap();
    std::fs::write(spec.code_dir.join("inside/module.py"), "").unwrap();
    let made = machine
        .0
        .backend
        .prestart(spec.kind().unwrap(), spec.id, spec.timeout_start);
    let made = made.await.unwrap().unwrap();
    assert!(made.is_alive());
    let sandbox = made.load(spec).await.unwrap();
    let result = invoke(&sandbox, json!({})).await.unwrap();
    assert_eq!(
        result,
        Ok(json!([["f.py", "inside"], "Read-only file system"]))
    );
    match invoke(&sandbox, json!({"bomb": true})).await {
        Err(CallError::Died(cause)) => {
            assert_eq!(cause.exit, Exit::OutOfMemory { memory_mb: 128 }, "{cause}");
        }
        other => panic!("{other:?}"),
    }
    // Dropped without a function, one leaves nothing.
    let spec = machine.spec("");
    let made = machine
        .0
        .backend
        .prestart(spec.kind().unwrap(), spec.id, spec.timeout_start);
    drop(made.await.unwrap());
    machine.0.backend.shutdown().await;
    assert_eq!(machine.containers(), Vec::<String>::new());
}
