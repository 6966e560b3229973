//! Real connections: names to addresses, TCP, a tunnel through a forward proxy, TLS.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::HeaderValue;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::http1::{Conn, Leased};
use super::pool::{Pool, PoolKey};
use super::proxies::{Proxies, ProxySettings};
use super::tls::{Roots, Tls};
use super::{Connect, Connection};
use crate::error::BoxError;

/// Between the addresses of one name, as RFC 8305 §5 has it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// The longest answer to `CONNECT`.
const MAX_TUNNEL_HEAD: usize = 8 * 1024;

/// What connections are made with.
#[derive(Clone, Debug)]
pub(crate) struct NetSettings {
    pub(crate) roots: Roots,
    pub(crate) proxies: ProxySettings,
    /// Addresses that take the place of a name lookup.
    pub(crate) pinned: HashMap<(String, u16), SocketAddr>,
    pub(crate) family: Arc<Family>,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "IP has these two")]
pub enum AddressFamily {
    /// All of them.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// An [`AddressFamily`] that can be changed while it is in use.
#[derive(Debug, Default)]
pub(crate) struct Family(AtomicU8);

impl Family {
    pub(crate) fn set(&self, family: AddressFamily) {
        let value = match family {
            AddressFamily::Any => 0,
            AddressFamily::V4 => 4,
            AddressFamily::V6 => 6,
        };
        // Relaxed: it guards no other memory.
        self.0.store(value, Ordering::Relaxed);
    }

    fn allows(&self, address: &SocketAddr) -> bool {
        match self.0.load(Ordering::Relaxed) {
            4 => address.is_ipv4(),
            6 => address.is_ipv6(),
            _ => true,
        }
    }
}

pub(crate) struct Net {
    tls: Arc<Tls>,
    proxies: Proxies,
    pinned: HashMap<(String, u16), SocketAddr>,
    family: Arc<Family>,
    pool: Arc<Pool>,
}

impl Net {
    pub(crate) fn new(settings: NetSettings) -> Self {
        let NetSettings { roots, proxies, pinned, family } = settings;
        let (tls, proxies) = (Arc::new(Tls::new(roots)), Proxies::new(&proxies));
        Self { tls, proxies, pinned, family, pool: Arc::default() }
    }

    async fn dial(&self, url: &Url, key: &PoolKey) -> Result<Conn, BoxError> {
        let (stream, socket): (Box<dyn Stream>, _) = match self.proxies.of(url) {
            None => {
                let tcp = self.tcp(&key.host, key.port).await?;
                let socket = SockRef::from(&tcp).try_clone()?;
                (Box::new(tcp), socket)
            }
            Some(proxy) => {
                let through = Url::parse(&proxy.uri().to_string())?;
                let (host, port) = host_and_port(&through)?;
                let tcp = self.tcp(host, port).await?;
                let socket = SockRef::from(&tcp).try_clone()?;
                let stream: Box<dyn Stream> = match through.scheme() {
                    "http" => Box::new(tcp),
                    "https" => self.encrypted(tcp, host).await?,
                    _ => return Err("the forward proxy is neither http nor https".into()),
                };
                (tunnel(stream, key, proxy.basic_auth()).await?, socket)
            }
        };
        let stream = if key.is_tls { self.encrypted(stream, &key.host).await? } else { stream };
        Conn::open(stream, Some(socket)).await
    }

    async fn encrypted<S: Stream>(&self, stream: S, host: &str) -> Result<Box<dyn Stream>, BoxError> {
        let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned())?;
        let stream = self.tls.connector().await?.connect(name, stream).await?;
        Ok(Box::new(stream))
    }

    /// A TCP connection to the first address that takes one; they are tried 250 ms apart.
    async fn tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = self.addresses(host, port).await?.into_iter();
        let mut addresses = addresses.filter(|address| self.family.allows(address));
        let mut attempts = FuturesUnordered::new();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        loop {
            let next = addresses.next();
            let exhausted = next.is_none();
            attempts.extend(next.map(TcpStream::connect));
            tokio::select! {
                attempt = attempts.next() => match attempt {
                    Some(Ok(stream)) => {
                        stream.set_nodelay(true)?;
                        return Ok(stream);
                    }
                    Some(Err(error)) => last = error,
                    None if exhausted => return Err(last),
                    None => {}
                },
                () = tokio::time::sleep(NEXT_ADDRESS_AFTER), if !exhausted => {}
            }
        }
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.pinned.get(&(host.to_owned(), port)) {
            return Ok(vec![*address]);
        }
        if host == "localhost" {
            // RFC 6761 §6.3: the name is not for DNS to answer (S-008).
            let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(both.map(|address| SocketAddr::new(address, port)).to_vec());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

#[async_trait]
impl Connect for Net {
    async fn connect(&self, url: &Url, idle_limit: Duration) -> Result<Box<dyn Connection>, BoxError> {
        let (host, port) = host_and_port(url)?;
        let is_tls = url.scheme() == "https";
        while let Some((key, mut conn)) = self.pool.take(is_tls, host, port, idle_limit) {
            if conn.is_usable().await {
                return Ok(Box::new(Leased { conn, key, pool: Arc::downgrade(&self.pool) }));
            }
        }
        let key = PoolKey { is_tls, host: host.to_owned(), port };
        let conn = self.dial(url, &key).await?;
        Ok(Box::new(Leased { conn, key, pool: Arc::downgrade(&self.pool) }))
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net").field("tls", &self.tls).finish_non_exhaustive()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// The host in lower case, an IPv6 address in brackets.
fn host_and_port(url: &Url) -> Result<(&str, u16), BoxError> {
    match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => Ok((host, port)),
        _ => Err("the URL has no host".into()),
    }
}

/// Asks a forward proxy for a way to `target`. The proxy's credential goes to the proxy and no further (S-029).
async fn tunnel(
    mut stream: Box<dyn Stream>,
    target: &PoolKey,
    credential: Option<&HeaderValue>,
) -> Result<Box<dyn Stream>, BoxError> {
    let PoolKey { host, port, .. } = target;
    let mut head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(credential) = credential {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(credential.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    stream.flush().await?;
    // Byte by byte: what follows the head belongs to TLS. It is one short head for a whole connection.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_TUNNEL_HEAD {
            return Err("the forward proxy's answer does not end".into());
        }
        answer.push(stream.read_u8().await?);
    }
    match answer.get(..12) {
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', _, _]) => Ok(stream),
        _ => {
            let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
            Err(format!("the forward proxy refused: {}", crate::text::one_line(line)).into())
        }
    }
}
