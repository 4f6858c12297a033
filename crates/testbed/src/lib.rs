//! A fleet on one machine: nodes in network namespaces of their own, between which packets are
//! delayed, lost, slowed down and cut off.
//!
//! [`Network`] is the network: hosts and links. [`Fleet`] puts an etcd, nodes, a balancer and a
//! client on it. Everything ends with the value that started it, and nothing stays on the machine
//! even if this process is killed: namespaces live as long as the processes in them, and those die
//! with the thread that started them. Root is needed.
//!
//! Not for measuring a network: packets pass through one thread in user space.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod emulator;
mod fleet;
mod forward;
mod host;
mod http;
mod network;
mod router;

pub use emulator::{Link, Traffic};
pub use fleet::{Fleet, Plan, Published, Role};
pub use host::{HOST_COMMAND, host_main};
pub use http::Reply;
pub use network::Network;
