//! The port and its connections: accepted, served, cut, swallowed.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::faults::BlackHole;
use crate::front::Front;
use crate::memory::Connector;
use crate::shared::Shared;
use crate::wire::{Hole, Wire};

const BACKLOG: u32 = 1024;
/// More than a laptop has services; further ones are closed at once.
const CONNECTIONS_MAX: usize = 4_096;
const STREAMS_MAX: u32 = 1_024;
const HEADERS_MAX: u32 = 16 * 1024;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// After the system refused to hand out a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every accepted connection needs.
#[derive(Clone)]
struct Parts {
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    connections: Arc<Connections>,
    memory: Connector,
}

/// The port: served, or kept while it is not.
pub(crate) struct Server {
    parts: Parts,
    port: tokio::sync::Mutex<Port>,
}

enum Port {
    Serving {
        stop: oneshot::Sender<()>,
        task: Owned,
    },
    /// Bound, so that the system gives it to nobody who asks for a free one, and refusing connections.
    Kept(TcpSocket),
    Closed,
}

/// A task that ends with its handle.
pub(crate) struct Owned(pub(crate) JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// Binds and serves. Gives the address that was bound.
    pub(crate) fn start(
        shared: Arc<Shared>,
        tls: Option<TlsAcceptor>,
        addr: SocketAddr,
    ) -> io::Result<(Self, SocketAddr)> {
        let listener = bind(addr)?.listen(BACKLOG)?;
        let bound = listener.local_addr()?;
        let parts = Parts { shared, tls, connections: Arc::default(), memory: Connector::default() };
        let port = tokio::sync::Mutex::new(parts.serve(listener));
        Ok((Self { parts, port }, bound))
    }

    /// Cuts every connection and refuses new ones. Without effect on a stopped one.
    pub(crate) async fn stop(&self, addr: SocketAddr) -> io::Result<()> {
        let mut port = self.port.lock().await;
        match std::mem::replace(&mut *port, Port::Closed) {
            Port::Serving { stop, mut task } => {
                stop.send(()).ok();
                // It ends by itself, after it closed its connections; a panic in it was reported.
                (&mut task.0).await.ok();
                *port = Port::Kept(bind(addr)?);
            }
            kept => *port = kept,
        }
        Ok(())
    }

    /// Serves the same port again. Without effect on a running one.
    pub(crate) async fn resume(&self, addr: SocketAddr) -> io::Result<()> {
        let mut port = self.port.lock().await;
        let socket = match std::mem::replace(&mut *port, Port::Closed) {
            Port::Kept(socket) => socket,
            Port::Closed => bind(addr)?,
            serving => {
                *port = serving;
                return Ok(());
            }
        };
        *port = self.parts.serve(socket.listen(BACKLOG)?);
        Ok(())
    }

    /// Cuts every connection and gives the port up.
    pub(crate) async fn close(&self) {
        let mut port = self.port.lock().await;
        if let Port::Serving { stop, mut task } = std::mem::replace(&mut *port, Port::Closed) {
            stop.send(()).ok();
            (&mut task.0).await.ok();
        }
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.parts.connections
    }

    pub(crate) fn connector(&self) -> Connector {
        self.parts.memory.clone()
    }
}

/// Bound, not yet listening. The port may still have connections of an earlier listener.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

impl Parts {
    fn serve(&self, listener: TcpListener) -> Port {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(self.clone().accept(listener, self.memory.listen(), stopped));
        Port::Serving { stop, task: Owned(task) }
    }

    async fn accept(
        self,
        listener: TcpListener,
        mut memory: mpsc::Receiver<DuplexStream>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        // Owns the connections: they end with it.
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(stream) = memory.recv() => {
                    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                    if tasks.len() < CONNECTIONS_MAX {
                        tasks.spawn(self.clone().connection(stream, peer));
                    }
                    continue;
                }
                _ = &mut stopped => break,
                Some(_) = tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, peer)) if tasks.len() < CONNECTIONS_MAX => {
                    stream.set_nodelay(true).ok();
                    tasks.spawn(self.clone().connection(stream, peer));
                }
                Ok(_) => tracing::warn!("too many connections: one was closed"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    // Out of descriptors: the next attempt fails at once, too.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop((listener, memory));
        tasks.shutdown().await;
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin, peer: SocketAddr) {
        let open = self.connections.add();
        let wire = Wire::new(stream, open.hole.clone());
        let front = Front::new(self.shared.clone(), peer, open.id);
        let Some(tls) = &self.tls else {
            return serve(wire, front, &open).await;
        };
        let handshake = tls.accept(wire);
        tokio::pin!(handshake);
        let shaken = match tokio::time::timeout(HANDSHAKE_TIME, handshake.as_mut()).await {
            // A hole closes nothing.
            Err(_) if open.hole.is_open() => handshake.await,
            Err(_) => return tracing::debug!(%peer, "no TLS in time"),
            Ok(shaken) => shaken,
        };
        match shaken {
            Ok(stream) => serve(stream, front, &open).await,
            Err(error) => tracing::debug!(%peer, %error, "no TLS"),
        }
    }
}

/// HTTP/2 until either end closes.
async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send, front: Front, open: &Open) {
    // Streams notice that it is dropped.
    let (_alive, ended) = watch::channel(());
    let connection = http2::Builder::new(Streams { ended })
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), front);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = open.goaway.notified() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// Runs the calls of a connection, no longer than the connection itself.
#[derive(Clone)]
struct Streams {
    ended: watch::Receiver<()>,
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut ended = self.ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                // Nothing is ever sent: this is the sender's end.
                _ = ended.changed() => {}
                _ = stream => {}
            }
        });
    }
}

/// The open connections, and what may be done to all of them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    swallow_new: AtomicBool,
    open: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: BTreeMap<u64, (Hole, Arc<Notify>)>,
}

/// One connection's place in the table.
struct Open {
    id: u64,
    hole: Hole,
    goaway: Arc<Notify>,
    table: Arc<Connections>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.table.table(|table| table.open.remove(&self.id));
    }
}

impl Connections {
    fn add(self: &Arc<Self>) -> Open {
        let (hole, goaway) = (Hole::default(), Arc::new(Notify::new()));
        if self.swallow_new.load(Ordering::Relaxed) {
            hole.open();
        }
        let id = self.table(|table| {
            table.last += 1;
            table.open.insert(table.last, (hole.clone(), goaway.clone()));
            table.last
        });
        Open { id, hole, goaway, table: self.clone() }
    }

    fn table<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn count(&self) -> usize {
        self.table(|table| table.open.len())
    }

    pub(crate) fn swallow(&self, which: BlackHole) {
        if which == BlackHole::All {
            self.swallow_new.store(true, Ordering::Relaxed);
        }
        self.table(|table| table.open.values().for_each(|(hole, _)| hole.open()));
    }

    pub(crate) fn lift(&self) {
        self.swallow_new.store(false, Ordering::Relaxed);
    }

    pub(crate) fn go_away(&self) {
        self.table(|table| table.open.values().for_each(|(_, goaway)| goaway.notify_one()));
    }
}
