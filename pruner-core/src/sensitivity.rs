//! shim
#![allow(missing_docs)]
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    Density,
}
