//! Where connections come from.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, UnixListener, UnixStream, lookup_host};
use tokio::sync::mpsc;

use crate::error::{ConnectError, ListenError};
use crate::transport::{Connect, Connection, ConnectionInfo};

/// Where a [`Server`](crate::Server) takes its connections from: TCP, a Unix socket, or memory.
///
/// With [`ServerBuilder::tls`](crate::ServerBuilder) each of them carries TLS.
#[derive(Debug)]
pub struct Listener {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Held for its drop.
        _file: SocketFile,
    },
    Memory(mpsc::Receiver<DuplexStream>),
    /// What a test says, one after the other; then nothing.
    #[cfg(test)]
    Script(std::collections::VecDeque<io::Result<DuplexStream>>),
}

impl Listener {
    /// Listens on TCP; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`ListenError::Io`], for example because the port is in use.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn tcp(addr: impl ToSocketAddrs + fmt::Debug) -> Result<Self, ListenError> {
        let at = format!("{addr:?}");
        let bound = async {
            let mut last = io::ErrorKind::AddrNotAvailable.into();
            for addr in lookup_host(addr).await? {
                match bind(addr) {
                    Ok(listener) => return Ok(listener),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match bound.await {
            Ok(listener) => Ok(listener.into()),
            Err(source) => Err(ListenError::Io { at, source }),
        }
    }

    /// Listens on a Unix socket. The file a dead process left behind is replaced; it is removed again when
    /// the listener goes.
    ///
    /// # Errors
    ///
    /// [`ListenError::InUse`] if a live process is served there, [`ListenError::NotASocket`] if something
    /// else has the path, which is left alone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves at most the path without its stale file.
    pub async fn unix(path: impl Into<PathBuf>) -> Result<Self, ListenError> {
        let path = path.into();
        let failed = |path: &Path, source| ListenError::Io { at: path.display().to_string(), source };
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(&path).await?;
                UnixListener::bind(&path)
            }
            bound => bound,
        }
        .map_err(|error| failed(&path, error))?;
        let file = SocketFile::at(path.clone()).map_err(|error| failed(&path, error))?;
        Ok(Self { source: Source::Unix { listener, _file: file } })
    }

    /// Listens in memory: connections come from the [`MemoryConnector`], and no socket is involved. At most
    /// `backlog` of them wait.
    pub fn memory(backlog: usize) -> (Self, MemoryConnector) {
        let (sender, receiver) = mpsc::channel(backlog.max(1));
        (Self { source: Source::Memory(receiver) }, MemoryConnector { sender })
    }

    #[cfg(test)]
    pub(super) fn script(script: impl IntoIterator<Item = io::Result<DuplexStream>>) -> Self {
        Self { source: Source::Script(script.into_iter().collect()) }
    }

    /// The TCP address, with the port that was taken.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.source {
            Source::Tcp(listener) => listener.local_addr().ok(),
            _ => None,
        }
    }

    /// Waits for a connection. `None` if none can come any more.
    pub(super) async fn accept(&mut self) -> Option<io::Result<Accepted>> {
        Some(match &mut self.source {
            Source::Tcp(listener) => listener.accept().await.map(|(io, _)| Accepted::Tcp(io)),
            Source::Unix { listener, .. } => listener.accept().await.map(|(io, _)| Accepted::Unix(io)),
            Source::Memory(receiver) => Ok(Accepted::Memory(receiver.recv().await?)),
            #[cfg(test)]
            Source::Script(script) => match script.pop_front() {
                Some(accepted) => accepted.map(Accepted::Memory),
                None => std::future::pending().await,
            },
        })
    }
}

/// A burst of connections waits here rather than being dropped and tried again a second later. The kernel
/// takes less if its own limit is lower.
const BACKLOG: u32 = 4096;

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait for the connections of the process before it to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { source: Source::Tcp(listener) }
    }
}

/// A stream that was accepted and not yet prepared: that may fail, and concerns nobody else.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
}

impl Accepted {
    pub(super) fn prepare(self) -> io::Result<Connection> {
        match self {
            Self::Tcp(io) => Connection::tcp(io),
            Self::Unix(io) => Ok(Connection::unix(io)),
            Self::Memory(io) => Ok(Connection::new(io, ConnectionInfo::default())),
        }
    }
}

/// The other end of [`Listener::memory`]: give it to [`ClientBuilder::connector`](crate::ClientBuilder::connector).
#[derive(Clone, Debug)]
pub struct MemoryConnector {
    sender: mpsc::Sender<DuplexStream>,
}

/// What either side of a connection in memory may write before the other has read.
const MEMORY_WINDOW: usize = 64 << 10;

#[async_trait]
impl Connect for MemoryConnector {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (near, far) = tokio::io::duplex(MEMORY_WINDOW);
        let refused = || ConnectError::Io(io::ErrorKind::ConnectionRefused.into());
        self.sender.send(far).await.map_err(|_| refused())?;
        Ok(Connection::new(near, ConnectionInfo::default()))
    }
}

/// The file of a Unix socket, as it was when it was bound.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn at(path: PathBuf) -> io::Result<Self> {
        let id = Self::id(&path)?;
        Ok(Self { path, id })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok((meta.dev(), meta.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have replaced it; and if it cannot be removed, the next start replaces it.
        if Self::id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a process that is no more. A live one accepts, or has a full backlog.
async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let path_buf = || path.to_owned();
    let failed = |source| ListenError::Io { at: path.display().to_string(), source };
    if !std::fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path_buf() });
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(ListenError::InUse { path: path_buf() }),
    }
}
