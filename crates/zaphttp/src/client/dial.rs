//! From a target to a connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::error::ConnectError;
#[cfg(feature = "tls")]
use crate::tls::{ClientTls, Generation, ServerName};
use crate::transport::{Connect, Connection, Target};

#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) route: Route,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<ClientTls>,
}

#[derive(Clone, Debug)]
pub(super) enum Route {
    Target(Target),
    Custom(Arc<dyn Connect>),
}

impl Dialer {
    pub(super) fn new(target: Target) -> Self {
        Self {
            route: Route::Target(target),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn dial(&self) -> Result<Connection, ConnectError> {
        self.route.connect().await
    }

    #[cfg(feature = "tls")]
    pub(super) async fn dial(&self) -> Result<Connection, ConnectError> {
        let connection = self.route.connect().await?;
        match &self.tls {
            None => Ok(connection),
            Some(tls) => connection
                .secured(async |io| tls.connect(io, self.route.server_name(), None).await)
                .await
                .map_err(ConnectError::Tls),
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn generation(&self) -> Option<Generation> {
        self.tls.as_ref().map(ClientTls::generation)
    }
}

impl Route {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        match self {
            Self::Target(Target::Tcp(addr)) => tcp(*addr).await.map_err(ConnectError::Io),
            Self::Target(Target::Unix(path)) => {
                UnixStream::connect(path).await.map(Connection::unix).map_err(ConnectError::Io)
            }
            Self::Target(Target::Name { host, port }) => by_name(host, *port).await,
            Self::Custom(connector) => connector.connect().await,
        }
    }

    /// The name that the target is known by, if it has one.
    #[cfg(feature = "tls")]
    fn server_name(&self) -> Option<ServerName<'static>> {
        match self {
            Self::Target(Target::Tcp(addr)) => Some(addr.ip().into()),
            Self::Target(Target::Name { host, .. }) => ServerName::try_from(host.clone()).ok(),
            Self::Target(Target::Unix(_)) | Self::Custom(_) => None,
        }
    }
}

async fn tcp(addr: SocketAddr) -> io::Result<Connection> {
    Connection::tcp(TcpStream::connect(addr).await?)
}

async fn by_name(host: &str, port: u16) -> Result<Connection, ConnectError> {
    if host.eq_ignore_ascii_case("localhost") {
        // Whatever a resolver says: RFC 6761 §6.3, S-008.
        let loopback = [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
        return any_of(loopback).await;
    }
    any_of(lookup_host((host, port)).await.map_err(ConnectError::Resolve)?).await
}

/// The first address that answers; the error is that of the last.
async fn any_of(addrs: impl IntoIterator<Item = SocketAddr>) -> Result<Connection, ConnectError> {
    let mut last = ConnectError::Resolve(io::ErrorKind::NotFound.into());
    for addr in addrs {
        match tcp(addr).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = ConnectError::Io(error),
        }
    }
    Err(last)
}
