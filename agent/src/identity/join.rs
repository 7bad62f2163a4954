//! What a device joins with: a token, and the certificate of the authority that it is to trust.

use std::path::Path;

use proto::Digest;

/// The first word of such a file.
const MAGIC: &str = "reconvene-join-1";

/// A join file, as `reconvene token create` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinFile {
    /// `ID.SECRET`.
    pub token: String,
    /// Those to trust, PEM.
    pub authorities: String,
}

impl JoinFile {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong, for an operator.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    /// Tells it from other join files, without its secret.
    pub fn digest(&self) -> Digest {
        let id = self.token.split('.').next().unwrap_or_default();
        Digest::of(format!("{id}\n{}", self.authorities).as_bytes())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = text.trim_start().split_once('\n').unwrap_or((text, ""));
        let token = first.trim_end().strip_prefix(MAGIC).map(str::trim).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            format!(
                "its first line is not '{MAGIC}' and a token; `reconvene token create` prints such a file"
            )
        })?;
        if !rest.contains("-----BEGIN CERTIFICATE-----") {
            return Err("it holds no certificate; copy all that `reconvene token create` printed".to_owned());
        }
        Ok(Self { token: token.to_owned(), authorities: rest.to_owned() })
    }
}

/// Its token is a secret.
impl std::fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.token.split('.').next().unwrap_or_default();
        write!(f, "JoinFile({id})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_file_is_a_token_and_a_certificate() {
        let text = "reconvene-join-1 ab.secret\n-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let join = JoinFile::parse(text).unwrap();
        assert_eq!(join.token, "ab.secret");
        assert!(join.authorities.starts_with("-----BEGIN"));
        assert_eq!(format!("{join:?}"), "JoinFile(ab)", "the secret is in no log");
        for (wrong, why) in [
            ("", "first line"),
            ("reconvene-join-1\n-----BEGIN CERTIFICATE-----", "first line"),
            ("reconvene-join-2 ab.secret\n-----BEGIN CERTIFICATE-----", "first line"),
            ("reconvene-join-1 ab.secret", "no certificate"),
        ] {
            assert!(JoinFile::parse(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }
}
