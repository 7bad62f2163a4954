//! shim
#![allow(missing_docs)]
use crate::Network;
use std::ops::ControlFlow;
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Criterion {
    SynFlow,
}
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRecipe {
    pub criterion: Criterion,
    pub rounds: u32,
    pub density: f64,
    pub seed: u64,
}
#[derive(Debug, Clone)]
pub struct Scores;
#[derive(Debug, thiserror::Error)]
pub enum SaliencyError {
    #[error("c")]
    Cancelled,
    #[error("o")]
    Other,
}
pub fn score(
    _n: &Network,
    _r: &ScoreRecipe,
    _o: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Scores, SaliencyError> {
    Ok(Scores)
}
