//! Code in an S3-compatible store: put there before its function is told to the fleet, pulled from
//! there, and what becomes of both while the store hangs, fails, lies or doesn't know the node.

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::support::function::{Function, echo};
use crate::support::node::Builder;
use crate::support::s3::{Mood, S3, s3, secure_s3};
use crate::support::{Etcd, Node, etcd, eventually};

/// A node called `key` that shares `etcd` and the store.
fn member(etcd: &Etcd, s3: &S3, key: &str) -> Builder {
    let node = crate::support::etcd::member(etcd, key, "ROME");
    s3.known_to(node)
        .set("object_store.url", "s3://codes/fleet")
}

/// With noise in it of so many bytes, which doesn't get smaller.
fn large(name: &str, bytes: usize) -> Function {
    let mut seed = 1_u32;
    let noise: String = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (seed >> 24) as u8 % 90)
    })
    .take(bytes)
    .collect();
    echo(name).file("noise.txt", &noise)
}

/// Digest of the code that etcd says the function has.
fn digest(etcd: &Etcd, name: &str) -> String {
    let value = etcd
        .value(&format!("/function/{name}"))
        .expect("the function");
    let value: Value = serde_json::from_str(&value).unwrap();
    value["CodeDigest"].as_str().expect("a digest").to_owned()
}

fn object(digest: &str) -> String {
    format!("fleet/code/{digest}")
}

#[track_caller]
fn works(node: &Node, name: &str) {
    eventually("the function to work", || {
        let reply = node.post(&format!("/invoke/{name}"), &json!({"Params": {"n": 1}}));
        (reply.status == 200).then(|| assert_eq!(reply.result(), json!({"n": 1})))
    });
}

#[test]
fn code_is_put_into_the_store_and_comes_from_there() {
    let (etcd, s3) = (etcd(), secure_s3("codes"));
    // A store that isn't optimised, on a busy machine, may take its time.
    let patient = member(&etcd, &s3, "a")
        .set("object_store.upload_wait", 300)
        .set("object_store.timeout", 300);
    let a = patient.start();
    // One that is put at once, and one that is put in parts.
    for (name, bytes) in [("large", 2 << 20), ("larger", 10 << 20)] {
        a.create(&large(name, bytes));
        let digest = digest(&etcd, name);
        let stored = s3.get("codes", &object(&digest));
        assert_eq!(hex::encode(sha2::Sha256::digest(stored)), digest);
    }
    assert!(s3.asked("POST /codes/") > 0, "nothing was put in parts");
    // What etcd takes goes through it alone.
    let puts = s3.asked("PUT ");
    a.create(&echo("small"));
    assert_eq!(s3.asked("PUT "), puts);
    // Nobody else is there who had it.
    let (_, _) = a.stop();
    let b = member(&etcd, &s3, "b").start();
    for name in ["large", "larger", "small"] {
        works(&b, name);
    }
    b.wait_for_log("code was pulled from the object store");
    // Others may have the same code.
    let stored = object(&digest(&etcd, "large"));
    b.post("/delete", &json!({"Name": "large"})).expect(200);
    assert!(s3.file("codes", &stored).exists());
}

#[test]
fn a_store_that_hangs_or_fails_stops_nobody_and_gets_the_code_later() {
    let (etcd, s3) = (etcd(), s3("codes"));
    let a = member(&etcd, &s3, "a")
        .set("object_store.upload_wait", "200ms")
        .start();
    s3.turn(Mood::Hangs);
    a.create(&large("hung", 2 << 20));
    a.wait_for_log("object_store.upload_wait");
    s3.turn(Mood::Fails);
    let mut failed = large("failed", 2 << 20);
    failed = failed.file("other.txt", "x");
    a.create(&failed);
    a.wait_for_log("code could not be put into the object store");
    // It comes from the other node.
    let b = member(&etcd, &s3, "b").start();
    works(&b, "hung");
    works(&b, "failed");
    s3.turn(Mood::Well);
    for name in ["hung", "failed"] {
        let path = s3.file("codes", &object(&digest(&etcd, name)));
        eventually("the code to be in the store", || {
            path.exists().then_some(())
        });
    }
    // What is missing at a start is put then.
    let path = s3.file("codes", &object(&digest(&etcd, "hung")));
    std::fs::remove_file(&path).unwrap();
    drop(b);
    let (_, a) = a.stop();
    let _a = a.start();
    eventually("the code to be there again", || path.exists().then_some(()));
}

#[test]
fn what_the_store_has_is_believed_by_its_digest_alone() {
    let (etcd, s3) = (etcd(), s3("codes"));
    let a = member(&etcd, &s3, "a").start();
    a.create(&large("large", 2 << 20));
    let stored = object(&digest(&etcd, "large"));
    s3.put("codes", &stored, "something else");
    let b = member(&etcd, &s3, "b").start();
    works(&b, "large");
    b.wait_for_log("gave something else");
    // Nor does more than code may have get in.
    s3.put("codes", &stored, vec![0; 40 << 20]);
    let small = member(&etcd, &s3, "c").set("api.create_body_max", "16MiB");
    let c = small.start();
    works(&c, "large");
    c.wait_for_log("has more than 16777216 bytes");
    // Missing: somebody has it.
    std::fs::remove_file(s3.file("codes", &stored)).unwrap();
    let d = member(&etcd, &s3, "d").start();
    works(&d, "large");
    d.wait_for_log("there is no s3://codes/fleet/code/");
}

#[test]
fn a_store_that_does_not_know_the_node_is_named_and_no_secret_is() {
    let (etcd, s3) = (etcd(), s3("codes"));
    let secret = "what the node signs with, wrongly";
    let a = member(&etcd, &s3, "a").set("object_store.secret_key", secret);
    let a = a.start();
    a.create(&large("large", 2 << 20));
    a.wait_for_log("the object store refuses this node");
    let unsigned = crate::support::etcd::member(&etcd, "b", "ROME")
        .set("object_store.endpoint", s3.endpoint())
        .set("object_store.allow_http", true)
        .set("object_store.url", "s3://codes/fleet");
    let b = unsigned.start();
    works(&b, "large");
    b.wait_for_log("the object store refuses this node");
    assert!(!a.log().contains(secret), "{}", a.log());
    assert!(!s3.file("codes", "fleet").exists());
}
