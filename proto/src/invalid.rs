//! Why a message from the wire was refused.

/// A message or text that does not mean anything valid, with the field that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {problem}")]
pub struct Invalid {
    /// The field, as the schema names it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Invalid {
    /// A refusal of `field` because of `problem`.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }

    /// A refusal of a message whose `field` is absent.
    pub fn missing(field: &'static str) -> Self {
        Self::new(field, "missing")
    }
}
