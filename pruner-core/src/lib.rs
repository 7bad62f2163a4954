//! Structured pruning of convolutional networks at initialisation, to a device's budget.
//! Pure computation on values: no network, no environment; files only in `dataset`, a stopwatch only in `train`.
//!
#![doc = include_str!("../README.md")]

pub mod budget;
pub mod dataset;
pub mod exec;
pub mod graph;
pub mod group;
pub mod init;
pub mod latency;
pub mod named;
pub mod plan;
pub mod pruning;
pub mod rectify;
pub mod report;
pub mod saliency;
pub mod sensitivity;
pub mod surgery;
pub mod train;
pub mod zoo;

#[cfg(test)]
mod arbitrary;

pub use graph::{Graph, GraphError, Network, Node, NodeId, Op, Shape};
