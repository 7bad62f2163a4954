//! The `reconvene-agent` binary.
fn main() {}
