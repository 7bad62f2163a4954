//! What a backup's files are called. No other name is read, so none leads out of the folder that it is restored to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proto::Digest;
use serde::{Deserialize, Serialize};

/// One of a backup's files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Name {
    /// All records of a kind.
    Records(String),
    /// A file by its digest.
    Blob(Digest),
    /// A file of the state folder.
    State(String),
    /// A file of the authorities' folder.
    Authority(String),
}

impl Name {
    /// Where it lies in a state folder; `None`: in the store.
    pub(crate) fn path(&self, state_dir: &Path) -> Option<PathBuf> {
        match self {
            Self::Records(_) => None,
            Self::Blob(digest) => Some(state_dir.join("artifacts").join(digest.to_string())),
            Self::State(file) => Some(state_dir.join(file)),
            Self::Authority(file) => Some(state_dir.join("authority").join(file)),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let strange = || format!("a backup has no file {text:?}");
        let (folder, file) = text.split_once('/').ok_or_else(strange)?;
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-._".contains(&c);
        let sound = matches!(file.len(), 1..=64) && file.bytes().all(plain) && !file.starts_with('.');
        match folder {
            "records" if sound => Ok(Self::Records(file.to_owned())),
            "artifacts" => file.parse().map(Self::Blob).map_err(|_| strange()),
            "state" if sound && file.starts_with("signing-key.") => Ok(Self::State(file.to_owned())),
            "authority" if sound => Ok(Self::Authority(file.to_owned())),
            _ => Err(strange()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(kind) => write!(f, "records/{kind}"),
            Self::Blob(digest) => write!(f, "artifacts/{digest}"),
            Self::State(file) => write!(f, "state/{file}"),
            Self::Authority(file) => write!(f, "authority/{file}"),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let digest = Digest::of(b"x");
        for name in [
            "records/device",
            "state/signing-key.p8",
            "authority/ca-key-2.pem",
            &format!("artifacts/{digest}"),
        ] {
            assert_eq!(name.parse::<Name>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "/",
            "records",
            "records/",
            "records/..",
            "records/a/b",
            "../records/x",
            "/etc/passwd",
            "state/../x",
            "state/store",
            "authority/.hidden",
            "artifacts/..",
            "artifacts/x",
            "authority/a\0b",
            "other/x",
        ] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }
}
