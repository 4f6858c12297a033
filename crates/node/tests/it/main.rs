//! Black-box tests of the node: the real program with its real sandboxes, over HTTP.
//!
//! They need root, namespaces and cgroups, Python 3, Node.js and a JDK, as the built-in sandboxes do, and
//! a Docker engine; they fail where these are missing: a machine that can't run them hasn't tested the node.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on should fail, loudly and at the line"
)]

mod asl;
mod r#async;
mod balancer;
mod code;
mod code_url;
mod compiled;
mod components;
mod config;
mod confined;
mod continuum;
mod disk;
mod docker;
mod documents;
mod etcd;
mod examples;
mod fleet;
mod gossip;
mod hostile;
mod image;
mod java;
mod jsonata;
mod lambda;
mod lifecycle;
mod neighbors;
mod network;
mod objects;
mod preload;
mod probe;
mod programs;
mod qos;
mod recovery;
mod socket;
mod support;
mod transcript;
mod wasm;
mod wire;
mod workflows;
mod zygote;
