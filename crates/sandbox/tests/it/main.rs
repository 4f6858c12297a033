//! Real sandboxes on this machine's interpreters. Needs root, as the built-in backend does for
//! everything that it promises, and `/usr/bin/python3` and `/usr/bin/node`. The tests of `docker`
//! need an engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod docker;
mod ends;
mod harness;
mod hello;
mod hostile;
mod image;
mod measure;
mod wasm;
mod zygote;
