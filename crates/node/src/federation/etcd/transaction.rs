//! Transactions: what is to be so, what is done then, and what is looked at if it isn't.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Entry, Etcd, EtcdError, Header, Values, after, encode, encode_bytes, number, put_request,
    unchanged_since,
};

/// Most comparisons, or operations, of one: etcd's limit is 128 if nobody has set another.
pub(crate) const OPERATIONS_MAX: usize = 100;

/// A transaction in the making. Its parts are in the order in which they are added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transaction {
    compare: Vec<Value>,
    success: Vec<Value>,
    failure: Vec<Value>,
    /// Keys that are put: etcd takes each once only.
    put: BTreeSet<String>,
    bytes: usize,
}

/// What came of one.
#[derive(Debug)]
pub(crate) struct Done {
    /// Whether everything was as it had to be.
    pub(crate) succeeded: bool,
    /// Of the cluster, since; all that was put has this one.
    pub(crate) revision: u64,
    /// What was asked for, in the order in which it was.
    pub(crate) found: Vec<Listed>,
}

/// Keys that were asked for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Listed {
    #[serde(default)]
    pub(crate) kvs: Vec<Entry>,
    /// How many there are, however many are shown.
    #[serde(default, deserialize_with = "number")]
    pub(crate) count: u64,
}

impl Transaction {
    /// If the key was last changed at `revision`; 0: if it isn't there.
    pub(crate) fn if_at(mut self, key: &str, revision: u64) -> Self {
        let wanted = unchanged_since(key, revision);
        if !self.compare.contains(&wanted) {
            self.compare.push(wanted);
        }
        self
    }

    /// If the key is there.
    pub(crate) fn if_there(mut self, key: &str) -> Self {
        self.compare.push(json!({
            "key": encode(key), "target": "VERSION", "version": "0", "result": "GREATER",
        }));
        self
    }

    /// Sets the key, until `lease` ends if there is one. Once only: what is set again is left out.
    pub(crate) fn put(mut self, key: &str, value: &[u8], lease: Option<u64>) -> Self {
        if self.put.insert(key.to_owned()) {
            let mut put = put_request(key, value);
            if let Some(lease) = lease {
                put["lease"] = json!(lease.to_string());
            }
            self.bytes += key.len() + value.len();
            self.success.push(json!({ "request_put": put }));
        }
        self
    }

    /// Removes the key.
    pub(crate) fn delete(mut self, key: &str) -> Self {
        let delete = json!({ "key": encode(key) });
        self.success.push(json!({ "request_delete_range": delete }));
        self
    }

    /// Removes all keys that begin with `prefix`.
    pub(crate) fn delete_all(mut self, prefix: &str) -> Self {
        let delete = json!({ "key": encode(prefix), "range_end": encode_bytes(&after(prefix)) });
        self.success.push(json!({ "request_delete_range": delete }));
        self
    }

    /// Gives the key, if it is there.
    pub(crate) fn get(mut self, key: &str) -> Self {
        let get = json!({ "key": encode(key) });
        self.success.push(json!({ "request_range": get }));
        self
    }

    /// Gives all keys that begin with `prefix`.
    pub(crate) fn get_all(mut self, prefix: &str) -> Self {
        let get = json!({ "key": encode(prefix), "range_end": encode_bytes(&after(prefix)) });
        self.success.push(json!({ "request_range": get }));
        self
    }

    /// Gives the last key that begins with `prefix`, without its value, and how many there are.
    pub(crate) fn get_last(mut self, prefix: &str) -> Self {
        self.success.push(json!({ "request_range": {
            "key": encode(prefix), "range_end": encode_bytes(&after(prefix)),
            "limit": "1", "sort_order": "DESCEND", "sort_target": "KEY", "keys_only": true,
        }}));
        self
    }

    /// Gives the key if something is not as it has to be.
    pub(crate) fn else_get(mut self, key: &str) -> Self {
        let get = json!({ "key": encode(key) });
        self.failure.push(json!({ "request_range": get }));
        self
    }

    /// Whether another one can be added to this.
    pub(crate) fn has_room_for(&self, other: &Self, bytes_max: usize) -> bool {
        let (compared, done) = (self.compare.len(), self.success.len());
        compared + other.compare.len() <= OPERATIONS_MAX
            && done + other.success.len() <= OPERATIONS_MAX
            && self.bytes + other.bytes <= bytes_max
    }

    /// Both, or neither. What they ask for in case of failure is left out.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        for wanted in &other.compare {
            if !self.compare.contains(wanted) {
                self.compare.push(wanted.clone());
            }
        }
        for operation in &other.success {
            // Only what is put can be the same in both.
            let key = operation["request_put"]["key"].as_str();
            let is_known = key.is_some() && self.success.contains(operation);
            if !is_known {
                self.success.push(operation.clone());
            }
        }
        self.put.extend(other.put.iter().cloned());
        self.bytes += other.bytes;
        self.failure.clear();
        self
    }
}

#[derive(Deserialize)]
struct Answer {
    header: Header,
    /// Left out where it would be false.
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    response_range: Option<Listed>,
}

impl Etcd {
    /// Carries a transaction out. Whether one that fails has been is not known.
    pub(crate) async fn transact(&self, transaction: &Transaction) -> Result<Done, EtcdError> {
        let Transaction {
            compare,
            success,
            failure,
            ..
        } = transaction;
        let request = json!({ "compare": compare, "success": success, "failure": failure });
        let answer: Answer = self.call("kv/txn", &request).await?;
        let parts = answer.responses.into_iter();
        Ok(Done {
            succeeded: answer.succeeded,
            revision: answer.header.revision,
            found: parts.filter_map(|part| part.response_range).collect(),
        })
    }

    /// At most `limit` keys that begin with `prefix`, from the key `from` on if there is one.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
        values: Values,
    ) -> Result<Vec<Entry>, EtcdError> {
        let request = json!({
            "key": encode(from.unwrap_or(prefix)),
            "range_end": encode_bytes(&after(prefix)),
            "limit": limit.to_string(),
            "keys_only": values == Values::Left,
        });
        let found: Listed = self.call("kv/range", &request).await?;
        Ok(found.kvs)
    }

    /// Whether the last that was asked was answered.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable.load(std::sync::atomic::Ordering::Relaxed)
    }
}
