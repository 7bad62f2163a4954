//! An encrypted connection to the coordinator, with an operator's certificate.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

/// What the folder of an operator's identity holds.
pub(super) fn config(folder: &Path) -> Result<Arc<ClientConfig>, String> {
    let read = |name: &str| {
        let path = folder.join(name);
        let wrong = |error: &dyn std::fmt::Display| format!("cannot use {}: {error}", path.display());
        std::fs::read(&path).map_err(|error| wrong(&error)).map(|pem| (pem, path.clone()))
    };
    let certificates = |name: &str| {
        let (pem, path) = read(name)?;
        let all = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|error| format!("{} holds no certificate: {error}", path.display()))?;
        if all.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(all) }
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates("ca.pem")? {
        roots.add(authority).map_err(|error| error.to_string())?;
    }
    let (pem, path) = read("key.pem")?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| format!("{} holds no key: {error}", path.display()))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| {
            builder.with_root_certificates(roots).with_client_auth_cert(
                certificates("cert.pem").map_err(tokio_rustls::rustls::Error::General)?,
                key,
            )
        })
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Connects to `host:port`.
pub(super) async fn connect(
    config: Arc<ClientConfig>,
    host: String,
    port: u16,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
}
