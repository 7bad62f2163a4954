//! The authorities on a disk: rotated, damaged, looked back at from the past.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::super::Role;
use super::super::succession::REACH;
use super::*;

const DAY: u64 = 86_400;

fn opened(folder: &Path) -> Authorities {
    Authorities::open(folder).unwrap()
}

fn complaint(folder: &Path) -> String {
    Authorities::open(folder).map(drop).unwrap_err().to_string()
}

/// Whether one who trusts the authorities in `told` believes the coordinator's certificate, so many seconds after 1970.
fn believes(told: &str, now: &Present, at: u64) -> bool {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    for trusted in CertificateDer::pem_slice_iter(told.as_bytes()) {
        roots.add(trusted.unwrap()).unwrap();
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .build()
        .unwrap();
    let shown = now.active.server(&["fleet".to_owned()], Duration::from_secs(200 * DAY)).unwrap();
    let crosses: Vec<_> = now.succession.crosses().map(der).collect();
    let name = ServerName::try_from("fleet").unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
    verifier.verify_server_cert(&der(&shown.certificate), &crosses, &name, &[], at).is_ok()
}

#[test]
fn a_device_that_was_away_for_90_days_and_two_rotations_believes_its_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = opened(folder.path());
    let known_then = fleet.now().succession.told();
    let today = UNIX_EPOCH.elapsed().unwrap().as_secs();
    for day in [30, 60] {
        fleet.take(Step::Prepare, Issuer::Nobody, today + day * DAY).unwrap();
        fleet.take(Step::Activate, Issuer::Nobody, today + (day + 1) * DAY).unwrap();
        fleet.take(Step::Retire, Issuer::Nobody, today + (day + 2) * DAY).unwrap();
    }
    for fleet in [&fleet, &opened(folder.path())] {
        let now = fleet.now();
        assert!(believes(&known_then, &now, today + 90 * DAY));
        assert!(believes(&known_then, &now, 5), "its clock starts in 1970");
        let stranger = Authority::generate(1).unwrap();
        assert!(!believes(stranger.certificate(), &now, today + 90 * DAY));
        let told = now.succession.told();
        assert!(
            believes(&told, &now, today + 90 * DAY) && !told.contains(&known_then),
            "it learns the new one"
        );
    }
}

#[test]
fn the_way_back_is_as_long_as_it_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = opened(folder.path());
    let mut known = vec![fleet.now().succession.told()];
    for _ in 0..REACH + 1 {
        fleet.take(Step::Prepare, Issuer::Nobody, 0).unwrap();
        fleet.take(Step::Activate, Issuer::Nobody, 0).unwrap();
        known.push(fleet.now().succession.told());
    }
    let today = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let believing = known.iter().map(|known| believes(known, &fleet.now(), today));
    let believing: Vec<bool> = believing.collect();
    assert_eq!(believing, [vec![false], vec![true; REACH + 1]].concat());
}

#[test]
fn keys_that_sign_no_more_are_gone_and_the_others_are_nobodys_else() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = opened(folder.path());
    fleet.take(Step::Prepare, Issuer::Nobody, 1).unwrap();
    assert!(fleet.take(Step::Prepare, Issuer::Nobody, 2).is_err());
    let (old, new) = (key_path(folder.path(), 1), key_path(folder.path(), 2));
    for path in [&old, &new] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let kept = fs::read(&old).unwrap();
    fleet.take(Step::Activate, Issuer::Nobody, 3).unwrap();
    assert!(!old.exists() && new.exists());
    // A crash between the step and the removal.
    fs::write(&old, kept).unwrap();
    drop(opened(folder.path()));
    assert!(!old.exists());
    assert_eq!(opened(folder.path()).now().succession, fleet.now().succession);
}

#[test]
fn damaged_authorities_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    drop(opened(path));
    let certificate = fs::read(path.join(FIRST)).unwrap();
    fs::write(path.join(FIRST), "-----BEGIN").unwrap();
    assert!(complaint(path).contains("ca.pem is damaged; restore it"));
    let other = Authority::generate(1).unwrap();
    fs::write(path.join(FIRST), other.certificate()).unwrap();
    assert!(complaint(path).contains("ca.pem is damaged"), "it is of another key");
    fs::write(path.join(FIRST), &certificate).unwrap();
    let key = fs::read(path.join("ca-key.pem")).unwrap();
    fs::remove_file(path.join("ca-key.pem")).unwrap();
    assert!(complaint(path).contains("ca-key.pem is gone; restore it"));
    assert!(!path.join("ca-key.pem").exists(), "a new key would fit no certificate");
    fs::write(path.join("ca-key.pem"), &key).unwrap();
    // A crash after the key was written.
    fs::remove_file(path.join(FIRST)).unwrap();
    assert_eq!(opened(path).now().active.key(), String::from_utf8(key).unwrap());

    opened(path).take(Step::Prepare, Issuer::Nobody, 1).unwrap();
    opened(path).take(Step::Activate, Issuer::Nobody, 2).unwrap();
    let list = fs::read_to_string(path.join(LIST)).unwrap();
    fs::write(path.join(LIST), &list[..list.len() / 2]).unwrap();
    assert!(complaint(path).contains("authorities.json is damaged"));
    let half = list.replacen("-----BEGIN CERTIFICATE-----", "-----BEGIN", 1);
    fs::write(path.join(LIST), half).unwrap();
    assert!(complaint(path).contains("authorities.json is damaged"), "a certificate is");
    fs::remove_file(path.join(LIST)).unwrap();
    assert!(complaint(path).contains("is gone; restore it"));
    fs::remove_file(path.join(FIRST)).unwrap();
    assert!(complaint(path).contains("authorities.json is gone; restore it"));
    fs::write(path.join(LIST), &list).unwrap();
    fs::remove_file(path.join("ca-key-2.pem")).unwrap();
    assert!(complaint(path).contains("ca-key-2.pem is gone"));
}

#[test]
fn who_issued_a_certificate_is_who_signed_it() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = opened(folder.path());
    let of = |authority: &Authority| {
        let made = authority.operator(&"alice".parse().unwrap(), Role::Admin).unwrap();
        CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()
    };
    let first = fleet.now();
    assert_eq!(fleet.issuer(&of(&first.active)), Issuer::Authority(1));
    fleet.take(Step::Prepare, Issuer::Nobody, 1).unwrap();
    fleet.take(Step::Activate, Issuer::Nobody, 1).unwrap();
    let second = fleet.now();
    assert_eq!(fleet.issuer(&of(&first.active)), Issuer::Authority(1), "and is so after it was superseded");
    assert_eq!(fleet.issuer(&of(&second.active)), Issuer::Authority(2));
    // One that calls itself the second, as whoever stole the first one's key could have it certified.
    assert_eq!(fleet.issuer(&of(&Authority::generate(2).unwrap())), Issuer::Unknown);
}
