//! Code that is sent with a function: what is no archive, or an archive that means harm.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::support::function::echo;
use crate::support::{Function, node, python};

#[test]
fn code_that_cannot_be_unpacked_is_refused() {
    let node = node().start();
    let mut body = echo("bad").body();
    for code in ["###", "a", "aGVsbG8=", "AAAA"] {
        body["TarFunctionCode"] = json!(code);
        for path in ["/create", "/update"] {
            let reply = node.post(path, &body).expect(400);
            reply.problem(&[]);
        }
    }
    assert_eq!(
        node.get("/function").text(),
        "[]\n",
        "nothing was registered"
    );
    // An update with bad code leaves the function as it was.
    node.create(&echo("good"));
    body["Name"] = json!("good");
    node.post("/update", &body).expect(400);
    assert_eq!(
        node.invoke("good", json!({ "a": 1 })).result(),
        json!({ "a": 1 })
    );
}

#[test]
fn code_that_climbs_out_of_its_directory_is_refused() {
    let node = node().start();
    let outside = node.storage().join("climbed.py");
    for path in [
        "../climbed.py",
        "a/../../climbed.py",
        &outside.to_string_lossy(),
    ] {
        let mut body = echo("climber").body();
        body["TarFunctionCode"] =
            json!(BASE64.encode(tar_with(path, tar::EntryType::Regular, b"")));
        node.post("/create", &body).expect(400).problem(&[]);
        assert!(!outside.exists(), "{path} was written");
    }
    for (kind, target) in [
        (tar::EntryType::Symlink, "/etc/passwd"),
        (tar::EntryType::Symlink, "../../secret"),
        (tar::EntryType::Link, "/etc/passwd"),
        (tar::EntryType::Char, ""),
        (tar::EntryType::Fifo, ""),
    ] {
        let mut body = echo("linker").body();
        body["TarFunctionCode"] = json!(BASE64.encode(tar_with("f.py", kind, target.as_bytes())));
        let reply = node.post("/create", &body);
        assert!(
            matches!(reply.status, 200 | 400),
            "{kind:?}: {}",
            reply.shown()
        );
        if reply.status == 200 {
            // Left out, then: there is no handler.
            node.invoke("linker", json!({})).expect(500).problem(&[]);
            node.post("/delete", &json!({ "Name": "linker" }))
                .expect(200);
        }
    }
    node.get("/function").expect(200);
}

#[test]
fn code_comes_in_several_formats() {
    let node = node().start();
    let function = python("f", "from lib import deep\nhandler = deep.handler\n").file(
        "lib/deep.py",
        "import os\n\
         def handler(params, context):\n    \
             return [params, os.access('/app', os.W_OK)]\n",
    );
    for code in [function.tar(), function.tar_gz(), function.zip()] {
        node.post("/update", &function.body_with(code)).expect(200);
        let reply = node.invoke("f", json!({ "a": 1 }));
        assert_eq!(reply.result(), json!([{ "a": 1 }, false]));
    }
    // They are found again, unpacked or not.
    let node = node.kill9().start();
    assert_eq!(node.invoke("f", json!({})).result(), json!([{}, false]));
}

/// Returns its number.
fn numbered(number: u64) -> Function {
    let source = format!("def handler(params, context):\n    return {number}\n");
    python("f", &source).concurrency(2)
}

/// Callers and an updater at the same time. What was acknowledged before a call was sent is the
/// oldest code that the call may run, in whichever sandbox; it may run newer code.
#[test]
fn an_update_holds_for_every_call_that_arrives_after_it() {
    const CALLERS: usize = 4;
    const UPDATES: u64 = 15;
    let node = node().memory(2048).queue(100, 30.0).start();
    node.create(&numbered(0));
    let acknowledged = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    let expect_since = |before: u64, result: serde_json::Value| {
        let ran = result.as_u64().expect("a number");
        let newest = acknowledged.load(Ordering::SeqCst) + 1;
        assert!((before..=newest).contains(&ran), "{before}: ran {ran}");
        calls.fetch_add(1, Ordering::SeqCst);
    };
    thread::scope(|scope| {
        // Also when this thread fails, or the others would never end.
        let end = OnDrop(|| ended.store(true, Ordering::SeqCst));
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    expect_since(before, node.invoke("f", json!({})).result());
                }
            });
        }
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let before = acknowledged.load(Ordering::SeqCst);
                let id = node.invoke_async("f", json!({}));
                expect_since(before, node.poll(&id).result());
            }
        });
        for number in 1..=UPDATES {
            let function = numbered(number);
            let code = match number % 3 {
                0 => function.tar(),
                1 => function.tar_gz(),
                _ => function.zip(),
            };
            node.post("/update", &function.body_with(code)).expect(200);
            acknowledged.store(number, Ordering::SeqCst);
            // Some calls on this version, so that there are sandboxes of it to outlive it.
            let enough = calls.load(Ordering::SeqCst) + 2 * CALLERS as u64;
            crate::support::eventually("calls on the new code", || {
                (calls.load(Ordering::SeqCst) >= enough).then_some(())
            });
        }
        drop(end);
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A tar with one entry, whose path is written as it stands.
fn tar_with(path: &str, kind: tar::EntryType, target: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_old();
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append(&header, std::io::empty())
        .expect("writing to memory");
    archive.into_inner().expect("writing to memory")
}
