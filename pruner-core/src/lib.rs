//! Structured pruning of convolutional networks at initialisation, to a device's budget.
//! Pure computation on values: no network, no environment; files only in `dataset`, a stopwatch only in `train`.
//!
//! From a network to a smaller one, in the order of the calls:
//!
//! ```
//! use std::ops::ControlFlow;
//! use pruner_core::budget::Budget;
//! use pruner_core::plan::{Planner, WidthPolicy};
//! use pruner_core::saliency::{Criterion, ScoreRecipe, score};
//! use pruner_core::sensitivity::density;
//! use pruner_core::zoo::{self, ZooNetwork};
//! use pruner_core::{Network, Shape, init, rectify, surgery};
//!
//! let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 28, 28), 10)?;
//! let network = Network { weights: init::init(&graph, 1), graph };
//! let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 5, density: 1.0 / 16.21, seed: 1 };
//! let scores = score(&network, &recipe, &mut |_, _| ControlFlow::Continue(()))?;
//! let planner = Planner::new(&network.graph, &scores, density(&scores), WidthPolicy::default());
//! let plan = planner.plan(&Budget { params: Some(16_800), ..Budget::default() }, None, 1)?;
//! let pruned = rectify::reinit(surgery::apply(&network, &plan.keep)?, &network.graph, 1);
//! assert!(plan.promised.params <= 16_800);
//! # assert_eq!(pruner_core::graph::cost::cost(&pruned.graph), plan.promised);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod budget;
pub mod dataset;
pub mod exec;
pub mod graph;
pub mod group;
pub mod init;
pub mod latency;
pub mod plan;
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
