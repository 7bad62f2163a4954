//! The coordinator: collects profiles, derives one model per class of device, rolls it out, gathers telemetry.

pub mod limit;
pub mod manifest;
