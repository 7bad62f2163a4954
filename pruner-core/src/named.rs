//! Choices that people spell: one name each, the same in a file, on a command line and in a report.

/// A name that no choice has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is no {what}; known: {}", known.join(", "))]
pub struct UnknownName {
    /// What it should have named.
    pub what: &'static str,
    /// What was written.
    pub name: String,
    /// The names that there are.
    pub known: &'static [&'static str],
}

/// Gives an enum without fields its names, and everything that follows from them: `ALL`, `NAMES`, `name`, `Display`
/// and `FromStr`. Serde's names are derived beside it: its own errors know where in a text they are.
macro_rules! named {
    ($kind:ident, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $kind {
            /// Every choice.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// What people call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $kind {
            type Err = $crate::named::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|choice| choice.name() == name).ok_or_else(|| {
                    $crate::named::UnknownName { what: $what, name: name.to_owned(), known: Self::NAMES }
                })
            }
        }
    };
}

pub(crate) use named;
