//! Maps over what an item reader reads, whatever it reads from.

use serde_json::{Value, json};

use super::{express, register};
use crate::support::Node;

/// A Map over what a reader reads; each item is its own result.
pub(super) fn over(reader: Value) -> Value {
    json!({"StartAt": "Map", "States": {"Map": {
        "Type": "Map",
        "ItemReader": reader,
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"},
            "StartAt": "Each", "States": {"Each": {"Type": "Pass", "End": true}},
        },
        "End": true,
    }}})
}

/// What it reads.
#[track_caller]
pub(super) fn items(node: &Node, reader: Value) -> Value {
    items_of(node, reader, json!({}))
}

/// What it reads, told by this input where it is.
#[track_caller]
pub(super) fn items_of(node: &Node, reader: Value, input: Value) -> Value {
    register(node, "w", &over(reader));
    let reply = express(node, "w", input);
    assert_eq!(reply["Status"], "SUCCEEDED", "{reply}");
    reply["Output"].clone()
}

/// It fails, for a reason with this word.
#[track_caller]
pub(super) fn refused(node: &Node, reader: Value, word: &str) {
    register(node, "w", &over(reader));
    let reply = express(node, "w", json!({}));
    assert_eq!(reply["Error"], "States.ItemReaderFailed", "{reply}");
    let cause = reply["Cause"].as_str().unwrap_or_default();
    assert!(cause.contains(word), "{reply}");
}
