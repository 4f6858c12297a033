//! Quality of service: what calls are worth, and where those of each class should run.
//!
//! Calls belong to [`Classes`]. From what [`Estimators`] measured, a [`Program`] is made every now
//! and then: the linear program of Russo Russo et al. ("A framework for offloading and migration of
//! serverless functions in the edge-cloud continuum", FGCS 2024). Its solution is a [`Plan`]: for
//! each function and class the probabilities with which a call runs here, in the cloud or on a
//! neighbor, or is dropped. A call draws one of these; that is a look-up and nothing more.
//!
//! Not here: when to solve, who measures, and carrying out what was drawn.

mod classes;
mod draw;
mod estimators;
mod means;
mod plan;
mod program;
mod solve;
mod spending;

pub use self::classes::{CLASSES_MAX, Class, ClassError, Classes, DEFAULT_NUMBER};
pub use self::draw::{Choice, Left, Odds, Probabilities};
pub use self::estimators::{Estimators, Known, Ran, Surroundings};
pub use self::plan::{Plan, Rejected, Why};
pub use self::program::{FLOWS_MAX, Flow, Place, Program, View};
pub use self::solve::{Solution, Unsolved};
pub use self::spending::Spending;
