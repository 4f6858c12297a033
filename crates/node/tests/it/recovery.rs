//! A node that is killed, and one that is asked to stop: what was acknowledged is kept, and nothing
//! is left on the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::function::echo;
use crate::support::machine::{self, Footprint};
use crate::support::node::{assert_nothing_left, try_invoke};
use crate::support::{Node, PATIENCE, eventually, javascript, node, python};

const ROUNDS: usize = 20;
const ASYNC_CALLS: usize = 12;

/// There as long as a call of `py` runs in the sandbox.
const RUNS: &str = "/tmp/runs";

/// Whether a call of `py` runs: has been sent, not just given room.
fn runs(node: &Node) -> bool {
    Footprint::of(node.pid(), &node.mark()).files(RUNS) > 0
}

#[track_caller]
fn until_running(node: &Node) {
    eventually("a call runs", || runs(node).then_some(()));
}

fn register(node: &Node) {
    let body = "time.sleep(params['s'])";
    let sleep =
        format!("import time\ndef handler(params, context):\n    {body}\n    return params['n']\n");
    node.create(&python("many", &sleep).memory(64).concurrency(4));
    let shown = format!("open('{RUNS}', 'w').close()\n    {body}\n    os.unlink('{RUNS}')");
    let sleep = format!("import os\n{}", sleep.replace(body, &shown));
    node.create(&python("py", &sleep).memory(64));
    let sleep = "module.exports = async (params) => {\n\
                 await new Promise((done) => setTimeout(done, params.s * 1000));\n\
                 return params.n;\n};\n";
    node.create(&javascript("js", sleep).memory(128));
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_left_after_kill_9() {
    let mut running = node().memory(1024).start();
    register(&running);
    let functions = running.functions();
    assert_eq!(functions.len(), 3);
    let mut footprints = 0;
    for round in 0..ROUNDS {
        let address = running.address;
        // Sandboxes that work when the node is killed; their callers never hear of it.
        let callers: Vec<_> = ["py", "many", "js"]
            .map(|name| {
                let request = json!({ "Params": { "s": 30, "n": 0 } });
                thread::spawn(move || drop(try_invoke(address, name, &request)))
            })
            .into();
        let acknowledged: Vec<(String, usize)> = (0..ASYNC_CALLS)
            .map(|n| {
                let name = ["py", "many", "js"][n % 3];
                (
                    running.invoke_async(name, json!({ "s": 0.02 * (n % 4) as f64, "n": n })),
                    n,
                )
            })
            .collect();
        // Some rounds end before any call has begun, some amid them, some after most.
        match round % 4 {
            0 => {}
            1 => eventually("a call that runs", || {
                (running.busy_memory() > 0).then_some(())
            }),
            2 => drop(running.poll(&acknowledged[round % ASYNC_CALLS].0)),
            _ => thread::sleep(Duration::from_millis(17 * round as u64)),
        }
        let footprint = Footprint::of(running.pid(), &running.mark());
        footprints += footprint.processes();
        let killed = running.kill9();
        for caller in callers {
            caller.join().unwrap();
        }
        running = killed.start();
        let remains = machine::remains_of(&footprint);
        assert!(
            remains.is_empty(),
            "round {round}: still there: {remains:#?}"
        );
        let strays = machine::strays(running.pid(), &running.mark());
        assert!(
            strays.is_empty(),
            "round {round}: of the node before: {strays:#?}"
        );
        assert_eq!(running.functions(), functions, "round {round}");
        for (id, n) in &acknowledged {
            let reply = running.poll(id);
            assert_eq!(reply.result(), json!(n), "round {round}, {id}");
        }
    }
    assert!(
        footprints > ROUNDS,
        "no sandboxes were seen at the killing: {footprints} processes"
    );
    let (footprint, mark, storage) = last_seen(&running);
    assert_nothing_else_in(&storage);
    let (status, _stopped) = running.stop();
    assert_eq!(status.code(), Some(0));
    assert_nothing_left(&mark, &footprint, &storage);
}

/// A sandbox whose function has left a thread is frozen between calls, and must die all the same.
#[test]
fn frozen_sandboxes_die_with_their_node() {
    let node = node().start();
    node.create(&python(
        "leaves",
        "import threading, time\n\
         def handler(params, context):\n\
         \x20   threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
         \x20   return 1\n",
    ));
    assert_eq!(node.invoke("leaves", json!({})).result(), json!(1));
    let footprint = eventually("the sandbox to be frozen", || {
        let footprint = Footprint::of(node.pid(), &node.mark());
        footprint.is_frozen().then_some(footprint)
    });
    // Nobody starts it again.
    let _killed = node.kill9();
    eventually("its processes to be gone", || {
        let remains = machine::remains_of(&footprint);
        let processes = remains.iter().any(|it| it.starts_with("process"));
        (!processes).then_some(())
    });
}

fn last_seen(node: &Node) -> (Footprint, String, std::path::PathBuf) {
    (
        Footprint::of(node.pid(), &node.mark()),
        node.mark(),
        node.storage(),
    )
}

/// The storage holds what one run of the node would: the sandboxes of nodes long gone have no
/// directory any more.
#[track_caller]
fn assert_nothing_else_in(storage: &Path) {
    let count = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
    let entries = std::fs::read_dir(storage).expect("the storage").flatten();
    for path in entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
    {
        // Three functions, and not many more sandboxes than fit in the pool.
        assert!(
            count(&path) <= 40,
            "{} entries in {}",
            count(&path),
            path.display()
        );
    }
}

#[test]
fn functions_are_kept_from_the_moment_they_are_acknowledged() {
    let mut running = node().start();
    let mut expected = BTreeSet::new();
    for round in 0..5 {
        for n in 0..10 {
            let name = format!("f{round}-{n}");
            running.create(&python(
                &name,
                &format!("def handler(p, c):\n    return '{name}'\n"),
            ));
            expected.insert(name);
        }
        let gone = format!("f{round}-0");
        running
            .post("/delete", &json!({ "Name": gone }))
            .expect(200);
        expected.remove(&gone);
        running = running.kill9().start();
        assert_eq!(
            running.functions(),
            Vec::from_iter(expected.clone()),
            "round {round}"
        );
        let name = format!("f{round}-9");
        assert_eq!(running.invoke(&name, json!({})).result(), name);
    }
}

#[test]
fn results_outlive_the_node_that_made_them() {
    let running = node().start();
    register(&running);
    let id = running.invoke_async("py", json!({ "s": 0, "n": 7 }));
    let before = running.poll(&id);
    let running = running.kill9().start();
    assert_eq!(
        running.get(&format!("/poll/{id}")).expect(200).body,
        before.body
    );
}

#[test]
fn a_call_that_kills_its_node_again_and_again_is_given_up() {
    let mut running = node().start();
    register(&running);
    let poison = running.invoke_async("py", json!({ "s": 30, "n": 1 }));
    let mut restarts = 0;
    // Every restart finds the call unfinished; the node must not try for ever.
    let reply = loop {
        let reply = running.get(&format!("/poll/{poison}"));
        if reply.status == 200 {
            break reply;
        }
        assert!(restarts < 15, "still tried after {restarts} restarts");
        let done = eventually("the call runs again, or is given up", || {
            let reply = running.get(&format!("/poll/{poison}"));
            (reply.status == 200 || runs(&running)).then_some(reply.status == 200)
        });
        if !done {
            running = running.kill9().start();
            restarts += 1;
        }
    };
    assert_eq!(reply.field("Success"), false);
    let id = running.invoke_async("py", json!({ "s": 0, "n": 2 }));
    assert_eq!(running.poll(&id).result(), json!(2));
}

#[test]
fn a_call_that_waits_while_another_kills_the_node_is_run_in_the_end() {
    let mut running = node().memory(64).set("async.attempts_max", 2).start();
    register(&running);
    // Of another function, so that it is the first call's running that is seen.
    running.create(&echo("waits").memory(64));
    let poison = running.invoke_async("py", json!({ "s": 30, "n": 0 }));
    let waiting: Vec<_> = (1..4)
        .map(|n| (running.invoke_async("waits", json!({ "n": n })), n))
        .collect();
    // Once before it counts, and twice that count.
    for _ in 0..3 {
        until_running(&running);
        running = running.kill9().start();
    }
    let given_up = running.poll(&poison);
    assert_eq!(given_up.field("Success"), false, "{}", given_up.shown());
    for (id, n) in waiting {
        assert_eq!(running.poll(&id).result(), json!({ "n": n }));
    }
}

#[test]
fn an_orderly_stop_takes_nothing_from_an_async_call() {
    let stops = node().memory(64).set("async.attempts_max", 1);
    let mut running = stops.set("shutdown.drain", 0).start();
    register(&running);
    let calls: Vec<_> = (0..3)
        .map(|n| (running.invoke_async("py", json!({ "s": 2, "n": n })), n))
        .collect();
    for _ in 0..3 {
        until_running(&running);
        running = running.stop().1.start();
    }
    for (id, n) in calls {
        assert_eq!(running.poll(&id).result(), json!(n));
    }
}

#[test]
fn an_async_call_that_runs_may_end_and_those_that_wait_do_not_begin() {
    let running = node().memory(64).start();
    register(&running);
    let long = json!({ "s": 2, "n": 0 });
    let runs = running.invoke_async("py", long.clone());
    until_running(&running);
    let waits = running.invoke_async("py", long);
    let (status, stopped) = running.stop();
    assert_eq!(status.code(), Some(0));
    let running = stopped.start();
    let poll = |id| running.get(&format!("/poll/{id}"));
    assert_eq!(poll(&runs).expect(200).result(), json!(0));
    assert_eq!(poll(&waits).status, 404);
    assert_eq!(running.poll(&waits).result(), json!(0));
}

#[test]
fn a_second_signal_stops_the_node_at_once() {
    let mut running = node().set("shutdown.drain", 600).start();
    register(&running);
    let address = running.address;
    let caller =
        thread::spawn(move || try_invoke(address, "py", &json!({ "Params": { "s": 50, "n": 5 } })));
    until_running(&running);
    let (footprint, mark, storage) = last_seen(&running);
    running.signal("INT");
    // That it drains is seen by the port it doesn't listen on any more.
    eventually("the node drains", || {
        std::net::TcpStream::connect(address).is_err().then_some(())
    });
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(0));
    let reply = caller.join().unwrap().expect("a word to the caller");
    assert_eq!(reply.expect(503).field("title"), "shutting down");
    assert_nothing_left(&mark, &footprint, &storage);
}

#[test]
fn sigterm_and_sigint_let_running_calls_end_and_leave_nothing() {
    for signal in ["TERM", "INT"] {
        let mut running = node().start();
        register(&running);
        // Idle sandboxes as well as busy ones.
        running.invoke("js", json!({ "s": 0, "n": 1 })).expect(200);
        let address = running.address;
        let caller = thread::spawn(move || {
            try_invoke(address, "py", &json!({ "Params": { "s": 1.5, "n": 5 } }))
        });
        eventually("a call that runs", || {
            (running.busy_memory() > 0).then_some(())
        });
        let (footprint, mark, storage) = last_seen(&running);
        assert!(footprint.processes() >= 2, "{footprint:?}");
        running.signal(signal);
        assert_eq!(running.wait().code(), Some(0), "after SIG{signal}");
        let reply = caller
            .join()
            .unwrap()
            .expect("the call that ran was answered");
        assert_eq!(reply.result(), json!(5));
        assert_nothing_left(&mark, &footprint, &storage);
        assert!(
            !storage.join("api.address").exists(),
            "the address of a node that is gone"
        );
    }
}

#[test]
fn a_call_that_will_not_end_does_not_hold_up_the_shutdown() {
    let running = node().set("shutdown.drain", 1).start();
    register(&running);
    let address = running.address;
    let caller =
        thread::spawn(move || try_invoke(address, "py", &json!({ "Params": { "s": 50, "n": 5 } })));
    until_running(&running);
    let id = running.invoke_async("many", json!({ "s": 3, "n": 6 }));
    let (footprint, mark, storage) = last_seen(&running);
    let (status, stopped) = running.stop();
    assert_eq!(status.code(), Some(0));
    let reply = caller.join().unwrap().expect("a word to the caller");
    let problem = reply.expect(503).problem(&["shutting down"]);
    assert!(problem["hint"].is_null(), "{problem}");
    assert_nothing_left(&mark, &footprint, &storage);
    // The async call was acknowledged: the next node makes it.
    let running = stopped.start();
    assert_eq!(running.poll(&id).result(), json!(6));
}

#[test]
fn two_nodes_do_not_share_a_storage() {
    let first = node().start();
    register(&first);
    let warm = |n| {
        let reply = first.invoke("py", json!({ "s": 0, "n": n }));
        assert_eq!(reply.result(), json!(n));
        reply.field("IsWarmStart")
    };
    assert_eq!(warm(1), json!(false));
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .env("SERVERLEDGE_API_PORT", "0")
        .env("SERVERLEDGE_STORAGE_PATH", first.storage())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("running the second node");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = second.try_wait().expect("waiting for the second node") {
            break Some(status);
        }
        if Instant::now() > deadline {
            drop(second.kill());
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let outcome = second.wait_with_output().expect("the second node's words");
    assert!(
        status.is_some_and(|status| !status.success()),
        "it serves, too"
    );
    assert!(!outcome.stderr.is_empty(), "it says why");
    // The first still works, with the sandbox it had.
    assert_eq!(warm(2), json!(true));
}
