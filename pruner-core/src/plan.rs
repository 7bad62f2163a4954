//! shim
#![allow(missing_docs)]
use crate::{
    Graph, budget::*, graph::cost::Cost, group::Keep, latency::*, saliency::Scores, sensitivity::Measure,
};
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LayerPlan {
    pub name: String,
    pub before: usize,
    pub after: usize,
    pub sensitivity: f64,
}
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PrunePlan {
    pub keep: Keep,
    pub promised: Cost,
    pub predicted: Option<Latency>,
    pub layers: Vec<LayerPlan>,
}
impl PrunePlan {
    pub fn is_identity(&self) -> bool {
        self.keep.is_empty()
    }
}
#[derive(Debug, Clone, Default)]
pub struct WidthPolicy {
    pub min_channels: usize,
}
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlanError {
    #[error("n")]
    NoFit { ceiling: Ceiling, allowed: f64, smallest: f64 },
    #[error("l")]
    NoLatencyModel,
}
pub struct Planner;
impl Planner {
    pub fn new(_g: &Graph, _s: &Scores, _m: Measure, _p: WidthPolicy) -> Self {
        Self
    }
    pub fn plan(&self, _b: &Budget, _l: Option<&LatencyModel>, _r: usize) -> Result<PrunePlan, PlanError> {
        Err(PlanError::NoLatencyModel)
    }
}
