//! The client: a request in, an answer out, connections kept for the next one.

mod builder;
mod conn;
mod dial;
mod outgoing;
mod pool;
mod stream;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request};
use tokio::time::{Instant, timeout};
use tracing::debug;

pub use self::builder::ClientBuilder;
use self::outgoing::Content;
pub(crate) use self::outgoing::Outgoing;
pub(crate) use self::stream::ResponseStream;

use self::conn::{Conn, Counted, Exchange, until, until_at};
use self::dial::Dialer;
use self::pool::{Pool, PoolClosed};
use crate::Body;
use crate::error::{BoxError, ConnectError, SendError, SendErrorKind, Stage};
use crate::transport::Target;
use crate::wire::{self, Answer, Limits};

/// A client of one peer.
///
/// It keeps idle connections and reuses the one that was used last. Requests at the same time use
/// connections of their own; no task and no queue stands between a call and its socket. Clones share
/// everything; when the last one is gone the idle connections are closed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use peerage_zaphttp::{Body, Client, Target};
///
/// let client = Client::builder("127.0.0.1:9".parse::<Target>()?).build();
/// let error = client.send(Request::get("/").body(Body::empty())?).await.unwrap_err();
/// assert!(error.is_connect());
/// assert!(error.into_request().is_some(), "nothing was sent, so the request comes back");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    dialer: Dialer,
    settings: Settings,
    pool: Arc<Pool>,
    open: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    connect_timeout: Option<Duration>,
    response_timeout: Option<Duration>,
    stream_idle_timeout: Option<Duration>,
    max_idle: usize,
    limits: Limits,
}

impl Client {
    /// A client of the peer at `target`, to be configured.
    pub fn builder(target: impl Into<Target>) -> ClientBuilder {
        ClientBuilder::new(target.into())
    }

    fn new(dialer: Dialer, settings: Settings) -> Self {
        let pool = Arc::new(Pool::new(settings.max_idle));
        Self { shared: Arc::new(Shared { dialer, settings, pool, open: Arc::default() }) }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// The body is read to its end before anything is written: a request is one frame. A request that a
    /// reused connection did not survive is sent once more on a new one, if its method is idempotent or
    /// the server cannot have seen it whole (zaphttp §4).
    ///
    /// # Errors
    ///
    /// [`SendError`]; its stage says whether the server may have acted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that the request was on and nothing else. Whether the
    /// server acts on the request is then unknown.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, SendError>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let content = Content::collect(body, &self.shared.settings.limits).await?;
        match self.shared.exchange(&head, &content).await {
            Err(error) if error.stage() == Stage::NotSent => {
                Err(error.giving_back(Outgoing { head, content }))
            }
            outcome => outcome,
        }
    }

    /// Sends a request at most once, for a caller with a rule of its own on what is sent again, and where:
    /// two layers that repeat multiply (S-224). The head is only looked at, so no copy of it is needed in
    /// advance.
    ///
    /// `deadline` ends the exchange if it comes before the connect or the response timeout. Moving it from
    /// request to request costs a busy connection nothing, a timer around this future would. It does not
    /// cover the time that `body` takes to be read.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); also [`Stage::Stale`] for a reused connection that was gone, and at the
    /// deadline [`SendErrorKind::Timeout`], whose stage says whether there was a connection.
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn send_once<B>(
        &self,
        head: &request::Parts,
        body: B,
        reuse: Reuse,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, SendError>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        self.send_once_noting(head, body, reuse, deadline, |_| {}).await
    }

    /// As [`send_once`](Self::send_once), and calls `ready` with the time when the connection is there and the
    /// request goes out on it: who measures how fast a peer answers does not want the handshake in it. Not called for a
    /// request that never got that far.
    ///
    /// # Errors
    ///
    /// As [`send_once`](Self::send_once).
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn send_once_noting<B>(
        &self,
        head: &request::Parts,
        body: B,
        reuse: Reuse,
        deadline: Option<Instant>,
        ready: impl FnOnce(Instant),
    ) -> Result<Response<Body>, SendError>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let content = Content::collect(body, &self.shared.settings.limits).await?;
        match self.shared.attempt(head, &content, reuse.into(), deadline, ready).await {
            Ok(response) => Ok(response),
            Err(failed) => Err(failed.giving_back(head, content)),
        }
    }

    /// Opens a connection, TLS and all, for one request: for a caller who decides between connecting and sending.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn open(&self, deadline: Option<Instant>) -> Result<Opened, SendError> {
        let conn = self.shared.dial(deadline).await?;
        Ok(Opened { client: Arc::clone(&self.shared), conn })
    }

    /// Opens a connection, TLS and all, and keeps it for the next request.
    ///
    /// # Errors
    ///
    /// [`SendError`] at the stage [`Stage::NotSent`], as [`send`](Self::send) would fail to connect; at the
    /// deadline [`SendErrorKind::Timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect(&self, deadline: Option<Instant>) -> Result<(), SendError> {
        self.open(deadline).await.map(Opened::keep)
    }

    /// Opens a connection, TLS and all, and closes it again: to see whether it can be opened, as often as
    /// one likes without hoarding connections.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn try_connect(&self, deadline: Option<Instant>) -> Result<(), SendError> {
        self.shared.dial(deadline).await.map(drop)
    }

    /// Closes the idle connections. Requests that are running finish; later ones fail with
    /// [`SendErrorKind::Shutdown`]. Doing it twice does nothing more.
    pub fn close(&self) {
        self.shared.pool.close();
    }

    /// How many connections wait for a request.
    pub fn idle_count(&self) -> usize {
        self.shared.pool.idle_count()
    }

    /// Whether a connection is idle, so that a request would not have to open one. Takes no lock.
    pub fn has_idle(&self) -> bool {
        self.shared.pool.has_idle()
    }

    /// How many connections are open, idle or not.
    pub fn connection_count(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// A request out, an answer in; once more if a reused connection did not survive it (zaphttp §4).
    async fn exchange(
        self: &Arc<Self>,
        head: &request::Parts,
        content: &Content,
    ) -> Result<Response<Body>, SendError> {
        let first = match self.attempt(head, content, On::Idle, None, |_| {}).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        if !first.may_resend(&head.method) {
            return Err(first.error);
        }
        debug!(kind = ?first.error.kind(), "reused connection was gone, sending again");
        let again = self.attempt(head, content, On::New, None, |_| {}).await;
        again.map_err(|failed| failed.error.at_least(first.error.stage()))
    }

    /// A request out, an answer in.
    async fn attempt(
        self: &Arc<Self>,
        head: &request::Parts,
        content: &Content,
        on: On,
        deadline: Option<Instant>,
        ready: impl FnOnce(Instant),
    ) -> Result<Response<Body>, Attempt> {
        let Settings { limits, response_timeout, stream_idle_timeout: idle_timeout, .. } = &self.settings;
        let mut conn = match on {
            On::Idle => self.connection(deadline).await?,
            On::New => self.dial(deadline).await?,
            On::This(conn) => silent(conn).await?,
        };
        if let Err(error) = content.put(head, &mut conn.outbox, limits) {
            self.give_back(conn);
            return Err(SendError::new(content.refused(error), Stage::NotSent).into());
        }
        // The clock is read once for all that begins here.
        let now = Instant::now();
        ready(now);
        conn.set_deadline_at(now, until_at(now, deadline, *response_timeout));
        let mut exchange = Exchange::over_by(deadline);
        match poll_fn(|cx| conn.poll_exchange(cx, &mut exchange, *idle_timeout)).await {
            Ok(frame) => Ok(self.answer(conn, frame, &head.method)?),
            Err(failure) => Err(Attempt { error: failure.into(), reused: conn.reused }),
        }
    }

    /// The idle connection that was used last and is still silent, or a new one.
    async fn connection(&self, deadline: Option<Instant>) -> Result<Box<Conn>, SendError> {
        loop {
            match self.pool.take() {
                Ok(Some(mut conn)) => {
                    #[cfg(feature = "tls")]
                    if conn.generation != self.dialer.generation() {
                        continue;
                    }
                    if poll_fn(|cx| Poll::Ready(conn.is_silent(cx))).await {
                        return Ok(conn);
                    }
                }
                Ok(None) => return self.dial(deadline).await,
                Err(PoolClosed) => return Err(SendError::new(SendErrorKind::Shutdown, Stage::NotSent)),
            }
        }
    }

    /// Opens a connection. Boxed, so that a request on one that is open does not carry the room for it.
    fn dial(
        &self,
        deadline: Option<Instant>,
    ) -> Pin<Box<dyn Future<Output = Result<Box<Conn>, SendError>> + Send + '_>> {
        Box::pin(self.dial_now(deadline))
    }

    async fn dial_now(&self, deadline: Option<Instant>) -> Result<Box<Conn>, SendError> {
        // Read before the handshake: files that change meanwhile make it the older one.
        #[cfg(feature = "tls")]
        let generation = self.dialer.generation();
        let dialing = self.dialer.dial();
        let connection = match until(deadline, self.settings.connect_timeout) {
            None => dialing.await,
            Some(limit) => match timeout(limit, dialing).await {
                Ok(connection) => connection,
                Err(_) => return Err(SendError::new(SendErrorKind::Timeout, Stage::NotSent)),
            },
        };
        let connection = connection.map_err(cannot_connect)?;
        let (watchdog, counted) = (self.pool.watchdog(), Counted::new(&self.open));
        let mut conn = Box::new(Conn::new(connection, self.settings.limits, watchdog, counted));
        #[cfg(feature = "tls")]
        {
            conn.generation = generation;
        }
        silent(conn).await
    }

    fn answer(
        self: &Arc<Self>,
        conn: Box<Conn>,
        frame: Bytes,
        method: &Method,
    ) -> Result<Response<Body>, SendError> {
        let answer = wire::read_response(frame, &self.settings.limits, method)
            .map_err(|error| SendError::new(SendErrorKind::Protocol(error), Stage::Ambiguous))?;
        let info = conn.info.clone();
        let mut response = match answer {
            Answer::Whole(response, trailers) => {
                self.give_back(conn);
                response.map(|data| Body::whole(data, trailers))
            }
            Answer::Head(head) => {
                let bodiless = method == Method::HEAD
                    || matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                let stream = ResponseStream::new(conn, self.clone(), bodiless);
                head.map(|()| Body::arriving(Box::new(stream)))
            }
        };
        response.extensions_mut().insert(info);
        Ok(response)
    }

    /// Takes a connection back whose exchange is over; one with anything left on it is closed.
    fn give_back(&self, mut conn: Box<Conn>) {
        if conn.is_clean() {
            conn.reused = true;
            self.pool.put(conn);
        }
    }
}

/// Which connection a request may go out on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a connection was used before or it was not")]
pub enum Reuse {
    /// An idle one, or a new one if there is none.
    #[default]
    Idle,
    /// A new one, as after an idle one that turned out to be gone.
    Never,
}

/// The connection, if its peer has neither said anything on it nor closed it.
async fn silent(mut conn: Box<Conn>) -> Result<Box<Conn>, SendError> {
    if poll_fn(|cx| Poll::Ready(conn.is_silent(cx))).await {
        Ok(conn)
    } else {
        Err(SendError::new(SendErrorKind::Closed, Stage::NotSent))
    }
}

/// Which connection a request goes out on.
enum On {
    Idle,
    New,
    This(Box<Conn>),
}

impl From<Reuse> for On {
    fn from(reuse: Reuse) -> Self {
        match reuse {
            Reuse::Idle => Self::Idle,
            Reuse::Never => Self::New,
        }
    }
}

/// A connection that is open and waits for its request: what [`Client::open`] gives. Dropping it closes it.
#[derive(Debug)]
#[must_use = "dropping it closes the connection"]
pub struct Opened {
    client: Arc<Shared>,
    conn: Box<Conn>,
}

impl Opened {
    /// As [`Client::send_once_noting`], on this connection and no other: if its peer has closed it meanwhile, the
    /// request fails, not sent.
    ///
    /// # Errors
    ///
    /// As [`Client::send_once`].
    ///
    /// # Cancel safety
    ///
    /// As [`Client::send`].
    pub async fn send_once_noting<B>(
        self,
        head: &request::Parts,
        body: B,
        deadline: Option<Instant>,
        ready: impl FnOnce(Instant),
    ) -> Result<Response<Body>, SendError>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let Self { client, conn } = self;
        let content = Content::collect(body, &client.settings.limits).await?;
        match client.attempt(head, &content, On::This(conn), deadline, ready).await {
            Ok(response) => Ok(response),
            Err(failed) => Err(failed.giving_back(head, content)),
        }
    }

    /// Keeps it for the next request of its client, if there is room.
    pub fn keep(self) {
        self.client.pool.put(self.conn);
    }
}

/// A request that got no answer.
struct Attempt {
    error: SendError,
    /// Whether its connection had carried a request before.
    reused: bool,
}

impl Attempt {
    /// The error, with the request if it was not sent.
    fn giving_back(self, head: &request::Parts, content: Content) -> SendError {
        match self.error.stage() {
            Stage::NotSent => self.error.giving_back(Outgoing { head: head.clone(), content }),
            _ => self.error,
        }
    }

    /// Whether the request may go out again on a new connection: the old one was only left over from before.
    fn may_resend(&self, method: &Method) -> bool {
        self.reused
            && match self.error.stage() {
                Stage::NotSent => !matches!(self.error.kind(), SendErrorKind::Timeout),
                Stage::Stale => is_idempotent(method),
                Stage::Ambiguous => false,
            }
    }
}

impl From<SendError> for Attempt {
    fn from(error: SendError) -> Self {
        Self { error, reused: false }
    }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

fn cannot_connect(error: ConnectError) -> SendError {
    let kind = match &error {
        #[cfg(feature = "tls")]
        ConnectError::Tls(error) => SendErrorKind::Tls(error.failure()),
        _ => SendErrorKind::Connect,
    };
    SendError::new(kind, Stage::NotSent).because(error)
}

/// Always ready: a client that is short of connections opens one.
impl<B> tower_service::Service<Request<B>> for Client
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = SendError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, SendError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { client.send(request).await })
    }
}
