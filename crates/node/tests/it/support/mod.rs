//! What the tests are written in: a node to start, functions to register on it, plain HTTP to talk
//! to it, and a look at the machine underneath.

pub(crate) mod etcd;
pub(crate) mod function;
pub(crate) mod http;
pub(crate) mod machine;
pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod s3;
pub(crate) mod server;
pub(crate) mod target;
pub(crate) mod wasm;

pub(crate) use etcd::{Etcd, Secure, etcd, secure_etcd};
pub(crate) use function::{Function, javascript, python, zip};
pub(crate) use node::{Node, balancer, node};

use std::time::{Duration, Instant};

/// How long a state may take to come about before the test fails. Generous: a slow machine should
/// make the tests slow, not red.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `state` yields a value, and fails after [`PATIENCE`], saying `what` never came.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = state() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
