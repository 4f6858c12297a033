//! Sandboxes whose interpreter is forked from a zygote: they must be what others are.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use serde_json::{Value, json};

use crate::probe;
use crate::support::machine::{self, Footprint};
use crate::support::node::Builder;
use crate::support::{Function, Node, eventually, node, python};

/// As a zygote says that it is there, before its number.
const READY: &str = "a zygote is ready";

/// Tells that its interpreter was forked, which is the third process of its sandbox then: the second
/// has made it and is gone.
const TELLS: &str = "\
import os, sys
def handler(params, context):
    with open('/proc/self/status') as status:
        filters = [line.split()[1] for line in status if line.startswith('Seccomp_filters')]
    return {'forked': os.getpid() == 3 and filters == ['2'], 'uid': os.getuid()}
";

fn zygotes() -> Builder {
    node().set("sandbox.zygote", true)
}

/// Registers functions with the same preload, of which there is a zygote then.
#[track_caller]
fn create(node: &Node, functions: &[Function]) -> u32 {
    let before = node.log_text().matches(READY).count();
    for function in functions {
        node.create(function);
    }
    ready(node, before)
}

/// The process of the zygote that has come after so many others.
#[track_caller]
fn ready(node: &Node, before: usize) -> u32 {
    eventually(READY, || {
        let text = node.log_text();
        let (_, line) = text
            .match_indices(READY)
            .nth(before)
            .map(|(at, _)| text.split_at(at))?;
        let (line, _) = line.split_once('\n')?;
        let (_, pid) = line.split_once("pid=")?;
        pid.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    })
}

/// The process of the next zygote, for which sandboxes have to be wanted.
#[track_caller]
fn next_ready(node: &Node) -> u32 {
    eventually("another zygote", || {
        node.create(&python("wants", TELLS));
        node.invoke("wants", json!({})).expect(200);
        node.post("/delete", &json!({ "Name": "wants" }))
            .expect(200);
        (node.log_text().matches(READY).count() > 1).then_some(())
    });
    ready(node, 1)
}

#[track_caller]
fn is_forked(node: &Node, name: &str) -> bool {
    node.invoke(name, json!({})).expect(200).result()["forked"] == true
}

/// A report of the probe, without what differs between any two sandboxes.
fn comparable(mut report: Value, forked: bool) -> BTreeMap<String, Value> {
    let uid = report["status"]["Uid"][0].clone();
    for name in ["Uid", "Gid"] {
        assert_eq!(
            report["status"][name],
            json!([uid, uid, uid, uid]),
            "{name}"
        );
    }
    let status = report["status"].as_object_mut().unwrap();
    status.retain(|name, _| !["Uid", "Gid"].contains(&name.as_str()));
    // The number is all that may tell them apart.
    let own = if forked { 3 } else { 2 };
    for process in report["processes"].as_array_mut().unwrap() {
        if process[0] == own {
            process[0] = json!("the interpreter");
        }
    }
    // Root isn't known there, which is less than not to be allowed.
    for name in ["chown to root", "setuid", "setgid"] {
        let outcome = &mut report["tricks"][name];
        if forked && *outcome == "EINVAL" {
            *outcome = json!("EPERM");
        }
    }
    for name in ["mounts", "writable", "devices", "descriptors"] {
        let list = report[name].as_array_mut().unwrap();
        list.sort_by_key(Value::to_string);
    }
    serde_json::from_value(report).unwrap()
}

#[test]
fn a_forked_sandbox_sees_and_does_what_any_other_does() {
    // What it tries in vain otherwise would leave the machine.
    let deny = |node: Builder| node.set("network.deny", "192.0.2.0/24").start();
    let plain = comparable(probe::report(&deny(node())), false);
    for prestart in [0, 2] {
        let node = deny(zygotes().set("sandbox.prestart", prestart));
        create(&node, &[python("tells", TELLS)]);
        assert!(is_forked(&node, "tells"));
        let report = probe::report(&node);
        assert_eq!(probe::lapses(&report), [""; 0]);
        let forked = comparable(report, true);
        for (name, value) in &plain {
            assert_eq!(forked.get(name), Some(value), "{name}, {prestart}");
        }
        assert_eq!(forked.len(), plain.len());
    }
}

/// Draws what modules have drawn, or would have, in the zygote.
const DRAWS: &str = "\
import os
def handler(params, context):
    import random, secrets, ssl, tempfile, uuid
    import numpy
    return [os.getpid(), {
        'random': random.getrandbits(64), 'secrets': secrets.token_hex(16), 'uuid': str(uuid.uuid4()),
        'ssl': ssl.RAND_bytes(16).hex(), 'numpy': float(numpy.random.random()),
        'numpy generator': float(numpy.random.default_rng().random()),
        'tempfile': next(tempfile._get_candidate_names()), 'user': os.getuid(),
        'kernel': open('/proc/sys/kernel/random/uuid').read()}]
";

#[test]
fn siblings_draw_different_numbers() {
    let node = zygotes().memory(4096).set("sandbox.prestart", 1).start();
    let modules = ["random", "secrets", "uuid", "ssl", "tempfile", "numpy"];
    let names = ["a", "b", "c", "d"];
    let functions = names.map(|name| python(name, DRAWS).memory(256).preload(&modules));
    create(&node, &functions);
    let drawn = names.map(|name| node.invoke(name, json!({})).expect(200).result());
    for name in drawn[0][1].as_object().unwrap().keys() {
        let values: BTreeSet<String> = drawn.iter().map(|one| one[1][name].to_string()).collect();
        assert_eq!(values.len(), names.len(), "{name}: {drawn:#?}");
    }
    assert!(drawn.iter().all(|one| one[0] == 3), "{drawn:#?}");
}

#[test]
fn a_zygote_that_dies_takes_no_sandbox_along_and_is_replaced() {
    let node = zygotes().set("sandbox.prestart", 0).start();
    let tells = python("tells", TELLS);
    let zygote = create(&node, std::slice::from_ref(&tells));
    let first = node.invoke("tells", json!({})).expect(200).result();
    assert_eq!(first["forked"], true);
    machine::signal(zygote, "KILL");
    eventually("the end of the zygote", || {
        (!machine::is_running(zygote)).then_some(())
    });
    // The same sandbox still.
    let again = node.invoke("tells", json!({})).expect(200).result();
    assert_eq!(again, first);
    // Started without, or from the next.
    node.create(&python("other", TELLS));
    node.invoke("other", json!({})).expect(200);
    assert_ne!(next_ready(&node), zygote);
    node.create(&python("third", TELLS));
    assert!(is_forked(&node, "third"));
    assert_eq!(node.invoke("tells", json!({})).expect(200).result(), first);
}

#[test]
fn a_zygote_that_hangs_is_given_up() {
    let node = zygotes().set("sandbox.prestart", 0).start();
    let zygote = create(&node, &[python("tells", TELLS)]);
    machine::signal(zygote, "STOP");
    assert!(!is_forked(&node, "tells"));
    node.wait_for_log("a zygote is of no more use");
    next_ready(&node);
    node.create(&python("other", TELLS));
    assert!(is_forked(&node, "other"));
}

#[test]
fn nothing_is_left_of_zygotes_after_kill_9() {
    let node = zygotes().start();
    create(&node, &[python("a", TELLS), python("b", TELLS)]);
    create(&node, &[python("c", TELLS).preload(&["decimal"])]);
    for name in ["a", "b", "c"] {
        assert!(is_forked(&node, name), "{name}");
    }
    let footprint = Footprint::of(node.pid(), &node.mark());
    // Two of each zygote, and of each sandbox.
    assert!(footprint.processes() >= 2 * (2 + 3), "{footprint:?}");
    let node = node.kill9().start();
    // Killed, but some may not have been reaped yet.
    eventually("its processes and cgroups to be gone", || {
        machine::remains_of(&footprint).is_empty().then_some(())
    });
    let strays = machine::strays(node.pid(), &node.mark());
    assert!(strays.is_empty(), "of the node before: {strays:#?}");
    ready(&node, 0);
    assert!(is_forked(&node, "a"));
}

#[test]
fn memory_is_each_sandboxes_own() {
    let node = zygotes().set("sandbox.prestart", 0).start();
    let hog = "\
def handler(params, context):
    return len(bytearray(params['mb'] << 20))
";
    let zygote = create(
        &node,
        &[python("hog", hog).memory(64), python("tells", TELLS)],
    );
    let first = node.invoke("tells", json!({})).expect(200).result();
    assert_eq!(first["forked"], true);
    assert_eq!(node.invoke("hog", json!({"mb": 8})).result(), 8 << 20);
    let failed = node.invoke("hog", json!({"mb": 200}));
    assert_eq!(failed.status, 500, "{}", failed.shown());
    failed.problem(&["memory", "64"]);
    assert_eq!(node.invoke("hog", json!({"mb": 8})).result(), 8 << 20);
    assert_eq!(node.invoke("tells", json!({})).expect(200).result(), first);
    assert!(machine::is_running(zygote));
}

#[test]
fn ends_updates_and_time_limits_are_as_without() {
    let node = zygotes().set("sandbox.prestart", 1).start();
    let ends = "\
import os, threading, time
beats = 0
def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.001)
def handler(params, context):
    if 'exit' in params:
        os._exit(params['exit'])
    if 'signal' in params:
        os.kill(os.getpid(), params['signal'])
    if 'sleep' in params:
        time.sleep(params['sleep'])
    if 'beat' in params:
        threading.Thread(target=beat, daemon=True).start()
    return [os.getpid(), beats]
";
    let ends = python("ends", ends).timeout(2.0);
    create(&node, std::slice::from_ref(&ends));
    let call = |params: Value| node.invoke("ends", params);
    assert_eq!(call(json!({})).expect(200).result(), json!([3, 0]));
    call(json!({"exit": 7})).problem(&["status 7"]);
    call(json!({"signal": 11})).problem(&["signal 11"]);
    call(json!({"sleep": 60})).problem(&["2 s"]);
    // What a call leaves running gets no time.
    call(json!({"beat": true})).expect(200);
    eventually("a frozen sandbox", || {
        Footprint::of(node.pid(), &node.mark())
            .is_frozen()
            .then_some(())
    });
    let before = call(json!({})).expect(200).result();
    assert_eq!(before[0], 3);
    node.update(&python("ends", "def handler(p, c):\n    return 'new'\n"));
    assert_eq!(call(json!({})).expect(200).result(), "new");
}

#[test]
fn a_module_that_is_not_there_is_named_all_the_same() {
    let node = zygotes().start();
    node.create(&python("f", TELLS).preload(&["no_such_module"]));
    let failed = node.invoke("f", json!({}));
    assert_eq!(failed.status, 500, "{}", failed.shown());
    failed.problem(&["Preload", "no_such_module"]);
    node.wait_for_log("sandboxes are made without a zygote");
}

#[test]
fn many_at_once_come_from_one_zygote() {
    let node = zygotes()
        .memory(8192)
        .cpus(64.0)
        .set("sandbox.prestart", 0)
        .start();
    let slow = "import time\n".to_owned()
        + &TELLS.replace("    return", "    time.sleep(0.5)\n    return");
    create(&node, &[python("slow", &slow)]);
    let address = node.address;
    let calls: Vec<_> = (0..24)
        .map(|_| {
            thread::spawn(move || {
                let request = json!({ "Params": {} });
                crate::support::node::try_invoke(address, "slow", &request)
                    .unwrap()
                    .result()
            })
        })
        .collect();
    let results: Vec<Value> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    assert!(
        results.iter().all(|result| result["forked"] == true),
        "{results:?}"
    );
    let users: BTreeSet<String> = results
        .iter()
        .map(|result| result["uid"].to_string())
        .collect();
    assert!(users.len() > 1, "{results:?}");
}
