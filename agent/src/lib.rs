//! Reconvene's agent: measures its device, fetches and verifies the model it is assigned, runs and serves it, and
//! reports. It knows no pruning, and it serves its last good model with no coordinator at all.

pub mod app;
pub mod causes;
pub mod cli;
pub mod config;
pub mod fetch;
pub mod identity;
pub mod metrics;
pub mod probe;
pub mod reconcile;
pub mod report;
pub mod runner;
pub mod serve;
pub mod session;
pub mod slot;
pub mod spool;
pub mod state;
pub mod systemd;
pub mod trust;
pub mod update;

pub use app::{App, AppError};
pub use config::Config;
