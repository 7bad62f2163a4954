//! What is left out of a manifest as it is stored: settings that came later and stand at their defaults. So a manifest
//! that says nothing of them has the digest, and its derivations the keys, that it had before there were such settings.

use super::{RolloutSpec, Span, TrainingSpec};

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn warmup_epochs(value: &f32) -> bool {
    *value == TrainingSpec::default().warmup_epochs
}

pub(super) fn momentum(value: &f32) -> bool {
    *value == TrainingSpec::default().momentum
}

pub(super) fn nesterov(value: &bool) -> bool {
    *value == TrainingSpec::default().nesterov
}

pub(super) fn refits(value: &u32) -> bool {
    *value == RolloutSpec::default().refits
}

pub(super) fn bake(value: &Span) -> bool {
    *value == RolloutSpec::default().bake
}
