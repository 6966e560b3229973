//! The client: settings, life, and the shapes in which a call can be made.

mod builder;
mod call;
mod checks;
mod follow;
mod held;
mod members;
mod metrics;
mod moment;
mod node;
mod options;
mod queue;
mod running;
mod views;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, uri::Authority};
use peerage_balance::{HedgePolicy, Hedging, LeaveOut, Policy, RetryPolicy};
use peerage_discovery::{Discovery, Peer, ServiceType, Status, Subscription};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tracing::warn;

pub use self::{
    builder::{ClientBuilder, Redirects},
    checks::Checks,
    options::CallOptions,
    views::{ClientView, Condition, KeptOut, PeerView, PickExplanation},
};
use self::{
    members::{Choice, Members},
    running::Running,
};
pub(crate) use self::{queue::Lease, running::Permit};
use crate::{AuthAttacher, Bearer, Body, BoxError, ClientError, PickContext, RequestBuilder};

/// An HTTP client of one service: finds its peers, picks one for each call, and moves on when it is gone.
///
/// Clones share everything, so clone it freely and keep one for each service. It is a
/// [`tower_service::Service`], and has the methods people know from other clients:
///
/// ```
/// # #[cfg(feature = "test-util")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use axum::{Router, routing::get};
/// # use peerage_clienthttp::{Client, TestDialer};
/// # let peers = TestDialer::serve("billing-1", Router::new().route("/v1/ping", get(|| async { "pong" })));
/// # let client = Client::builder("billing").discovery(peers.discovery("billing")?).dialer(peers).build().await?;
/// let answer = client.get("/v1/ping").send().await?.error_for_status()?.text().await?;
/// assert_eq!(answer, "pong");
/// # Ok(()) }
/// # #[cfg(not(feature = "test-util"))]
/// # fn main() {}
/// ```
///
/// When the last clone is dropped, discovery stops, if the builder made it, and idle connections close.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    members: Arc<Members>,
    /// Made when the first call wants it: it is 136 KiB large.
    hedging: OnceLock<Arc<Hedging>>,
    /// Copies that lost and end by themselves, for 50 ms at most.
    losers: Mutex<JoinSet<()>>,
    running: Arc<Running>,
    /// Keeps the peers up to date; started by `build`, or by the first call.
    follower: Mutex<Option<AbortHandle>>,
    owns_discovery: bool,
    /// That credentials go out in plaintext.
    warned: AtomicBool,
}

/// What does not change over the life of a client.
struct Settings {
    choice: Choice,
    auth: Auth,
    retry: RetryPolicy,
    hedge: Option<HedgePolicy>,
    checks: Option<Arc<Checks>>,
    request_timeout: Option<Duration>,
    body_timeout: BodyTimeout,
    redirects: Redirects,
    begins_traces: bool,
    allow_plaintext: bool,
    /// What `Host` is when a call does not say.
    authority: Authority,
    user_agent: HeaderValue,
    /// The header value of a whole `request_timeout`, which most first attempts have.
    whole_timeout: Option<HeaderValue>,
}

/// How calls are authenticated.
enum Auth {
    None,
    /// Spelled out, because it needs no copy of the head.
    Bearer(Bearer),
    Attacher(Arc<dyn AuthAttacher>),
}

#[derive(Clone, Copy, Debug)]
enum BodyTimeout {
    /// The time of the call covers the body.
    Covered,
    /// So long after the head; `None` for ever.
    Own(Option<Duration>),
}

impl Client {
    /// A client of the service of that name (`billing`, `_billing._tcp`), to be configured.
    ///
    /// A name that is none is reported by `build`.
    pub fn builder<S>(service: S) -> ClientBuilder
    where
        S: TryInto<ServiceType>,
        S::Error: Into<BoxError>,
    {
        ClientBuilder::new(service.try_into().map_err(Into::into))
    }

    /// A client of the service that `discovery` finds, to be configured.
    pub fn builder_with(discovery: impl Discovery) -> ClientBuilder {
        let service = discovery.service_type().clone();
        ClientBuilder::new(Ok(service)).discovery(discovery)
    }

    /// Sends a request to one of the peers and waits for the head of the answer.
    ///
    /// Scheme and authority of its URI choose nothing: `/v1/x` and `http://billing/v1/x` are the same call,
    /// but for the `Host` that the peer sees. Settings for this one call go into its extensions as
    /// [`CallOptions`]. The answer's extensions hold [`PeerInfo`](crate::PeerInfo) and
    /// [`Attempts`](crate::Attempts).
    ///
    /// # Errors
    ///
    /// [`ClientError`]; what was not sent can be taken back from it. An answer is never an error, whatever
    /// its status.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that the request was on and nothing else. Whether a peer
    /// acts on the request is then unknown.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, ClientError>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        call::send(&self.shared, request).await
    }

    /// A request, to be filled in and sent.
    pub fn request<U>(&self, method: Method, uri: U) -> RequestBuilder
    where
        U: TryInto<http::Uri>,
        U::Error: Into<http::Error>,
    {
        RequestBuilder::new(self.clone(), method, uri)
    }

    /// The peers as discovery has them now, those in doubt included.
    #[must_use]
    pub fn peers(&self) -> Arc<[Peer]> {
        self.shared.members.discovery.peers()
    }

    /// How discovery is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.members.discovery.status()
    }

    /// Changes of the peer set from now on.
    #[must_use]
    pub fn events(&self) -> Subscription {
        self.shared.members.discovery.subscribe()
    }

    /// What the client knows of each peer now, and how it is itself. Calls pay nothing for it: they write
    /// all of it down anyway.
    #[must_use]
    pub fn view(&self) -> ClientView {
        self.shared.view()
    }

    /// What the client knows of each peer and what keeps some of them out: the text of
    /// [`view`](Self::view), for people.
    #[must_use]
    pub fn explain(&self) -> String {
        self.view().to_string()
    }

    /// Where a GET without a key would go now, and why: what the policy compared, and what keeps the other
    /// peers out. It picks a peer and lets go of it. Why a call went where it went is told by
    /// [`CallOptions::explain`].
    #[must_use]
    pub fn explain_pick(&self) -> PickExplanation {
        let (members, now) = (&self.shared.members, self.shared.members.now());
        let (method, uri) = (Method::GET, http::Uri::from_static("/"));
        let cx = PickContext::new(&method, &uri, members.balancer().random());
        // Not repeatable: it must not use up the permit of a probe.
        members.pick_explained(&self.shared.settings.choice, &LeaveOut::default(), &cx, false, now).1
    }

    /// The service whose peers it calls.
    #[must_use]
    pub fn service_type(&self) -> &ServiceType {
        self.shared.members.discovery.service_type()
    }

    /// Refuses new calls, waits until the running ones have finished or `deadline` has passed, then stops
    /// discovery, if the builder made it, and closes the connections. Doing it twice does nothing more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the client closed; only the wait is over.
    pub async fn close(&self, deadline: Instant) {
        self.shared.running.close();
        let _ = tokio::time::timeout_at(deadline, self.shared.running.finished()).await;
        let stopping = self.shared.stop();
        let _ = tokio::time::timeout_at(deadline, stopping).await;
    }
}

/// The methods.
macro_rules! methods {
    ($($(#[$docs:meta])* $name:ident $method:ident;)*) => {
        impl Client {$(
            $(#[$docs])*
            pub fn $name<U>(&self, uri: U) -> RequestBuilder
            where
                U: TryInto<http::Uri>,
                U::Error: Into<http::Error>,
            {
                self.request(Method::$method, uri)
            }
        )*}
    };
}

methods! {
    /// A GET request, to be filled in and sent.
    get GET;
    /// A POST request, to be filled in and sent.
    post POST;
    /// A PUT request, to be filled in and sent.
    put PUT;
    /// A PATCH request, to be filled in and sent.
    patch PATCH;
    /// A DELETE request, to be filled in and sent.
    delete DELETE;
    /// A HEAD request, to be filled in and sent.
    head HEAD;
}

impl Settings {
    /// The policy that chooses, if no code of the caller does.
    fn policy(&self, members: &Members) -> Option<Policy> {
        self.choice.policy(members.balancer().policy())
    }
}

impl Shared {
    /// When second copies are sent, for a call that `asks` for them, or not, or leaves it to the client.
    fn hedging(&self, asks: Option<bool>) -> Option<&Arc<Hedging>> {
        let is_on = asks.unwrap_or_else(|| self.settings.hedge.is_some());
        is_on.then(|| {
            self.hedging.get_or_init(|| Arc::new(Hedging::new(&self.settings.hedge.unwrap_or_default())))
        })
    }

    /// Lets a copy that lost end by itself.
    fn see_off(&self, ending: impl Future<Output = ()> + Send + 'static) {
        let mut losers = self.losers.lock().unwrap_or_else(PoisonError::into_inner);
        while losers.try_join_next().is_some() {}
        losers.spawn(ending);
    }

    fn view(&self) -> ClientView {
        let members = &self.members;
        let (set, peers) = members.views();
        ClientView {
            service: members.discovery.service_type().clone(),
            discovery: members.discovery.status(),
            why_empty: set.members().is_empty().then(|| members.discovery.explain()),
            policy: self.settings.policy(members),
            is_panic: set.is_panic(),
            local_part: set.local_part(),
            in_flight: self.running.count(),
            waiting: members.queue.as_ref().map_or(0, |queue| queue.waiting()),
            resends_left: members.resends_left(),
            hedge_delay: self.hedging.get().and_then(|hedging| hedging.delay()).map(Duration::from_nanos),
            counters: members.balancer().counters(),
            peers,
        }
    }

    /// Starts what keeps the peers up to date, if it does not run.
    fn ensure_started(&self) -> Result<(), peerage_discovery::DiscoveryError> {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        if follower.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The first call comes from one.
            return Ok(());
        };
        match self.members.discovery.start() {
            // Whoever gave it to us may have started it.
            Ok(()) | Err(peerage_discovery::DiscoveryError::AlreadyStarted) => {}
            Err(error) => return Err(error),
        }
        let following = follow::follow(Arc::clone(&self.members), self.settings.checks.clone());
        *follower = Some(runtime.spawn(following).abort_handle());
        Ok(())
    }

    #[cold]
    fn cannot_start(&self, error: &peerage_discovery::DiscoveryError) -> ClientError {
        ClientError::NoPeers {
            service: self.members.discovery.service_type().clone(),
            waited: Duration::ZERO,
            why: error.to_string(),
            call: Box::default(),
        }
    }

    #[cold]
    fn warn_of_plaintext(&self) {
        // Relaxed: at worst two threads warn.
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                peerage.service_type = %self.members.discovery.service_type(),
                "credentials of this client cross the network in plaintext, as it was told",
            );
        }
    }

    fn stop(&self) -> peerage_discovery::Stopping {
        if let Some(task) = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.members.close();
        if self.owns_discovery { self.members.discovery.stop() } else { peerage_discovery::Stopping::done() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.running.close();
        drop(self.stop());
    }
}

impl<B> tower_service::Service<Request<B>> for Client
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = ClientError;
    type Future = Sending;

    /// Always ready: limits answer for themselves, with an error that says which.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Sending {
        let client = self.clone();
        Sending(Box::pin(async move { client.send(request).await }))
    }
}

/// A call on its way, from the [`tower_service::Service`].
pub struct Sending(Pin<Box<dyn Future<Output = Result<Response<Body>, ClientError>> + Send>>);

impl Future for Sending {
    type Output = Result<Response<Body>, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sending")
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", self.service_type())
            .field("dialer", &self.shared.members.dialer)
            .field("has_auth", &!matches!(self.shared.settings.auth, Auth::None))
            .field("running", &self.shared.running.count())
            .finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn is_portable<T: Send + Sync + Clone + 'static>() {}
    is_portable::<Client>();
};
