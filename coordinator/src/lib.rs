//! The coordinator: collects profiles, derives one model per class of device, rolls it out, gathers telemetry.

pub mod blob;
pub mod budgeting;
pub mod calibration;
pub mod class;
pub mod histogram;
pub mod limit;
pub mod manifest;
pub mod rollout;
pub mod store;
