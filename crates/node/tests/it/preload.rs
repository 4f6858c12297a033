//! Modules that are imported before the function is known.

use serde_json::json;

use crate::support::function::{javascript, python};
use crate::support::node;

/// Tells whether the module was there before the function's own code ran.
const TELLS: &str = "\
import sys
AHEAD = 'decimal' in sys.modules
def handler(params, context):
    import os, random
    return {'ahead': AHEAD, 'pid': os.getpid(), 'random': random.random(), 'hash': hash('text')}
";

#[test]
fn modules_are_imported_ahead_of_the_function() {
    for prestart in [0, 1] {
        let node = node().set("sandbox.prestart", prestart).start();
        node.create(&python("plain", TELLS));
        node.create(&python("ahead", TELLS).preload(&["decimal", "os.path"]));
        for (name, expected) in [("plain", false), ("ahead", true)] {
            let reply = node.invoke(name, json!({})).expect(200);
            assert_eq!(reply.result()["ahead"], expected, "{name}, {prestart}");
        }
    }
}

#[test]
fn what_takes_long_to_import_is_there_at_the_first_call() {
    let node = node().set("sandbox.prestart", 1).start();
    let source = include_str!("../../../../examples/ml.py");
    let function = python("ml", source).memory(512).runtime("python312ml");
    node.create(&function.preload(&["numpy", "pandas", "scipy.stats", "sklearn.cluster"]));
    let reply = node.invoke("ml", json!({"Samples": 50})).expect(200);
    assert_eq!(reply.result()["Slope"], 3.0);
}

#[test]
fn sandboxes_made_ahead_share_no_randomness() {
    let node = node().set("sandbox.prestart", 2).start();
    let results = ["a", "b", "c"].map(|name| {
        node.create(&python(name, TELLS).preload(&["random"]));
        node.invoke(name, json!({})).expect(200).result()
    });
    for key in ["random", "hash"] {
        let [a, b, c] = [0, 1, 2].map(|i: usize| &results[i][key]);
        assert!(a != b && b != c && a != c, "{key}: {results:?}");
    }
}

#[test]
fn a_module_that_is_not_there_is_named() {
    let node = node().start();
    node.create(&python("f", TELLS).preload(&["no_such_module"]));
    let failed = node.invoke("f", json!({}));
    assert_eq!(failed.status, 500, "{}", failed.shown());
    failed.problem(&["Preload", "no_such_module"]);
}

#[test]
fn what_cannot_be_a_module_is_refused() {
    let node = node().start();
    for wrong in ["", "a b", "a;b", "a,b", "../a", "a..b", "1a", "a\n"] {
        let function = python("f", TELLS).preload(&[wrong]);
        let refused = node.post("/create", &function.body()).expect(400);
        refused.problem(&["Preload"]);
    }
    let many: Vec<String> = (0..33).map(|n| format!("m{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let function = python("f", TELLS).preload(&many);
    node.post("/create", &function.body()).expect(400);
    let function = javascript("f", "module.exports = () => 1;").preload(&["os"]);
    let refused = node.post("/create", &function.body()).expect(400);
    refused.problem(&["Preload", "Python"]);
}
