//! What is said of a coordinator that does not fit, against one that shakes hands for real.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::task::TaskTracker;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    // Every fleet's has the same name.
    params.distinguished_name.push(DnType::CommonName, "reconvene");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn acceptor(authority: &Authority, name: &str, year: i32) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Listens at a free port and does `serve` with whoever comes.
async fn listen<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    TaskTracker::new().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    Target::parse(&format!("https://localhost:{port}")).unwrap()
}

async fn shake(acceptor: &TlsAcceptor, stream: TcpStream) {
    drop(acceptor.accept(stream).await);
}

/// What the agent says of a connection that does not come about.
async fn said(target: &Target, trusted: &Authority) -> String {
    let error = once(target, config(&trusted.pem(), None).unwrap()).await.unwrap_err();
    reason(&error, target)
}

#[tokio::test]
async fn a_coordinator_that_does_not_fit_is_told_in_words_that_help() {
    let (own, other) = (authority(), authority());
    for (name, year, trusted, expected) in [
        (
            "localhost",
            2099,
            &other,
            "is not one that this device trusts; if it is the right one, give this device the file",
        ),
        ("elsewhere", 2099, &own, "has a certificate for other names; set coordinator to one of those"),
        ("localhost", 2001, &own, "does not hold today; set this device's clock"),
    ] {
        let acceptor = acceptor(&own, name, year);
        let target = listen(move |stream| {
            let acceptor = acceptor.clone();
            async move { shake(&acceptor, stream).await }
        })
        .await;
        let said = said(&target, trusted).await;
        assert!(said.contains(expected) && said.contains(&target.authority()), "{said}");
        assert!(said.contains("invalid peer certificate") && !said.contains("transport error"), "{said}");
        assert_eq!(listener(&target).await, Listener::Encrypts);
    }
    let target = listen(async |mut stream: TcpStream| {
        // The frame that a server of HTTP/2 begins with.
        drop(stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await);
    })
    .await;
    let said = said(&target, &own).await;
    assert!(said.contains("does not encrypt; set coordinator to http://"), "{said}");
    assert_eq!(listener(&target).await, Listener::Http2);
}

#[tokio::test]
async fn what_listens_is_told_by_its_first_words() {
    for (words, expected) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", Listener::Speaks("HTTP/1, as web servers do")),
        ("SSH-2.0-OpenSSH_9.2\r\n", Listener::Speaks("SSH")),
        ("220 mail ESMTP\r\n", Listener::Speaks("another protocol")),
        ("\0\0\0\x04\0\0\0\0\0", Listener::Http2),
        ("\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0", Listener::Http2),
        ("", Listener::HangsUp),
    ] {
        // Some wait for their client's words, others do not.
        for bytes in [0, PREFACE.len()] {
            let target = listen(move |mut stream| async move {
                stream.read_exact(&mut vec![0; bytes]).await.unwrap();
                stream.write_all(words.as_bytes()).await.unwrap();
            })
            .await;
            assert_eq!(listener(&target).await, expected, "{words}");
        }
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(listener(&Target::parse(&format!("http://{free}")).unwrap()).await, Listener::Silent);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_said_once_and_plainly() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target::parse(&format!("https://{free}")).unwrap();
    let refused = said(&target, &authority()).await;
    assert_eq!(refused, format!("the coordinator at {free} is not reachable: Connection refused"));
    let target = Target::parse("https://coordinator.invalid:1").unwrap();
    let unknown = said(&target, &authority()).await;
    let expected = "the coordinator at coordinator.invalid:1 is not reachable: failed to lookup address";
    assert!(unknown.starts_with(expected), "{unknown}");
}
