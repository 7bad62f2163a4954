//! What a device joins with: a token, and the certificate of the authority that it is to trust.

use std::path::Path;

use proto::{ByteSize, Digest};

use super::connect;
use crate::causes::describe;
use crate::state;

/// The first word of such a file.
const MAGIC: &str = "reconvene-join-1";

/// What mends most of them.
const NEXT: &str = "copy all that `reconvene token create` prints";

/// What mends one that is no file at all.
const INSTEAD: &str = "put the file that `reconvene token create` prints there, or name it as join_file";

/// A token and a few certificates take no more than a hundredth.
const LONGEST: ByteSize = ByteSize(1 << 20);

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
        let bytes = state::read(path, LONGEST).map_err(|error| match error.source.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "this user may not read it; give it to the user that the agent runs as".to_owned()
            }
            _ => format!("{}; {INSTEAD}", describe(&error.source)),
        })?;
        let bytes = bytes.ok_or_else(|| format!("it does not exist; {INSTEAD}"))?;
        let text = String::from_utf8(bytes).map_err(|_| format!("it is no text; {NEXT}"))?;
        Self::parse(&text)
    }

    /// Tells it from other join files, without its secret.
    pub fn digest(&self) -> Digest {
        let id = self.token.split('.').next().unwrap_or_default();
        Digest::of(format!("{id}\n{}", self.authorities).as_bytes())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start();
        if text.is_empty() {
            return Err(format!("it is empty; {NEXT}"));
        }
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let token = first.trim_end().strip_prefix(MAGIC).map(str::trim);
        let is_whole = |token: &&str| {
            token.split_once('.').is_some_and(|(id, secret)| !id.is_empty() && !secret.is_empty())
        };
        let token = token.filter(is_whole);
        let token = token.ok_or_else(|| format!("its first line is not '{MAGIC}' and a token; {NEXT}"))?;
        if rest.contains(MAGIC) {
            return Err("it holds more than one token, of which each has certificates of its own; keep one"
                .to_owned());
        }
        let unusable = |error| format!("{}; {NEXT}", describe(&error));
        connect::config(rest, None).map_err(unusable)?;
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
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let text = format!("\nreconvene-join-1 ab.secret\n{pem}");
        let join = JoinFile::parse(&text).unwrap();
        assert_eq!(join.token, "ab.secret");
        assert_eq!(join.authorities.trim(), pem.trim());
        assert_eq!(format!("{join:?}"), "JoinFile(ab)", "the secret is in no log");
        for (wrong, why) in [
            (" \n".to_owned(), "it is empty"),
            ("garbage".to_owned(), "first line"),
            (format!("reconvene-join-1\n{pem}"), "first line"),
            (format!("reconvene-join-1 ab\n{pem}"), "first line"),
            (format!("reconvene-join-2 ab.secret\n{pem}"), "first line"),
            ("reconvene-join-1 ab.secret".to_owned(), "there is no authority's certificate"),
            (text.replace("MII", "AAA"), "the authority's certificate: "),
            (
                text.replace("-----END", ""),
                "the authority's certificate: it is cut off, its last line is missing; ",
            ),
            (text.repeat(2), "more than one token"),
        ] {
            let problem = JoinFile::parse(&wrong).unwrap_err();
            assert!(problem.contains(why), "{wrong}: {problem}");
        }
    }

    #[test]
    fn what_is_no_join_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join");
        assert_eq!(JoinFile::read(&path).unwrap_err(), format!("it does not exist; {INSTEAD}"));
        assert_eq!(JoinFile::read(dir.path()).unwrap_err(), format!("it is a folder; {INSTEAD}"));
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let problem = JoinFile::read(&path).unwrap_err();
        assert!(problem.starts_with("it has more than 1.0Mi") && problem.ends_with(INSTEAD), "{problem}");
        std::fs::write(&path, [0xff]).unwrap();
        assert!(JoinFile::read(&path).unwrap_err().starts_with("it is no text"));
    }
}
