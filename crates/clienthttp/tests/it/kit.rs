//! Peers that record what reaches them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Uri};
use peerage_clienthttp::{Client, ClientBuilder};
use peerage_discovery::{StaticDiscovery, StaticPeer};
use peerage_tests::Facts;
use peerage_zaphttp::{Body, Listener, Server, ServerHandle};

/// A request as a peer got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A real ZAP-HTTP server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) server: ServerHandle,
    pub(crate) seen: Arc<Facts<Seen>>,
}

impl Peer {
    /// Answers 200 with its id.
    pub(crate) async fn start(id: &str) -> Self {
        let name = id.to_owned();
        Self::serve(id, axum::Router::new().fallback(move || async move { name })).await
    }

    pub(crate) async fn serve(id: &str, router: axum::Router) -> Self {
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let seen: Arc<Facts<Seen>> = Arc::new(Facts::new());
        let facts = Arc::clone(&seen);
        let recording = tower::service_fn(move |request: Request<Body>| {
            facts.push(Seen {
                method: request.method().clone(),
                uri: request.uri().clone(),
                headers: request.headers().clone(),
            });
            tower::ServiceExt::oneshot(router.clone(), request)
        });
        let server = Server::builder().serve(listener, recording);
        Self { id: id.to_owned(), server, seen }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }
}

pub(crate) fn at(id: &str, addr: SocketAddr) -> StaticPeer {
    StaticPeer::new(addr).node_id(id)
}

pub(crate) fn fixed(peers: impl IntoIterator<Item = StaticPeer>) -> StaticDiscovery {
    StaticDiscovery::new("billing", peers).unwrap()
}

/// A client of these peers.
pub(crate) fn client_of<'p>(peers: impl IntoIterator<Item = &'p Peer>) -> ClientBuilder {
    Client::builder_with(fixed(peers.into_iter().map(|peer| at(&peer.id, peer.addr()))))
        .request_timeout(Duration::from_secs(5))
        .rng_seed(1)
}
