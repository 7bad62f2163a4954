//! The fleet's own certificate authority. Owns its key and what it puts into certificates; decides nothing of who gets one.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proto::{DeviceId, Digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
    date_time_ymd,
};

use super::{Role, device_uri, operator_uri};
use crate::durable;

/// What the authority's folder holds.
const KEY: &str = "ca-key.pem";
const CERTIFICATE: &str = "ca.pem";

/// A device whose clock is behind the coordinator's by less is let in with its new certificate.
const SKEW: Duration = Duration::from_secs(3600);

/// Operators' certificates last so long.
pub const OPERATOR_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the authority's cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged. A new authority would be refused by every device that trusts the old one.
    #[error("{} is damaged; restore it from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A request or a name cannot be certified.
    #[error("no certificate can be made of this")]
    Make(#[from] rcgen::Error),
}

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A key with its certificate, both PEM.
pub struct Credentials {
    /// PKCS #8.
    pub key: String,
    /// X.509.
    pub certificate: String,
}

impl Authority {
    /// The authority in `folder`, made where there is none.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            |source| AuthorityError::File { path, source }
        };
        let (key_path, path) = (folder.join(KEY), folder.join(CERTIFICATE));
        fs::create_dir_all(folder).map_err(file(folder))?;
        let key = match fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem)
                .map_err(|source| AuthorityError::Damaged { path: key_path.clone(), source })?,
            Err(error) if error.kind() == ErrorKind::NotFound && path.exists() => {
                return Err(AuthorityError::Damaged {
                    path: key_path,
                    source: rcgen::Error::CouldNotParseKeyPair,
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = KeyPair::generate()?;
                durable::replace(folder, &key_path, key.serialize_pem().as_bytes())
                    .map_err(file(&key_path))?;
                key
            }
            Err(error) => return Err(file(&key_path)(error)),
        };
        // A crash between the two files leaves the key alone: the certificate is made of it again.
        let certificate = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pem = of_authority().self_signed(&key)?.pem();
                durable::replace(folder, &path, pem.as_bytes()).map_err(file(&path))?;
                pem
            }
            Err(error) => return Err(file(&path)(error)),
        };
        let damaged = |source| AuthorityError::Damaged { path, source };
        if !is_of(&certificate, &key) {
            return Err(damaged(rcgen::Error::CouldNotParseCertificate));
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(damaged)?;
        Ok(Self { issuer, certificate })
    }

    /// Its own certificate, PEM: what others trust it by.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// What a coordinator shows that is reached by these names and addresses. Valid from 1970 on, for devices whose clock starts there.
    ///
    /// # Errors
    /// When a name cannot be one.
    pub fn server(&self, names: &[String], lifetime: Duration) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = named("reconvene coordinator");
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = (SystemTime::now() + lifetime).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(Credentials { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    /// What an operator shows.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn operator(&self, name: &DeviceId, role: Role) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::generate()?;
        let params = of_client(name.as_str(), operator_uri(role, name), OPERATOR_LIFETIME)?;
        Ok(Credentials { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    /// What a device shows, for the key that signed `request`. Nothing else that the request asks for is granted.
    ///
    /// # Errors
    /// When the request is not signed by its key, or means nothing.
    pub fn device(
        &self,
        id: &DeviceId,
        request: &DeviceRequest,
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        let params = of_client(id.as_str(), device_uri(id), lifetime)?;
        Ok(params.signed_by(&request.0.public_key, &self.issuer)?.pem())
    }
}

/// A device's request, whose signature was checked.
pub struct DeviceRequest(CertificateSigningRequestParams);

impl DeviceRequest {
    /// From its encoding, DER.
    ///
    /// # Errors
    /// When it is not signed by its key, or means nothing.
    pub fn read(der: &[u8]) -> Result<Self, AuthorityError> {
        Ok(Self(CertificateSigningRequestParams::from_der(&der.into())?))
    }

    /// SHA-256 of the public key, as [`super::Peer`] has it of a certificate.
    pub fn key(&self) -> Digest {
        Digest::of(&self.0.public_key.subject_public_key_info())
    }
}

/// Whether a certificate, PEM, is of this key.
fn is_of(certificate: &str, key: &KeyPair) -> bool {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    certificate.public_key().raw == key.subject_public_key_info()
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn of_authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("reconvene authority");
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn of_client(name: &str, uri: String, lifetime: Duration) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.distinguished_name = named(name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.not_before = (now - SKEW).into();
    params.not_after = (now + lifetime).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Peer;
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn what_it_issues_names_its_holder_and_nothing_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let mode = fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::new(vec!["coordinator".to_owned()]).unwrap();
        asked.subject_alt_names.push(SanType::URI("reconvene://operator/admin/mallory".try_into().unwrap()));
        let request = asked.serialize_request(&key).unwrap();
        let request = DeviceRequest::read(request.der()).unwrap();
        let id: DeviceId = "gw-1".parse().unwrap();
        let certificate = authority.device(&id, &request, Duration::from_secs(60)).unwrap();
        assert_eq!(
            Peer::of_certificate(&der(&certificate)),
            Peer::Device { id: id.clone(), key: request.key() }
        );

        let again = Authority::open(folder.path()).unwrap();
        assert_eq!(again.certificate(), authority.certificate());
        let operator = again.operator(&id, Role::Operator).unwrap();
        let expected = Peer::Operator { name: id, role: Role::Operator };
        assert_eq!(Peer::of_certificate(&der(&operator.certificate)), expected);
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let mut altered = request.der().to_vec();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(DeviceRequest::read(&altered).is_err());
        assert!(DeviceRequest::read(b"").is_err());
    }

    #[test]
    fn a_damaged_authority_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(Authority::open(folder.path()).unwrap());
        fs::write(folder.path().join(CERTIFICATE), "-----BEGIN").unwrap();
        let error = Authority::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("ca.pem is damaged; restore it"), "{error}");

        let other = tempfile::tempdir().unwrap();
        drop(Authority::open(other.path()).unwrap());
        fs::copy(other.path().join(CERTIFICATE), folder.path().join(CERTIFICATE)).unwrap();
        assert!(Authority::open(folder.path()).is_err(), "the key is another one's");
        fs::remove_file(folder.path().join(KEY)).unwrap();
        let error = Authority::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("ca-key.pem is damaged; restore it"), "{error}");
        assert!(!folder.path().join(KEY).exists(), "a new key would fit no certificate");
    }
}
