//! Work buffers that parallel tasks borrow and hand back; as many exist as tasks ever ran at once.

use std::sync::{Mutex, PoisonError};

use super::scalar::Scalar;

/// A stack of idle buffers.
#[derive(Debug)]
pub(super) struct Scratch<T> {
    idle: Mutex<Vec<Vec<T>>>,
}

impl<T: Scalar> Scratch<T> {
    pub(super) fn new() -> Self {
        Self { idle: Mutex::new(Vec::new()) }
    }

    /// Calls `task` with a buffer of `len` numbers that hold anything.
    pub(super) fn with<R>(&self, len: usize, task: impl FnOnce(&mut [T]) -> R) -> R {
        let mut buffer = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, T::ZERO);
        }
        let result = task(&mut buffer[..len]);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        result
    }
}
