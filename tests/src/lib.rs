//! The rig: starts the real coordinator and real agents as processes, gives each agent its own means, cuts the wire
//! between them, and asks both sides what they see. Owns no product logic; nothing depends on it.

pub mod agent;
pub mod binaries;
pub mod cgroup;
pub mod coordinator;
pub mod crowd;
pub mod daemon;
pub mod dataset;
pub mod demo;
pub mod inference;
pub mod operator;
pub mod poll;
pub mod proxy;
pub mod simulated;
pub mod study;
pub mod tracer;
