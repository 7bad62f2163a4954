//! The agent in this process: real wire, real files, real models, and a coordinator that the test plays.
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, fail the test by panicking")]

mod crowd;
mod device;
mod download;
mod engines;
mod fake;
mod kill_matrix;
mod model;
mod poll;
mod probation;
mod protocol;
mod session;
mod status;
mod trust;
