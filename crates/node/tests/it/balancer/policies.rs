//! Which target gets a call: the rings, memory, architectures, bandits, with targets that are told
//! apart by what they answer. The registry is a real etcd into which the test writes.

use std::collections::BTreeMap;

use serde_json::json;

use super::targets;
use crate::support::target::{Target, reply, report, target};
use crate::support::{Etcd, Node, balancer, etcd, eventually};

/// Registers `target` as a node.
fn register(etcd: &Etcd, key: &str, architecture: &str, target: &Target) {
    let address = target.address;
    etcd.put(
        &format!("registry/ROME/{architecture}/{key}"),
        &format!("{};{};9876;{architecture}", address.ip(), address.port()),
    );
}

/// Registers a function that runs on these.
fn function(etcd: &Etcd, name: &str, memory: u32, architectures: &[&str]) {
    let spec = json!({
        "Name": name, "Runtime": "python314", "MemoryMB": memory, "CPUDemand": 0.0,
        "MaxConcurrency": 1, "Handler": "f.handler", "TarFunctionCode": "", "CustomImage": "",
        "SupportedArchs": architectures, "Signature": null,
    });
    etcd.put(&format!("/function/{name}"), &spec.to_string());
}

fn named(name: &'static str, milliseconds: u32) -> Target {
    target(move |_, stream| report(stream, name, milliseconds))
}

#[track_caller]
fn start(etcd: &Etcd, settings: &[(&str, &str)], count: usize) -> Node {
    let mut lb = balancer().set("etcd.address", etcd.address());
    for (key, value) in settings {
        lb = lb.set(key, value);
    }
    let lb = lb.start();
    eventually("all targets to have told what they have", || {
        let all = targets(&lb);
        let told = all.iter().filter(|it| it["FreeMemory"].is_number()).count();
        (told == count).then_some(())
    });
    lb
}

/// Who answers so many calls.
#[track_caller]
fn tally(lb: &Node, name: &str, calls: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..calls {
        let answer = lb.invoke(name, json!({})).expect(200);
        let node = answer.field("ExecutionNode");
        *tally.entry(node.as_str().unwrap().to_owned()).or_default() += 1;
    }
    tally
}

fn fnv1a32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Who has a name on the original's ring, by its definition.
fn owner<'a>(keys: &[&'a str], name: &str) -> &'a str {
    let points = keys
        .iter()
        .flat_map(|key| (0..128).map(move |number| (fnv1a32(&format!("{key}#{number}")), *key)));
    let place = fnv1a32(name);
    points
        .min_by_key(|(point, _)| point.wrapping_sub(place))
        .unwrap()
        .1
}

#[test]
fn the_originals_ring_is_the_originals() {
    let etcd = etcd();
    let all = ["node-a", "node-b", "node-c"].map(|key| (key, named(key, 1)));
    for (key, target) in &all {
        register(&etcd, key, "amd64", target);
    }
    let lb = start(&etcd, &[("lb.policy", "ring")], 3);
    let keys = all.each_ref().map(|(key, _)| *key);
    for name in [
        "hello", "func", "a", "b", "sieve", "primes", "node-a#0", "x y",
    ] {
        let path = format!("/invoke/{}", name.replace(' ', "%20").replace('#', "%23"));
        let answer = lb.post(&path, &json!({})).expect(200);
        assert_eq!(answer.field("ExecutionNode"), owner(&keys, name), "{name}");
    }
}

#[test]
fn sandboxes_are_warmed_where_the_calls_will_go() {
    let etcd = etcd();
    let both = ["a", "b"].map(|key| (key, named(key, 1)));
    for (key, target) in &both {
        register(&etcd, key, "amd64", target);
    }
    let lb = start(&etcd, &[], 2);
    for name in ["f", "g", "h", "i", "j", "k"] {
        let wish = json!({ "Function": name, "Instances": 2 });
        let warmed = lb
            .post("/prewarm", &wish)
            .expect(200)
            .field("ExecutionNode");
        let called = lb
            .invoke(name, json!({}))
            .expect(200)
            .field("ExecutionNode");
        assert_eq!(warmed, called, "{name}");
    }
    // What makes no sense is passed on as well.
    lb.send("POST", "/prewarm", "nonsense").expect(200);
    lb.send("POST", "/prewarm", vec![b' '; 70_000]).expect(413);
}

#[test]
fn calls_go_where_there_is_memory() {
    let etcd = etcd();
    // Its answers say that little is left; the status that a lot is.
    let little = target(|_, stream| {
        let body =
            r#"{"Success":true,"ExecutionNode":"little","Duration":0.001,"IsWarmStart":true}"#;
        reply(
            stream,
            "200 OK",
            "Serverledge-Free-Mem: 100\r\nServerledge-Free-CPU: 1.000000\r\n",
            body,
        )
    });
    let much = named("much", 1);
    register(&etcd, "little", "amd64", &little);
    register(&etcd, "much", "amd64", &much);
    function(&etcd, "large", 512, &["amd64", "arm64"]);
    // No further probes, which would say otherwise.
    let settings = [("lb.policy", "memory"), ("lb.health.interval", "3600")];
    let lb = start(&etcd, &settings, 2);
    eventually("little to have told that it has little", || {
        lb.invoke("large", json!({})).expect(200);
        let all = targets(&lb);
        let it = all.iter().find(|it| it["Key"] == "little")?;
        (it["FreeMemory"].as_f64()? <= 100.0).then_some(())
    });
    assert_eq!(tally(&lb, "large", 5)["much"], 5);
}

#[test]
fn round_robin_goes_round() {
    let etcd = etcd();
    let both = ["a", "b"].map(|key| (key, named(key, 1)));
    for (key, target) in &both {
        register(&etcd, key, "amd64", target);
    }
    let lb = start(&etcd, &[("lb.policy", "roundrobin")], 2);
    let tally = tally(&lb, "f", 10);
    assert_eq!((tally["a"], tally["b"]), (5, 5));
}

#[test]
fn architectures_are_kept_to() {
    let etcd = etcd();
    let (amd, arm) = (named("amd", 1), named("arm", 1));
    register(&etcd, "amd", "amd64", &amd);
    register(&etcd, "arm", "arm64", &arm);
    function(&etcd, "old", 1, &["amd64"]);
    function(&etcd, "new", 1, &["arm64"]);
    // Known last: functions are read in the order of their names.
    function(&etcd, "z-odd", 1, &["riscv64"]);
    function(&etcd, "any", 1, &["amd64", "arm64"]);
    for aware in ["false", "true"] {
        let lb = start(&etcd, &[("lb.arch_awareness", aware)], 2);
        eventually("the functions to be known", || {
            (lb.invoke("z-odd", json!({})).status == 503).then_some(())
        });
        assert_eq!(tally(&lb, "old", 4)["amd"], 4);
        assert_eq!(tally(&lb, "new", 4)["arm"], 4);
        lb.invoke("z-odd", json!({}))
            .expect(503)
            .problem(&["architecture"]);
        if aware == "true" {
            let tally = tally(&lb, "any", 10);
            assert_eq!((tally["amd"], tally["arm"]), (5, 5));
        }
    }
}

#[test]
fn bandits_find_the_faster_architecture_and_shun_the_failing_one() {
    let etcd = etcd();
    let slow = target(|request, stream| match request.path.as_str() {
        "/invoke/broken" => reply(stream, "500 Internal Server Error", "", "no"),
        _ => report(stream, "slow", 80),
    });
    let fast = named("fast", 5);
    register(&etcd, "slow", "amd64", &slow);
    register(&etcd, "fast", "arm64", &fast);
    // In the order in which they become known.
    for name in ["broken", "f"] {
        function(&etcd, name, 1, &["amd64", "arm64"]);
    }
    for policy in ["UCB1", "LinUCB"] {
        let settings = [
            ("lb.arch_awareness", "true"),
            ("lb.mode", "MAB"),
            ("mab.policy", policy),
        ];
        let lb = start(&etcd, &settings, 2);
        // As soon as a bandit is asked, hardly any call goes to the slow one.
        eventually("the function to be known and learned", || {
            let tally = tally(&lb, "f", 40);
            (tally.get("fast").copied().unwrap_or(0) >= 30).then_some(())
        });
        let mut failed = 0;
        for _ in 0..60 {
            failed += usize::from(lb.invoke("broken", json!({})).status == 500);
        }
        assert!(failed < 20, "{policy}: {failed}");
        // What has no report is nothing to learn from, and no reason to fall over.
        lb.invoke("f", json!({})).expect(200);
    }
}

#[test]
fn a_hot_function_is_shared_out() {
    let etcd = etcd();
    // Calls are held until four are under way: of four, one target has three at most.
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(4));
    let both = ["a", "b"].map(|key| {
        let barrier = std::sync::Arc::clone(&barrier);
        let it = target(move |_, stream| {
            barrier.wait();
            report(stream, key, 1)
        });
        (key, it)
    });
    for (key, target) in &both {
        register(&etcd, key, "amd64", target);
    }
    let lb = start(&etcd, &[], 2);
    std::thread::scope(|scope| {
        let calls = [(); 4].map(|()| scope.spawn(|| lb.invoke("hot", json!({}))));
        let nodes = calls.map(|it| it.join().unwrap().expect(200).field("ExecutionNode"));
        assert!(
            nodes.contains(&json!("a")) && nodes.contains(&json!("b")),
            "{nodes:?}"
        );
    });
}
