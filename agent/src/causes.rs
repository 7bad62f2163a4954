//! Errors with their causes on one line, for logs and for the coordinator.

use std::error::Error;

/// An error with its causes on one line, for logs and for the coordinator.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
