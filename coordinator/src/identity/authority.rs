//! One certificate authority of the fleet's. Owns its key and what it puts into certificates; decides nothing of who gets one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proto::{DeviceId, Digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};

use super::{Role, device_uri, operator_uri};

/// A device whose clock is behind the coordinator's by less is let in with its new certificate, which says that it is so much older
/// than it is.
pub(super) const SKEW: Duration = Duration::from_secs(3600);

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
    /// A file is damaged or gone. A new authority would be refused by every device that trusts the old one.
    #[error("{} is {problem}; restore it from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// `damaged` or `gone`.
        problem: &'static str,
    },
    /// A request or a name cannot be certified.
    #[error("no certificate can be made of this")]
    Make(#[from] rcgen::Error),
}

impl AuthorityError {
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }

    pub(super) fn damaged(path: &Path) -> Self {
        Self::Damaged { path: path.to_owned(), problem: "damaged" }
    }

    pub(super) fn lost(path: &Path) -> Self {
        Self::Damaged { path: path.to_owned(), problem: "gone" }
    }
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
    /// A new one, which is the fleet's `number`th.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate(number: u32) -> Result<Self, AuthorityError> {
        Self::self_signed(KeyPair::generate()?, number)
    }

    /// The `number`th, of a key that is there.
    pub(super) fn of_key(pem: &str, number: u32, path: &Path) -> Result<Self, AuthorityError> {
        Self::self_signed(KeyPair::from_pem(pem).map_err(|_| AuthorityError::damaged(path))?, number)
    }

    /// One that was made before; `paths` are where its key and its certificate were read.
    pub(super) fn of(key: &str, certificate: String, paths: (&Path, &Path)) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::damaged(paths.0))?;
        if !is_of(&certificate, &key) {
            return Err(AuthorityError::damaged(paths.1));
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate, key);
        Ok(Self { issuer: issuer.map_err(|_| AuthorityError::damaged(paths.1))?, certificate })
    }

    fn self_signed(key: KeyPair, number: u32) -> Result<Self, AuthorityError> {
        let certificate = of_authority(number).self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&certificate, key)?, certificate })
    }

    /// Its key, PKCS #8 in PEM.
    pub(super) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The key of another authority, certified by this one: whoever trusts this one may trust that one, PEM.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub(super) fn certify(&self, next: &Self, number: u32) -> Result<String, AuthorityError> {
        Ok(of_authority(number).signed_by(next.issuer.key(), &self.issuer)?.pem())
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
        Ok(Credentials { certificate: self.of_operator(name, role, &key)?, key: key.serialize_pem() })
    }

    /// What an operator shows from now on, for the key that signed `request`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn operator_again(
        &self,
        name: &DeviceId,
        role: Role,
        request: &KeyRequest,
    ) -> Result<String, AuthorityError> {
        self.of_operator(name, role, &request.0.public_key)
    }

    fn of_operator(
        &self,
        name: &DeviceId,
        role: Role,
        key: &impl PublicKeyData,
    ) -> Result<String, AuthorityError> {
        let params = of_client(name.as_str(), operator_uri(role, name), OPERATOR_LIFETIME)?;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// What a device shows, for the key that signed `request`. Nothing else that the request asks for is granted.
    ///
    /// # Errors
    /// When the request is not signed by its key, or means nothing.
    pub fn device(
        &self,
        id: &DeviceId,
        request: &KeyRequest,
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        let params = of_client(id.as_str(), device_uri(id), lifetime)?;
        Ok(params.signed_by(&request.0.public_key, &self.issuer)?.pem())
    }
}

/// A request for a certificate, whose signature was checked.
pub struct KeyRequest(CertificateSigningRequestParams);

impl KeyRequest {
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

fn of_authority(number: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&match number {
        1 => "reconvene authority".to_owned(),
        later => format!("reconvene authority {later}"),
    });
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    // Authorities certify those after them.
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
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
    use super::super::Peer;
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn what_it_issues_names_its_holder_and_nothing_that_was_asked_for() {
        let authority = Authority::generate(1).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::new(vec!["coordinator".to_owned()]).unwrap();
        asked.subject_alt_names.push(SanType::URI("reconvene://operator/admin/mallory".try_into().unwrap()));
        let request = asked.serialize_request(&key).unwrap();
        let request = KeyRequest::read(request.der()).unwrap();
        let id: DeviceId = "gw-1".parse().unwrap();
        let certificate = authority.device(&id, &request, Duration::from_secs(60)).unwrap();
        let device = Peer::Device { id: id.clone(), key: request.key() };
        assert_eq!(Peer::of_certificate(&der(&certificate)), device);
        let path = Path::new("ca.pem");
        let again =
            Authority::of(&authority.key(), authority.certificate().to_owned(), (path, path)).unwrap();
        let made = again.operator(&id, Role::Operator).unwrap();
        let Peer::Operator { name, role: Role::Operator, key: Some(key) } =
            Peer::of_certificate(&der(&made.certificate))
        else {
            panic!("{}", made.certificate)
        };
        assert_eq!(name, id);
        assert_ne!(key, request.key());
        let renewed = again.operator_again(&id, Role::Operator, &request).unwrap();
        let operator = Peer::Operator { name: id.clone(), role: Role::Operator, key: Some(request.key()) };
        assert_eq!(Peer::of_certificate(&der(&renewed)), operator);
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let mut altered = request.der().to_vec();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(KeyRequest::read(&altered).is_err());
        assert!(KeyRequest::read(b"").is_err());
    }
}
