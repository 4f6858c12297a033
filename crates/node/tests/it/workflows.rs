//! Workflows on a node, as clients of the original and of ours meet them.

mod examples;
