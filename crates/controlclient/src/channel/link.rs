//! One connection to a gateway, shared by all registrations that were given the same [`Gateway`].
//!
//! Heartbeats watch the connection (controlplane §4.6): nothing here pings. A caller whose deadline passed
//! says which connection it was on, and that one is not used again (CB-01).
//!
//! [`Gateway`]: super::Gateway

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::bearer::Bearer;
use super::dial::{Dialer, Io, connect};
use super::tls::GatewayTls;
use super::watched::{Ended, Watched};
use super::{CallError, Target};
use crate::failure::{Failure, FailureKind};

/// A header list longer than this is refused (threats §3).
const MAX_HEADER_LIST: u32 = 16 << 10;
/// How often certificate files are looked at: well below the 5 s of CB-15.
const LOOK: Duration = Duration::from_secs(1);
/// How long the connection with changed certificates may take, before the next look tries again.
const RENEWAL: Duration = Duration::from_secs(3);

/// The way to one gateway.
pub(crate) struct Link {
    target: Target,
    /// Scheme, host and port of every call.
    origin: Uri,
    /// When it was made.
    since: Instant,
    /// Instead of TCP.
    dialer: Option<Dialer>,
    tls: Option<GatewayTls>,
    bearer: Option<Bearer>,
    /// Refuse to connect in plaintext to what turns out to be another host.
    only_loopback: bool,
    made: AtomicU64,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    current: Option<Arc<Connection>>,
    /// The attempt under way, which all callers wait for.
    dialing: Option<Dialing>,
    /// Looks at the certificate files; ends with the link.
    looking: Option<AbortHandle>,
}

type Dialing = Shared<BoxFuture<'static, Result<Arc<Connection>, CallError>>>;

/// A connection that is up, or was.
pub(crate) struct Connection {
    id: u64,
    /// Of the certificates that it was made with.
    material: u64,
    send: http2::SendRequest<tonic::body::Body>,
    /// Turns true when the connection is gone, or is told to go away.
    lost: watch::Receiver<bool>,
    /// What TLS ended it with.
    ended: Ended,
    driver: AbortHandle,
}

impl Link {
    pub(super) fn new(
        target: Target,
        dialer: Option<Dialer>,
        tls: Option<GatewayTls>,
        bearer: Option<Bearer>,
        only_loopback: bool,
    ) -> Self {
        let mut origin = http::uri::Parts::default();
        origin.scheme = Some(if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        origin.authority = Authority::try_from(target.to_string()).ok();
        origin.path_and_query = Some(PathAndQuery::from_static("/"));
        let origin = Uri::from_parts(origin).expect("a checked host and port make an authority");
        Self {
            target,
            origin,
            since: Instant::now(),
            dialer,
            tls,
            bearer,
            only_loopback,
            made: AtomicU64::new(0),
            slot: Mutex::default(),
        }
    }

    /// `host:port`.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn origin(&self) -> &Uri {
        &self.origin
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn bearer(&self) -> Option<&Bearer> {
        self.bearer.as_ref()
    }

    pub(crate) fn made(&self) -> u64 {
        // Relaxed: a figure to look at.
        self.made.load(Ordering::Relaxed)
    }

    /// The connection; a new one if there is none, or if it is `avoid`. An attempt to connect is given up
    /// after `limit`, and shared by all who wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the attempt to the others who wait for it.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        avoid: Option<u64>,
        limit: Duration,
    ) -> Result<Arc<Connection>, CallError> {
        let dialing = {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(current) = &slot.current {
                if !current.is_lost() && Some(current.id) != avoid {
                    return Ok(current.clone());
                }
                // Calls of others go on there; no new one does.
                slot.current = None;
            }
            match slot.dialing.as_ref().filter(|dialing| dialing.peek().is_none()) {
                Some(dialing) => dialing.clone(),
                None => self.begin(&mut slot, limit),
            }
        };
        dialing.await
    }

    /// Starts an attempt that ends up in the slot.
    fn begin(self: &Arc<Self>, slot: &mut Slot, limit: Duration) -> Dialing {
        let link = self.clone();
        // A task of its own, so that it ends by itself should all who wait for it go away.
        let dialing = tokio::spawn(async move {
            let result = match timeout(limit, link.dial(limit)).await {
                Ok(result) => result,
                Err(_) => Err(CallError::unconnected(limit)),
            };
            let mut slot = link.slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.dialing = None;
            if let Ok(connection) = &result {
                slot.current = Some(connection.clone());
                link.follow_files(&mut slot);
            }
            drop(slot);
            result
        })
        .map(|joined| {
            joined.unwrap_or_else(|error| {
                Err(CallError::not_sent(Failure::local(FailureKind::Unreachable, error)))
            })
        })
        .boxed()
        .shared();
        slot.dialing = Some(dialing.clone());
        dialing
    }

    async fn dial(&self, limit: Duration) -> Result<Arc<Connection>, CallError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            CallError::not_sent(Failure::local(
                FailureKind::Unreachable,
                format_args!("{}: {error}", self.target),
            ))
        };
        let stream = self.stream(limit).await.map_err(|error| unreachable(&error))?;
        let Some(tls) = &self.tls else { return self.handshake(stream, 0, Ended::default()).await };
        let failed = |error: &dyn std::fmt::Display| {
            CallError::not_sent(Failure::local(FailureKind::Tls, format_args!("{}: {error}", self.target)))
        };
        let (version, config) = tls.current();
        let name = tls.expected(&self.target.host).map_err(|error| failed(&error))?;
        let stream =
            tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
                // A gateway that is going down, or that speaks no TLS, ends the handshake too: only what rustls
                // says is about trust.
                if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                    failed(&error)
                } else {
                    unreachable(&error)
                }
            })?;
        let ended = Ended::default();
        self.handshake(Watched { stream, ended: ended.clone() }, version, ended).await
    }

    /// Bytes to the gateway and back.
    async fn stream(&self, limit: Duration) -> io::Result<Box<dyn Io>> {
        if let Some(dial) = &self.dialer {
            return dial().await;
        }
        let Target { host, port } = &self.target;
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), *port)).await?.collect();
        if self.only_loopback && !addresses.iter().all(|address| address.ip().to_canonical().is_loopback()) {
            return Err(io::Error::other("the name leads to another host, and plaintext is for this one"));
        }
        Ok(Box::new(connect(&addresses, limit).await?))
    }

    async fn handshake<S>(&self, stream: S, material: u64, ended: Ended) -> Result<Arc<Connection>, CallError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEADER_LIST)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| CallError::not_sent(Failure::local(FailureKind::Unreachable, error)))?;
        let (tell, lost) = watch::channel(false);
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "the gateway's connection ended");
            }
            tell.send_replace(true);
        })
        .abort_handle();
        // Relaxed: the ids only have to differ.
        let id = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Arc::new(Connection { id, material, send, lost, ended, driver }))
    }

    /// Looks at the certificate files from now on, as long as the link lives, and makes the connection anew
    /// when they change.
    fn follow_files(self: &Arc<Self>, slot: &mut Slot) {
        let Some(tls) = self.tls.clone().filter(GatewayTls::follows_files) else { return };
        if slot.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        let link: Weak<Self> = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let look = tls.clone();
                if tokio::task::spawn_blocking(move || look.look()).await.is_err() {
                    return;
                }
                let Some(link) = link.upgrade() else { return };
                let stale = {
                    let slot = link.slot.lock().unwrap_or_else(PoisonError::into_inner);
                    slot.current.as_ref().map(|current| (current.id, current.material))
                };
                if let Some((id, material)) = stale
                    && material != tls.current().0
                {
                    // The old connection stays until the new one is up: a gateway that refuses the new
                    // certificate does not cost the registration.
                    link.renew(id).await;
                }
            }
        });
        slot.looking = Some(task.abort_handle());
    }

    async fn renew(self: &Arc<Self>, id: u64) {
        match timeout(RENEWAL, self.dial(RENEWAL)).await {
            Ok(Ok(connection)) => {
                let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.current.as_ref().is_some_and(|current| current.id == id) {
                    slot.current = Some(connection);
                }
            }
            Ok(Err(error)) => tracing::debug!(%error.failure, "no connection with the new certificates yet"),
            Err(_) => {}
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(looking) = &slot.looking {
            looking.abort();
        }
    }
}

impl Connection {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow() || self.send.is_closed()
    }

    /// What TLS ended it with, if that was the end.
    pub(super) fn tls_failure(&self) -> Option<Failure> {
        self.ended.get().cloned()
    }

    /// Ends when the connection is gone.
    pub(crate) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error says that the driver is gone.
        drop(lost.wait_for(|lost| *lost).await);
    }

    pub(super) fn sender(&self) -> http2::SendRequest<tonic::body::Body> {
        self.send.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A connection that swallows bytes would keep the driver until the kernel gives up.
        self.driver.abort();
    }
}
