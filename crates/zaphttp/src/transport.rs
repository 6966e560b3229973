use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::error::ConnectError;
#[cfg(feature = "tls")]
use crate::tls::{TlsInfo, TlsStream};
use crate::wire::DEFAULT_PORT;

/// Where a client finds its peer.
///
/// Parses from `host:port`, `ip:port`, `[ip]:port`, `unix:/path` and, with the default port 9999, from a
/// host alone; `Display` is the inverse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// A socket address.
    Tcp(SocketAddr),
    /// A host name, resolved at each connect, and a port. `localhost` is not asked of the resolver.
    Name {
        /// The name as given.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Name { host, port } => write!(f, "{}:{port}", host.escape_default()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is no [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a target: expected host:port, ip:port or unix:/path")]
pub struct InvalidTarget;

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(InvalidTarget) } else { Ok(Self::Unix(path.into())) };
        }
        if let Ok(addr) = text.parse() {
            return Ok(Self::Tcp(addr));
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Tcp(SocketAddr::new(ip, DEFAULT_PORT)));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse().map_err(|_| InvalidTarget)?)
            }
            Some(_) => return Err(InvalidTarget),
            None => (text, DEFAULT_PORT),
        };
        let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if host.is_empty() || host.len() > 253 || port == 0 || !host.bytes().all(label) {
            return Err(InvalidTarget);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

/// What is known about the connection that carried a message.
///
/// A server puts it into the extensions of every request, a client into those of every response (Z-035).
/// A clone shares everything.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    inner: Arc<InfoInner>,
}

#[derive(Clone, Debug, Default)]
struct InfoInner {
    peer_addr: Option<SocketAddr>,
    #[cfg(feature = "tls")]
    tls: Option<TlsInfo>,
}

impl ConnectionInfo {
    /// Nothing but the peer's address; `None` where there is none, as on a Unix socket or in memory.
    pub fn new(peer_addr: Option<SocketAddr>) -> Self {
        let inner = InfoInner {
            peer_addr,
            #[cfg(feature = "tls")]
            tls: None,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same, over TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: TlsInfo) -> Self {
        Self { inner: Arc::new(InfoInner { peer_addr: self.inner.peer_addr, tls: Some(tls) }) }
    }

    /// The peer's address. `None` on a Unix socket and on connections in memory.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.inner.peer_addr
    }

    /// What the handshake agreed on, and who the peer proved to be. `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.inner.tls.as_ref()
    }
}

/// Opens connections for a [`Client`](crate::Client) in a way of its own: through a proxy, in memory, in a
/// simulation.
///
/// Implementors hand over a stream that is ready for the first frame and on which nothing was read or
/// written that belongs to it. They need no timeout: the client's connect timeout drops the future.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Opens one connection.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], whatever kept the connection from being ready; nothing of a request was sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future must give the half-open connection up.
    async fn connect(&self) -> Result<Connection, ConnectError>;
}

const _: fn(&dyn Connect) = |_| {};

/// An open connection: the bytes, and what is known about the other end. It can be read and written, for
/// connectors that wrap another one.
#[derive(Debug)]
pub struct Connection {
    pub(crate) io: Stream,
    pub(crate) info: ConnectionInfo,
}

impl Connection {
    /// A connection over any byte stream.
    pub fn new<S>(io: S, info: ConnectionInfo) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self { io: Stream::Other(Box::new(io)), info }
    }

    /// A connection over TCP, with small writes sent at once and keep-alive probes after 30 s.
    ///
    /// # Errors
    ///
    /// The peer is already gone, or the socket refuses an option.
    pub fn tcp(io: TcpStream) -> io::Result<Self> {
        prepare_tcp(&io)?;
        let info = ConnectionInfo::new(Some(io.peer_addr()?));
        Ok(Self { io: Stream::Tcp(io), info })
    }

    /// A connection over a Unix socket.
    pub fn unix(io: UnixStream) -> Self {
        Self { io: Stream::Unix(io), info: ConnectionInfo::default() }
    }

    /// The same connection, encrypted from here on.
    #[cfg(feature = "tls")]
    pub(crate) async fn secured<E>(
        self,
        handshake: impl AsyncFnOnce(Stream) -> Result<(TlsStream<Stream>, TlsInfo), E>,
    ) -> Result<Self, E> {
        let (stream, tls) = handshake(self.io).await?;
        Ok(Self { io: Stream::Tls(Box::new(stream)), info: self.info.with_tls(tls) })
    }

    /// What is known about the other end.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// How long a TCP connection is silent before the kernel probes it (zaphttp §4).
const KEEP_ALIVE: Duration = Duration::from_secs(30);

fn prepare_tcp(io: &TcpStream) -> io::Result<()> {
    io.set_nodelay(true)?;
    SockRef::from(io).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))
}

/// What any other byte stream must be able to do.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The byte stream of a connection. The two common kinds are spelled out: a call through a table per read
/// is avoided, and an idle one can be looked at without reading.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Self>>),
    Other(Box<dyn Io>),
}

impl Stream {
    /// Whether a connection on which nothing should come is open and has nothing on it, found out without
    /// waiting (S-042). Only the kernel knows: what the runtime remembers about readiness is as old as its
    /// last turn.
    ///
    /// Where there is no way to look but to read, that is done; what is read makes the connection unusable
    /// anyway.
    pub(crate) fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(io) => would_block(peek(io)),
            Self::Unix(io) => would_block(peek(io)),
            // A record need not be data, so that is read too.
            #[cfg(feature = "tls")]
            Self::Tls(io) => reads_nothing(io, cx) && !io.get_ref().has_unseen_bytes(),
            Self::Other(io) => reads_nothing(io, cx),
        }
    }

    /// The same for a connection that was just made. What the kernel holds may be session tickets, which
    /// a TLS server sends on its own.
    pub(crate) fn starts_silent(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(io) => reads_nothing(io, cx),
            _ => self.is_silent(cx),
        }
    }

    /// Has `cx` woken when something happens on a connection where nothing should. False if it has happened.
    pub(crate) fn watch(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            // The runtime remembers a socket as readable until a read has found it empty.
            Self::Tcp(io) => io.poll_read_ready(cx).is_pending() || would_block(peek(io)),
            Self::Unix(io) => io.poll_read_ready(cx).is_pending() || would_block(peek(io)),
            #[cfg(feature = "tls")]
            Self::Tls(io) => reads_nothing(io, cx),
            Self::Other(io) => reads_nothing(io, cx),
        }
    }

    /// Whether bytes wait in the kernel of which the runtime may not know yet.
    pub(crate) fn has_unseen_bytes(&self) -> bool {
        match self {
            Self::Tcp(io) => peek(io).is_ok_and(|len| len > 0),
            Self::Unix(io) => peek(io).is_ok_and(|len| len > 0),
            #[cfg(feature = "tls")]
            Self::Tls(io) => io.get_ref().has_unseen_bytes(),
            Self::Other(_) => false,
        }
    }
}

fn reads_nothing(io: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> bool {
    let mut byte = [0];
    Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
}

fn would_block(peeked: io::Result<usize>) -> bool {
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn peek(socket: &impl AsFd) -> io::Result<usize> {
    SockRef::from(socket).peek(&mut [MaybeUninit::uninit()])
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "Tls",
            Self::Other(_) => "Other",
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_read(cx, buf),
            #[cfg(feature = "tls")]
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Other(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_write(cx, buf),
            #[cfg(feature = "tls")]
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Other(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            #[cfg(feature = "tls")]
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Other(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            #[cfg(feature = "tls")]
            Self::Tls(io) => io.is_write_vectored(),
            Self::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Sockets hold nothing back.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "tls")]
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Unix(io) => Pin::new(io).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
