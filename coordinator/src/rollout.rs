//! The rollout: which device gets its model when, and when to stop. Deciding is pure and lives in `state` and `plan`.

pub mod plan;
pub mod state;

mod survey;
