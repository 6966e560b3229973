//! An encrypted byte stream, and what was negotiated for it.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use rustls::{NamedGroup, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::failure::TlsError;
use super::{PeerNames, TlsFailure, Validity};

/// What was negotiated, and who the peer is. Cheap to clone; goes into the extensions of requests and
/// responses (Z-035).
#[derive(Clone)]
pub struct TlsInfo {
    inner: Arc<InfoInner>,
}

struct InfoInner {
    group: NamedGroup,
    alpn: Option<Vec<u8>>,
    sni: Option<String>,
    certificate: Option<Vec<u8>>,
    names: PeerNames,
}

impl TlsInfo {
    /// The key exchange that was used (S-051).
    pub fn group(&self) -> NamedGroup {
        self.inner.group
    }

    /// Whether the key exchange withstands quantum computers.
    pub fn is_post_quantum(&self) -> bool {
        self.inner.group == NamedGroup::X25519MLKEM768
    }

    /// The application protocol, if one was agreed on: [`ALPN`](super::ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.inner.alpn.as_deref()
    }

    /// The DNS name that the client asked for, if it dialled one.
    pub fn sni(&self) -> Option<&str> {
        self.inner.sni.as_deref()
    }

    /// The peer's certificate in DER, verified. A server has one only if it requires them.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.inner.certificate.as_deref()
    }

    /// From when until when the peer's certificate holds; `None` if it has none.
    pub fn peer_validity(&self) -> Option<Validity> {
        Validity::of(self.peer_certificate()?)
    }

    /// The names in the peer's certificate.
    pub fn peer_names(&self) -> &PeerNames {
        &self.inner.names
    }

    pub(super) fn new(state: &rustls::CommonState, sni: Option<String>) -> Result<Self, TlsError> {
        // Both ends offer 1.3 alone; what follows must not be reached with less (S-050).
        if state.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(TlsError::new(TlsFailure::Version));
        }
        let Some(group) = state.negotiated_key_exchange_group() else {
            return Err(TlsError::new(TlsFailure::KeyExchange));
        };
        let certificate = state.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        let names = certificate.as_deref().map_or_else(PeerNames::default, PeerNames::of);
        let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
        Ok(Self { inner: Arc::new(InfoInner { group: group.name(), alpn, sni, certificate, names }) })
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InfoInner { group, alpn, sni, certificate, names } = &*self.inner;
        f.debug_struct("TlsInfo")
            .field("group", group)
            .field("alpn", &alpn.as_deref().map(String::from_utf8_lossy))
            .field("sni", sni)
            .field("peer_certificate_len", &certificate.as_ref().map(Vec::len))
            .field("peer_names", names)
            .finish()
    }
}

/// A byte stream over TLS. Its I/O errors hold a [`TlsError`] where TLS is the reason: see
/// [`TlsError::of`].
///
/// Reading `0` bytes means that the peer said it is done (close_notify). A connection that just ends
/// is an error of class [`Truncated`](TlsFailure::Truncated) (S-061). Shutting down sends close_notify.
pub struct TlsStream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    /// Set by the handshake of a client that had no certificate when the server asked for one.
    unanswered: Arc<AtomicBool>,
    /// Whether the peer sent anything since the handshake: then it took us as we are.
    heard: bool,
}

impl<IO> TlsStream<IO> {
    pub(super) fn new(inner: tokio_rustls::TlsStream<IO>, unanswered: Arc<AtomicBool>) -> Self {
        Self { inner, unanswered, heard: false }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().0
    }

    fn explain(&self, error: io::Error) -> io::Error {
        let lost = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        );
        if lost && !self.heard && self.unanswered.load(Ordering::Relaxed) {
            return TlsError::unanswered_certificate_request(error).into_io();
        }
        TlsError::when_established(error).map_or_else(|error| error, TlsError::into_io)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// A write failed. The reason may be waiting in what the peer sent before it closed.
    fn explain_write(&mut self, error: io::Error, cx: &mut Context<'_>) -> io::Error {
        // Reading into nothing takes in records, and their alerts, but no data.
        let mut nothing = ReadBuf::new(&mut []);
        match Pin::new(&mut self.inner).poll_read(cx, &mut nothing) {
            Poll::Ready(Err(alert)) if alert.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                self.explain(alert)
            }
            _ => self.explain(error),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buf.filled().len();
        let result = ready!(Pin::new(&mut this.inner).poll_read(cx, buf));
        this.heard |= buf.filled().len() > filled;
        Poll::Ready(result.map_err(|error| this.explain(error)))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_write(cx, buf));
        Poll::Ready(result.map_err(|error| this.explain_write(error, cx)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs));
        Poll::Ready(result.map_err(|error| this.explain_write(error, cx)))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.inner).poll_flush(cx));
        Poll::Ready(result.map_err(|error| this.explain_write(error, cx)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match &self.inner {
            tokio_rustls::TlsStream::Client(_) => "client",
            tokio_rustls::TlsStream::Server(_) => "server",
        };
        f.debug_struct("TlsStream").field("side", &side).finish_non_exhaustive()
    }
}
