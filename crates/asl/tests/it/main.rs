//! The interpreter as a whole: cases, checks, replay, properties.

mod cases;
mod checks;
mod properties;
