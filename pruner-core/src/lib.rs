//! Structured pruning of convolutional networks at initialisation, to a device's budget.
//! Pure computation on values: no network, no clock, no environment; files only in `dataset`.

pub mod exec;
pub mod graph;
pub mod group;
pub mod init;
pub mod rectify;
pub mod surgery;
pub mod zoo;

#[cfg(test)]
mod arbitrary;

pub use graph::{Graph, GraphError, Network, Node, NodeId, Op, Shape};
