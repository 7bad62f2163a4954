//! The rollout: which device gets its model when, and when to stop. Deciding is pure and lives in `state` and `plan`;
//! `driver` does, `progress` records what devices report.

pub mod control;
pub mod driver;
pub mod gate;
pub mod plan;
pub mod state;

mod grow;
mod journal;
mod late;
pub(crate) mod progress;

mod survey;
