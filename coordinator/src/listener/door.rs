//! One connection, from the moment that it is known whose it is. Owns who is let in, and what ends a connection whatever is said on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::transport::server::Connected;

use super::Encryption;
use crate::identity::Peer;
use crate::identity::admissions::Admissions;
use crate::identity::caller::{Caller, Issuer, Open};
use crate::identity::turnstile::{Pass, Turnstile};
use crate::refusals::Refusals;

/// Who shows no certificate may enroll, which takes no longer.
const STRANGER: Duration = Duration::from_secs(30);

/// What decides who is let in; clones share it.
#[derive(Clone)]
pub struct Door {
    /// `None`: connections are not encrypted, and everybody may do anything.
    pub encryption: Option<Arc<Encryption>>,
    /// Whose certificates were taken back.
    pub admissions: Admissions,
    /// How many come.
    pub turnstile: Turnstile,
    /// Who was not let in.
    pub refusals: Refusals,
}

impl Door {
    /// A connection of `peer`, who has shown that certificate.
    pub(super) fn let_in(
        &self,
        io: impl Duplex + 'static,
        peer: Peer,
        shown: Option<&CertificateDer<'_>>,
    ) -> Connection {
        let pass = self.turnstile.enter(&peer);
        let issuer = self.issuer(&peer, shown);
        let (ends, evicted) = (self.ends(&peer, issuer), pass.evicted());
        let ends = async move {
            tokio::select! {
                () = ends => {}
                () = evicted => tracing::debug!("a newer connection takes an older one's place"),
            }
        };
        Connection {
            io: Box::new(io),
            peer,
            issuer,
            open: Open::default(),
            ends: Box::pin(ends),
            has_ended: false,
            _pass: pass,
        }
    }

    /// Which authority's certificate it is that an operator has shown.
    fn issuer(&self, peer: &Peer, shown: Option<&CertificateDer<'_>>) -> Issuer {
        match (peer, shown, &self.encryption) {
            (Peer::Operator { .. }, Some(shown), Some(encryption)) => encryption.authorities.issuer(shown),
            _ => Issuer::Nobody,
        }
    }

    /// What ends a connection of `peer`, other than newer ones of its own.
    fn ends(&self, peer: &Peer, issuer: Issuer) -> End {
        match peer {
            Peer::Unknown => Box::pin(tokio::time::sleep(STRANGER)),
            Peer::Operator { name, .. } => {
                let revoked = self.admissions.revocation(name.clone());
                let of = match issuer {
                    Issuer::Nobody => None,
                    Issuer::Authority(number) => Some(Some(number)),
                    Issuer::Unknown => Some(None),
                };
                let encryption = self.encryption.as_ref();
                let retired =
                    of.zip(encryption).map(|(of, encryption)| encryption.authorities.retirement(of));
                Box::pin(async move {
                    match retired {
                        None => revoked.await,
                        Some(retired) => tokio::select! {
                            () = revoked => {}
                            () = retired => {}
                        },
                    }
                })
            }
            // A device is known by its key, which no authority can forge; one that is banned has its session closed.
            Peer::Device { .. } | Peer::Plain => Box::pin(std::future::pending()),
        }
    }
}

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What ends a connection.
type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One connection.
pub struct Connection {
    io: Box<dyn Duplex>,
    peer: Peer,
    issuer: Issuer,
    open: Open,
    /// When it ends, whatever is said.
    ends: End,
    has_ended: bool,
    _pass: Pass,
}

impl Connection {
    /// An error once it has ended. Asked on every way in and out: who does not read what is sent must not stay for that.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.has_ended = self.has_ended || self.ends.as_mut().poll(cx).is_ready();
        if self.has_ended { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { peer: self.peer.clone(), line: self.open.line(), issuer: self.issuer }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
