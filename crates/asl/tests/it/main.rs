//! The interpreter as a whole: cases, checks, replay, properties.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "cases are files")]

mod cases;
mod checks;
mod properties;
mod redrive;
