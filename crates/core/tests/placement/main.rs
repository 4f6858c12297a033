//! Solvers of placement held against answers worked out without them: a table made by another
//! program (`instances.py`), every placement there is, and a general solver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod properties;
mod simplex;
mod table;
