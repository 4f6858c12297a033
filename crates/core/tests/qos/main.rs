//! The program of `qosaware` against another solver, its properties, and what it is worth on the
//! paper's scenario against the simpler policies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod properties;
mod scenario;
mod table;
mod world;
