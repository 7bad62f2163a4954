//! The real binary against a coordinator of fixed replies, and without any coordinator.
#![expect(clippy::unwrap_used, reason = "all of it is test code, outside of #[test] functions too")]

mod artifacts;
mod audit;
mod binary;
mod fake;
mod fleet;

mod completion;
mod datasets;
mod deployments;
mod lists;
mod models;
mod prune;
mod refusals;
mod train;
