//! Every decision of a node, as values: no I/O, no clock, no locks, no logging, no global
//! randomness. `now` is an argument and answers are values, so that the node, the tests and a
//! simulator run the same code.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod balancer;
mod estimate;
pub mod fleet;
mod function;
mod ledger;
mod network;
pub mod placement;
pub mod policy;
pub mod qos;
mod scheduler;
pub mod takeover;
mod time;

pub use estimate::Estimate;
pub use function::{FunctionName, InvalidName, Language, Runtime};
pub use ledger::{Ledger, Snapshot};
pub use network::{InvalidPolicy, Ipv4Network, NetworkPolicy, Rule};
pub use scheduler::{
    Action, CallId, Decision, Demand, DropReason, FunctionId, GiveUp, Limits, Outcome, SandboxId,
    Scheduler, SchedulerConfig,
};
pub use time::Timestamp;
