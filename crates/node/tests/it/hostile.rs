//! Functions that mean harm: each is contained, each gets an error that tells the truth, its next
//! call works, and its neighbours don't notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Function, Node, eventually, javascript, node, python};

/// How long the neighbour may take to answer while a function rages. The sandboxes share two
/// cores with the tests.
const NEIGHBOUR_TIME_MAX: Duration = Duration::from_secs(15);

/// A node with a well-behaved function on it.
pub(crate) fn street() -> Node {
    let node = node().start();
    node.create(&python(
        "neighbour",
        "def handler(params, context):\n    return 'fine'\n",
    ));
    assert_eq!(node.invoke("neighbour", json!({})).result(), "fine");
    node
}

/// A Python function that does `attack` unless told to behave.
pub(crate) fn rogue(name: &str, attack: &str) -> Function {
    let attack = attack.replace('\n', "\n    ");
    python(
        name,
        &format!(
            "import ctypes, os, signal, sys, threading, time\n\
             def handler(params, context):\n    \
                 if params.get('behave'):\n        \
                     return 'fine'\n    \
                 {attack}\n"
        ),
    )
    .timeout(20.0)
}

/// A Node.js function that does `attack` unless told to behave.
fn rogue_js(name: &str, attack: &str) -> Function {
    javascript(
        name,
        &format!(
            "module.exports = async (params) => {{\n  if (params.behave) return 'fine';\n  {attack}\n}};\n"
        ),
    )
    .timeout(20.0)
}

/// Lets the function loose, and checks that the neighbour answers all the while, that the next call
/// works, and that nothing stays occupied. Gives the reply to the harmful call.
#[track_caller]
fn unleash(node: &Node, function: &Function, request: &Value) -> Response {
    let name = &function.name;
    node.create(function);
    let is_over = AtomicBool::new(false);
    let reply = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(node.invoke("neighbour", json!({})).result(), "fine");
                let took = started.elapsed();
                assert!(
                    took < NEIGHBOUR_TIME_MAX,
                    "{name} held up its neighbour for {took:?}"
                );
                thread::sleep(Duration::from_millis(20));
            }
        });
        let reply = node.try_invoke(name, request);
        is_over.store(true, Ordering::Relaxed);
        watch.join().expect("the neighbour noticed");
        reply.unwrap_or_else(|error| panic!("{name}: {error}"))
    });
    assert_eq!(
        node.invoke(name, json!({ "behave": true })).result(),
        "fine",
        "the next call"
    );
    eventually("no memory in use", || {
        (node.busy_memory() == 0).then_some(())
    });
    reply
}

/// As [`unleash`], for a function that must end in an error that says one of `truths`.
#[track_caller]
fn contained(node: &Node, function: &Function, truths: &[&str]) -> Value {
    let reply = unleash(
        node,
        function,
        &json!({ "Params": {}, "ReturnOutput": true }),
    );
    assert!(reply.status >= 500, "{}: {}", function.name, reply.shown());
    let problem = reply.problem(&[]);
    let detail = problem["detail"]
        .as_str()
        .unwrap_or_default()
        .to_lowercase();
    assert!(
        truths.iter().any(|truth| detail.contains(truth)),
        "{}: none of {truths:?} in {problem}",
        function.name
    );
    problem
}

/// As [`unleash`], for a function that reports what it achieved: nothing.
#[track_caller]
pub(crate) fn in_vain(node: &Node, function: &Function, params: Value) {
    let reply = unleash(node, function, &json!({ "Params": params }));
    assert_eq!(reply.result(), json!([]), "{} got through", function.name);
}

#[test]
fn a_fork_bomb_goes_off_in_its_sandbox() {
    let node = street();
    let words = [
        "process",
        "resource temporarily unavailable",
        "fork",
        "limit of",
    ];
    contained(&node, &rogue("bomb", "while True: os.fork()"), &words);
    let stubborn = "while True:\n    try: os.fork()\n    except OSError: pass";
    contained(
        &node,
        &rogue("stubborn", stubborn).timeout(2.0),
        &["process", "limit of 2 s"],
    );
    let threads = "while True: threading.Thread(target=time.sleep, args=(100,)).start()";
    contained(
        &node,
        &rogue("threads", threads),
        &["thread", "process", "memory"],
    );
    let spawn = "const { spawn } = require('child_process');\n\
                 for (;;) { spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']); \
                 await new Promise((next) => setTimeout(next, 1)); }";
    let words = ["process", "eagain", "memory", "limit of 5 s"];
    contained(&node, &rogue_js("spawner", spawn).timeout(5.0), &words);
}

#[test]
fn a_child_that_returns_from_the_handler_answers_nobody() {
    let node = street();
    // Parent and child both come back from the handler, the child when the call is long over.
    let twins = "child = os.fork() == 0\nif child: time.sleep(params['s'])\nreturn [] if not child else ['child']";
    for seconds in [0.0, 0.05, 0.3] {
        node.create(&rogue("twins", twins));
        assert_eq!(
            node.invoke("twins", json!({ "s": seconds })).result(),
            json!([])
        );
        for _ in 0..20 {
            let reply = node.invoke("twins", json!({ "behave": true }));
            assert_eq!(reply.result(), "fine", "a child {seconds} s old spoke up");
            thread::sleep(Duration::from_millis(25));
        }
        node.post("/delete", &json!({ "Name": "twins" }))
            .expect(200);
    }
}

#[test]
fn a_memory_bomb_is_named_as_such() {
    let node = street();
    let bomb = "held = []\nwhile True: held.append(bytearray(1 << 20))";
    let problem = contained(&node, &rogue("bomb", bomb), &["memory"]);
    assert!(
        problem["hint"]
            .as_str()
            .unwrap_or_default()
            .contains("memory"),
        "{problem}"
    );
    let bomb = "const held = [];\n  for (;;) held.push(Buffer.alloc(1 << 20, 1));";
    contained(&node, &rogue_js("bomb-js", bomb), &["memory"]);
    let heap =
        "const held = [];\n  for (;;) held.push(new Array(10000).fill({}).map(() => ({ a: [] })));";
    contained(&node, &rogue_js("heap-js", heap), &["memory"]);
    // In a child, which the kernel may pick to be killed.
    let child = "pid = os.fork()\n\
                 if pid == 0:\n    held = []\n    while True: held.append(bytearray(1 << 20))\n\
                 os.waitpid(pid, 0)\nraise RuntimeError('the child ran out of memory')";
    contained(&node, &rogue("in-a-child", child), &["memory"]);
    // Files in memory count.
    let disk = "with open('/tmp/big', 'wb') as f:\n    while True: f.write(bytes(1 << 20))";
    contained(
        &node,
        &rogue("tmp", disk),
        &["memory", "space", "file too large"],
    );
}

#[test]
fn garbage_is_no_memory_bomb() {
    let node = street();
    // Little is alive at any time, whatever the collector may think of the machine's memory.
    let objects = "let n = 0; for (const end = Date.now() + 1500; Date.now() < end; n++) \
                   { const text = JSON.stringify(new Array(20000).fill({ n })); n += JSON.parse(text).length; } \
                   return n > 0;";
    let reply = unleash(
        &node,
        &rogue_js("objects", objects),
        &json!({ "Params": {} }),
    );
    assert_eq!(reply.result(), true);
    let buffers = "for (let n = 0; n < 3000; n++) { Buffer.alloc(1 << 20, 1); if (n % 50 == 0) await null; } return true;";
    let reply = unleash(
        &node,
        &rogue_js("buffers", buffers),
        &json!({ "Params": {} }),
    );
    assert_eq!(reply.result(), true);
    let held = "keep = [bytearray(1 << 20) for _ in range(60)]\nfor _ in range(40): bytearray(40 << 20)\nreturn True";
    let reply = unleash(&node, &rogue("python", held), &json!({ "Params": {} }));
    assert_eq!(reply.result(), true);
}

#[test]
fn an_endless_loop_ends_at_its_time_limit() {
    let node = street();
    for function in [
        rogue("loop", "while True: pass"),
        rogue(
            "deaf",
            "while True:\n    try: time.sleep(60)\n    except BaseException: pass",
        ),
        rogue("stopped", "os.kill(os.getpid(), signal.SIGSTOP)"),
        rogue_js("loop-js", "for (;;);"),
        rogue_js("never-js", "await new Promise(() => {});"),
    ] {
        let function = function.timeout(1.0);
        let reply = unleash(&node, &function, &json!({ "Params": {} }));
        assert!(reply.status >= 500, "{}", reply.shown());
        reply.problem(&["limit of 1 s"]);
    }
}

#[test]
fn endless_output_fills_neither_the_node_nor_the_reply() {
    let node = street();
    let print = "while True: print('x' * 1000)";
    contained(
        &node,
        &rogue("print", print).timeout(2.0),
        &["limit of 2 s"],
    );
    let write = "while True: os.write(1, b'x' * 65536)";
    contained(
        &node,
        &rogue("write", write).timeout(2.0),
        &["limit of 2 s"],
    );
    let log = "for (;;) console.log('x'.repeat(1000));";
    contained(&node, &rogue_js("log", log).timeout(5.0), &["limit of 5 s"]);
    let resident = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let peak: u64 = resident
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .expect("a peak of memory");
    assert!(peak < 256 << 10, "the node grew to {peak} kB");
    // Output that does end is cut, and says so.
    for function in [
        rogue("much", "for _ in range(4000): print('x' * 1000)\nreturn 1"),
        rogue_js(
            "much-js",
            "for (let n = 0; n < 4000; n++) console.log('x'.repeat(1000)); return 1;",
        ),
    ] {
        let reply = unleash(
            &node,
            &function,
            &json!({ "Params": {}, "ReturnOutput": true }),
        );
        assert_eq!(reply.result(), json!(1));
        let output = reply.field("Output");
        let output = output.as_str().expect("a string");
        assert!(
            (1 << 19..=(1 << 20) + 1000).contains(&output.len()),
            "{} bytes",
            output.len()
        );
        let last = output.trim_end().lines().next_back().unwrap_or_default();
        assert!(
            !last.starts_with("xxx"),
            "the last line doesn't say that output was cut"
        );
    }
}

#[test]
fn a_result_too_large_to_send_is_an_error() {
    let node = street();
    let function = rogue("large", "return 'x' * (100 << 20)").memory(800);
    contained(
        &node,
        &function,
        &["large", "limit", "mib", "mb", "bytes", "memory"],
    );
}

#[test]
fn a_function_that_exits_is_said_to_have_exited() {
    let node = street();
    let problem = contained(&node, &rogue("exit", "os._exit(3)"), &["status 3"]);
    assert!(
        problem["hint"].is_null(),
        "memory has nothing to do with it: {problem}"
    );
    contained(&node, &rogue("sys-exit", "sys.exit(4)"), &["exit"]);
    contained(&node, &rogue("exit-builtin", "exit(7)"), &["status 7"]);
    contained(&node, &rogue("quit", "quit()"), &["status 0"]);
    contained(&node, &rogue("zero", "os._exit(0)"), &["exited"]);
    contained(
        &node,
        &rogue_js("exit-js", "process.exit(5);"),
        &["status 5", "code 5"],
    );
    let later = "setTimeout(() => process.exit(6), 10); await new Promise(() => {});";
    contained(&node, &rogue_js("later-js", later), &["status 6", "code 6"]);
    let thrown = "setTimeout(() => { throw new Error('boom') }, 10); await new Promise(() => {});";
    contained(
        &node,
        &rogue_js("thrown-js", thrown).timeout(5.0),
        &["uncaught: error: boom"],
    );
}

#[test]
fn whatever_is_thrown_is_an_error_and_no_more() {
    let node = street();
    let throws = [
        "{ a: 10n }",
        "Object.create(null)",
        "new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } })",
        "Object.assign(new Error(), { message: { toString() { throw 3 } } })",
        "Object.defineProperty(new Error(), 'stack', { get() { throw 4 } })",
        "{ toJSON() { throw 5 } }",
        "{ toJSON() {} }",
        "Symbol('s')",
        "null",
    ];
    let source = format!(
        "const throws = [{}];\n\
         exports.handler = (params) => {{\n\
           if (params.n === undefined) return 'alive';\n\
           throw throws[params.n]();\n\
         }};\n",
        throws.map(|what| format!("() => ({what})")).join(", ")
    );
    node.create(&javascript("throws", &source));
    for (n, what) in throws.iter().enumerate() {
        let reply = node.invoke("throws", json!({ "n": n })).expect(500);
        assert_eq!(
            reply.field("title"),
            "function failed",
            "{what}: {}",
            reply.shown()
        );
        let reply = node.invoke("throws", json!({}));
        assert_eq!(reply.result(), "alive", "{what}");
        assert_eq!(reply.field("IsWarmStart"), true, "{what}: a new sandbox");
    }
    // Outside of a call it ends the process, which says why.
    let later = "setTimeout(() => { throw Object.create(null) }, 10); await new Promise(() => {});";
    contained(&node, &rogue_js("later", later), &["uncaught: thrown"]);
}

#[test]
fn a_function_that_kills_itself_is_said_to_have_been_killed() {
    let node = street();
    let words = ["signal 9", "sigkill", "killed"];
    contained(
        &node,
        &rogue(
            "self",
            "os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(9)",
        ),
        &words,
    );
    contained(
        &node,
        &rogue("all", "os.kill(-1, signal.SIGKILL)\nos._exit(3)"),
        &["signal", "kill", "status 3", "no such process"],
    );
    contained(
        &node,
        &rogue("crash", "ctypes.string_at(0)"),
        &["signal 11", "sigsegv", "segmentation"],
    );
    contained(
        &node,
        &rogue("abort", "os.abort()"),
        &["signal 6", "sigabrt", "abort"],
    );
}

#[test]
fn killing_the_parent_does_not_free_a_function() {
    let node = street();
    // Process 1 of the sandbox can't be signalled by its children, or takes the sandbox with it.
    let attack =
        "try: os.kill(1, signal.SIGKILL)\nexcept OSError: pass\ntime.sleep(0.2)\nreturn []";
    let reply = unleash(&node, &rogue("patricide", attack), &json!({ "Params": {} }));
    if reply.status != 200 {
        reply.expect(500).problem(&[]);
    }
}

#[test]
fn code_that_does_not_load_says_why() {
    let node = street();
    let broken = [
        ("syntax", "def handler(:\n", "syntax"),
        (
            "import",
            "import nothing_of_that_name\ndef handler(p, c): pass\n",
            "nothing_of_that_name",
        ),
        ("raises", "raise RuntimeError('at import')\n", "at import"),
        ("missing", "def other(p, c): pass\n", "handler"),
        ("exits", "import os\nos._exit(7)\n", "7"),
        ("no-function", "handler = 3\n", "handler"),
    ];
    for (name, source, word) in broken {
        node.create(&python(name, source));
        for _ in 0..2 {
            node.invoke(name, json!({})).expect(500).problem(&[word]);
        }
    }
    for (name, source, word) in [
        ("syntax-js", "module.exports = (;\n", "unexpected"),
        (
            "import-js",
            "require('nothing-of-that-name');\n",
            "nothing-of-that-name",
        ),
        ("no-function-js", "module.exports = 3;\n", "function"),
    ] {
        node.create(&javascript(name, source));
        node.invoke(name, json!({})).expect(500).problem(&[word]);
    }
    let python_without_file = python("no-file", "").handler("other.handler");
    node.create(&python_without_file);
    node.invoke("no-file", json!({}))
        .expect(500)
        .problem(&["other"]);
    eventually("its memory is free", || {
        (node.status()["FreeMemory"] == 1024 - 128).then_some(())
    });
    assert_eq!(node.invoke("neighbour", json!({})).result(), "fine");
}

#[test]
fn code_that_never_finishes_loading_is_given_up() {
    let node = node().set("sandbox.start_timeout", 2).start();
    node.create(&python("sleepy", "import time\ntime.sleep(1000)\n"));
    let reply = node.invoke("sleepy", json!({}));
    assert!(reply.status >= 500, "{}", reply.shown());
    reply.problem(&["2 s"]);
    eventually("its memory is free", || {
        (node.status()["FreeMemory"] == 1024).then_some(())
    });
}

#[test]
fn what_a_call_leaves_running_is_not_heard_in_the_next() {
    let node = street();
    let ghost = "def haunt():\n    while True:\n        print('ghost', flush=True)\n        time.sleep(0.01)\n\
                 threading.Thread(target=haunt).start()\nprint('mine')\nreturn []";
    let listen = |name: &str| {
        let body = json!({ "Params": { "behave": true }, "ReturnOutput": true });
        for _ in 0..20 {
            let reply = node.post(&format!("/invoke/{name}"), &body);
            assert_eq!(reply.result(), "fine");
            assert_eq!(
                reply.field("Output").as_str().unwrap_or_default().trim(),
                ""
            );
            thread::sleep(Duration::from_millis(10));
        }
    };
    let ask = json!({ "Params": {}, "ReturnOutput": true });
    let reply = unleash(&node, &rogue("thread", ghost), &ask);
    assert!(
        reply
            .field("Output")
            .as_str()
            .unwrap_or_default()
            .contains("mine"),
        "{}",
        reply.shown()
    );
    listen("thread");
    let interval = "setInterval(() => console.log('ghost'), 5); console.log('mine'); return [];";
    unleash(&node, &rogue_js("interval", interval), &ask).expect(200);
    listen("interval");
    let process = "if os.fork() == 0:\n    while True:\n        os.write(1, b'ghost')\n        time.sleep(0.01)\nreturn []";
    unleash(&node, &rogue("process", process), &ask).expect(200);
    listen("process");
}

#[test]
fn a_function_that_breaks_the_protocol_harms_only_itself() {
    let node = street();
    let everywhere = |bytes: &str| {
        format!(
            "for fd in range(3, 64):\n    \
                 try: os.write(fd, {bytes})\n    \
                 except OSError: pass\n\
             time.sleep(1)\nreturn []"
        )
    };
    for (name, bytes) in [
        ("rubbish", "b'\\xff' * 4096"),
        ("huge", "b'\\x7f\\xff\\xff\\xff\\x05\\x00\\x00\\x00\\x00'"),
        ("empty", "b'\\x00\\x00\\x00\\x00' * 100"),
        (
            "deep",
            "b'\\x00\\x01\\x00\\x05\\x05\\x00\\x00\\xff\\xff' + b'[' * 70000",
        ),
        ("half", "b'\\x00\\x00\\x10\\x00\\x05\\x00\\x00'"),
    ] {
        let reply = unleash(
            &node,
            &rogue(name, &everywhere(bytes)).timeout(3.0),
            &json!({ "Params": {} }),
        );
        assert!(
            reply.status == 200 || reply.status >= 500,
            "{name}: {}",
            reply.shown()
        );
    }
    // A result of its own making, before the real one: a later call may suffer for it, as the code
    // is the same, but never get what another call returned.
    let forged = "b'\\x00\\x00\\x00\\x12\\x05\\x00\\x00\\x00\\x0b{\"ok\":true}\"\"'";
    let forger = rogue("forged", &everywhere(forged)).timeout(3.0);
    node.create(&forger);
    for _ in 0..3 {
        node.invoke("forged", json!({}));
        eventually("a call that works", || {
            let reply = node.invoke("forged", json!({ "behave": true }));
            let works = reply.status == 200;
            assert!(!works || reply.result() == "fine", "{}", reply.shown());
            works.then_some(())
        });
    }
    let close = "os.closerange(0, 256)\nreturn []";
    let reply = unleash(
        &node,
        &rogue("close", close).timeout(3.0),
        &json!({ "Params": {} }),
    );
    assert!(reply.status >= 500, "{}", reply.shown());
}
