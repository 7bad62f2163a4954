//! The coordinator: collects profiles, derives one model per class of device, rolls it out, gathers telemetry.

pub mod app;
pub mod audit;
pub mod backup;
pub mod blob;
pub mod board;
pub mod budgeting;
pub mod calibration;
pub mod causes;
pub mod checkpoints;
pub mod class;
pub mod config;
pub mod corrections;
pub mod datasets;
pub mod derive;
pub mod durable;
pub mod elsewhere;
pub mod fitting;
pub mod fleet;
pub mod histogram;
pub mod identity;
pub mod jobs;
pub mod limit;
pub mod listener;
pub mod local;
pub mod manifest;
pub mod models;
pub mod probes;
pub mod refit;
pub mod refusals;
pub mod rollout;
pub mod room;
pub mod signing;
pub mod store;
pub mod trainer;
pub mod worker;

mod chance;
mod clock;
mod core;
mod fresh;
mod overrun;
mod rpc;

pub use app::{App, AppError};
pub use config::Config;
