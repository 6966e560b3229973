//! The server: connections in, requests to a service, answers out.

mod builder;
mod conn;
mod control;
mod listener;
mod respond;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::watch;
use tokio::task::{unconstrained, yield_now};
use tokio::time::{Instant, sleep_until, timeout};
use tower_service::Service;
use tracing::warn;

pub use self::builder::ServerBuilder;
pub use self::listener::{Listener, MemoryConnector};

use self::control::{Control, Counted, Supervised};
use crate::Body;
use crate::error::BoxError;
#[cfg(feature = "tls")]
use crate::tls::ServerTls;
use crate::transport::Connection;
use crate::wire::Limits;

#[derive(Clone, Debug)]
struct Settings {
    limits: Limits,
    header_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    max_inline_body: usize,
    max_connections: usize,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
}

/// Serves any [`tower` service](Service) of HTTP requests, an `axum::Router` for one.
///
/// Each connection is a task that reads a request, awaits its handler, writes the answer. A handler runs to
/// its end even if its caller goes away, unless the server is cut off; a response body that is still
/// being streamed is dropped then.
#[derive(Clone, Debug)]
pub struct Server {
    settings: Arc<Settings>,
}

impl Server {
    /// A server, to be configured.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    /// Starts serving, in tasks that belong to the handle.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn serve<S, B>(&self, listener: Listener, service: S) -> ServerHandle
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let control = Arc::new(Control::default());
        let local_addr = listener.local_addr();
        let (accepting, stopped) = watch::channel(());
        let accept_loop = AcceptLoop { settings: self.settings.clone(), control: control.clone(), listener };
        tokio::spawn(async move {
            // The loop yields on its own terms: see `BATCH`.
            unconstrained(accept_loop.run(service)).await;
            drop(accepting);
        });
        ServerHandle { local_addr, control, stopped }
    }

    /// Serves one connection, until it closes. What the future is dropped with is cut off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection and drops the handler that runs on it.
    pub async fn serve_connection<S, B>(&self, connection: Connection, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        conn::run(connection, self.settings.clone(), Arc::default(), service).await;
    }
}

/// A server that runs. Dropping it cuts everything off; [`shutdown`](Self::shutdown) is the polite way.
#[derive(Debug)]
#[must_use = "dropping the handle stops the server"]
pub struct ServerHandle {
    local_addr: Option<SocketAddr>,
    control: Arc<Control>,
    stopped: watch::Receiver<()>,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were still busy at the deadline and were cut off.
    pub cut: usize,
}

/// After the deadline tasks are dropped at their next await; one that never awaits is not waited for.
const AFTER_CUT: Duration = Duration::from_secs(1);

impl ServerHandle {
    /// The TCP address served, with the port that was taken. `None` for other listeners.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// How many connections are open.
    pub fn connection_count(&self) -> usize {
        self.control.connection_count()
    }

    /// Stops accepting, closes idle connections, lets requests in flight finish for at most `limit`, cuts
    /// off what is left. Doing it twice waits twice.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the server draining, without a deadline.
    pub async fn shutdown(&self, limit: Duration) -> Drained {
        self.control.drain();
        if timeout(limit, self.stopped()).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = self.connection_count();
        self.abort();
        if timeout(AFTER_CUT, self.stopped()).await.is_err() {
            warn!(connections = self.connection_count(), "handlers that never wait outlive the shutdown");
        }
        Drained { cut }
    }

    /// Cuts everything off, now.
    pub fn abort(&self) {
        self.control.cut();
    }

    /// Waits until nothing of the server runs any more, because of a shutdown or because its listener
    /// is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn stopped(&self) {
        // Nothing is ever sent: the only event is that the sender is gone.
        let _ = self.stopped.clone().changed().await;
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.control.cut();
    }
}

/// Accepts until it is told not to, then waits for the connections. They hear the same orders.
#[derive(Debug)]
struct AcceptLoop {
    settings: Arc<Settings>,
    control: Arc<Control>,
    listener: Listener,
}

/// So many connections are accepted before other tasks have their turn. The runtime would stop the loop much
/// earlier, and a burst of connections would then overflow the backlog on a busy thread.
const BATCH: u64 = 256;

impl AcceptLoop {
    async fn run<S, B>(mut self, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let control = self.control.clone();
        let mut drained = pin!(control.drained());
        let mut backoff = Backoff::default();
        for accepted in 1_u64.. {
            if accepted % BATCH == 0 {
                yield_now().await;
            }
            let accept = async {
                self.control.fewer_than(self.settings.max_connections).await;
                backoff.pause().await;
                self.listener.accept().await
            };
            let accepted = tokio::select! {
                () = drained.as_mut() => break,
                accepted = accept => accepted,
            };
            match accepted {
                None => break,
                Some(Ok(accepted)) => {
                    backoff = Backoff::default();
                    // A caller that is gone already is no error of ours.
                    if let Ok(connection) = accepted.prepare() {
                        self.spawn(connection, service.clone());
                    }
                }
                Some(Err(error)) => {
                    if backoff.until.is_none() {
                        warn!(%error, "cannot accept connections, trying on");
                    }
                    backoff.longer();
                }
            }
        }
        drop(self.listener);
        self.control.fewer_than(1).await;
    }

    /// Starts a task for a connection. It ends with the server: [`Supervised`] sees to that.
    fn spawn<S, B>(&self, connection: Connection, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let counted = Counted::new(self.control.clone());
        let serving = conn::run(connection, self.settings.clone(), self.control.clone(), service);
        let serving = Supervised::new(serving, self.control.clone());
        tokio::spawn(async move {
            let _counted = counted;
            serving.await;
        });
    }
}

/// How long to wait after accepting has failed, as it does where descriptors run out: 5 ms, then twice as
/// long each time, up to 1 s (S-046).
#[derive(Debug, Default)]
struct Backoff {
    until: Option<Instant>,
    pause: Duration,
}

impl Backoff {
    fn longer(&mut self) {
        self.pause = (self.pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
        self.until = Some(Instant::now() + self.pause);
    }

    async fn pause(&self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{self, ErrorKind};

    use tokio::io::AsyncReadExt;
    use tower::service_fn;

    use super::*;

    fn nothing() -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        service_fn(async |_: Request<Body>| Ok(Response::new(Body::empty())))
    }

    /// When the server has closed a connection that it was told to accept after `errors`.
    async fn accepted_after(errors: Vec<io::Error>) -> Duration {
        let (mut near, far) = tokio::io::duplex(64);
        let script = errors.into_iter().map(Err).chain([Ok(far)]);
        let builder = Server::builder().idle_timeout(Duration::ZERO);
        let start = Instant::now();
        let _server = builder.serve(Listener::script(script), nothing());
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "accepted, idle, closed");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn s046_accepting_goes_on_after_errors_at_longer_and_longer_distances() {
        let errors = |count: usize| {
            // EMFILE, ENFILE, ECONNABORTED, EPERM.
            let kinds = [24, 23, 103, 1].map(io::Error::from_raw_os_error);
            kinds.into_iter().chain((4..).map(|_| ErrorKind::Other.into())).take(count).collect()
        };
        // 5 + 10 + 20 + ... doubling up to a second.
        for (count, waited) in [(0, 0), (1, 5), (2, 15), (4, 75), (8, 1275), (9, 2275), (12, 5275)] {
            let elapsed = accepted_after(errors(count)).await;
            let waited = Duration::from_millis(waited);
            assert!(
                (waited..waited + Duration::from_millis(20)).contains(&elapsed),
                "{count} errors: {elapsed:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn s046_the_distance_is_short_again_after_a_success() {
        let (mut near, far) = tokio::io::duplex(64);
        let (mut near_2, far_2) = tokio::io::duplex(64);
        let error = || Err(io::Error::from_raw_os_error(24));
        let script: [io::Result<_>; 8] =
            [error(), error(), error(), error(), error(), Ok(far), error(), Ok(far_2)];
        let _server =
            Server::builder().idle_timeout(Duration::ZERO).serve(Listener::script(script), nothing());
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        let start = Instant::now();
        assert_eq!(near_2.read(&mut [0]).await.unwrap(), 0);
        assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn s046_a_shutdown_does_not_wait_for_the_next_try() {
        let script = (0..100).map(|_| Err(io::Error::from_raw_os_error(24)));
        let server = Server::builder().serve(Listener::script(script), nothing());
        tokio::time::sleep(Duration::from_secs(30)).await;
        let start = Instant::now();
        server.shutdown(Duration::from_secs(9)).await;
        assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Besides 2 KiB to read into, and what the runtime needs: 9,000 of them are to fit into 10 KiB each.
        let serving = conn::run(
            Connection::new(tokio::io::duplex(1).0, crate::ConnectionInfo::default()),
            Arc::new(Server::builder().build().settings.as_ref().clone()),
            Arc::default(),
            axum::Router::new(),
        );
        let len = size_of_val(&serving);
        println!("the state of a connection takes {len} bytes");
        assert!(len <= 3 << 10, "{len}");
    }
}
