use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, Uri, header::HOST};
use peerage_discovery::{DiscoveryError, Peer, ServiceType, StaticDiscovery, StaticPeer};
use tower_service::Service;

use super::{Channel, Dialer, Security};
use crate::{Body, BoxError};

/// Peers in memory: what a service answers is what the peer answers, without a socket.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, routing::get};
/// use peerage_clienthttp::{Client, TestDialer};
///
/// let router = |name: &'static str| Router::new().route("/name", get(move || async move { name }));
/// let peers = TestDialer::serve("billing-1", router("one")).and_serve("billing-2", router("two"));
/// let client = Client::builder("billing").discovery(peers.discovery("billing")?).dialer(peers).build().await?;
///
/// let answer = client.get("/name").send().await?;
/// assert!(answer.peer().is_some_and(|peer| peer.node_id().starts_with("billing-")));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct TestDialer {
    peers: BTreeMap<String, Channel>,
}

impl TestDialer {
    /// One peer of that node id.
    pub fn serve<S, B>(node_id: impl Into<String>, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::default().and_serve(node_id, service)
    }

    /// Another peer.
    #[must_use]
    pub fn and_serve<S, B>(mut self, node_id: impl Into<String>, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.peers.insert(node_id.into(), Channel::new(AsReceived(service)));
        self
    }

    /// A source that knows these peers. Their addresses are made up.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError`] if the service type or a node id is none.
    pub fn discovery<S>(&self, service: S) -> Result<StaticDiscovery, DiscoveryError>
    where
        S: TryInto<ServiceType>,
        DiscoveryError: From<S::Error>,
    {
        self.discovery_of(service.try_into()?)
    }

    fn discovery_of(&self, service: ServiceType) -> Result<StaticDiscovery, DiscoveryError> {
        let peers = self.peers.keys().zip(1_u16..).map(|(id, port)| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            StaticPeer::new(address).node_id(id.as_str())
        });
        StaticDiscovery::new(service, peers)
    }
}

impl Dialer for TestDialer {
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError> {
        self.peers.get(peer.node_id()).cloned().ok_or_else(|| "no such peer in memory".into())
    }

    fn security(&self) -> Security {
        Security::InProcess
    }
}

impl fmt::Debug for TestDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestDialer").field(&Arc::from_iter(self.peers.keys())).finish()
    }
}

/// Shows the service a request as a server would: the authority is a `Host` header, the target a path.
#[derive(Clone)]
struct AsReceived<S>(S);

impl<S: Service<Request<Body>>> Service<Request<Body>> for AsReceived<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        let authority = parts.authority.take();
        parts.scheme = None;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        if let Some(authority) = authority
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        self.0.call(request)
    }
}
