//! The tests across crates, in one binary: the house rules, and real processes that meet, die and meet again.

#![expect(clippy::unwrap_used, reason = "a test that meets an error ends there")]

mod backup;
mod bad_input;
mod bad_model;
mod elsewhere;
mod encrypted;
mod full_disk;
mod gate;
mod grow;
mod identity;
mod kill;
mod kill_writes;
mod named_dataset;
mod own_network;
mod refit;
mod rollout;
mod rotation;
mod scene;
mod telemetry;
mod tidy;
mod whole_loop;
mod worker;
