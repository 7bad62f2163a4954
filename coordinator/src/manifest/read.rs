//! YAML to a checked manifest. Owns every message about the text; never touches the disk or the network.

use serde::de::DeserializeOwned;
use serde_saphyr::Error as YamlError;

use super::check;
use super::dataset::DatasetFields;
use super::document::Written;
use super::place::{Place, Places};
use super::{DatasetRef, DeploymentManifest};

/// Why a text is no deployment. Each names the line, what stands there, and what may.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML, or not one document of it.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where reading stopped.
        place: Place,
        /// What is wrong there.
        problem: String,
    },
    /// A key that means nothing.
    #[error("{place}: unknown field '{field}'; allowed here: {}", .allowed.join(", "))]
    UnknownField {
        /// Where the key stands.
        place: Place,
        /// The key.
        field: String,
        /// The keys that may stand there.
        allowed: Vec<&'static str>,
    },
    /// A key that has to be there.
    #[error("{place}: field '{field}' is missing")]
    MissingField {
        /// Near where it should stand.
        place: Place,
        /// The key.
        field: &'static str,
    },
    /// A value that is not allowed.
    #[error("{place}: {field}: {problem}")]
    Value {
        /// Where the value stands.
        place: Place,
        /// Its path, as in `spec.rollout.waves`.
        field: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// One of several deployments is wrong.
    #[error("{title}")]
    Within {
        /// Which of them.
        title: String,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// A file has one name twice.
    #[error("{first} and {second} are the same deployment; leave one of them out")]
    Twice {
        /// Where it stands first.
        first: String,
        /// Where it stands again.
        second: String,
    },
}

impl ManifestError {
    /// Where it is.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Syntax { place, .. }
            | Self::UnknownField { place, .. }
            | Self::MissingField { place, .. }
            | Self::Value { place, .. } => Some(*place),
            Self::Within { source, .. } => source.place(),
            Self::Twice { .. } => None,
        }
    }
}

impl DeploymentManifest<DatasetRef> {
    /// Reads and checks a manifest; what it returns can be acted upon without further checks of single values. What the
    /// coordinator sets, as `status`, is passed over.
    pub fn read(text: &str) -> Result<Self, ManifestError> {
        let written: Written = parse(text)?;
        checked(text, written.manifest(), "")
    }
}

/// A text as its fields, no value of them checked.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ManifestError> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| refuse(text, &error))
}

/// The manifest that stands in `text` at the path `within`, once its values are found allowed.
pub(super) fn checked(
    text: &str,
    manifest: DeploymentManifest<DatasetFields>,
    within: &str,
) -> Result<DeploymentManifest<DatasetRef>, ManifestError> {
    match check::problem(&manifest) {
        None => {
            let dataset = manifest.spec.dataset.meant().expect("it was checked a moment ago");
            Ok(manifest.with_dataset(dataset))
        }
        Some((field, problem)) => {
            let field = format!("{within}{field}");
            Err(ManifestError::Value { place: Places::of(text).find(&field), field, problem })
        }
    }
}

fn refuse(text: &str, error: &YamlError) -> ManifestError {
    let location = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
    let place = Place::from(location);
    let value = |problem: String| match Places::of(text).path_at(location) {
        Some(field) if !field.is_empty() => ManifestError::Value { place, field, problem },
        _ => ManifestError::Syntax { place, problem },
    };
    let syntax = |problem: &str| ManifestError::Syntax { place, problem: problem.to_owned() };
    match error {
        YamlError::SerdeUnknownField { field, expected, .. } => {
            ManifestError::UnknownField { place, field: field.clone(), allowed: expected.clone() }
        }
        YamlError::SerdeMissingField { field, .. } => ManifestError::MissingField { place, field },
        YamlError::SerdeUnknownVariant { variant, expected, .. } => {
            value(format!("'{variant}' is not known; allowed: {}", expected.join(", ")))
        }
        YamlError::InvalidScalar { ty, .. } => value(format!("must be {}", describe_type(ty))),
        YamlError::Budget { .. } => syntax("the text is larger, or nested deeper, than any manifest is"),
        YamlError::Eof { .. } => syntax("the text ends where a deployment should stand"),
        YamlError::MultipleDocuments { .. } => {
            syntax("a second document begins; a manifest holds one deployment")
        }
        YamlError::DuplicateMappingKey { key, .. } => match key {
            Some(key) => syntax(&format!("field '{key}' is given twice")),
            None => syntax("a field is given twice"),
        },
        other => {
            let text = other.to_string();
            value(text.strip_suffix(&format!(" at {place}")).unwrap_or(&text).to_owned())
        }
    }
}

/// What a person would call a scalar type.
fn describe_type(name: &str) -> String {
    let whole = |largest: u64| format!("a whole number from 0 to {largest}");
    match name {
        "u8" => whole(u8::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "floating point" => "a number".to_owned(),
        other => format!("a {other}"),
    }
}

#[cfg(test)]
mod tests;
