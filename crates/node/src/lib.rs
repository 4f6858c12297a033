//! The Serverledge node: HTTP API, catalog, store, pool of sandboxes, asynchronous calls.
//!
//! A library so that the `serverledge` program, its commands and tests share one composition root,
//! [`node::Node`]. Decisions are in `serverledge-core`, isolation in `serverledge-sandbox`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod async_calls;
pub mod balancer;
pub mod catalog;
pub mod code;
pub mod config;
mod detached;
pub mod federation;
pub mod fetch;
pub mod http;
pub mod invoke;
pub mod launch;
pub mod node;
pub mod objects;
pub mod pool;
mod prestart;
mod qos;
mod status;
pub mod store;
pub mod workflows;

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some libraries repeat their source in their own message.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
