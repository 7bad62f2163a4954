//! The `reconvene` binary.
fn main() {}
