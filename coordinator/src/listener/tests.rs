//! Real connections over TLS, with certificates of an authority of the test's own.

use std::time::Duration;

use proto::DeviceId;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_stream::StreamExt as _;
use tonic::transport::server::Connected as _;

use super::*;

#[test]
fn who_comes_without_encryption_is_told_apart() {
    let broken = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    let said = why(&io::Error::new(io::ErrorKind::InvalidData, broken));
    assert!(said.starts_with("what came is not encrypted"), "{said}");
    assert_eq!(why(&io::Error::new(io::ErrorKind::InvalidData, "other")), "other");
}
use crate::identity::Role;
use crate::identity::admissions::Admissions;
use crate::identity::authority::KeyRequest;
use crate::identity::caller::Issuer;
use crate::identity::succession::Step;
use crate::identity::turnstile::Turnstile;
use crate::refusals::Refusals;
use crate::store::{OperatorRecord, SledStore, Store as _};

struct Host {
    authorities: Arc<Authorities>,
    admissions: Admissions,
    refusals: Refusals,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Host {
    /// Echoes what each connection says.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authorities = Arc::new(Authorities::open(folder.path()).unwrap());
        let encryption = Arc::new(Encryption::new(authorities.clone(), vec!["fleet".to_owned()]).unwrap());
        let (admissions, turnstile) = (Admissions::default(), Turnstile::default());
        let refusals = Refusals::default();
        let door = Door {
            encryption: Some(encryption),
            admissions: admissions.clone(),
            turnstile,
            refusals: refusals.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut connections = incoming(listener, (None, mpsc::channel(1).1), door, &tasks, stop.clone());
        let echoes = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok(connection)) = connections.next().await {
                let (mut heard, mut said) = tokio::io::split(connection);
                echoes.spawn(async move { tokio::io::copy(&mut heard, &mut said).await });
            }
        });
        Self { authorities, admissions, refusals, address, stop, _folder: folder }
    }

    /// A connection that was answered once, showing `certificate` of `key`.
    async fn connect(&self, certificate: &str, key: &KeyPair) -> TlsStream<TcpStream> {
        let mut stream = self.shows(certificate, key).await;
        assert!(is_open(&mut stream).await);
        stream
    }

    /// A connection that shows `certificate` of `key`; whether it is let in is known when it is answered.
    async fn shows(&self, certificate: &str, key: &KeyPair) -> TlsStream<TcpStream> {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der(self.authorities.now().active.certificate())).unwrap();
        let own = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![der(certificate)], own)
            .unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from("fleet").unwrap(), stream).await.unwrap()
    }

    async fn device(&self, key: &KeyPair) -> TlsStream<TcpStream> {
        let request = CertificateParams::default().serialize_request(key).unwrap();
        let request = KeyRequest::read(request.der()).unwrap();
        let id: DeviceId = "gw-1".parse().unwrap();
        let certificate =
            self.authorities.now().active.device(&id, &request, Duration::from_secs(60)).unwrap();
        self.connect(&certificate, key).await
    }

    async fn operator(&self, name: &str) -> TlsStream<TcpStream> {
        let made = self.authorities.now().active.operator(&name.parse().unwrap(), Role::Viewer).unwrap();
        self.connect(&made.certificate, &KeyPair::from_pem(&made.key).unwrap()).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Whether what is said is answered.
async fn is_open(stream: &mut TlsStream<TcpStream>) -> bool {
    let said = async {
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    said.await.is_ok()
}

#[tokio::test]
async fn a_ninth_connection_of_a_device_ends_its_first_and_no_others() {
    let host = Host::start().await;
    let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    // Another key of that name counts by itself.
    let mut others = host.device(&other).await;
    let mut all = Vec::new();
    for _ in 0..9 {
        all.push(host.device(&own).await);
    }
    let mut open = Vec::new();
    for stream in &mut all {
        open.push(is_open(stream).await);
    }
    assert_eq!(open, [vec![false], vec![true; 8]].concat());
    assert!(is_open(&mut others).await);
}

#[tokio::test]
async fn an_operators_connection_ends_when_he_is_revoked_or_his_authority_is_retired() {
    let host = Host::start().await;
    let key = KeyPair::generate().unwrap();
    let (mut alice, mut bob, mut device) =
        (host.operator("alice").await, host.operator("bob").await, host.device(&key).await);
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let record = OperatorRecord { name: "alice".parse().unwrap(), revoked: true };
    store.put_operator(&record).unwrap();
    host.admissions.settle_operator(&store, &record.name).unwrap();
    assert!(!is_open(&mut alice).await);
    assert!(is_open(&mut bob).await);
    for step in [Step::Prepare, Step::Activate] {
        host.authorities.take(step, Issuer::Nobody, 1).unwrap();
        assert!(is_open(&mut bob).await, "{step:?}");
    }
    host.authorities.take(Step::Retire, Issuer::Nobody, 2).unwrap();
    assert!(!is_open(&mut bob).await);
    assert!(
        is_open(&mut host.operator("bob").await).await,
        "he comes again with a certificate of the new one"
    );
    assert!(is_open(&mut device).await, "it is known by its key");
}

#[tokio::test]
async fn a_call_tells_which_authority_its_operators_certificate_is_of() {
    let (folder, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authorities = Arc::new(Authorities::open(folder.path()).unwrap());
    let door = Door {
        encryption: Some(Arc::new(Encryption::new(authorities.clone(), vec!["fleet".to_owned()]).unwrap())),
        admissions: Admissions::default(),
        turnstile: Turnstile::default(),
        refusals: Refusals::default(),
    };
    let issuer = |of: Option<&Authorities>| {
        let made = of.map(|of| of.now().active.operator(&"alice".parse().unwrap(), Role::Admin).unwrap());
        let der = made.map(|made| CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap());
        let peer = Peer::Operator { name: "alice".parse().unwrap(), role: Role::Admin, key: None };
        door.let_in(tokio::io::duplex(16).0, peer, der.as_ref()).connect_info().issuer
    };
    assert_eq!(issuer(Some(&authorities)), Issuer::Authority(1));
    for step in [Step::Prepare, Step::Activate] {
        authorities.take(step, Issuer::Nobody, 1).unwrap();
    }
    assert_eq!(issuer(Some(&authorities)), Issuer::Authority(2));
    assert_eq!(issuer(Some(&Authorities::open(foreign.path()).unwrap())), Issuer::Unknown);
    assert_eq!(issuer(None), Issuer::Nobody, "he is on the host");
}

#[tokio::test]
async fn who_does_not_read_what_is_sent_is_ended_all_the_same() {
    let (near, _far) = tokio::io::duplex(16);
    let (admissions, turnstile) = (Admissions::default(), Turnstile::default());
    let refusals = Refusals::default();
    let door = Door { encryption: None, admissions, turnstile, refusals };
    let peer = || Peer::Device { id: "gw-1".parse().unwrap(), key: proto::Digest::of(b"key") };
    let mut silent = door.let_in(near, peer(), None);
    let (written, _newer) = tokio::join!(
        async { silent.write_all(&[0; 64]).await }, // more than the other end takes
        async { (0..9).map(|_| door.let_in(tokio::io::duplex(16).0, peer(), None)).collect::<Vec<_>>() },
    );
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(silent.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut, "and stays so");
}

#[tokio::test]
async fn who_shows_no_certificate_of_the_fleet_is_logged_once() {
    let (host, folder) = (Host::start().await, tempfile::tempdir().unwrap());
    let foreign = Authorities::open(folder.path()).unwrap().now();
    let made = foreign.active.operator(&"alice".parse().unwrap(), Role::Admin).unwrap();
    for _ in 0..2 {
        let mut stream = host.shows(&made.certificate, &KeyPair::from_pem(&made.key).unwrap()).await;
        assert!(!is_open(&mut stream).await);
        // What is no handshake at all is another reason.
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await; // an alert, or a reset
    }
    assert_eq!(host.refusals.count(), 2);
}
