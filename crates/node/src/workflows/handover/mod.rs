//! Where the tasks of workflows run: what the node knows is put to the configured policy (`places`),
//! with a placement by an optimiser where the policy wants one (`optimizer`), and single functions go
//! where that says (`functions`). The decisions are `core::placement`'s.

pub(crate) mod functions;
mod graph;
mod optimizer;
pub(crate) mod places;
