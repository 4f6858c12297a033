//! Functions that mean harm, or act as if: each contained, with a true word on what happened.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use serverledge_sandbox::{CallError, CreateError, Exit, ExitCause, Sandbox, Shim};

use crate::harness::{Machine, invoke, machine};

/// Calls a function that is expected to die of it.
async fn death(machine: &Machine, source: &str) -> ExitCause {
    let sandbox = machine.python(source).await;
    match invoke(&sandbox, json!({})).await {
        Err(CallError::Died(cause)) => cause,
        other => panic!("it lives: {other:?}"),
    }
}

async fn result(sandbox: &Arc<dyn Sandbox>) -> Value {
    invoke(sandbox, json!({})).await.unwrap().unwrap()
}

#[tokio::test]
async fn text_that_is_not_unicode_is_told_as_well_as_can_be() {
    let (machine, _) = machine().await;
    let raise = r"def handler(p, c): raise ValueError('a\ud800z')";
    let python = machine.python(raise).await;
    let raise = r"exports.handler = () => { throw new RangeError('a\ud800z') }";
    let node = machine
        .create(machine.spec(Shim::Node, raise))
        .await
        .unwrap();
    for (sandbox, kind) in [(python, "ValueError"), (node, "RangeError")] {
        // Twice: the sandbox is none the worse.
        for _ in 0..2 {
            let error = invoke(&sandbox, json!({})).await.unwrap().unwrap_err();
            assert_eq!(error.kind, kind);
            assert!(error.message.starts_with('a') && error.message.ends_with('z'));
        }
    }
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn a_memory_bomb_is_named() {
    let (machine, _) = machine().await;
    let neighbour = machine.python("def handler(p, c): return 'fine'").await;
    let source = "def handler(p, c):\n x = []\n while True: x.append(bytearray(1 << 20))";
    let cause = death(&machine, source).await;
    assert_eq!(cause.exit, Exit::OutOfMemory { memory_mb: 128 });
    assert!(cause.to_string().contains("128 MB"), "{cause}");
    assert_eq!(result(&neighbour).await, json!("fine"));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn files_in_tmp_count_as_memory() {
    let (machine, _) = machine().await;
    let source = "def handler(p, c):\n with open('/tmp/x', 'wb') as f:\n  for _ in range(500): f.write(b'x' << 20 if False else bytes(1 << 20))";
    let sandbox = machine.python(source).await;
    // The file's own limit comes first; writing several would meet the one of memory.
    let error = invoke(&sandbox, json!({})).await;
    assert!(
        matches!(&error, Ok(Err(error)) if error.kind == "OSError")
            || matches!(&error, Err(CallError::Died(_))),
        "{error:?}"
    );
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn a_fork_bomb_is_contained_and_named() {
    let (machine, _) = machine().await;
    let neighbour = machine.python("def handler(p, c): return 'fine'").await;
    let source =
        "import os\ndef handler(p, c):\n while True:\n  try: os.fork()\n  except OSError: pass";
    let sandbox = machine.python(source).await;
    let call = tokio::time::timeout(Duration::from_secs(3), invoke(&sandbox, json!({})));
    assert!(call.await.is_err());
    assert_eq!(result(&neighbour).await, json!("fine"));
    sandbox.destroy().await;
    let cause = sandbox.ended().await;
    assert!(cause.process_limit_hit, "{cause}");
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn endless_output_is_kept_short() {
    let (machine, _) = machine().await;
    let source = "import os\ndef handler(p, c):\n for _ in range(100000): os.write(2, b'spam ' * 20)\n os._exit(5)";
    let cause = death(&machine, source).await;
    assert_eq!(cause.exit, Exit::Code(5));
    assert!(cause.last_output.ends_with("spam "), "{cause}");
    assert!(cause.last_output.len() <= 8 << 10);
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn exits_and_signals_are_named() {
    let (machine, _) = machine().await;
    let exit = "import os\ndef handler(p, c): os._exit(3)";
    assert_eq!(death(&machine, exit).await.exit, Exit::Code(3));
    let kill = "import os\ndef handler(p, c): os.kill(os.getpid(), 9)";
    assert_eq!(death(&machine, kill).await.exit, Exit::Signal(9));
    let abort = "import os\ndef handler(p, c): os.abort()";
    let cause = death(&machine, abort).await;
    assert_eq!(cause.exit, Exit::Signal(6));
    assert!(cause.to_string().contains("SIGABRT"), "{cause}");
    // Pid 1 can't be killed from inside: the kernel drops the signal.
    let sandbox = machine
        .python("import os\ndef handler(p, c): os.kill(1, 9); return 1")
        .await;
    assert_eq!(result(&sandbox).await, json!(1));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn an_exit_while_loading_is_named() {
    let (machine, _) = machine().await;
    let spec = machine.spec(serverledge_sandbox::Shim::Python, "import os; os._exit(4)");
    match machine.create(spec).await.map(drop) {
        Err(CreateError::Died(cause)) => assert_eq!(cause.exit, Exit::Code(4)),
        other => panic!("{other:?}"),
    }
    let spec = machine.spec(
        serverledge_sandbox::Shim::Python,
        "raise ValueError('boom')",
    );
    match machine.create(spec).await.map(drop) {
        Err(CreateError::Load(error)) => assert_eq!(error.to_string(), "ValueError: boom"),
        other => panic!("{other:?}"),
    }
    let mut spec = machine.spec(serverledge_sandbox::Shim::Python, "while True: pass");
    spec.timeout_start = Duration::from_secs(1);
    let error = machine.create(spec).await.map(drop);
    assert!(matches!(error, Err(CreateError::TimedOut(_))), "{error:?}");
    machine.backend.shutdown().await;
}

/// Evaluates Python expressions inside and says for each what came of it.
const TRY: &str = r#"
import os, socket, ctypes, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def sys(name, *args):
    r = getattr(libc, name)(*args)
    return os.strerror(ctypes.get_errno()) if r == -1 else 'done'
def read(path):
    with open(path) as f: return f.read(1000)
def write(path):
    with open(path, 'w') as f: f.write('x')
    return 'done'
def handler(p, c):
    result = []
    for text in p['try']:
        try: result.append(eval(text))
        except OSError as e: result.append(e.strerror)
        except Exception as e: result.append(type(e).__name__)
    return result
"#;

async fn attempts(machine: &Machine, pairs: &[(&str, &str)]) {
    let sandbox = machine.python(TRY).await;
    let texts: Vec<_> = pairs.iter().map(|(text, _)| *text).collect();
    let results = invoke(&sandbox, json!({"try": texts}))
        .await
        .unwrap()
        .unwrap();
    for ((text, expected), got) in pairs.iter().zip(results.as_array().unwrap()) {
        let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
        assert_eq!(got, *expected, "{text}");
    }
}

#[tokio::test]
async fn files_of_others_are_out_of_reach() {
    let (machine, _) = machine().await;
    let other = machine
        .python("def handler(p, c): open('/tmp/secret', 'w').write('x')")
        .await;
    invoke(&other, json!({})).await.unwrap().unwrap();
    let state = machine.dir.path().display().to_string();
    let (state_listing, none) = (
        format!("os.listdir('{state}')"),
        "No such file or directory",
    );
    attempts(
        &machine,
        &[
            ("read('/etc/shadow')", none),
            ("os.listdir('/root')", none),
            ("os.listdir('/home')", none),
            ("os.listdir('/sys')", none),
            (&state_listing, none),
            ("sorted(os.listdir('/tmp'))", "[]"),
            ("sorted(os.listdir('/app'))", "[\"f.py\"]"),
            ("os.listdir('/run/serverledge')", "[]"),
            ("read('/proc/1/environ')", "Permission denied"),
            (
                "sorted(set(p for p in os.listdir('/proc') if p.isdigit()))",
                "[\"1\",\"2\"]",
            ),
        ],
    )
    .await;
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn only_tmp_can_be_written() {
    let (machine, _) = machine().await;
    let read_only = "Read-only file system";
    attempts(
        &machine,
        &[
            ("write('/tmp/x')", "done"),
            ("write('/dev/shm/x')", "done"),
            ("write('/dev/null')", "done"),
            ("write('/x')", read_only),
            ("write('/etc/passwd')", read_only),
            ("write('/app/x')", read_only),
            ("write('/app/f.py')", read_only),
            ("write('/usr/x')", read_only),
            ("write('/run/serverledge/x')", read_only),
            ("write('/.serverledge/x')", read_only),
            ("write('/proc/self/oom_score_adj')", read_only),
            ("write('/proc/sys/kernel/hostname')", read_only),
        ],
    )
    .await;
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn privileges_are_gone() {
    let (machine, _) = machine().await;
    let denied = "Operation not permitted";
    attempts(
        &machine,
        &[
            ("sys('mount', b'none', b'/tmp', b'tmpfs', 0, None)", denied),
            ("sys('umount2', b'/app', 2)", denied),
            ("sys('unshare', 0x10000000)", denied),
            ("sys('unshare', 0x20000)", denied),
            ("sys('setns', 0, 0)", denied),
            ("sys('ptrace', 16, 1, 0, 0)", denied),
            ("sys('ptrace', 0, 0, 0, 0)", denied),
            ("sys('sethostname', b'x', 1)", denied),
            ("sys('chroot', b'/tmp')", denied),
            ("sys('setuid', 0)", denied),
            ("sys('syscall', 165, 0, 0, 0, 0, 0)", denied), // mount
            ("sys('syscall', 56, 0x10000011, 0, 0, 0, 0)", denied), // clone with NEWUSER
            ("sys('syscall', 435, 0, 0)", "Function not implemented"), // clone3
            ("sys('syscall', 321, 0, 0, 0)", denied), // bpf
            ("sys('syscall', 425, 1, 0)", denied), // io_uring_setup
            ("sys('syscall', 323, 0)", denied), // userfaultfd
            ("sys('syscall', 248, 0, 0, 0, 0, 0)", denied), // add_key
            ("sys('syscall', 310, 1, 0, 0, 0, 0, 0)", denied), // process_vm_readv
            ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and 0", denied),
            ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and 0", denied),
            ("socket.socket(38, socket.SOCK_SEQPACKET) and 0", denied), // AF_ALG
            ("socket.create_connection(('192.0.2.1', 80), 1)", "Network is unreachable"),
            ("os.getuid() >= 65534 and os.getgroups() == []", "true"),
            ("[l for l in read('/proc/self/status').split('\\n') if l.startswith('NoNewPrivs')]", "[\"NoNewPrivs:\\t1\"]"),
            ("[l.split()[1] for l in read('/proc/self/status').split('\\n') if l.startswith('Cap')]", "[\"0000000000000000\",\"0000000000000000\",\"0000000000000000\",\"0000000000000000\",\"0000000000000000\"]"),
            ("os.listdir('/proc/self/fd').__len__() < 8", "true"),
            ("subprocess.run(['/bin/true']).returncode", "0"),
            ("socket.gethostname()", "sandbox"),
        ],
    )
    .await;
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn loopback_and_neighbouring_threads_work() {
    let (machine, _) = machine().await;
    let source = r#"
import socket, threading
def handler(p, c):
    s = socket.create_server(('127.0.0.1', 0))
    def serve():
        a, _ = s.accept(); a.sendall(b'hi'); a.close()
    t = threading.Thread(target=serve); t.start()
    c = socket.create_connection(s.getsockname()); r = c.recv(10).decode(); t.join()
    return r
"#;
    let sandbox = machine.python(source).await;
    assert_eq!(result(&sandbox).await, json!("hi"));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn protocol_breaches_are_errors() {
    let (machine, _) = machine().await;
    let source = r#"
import os, socket
def handler(p, c):
    for fd in range(3, 30):
        try: os.write(fd, b'\xff' * 100)
        except OSError: pass
    return 1
"#;
    let sandbox = machine.python(source).await;
    let error = invoke(&sandbox, json!({})).await;
    assert!(matches!(error, Err(CallError::Protocol(_))), "{error:?}");
    machine.backend.shutdown().await;
}
