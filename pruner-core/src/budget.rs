//! shim
#![allow(missing_docs)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Budget {
    pub params: Option<u64>,
    pub macs: Option<u64>,
    pub bytes: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub latency_p95_ms: Option<f64>,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    Params,
}
impl std::fmt::Display for Ceiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
