//! The same call by the whole client, and by hand: three clients of the wire in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use peerage_clienthttp::{Body, Client};
use peerage_discovery::{StaticDiscovery, StaticPeer};
use peerage_zaphttp::{Body as ZapBody, Client as Bare, Listener, Server, ServerHandle, Target};

use crate::BoxError;

/// As long as what the whole client says.
const WHO: &str = "peerage/0.1.0 (0123456789abcdef0123456789abcdef)";

/// Three servers in this process, and both ways to call them.
#[derive(Clone)]
pub(crate) struct Calls {
    bare: Arc<[Bare]>,
    turn: Arc<AtomicUsize>,
    whole: Client,
    _servers: Arc<[ServerHandle]>,
}

impl Calls {
    /// `policy` by name; the client's own if there is none.
    pub(crate) async fn new(connections: usize) -> Result<Self, BoxError> {
        let mut servers = Vec::new();
        for _ in 0..3 {
            let pong = tower::service_fn(async |_: Request<ZapBody>| {
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"pong"))))
            });
            servers.push(Server::builder().serve(Listener::tcp("127.0.0.1:0").await?, pong));
        }
        let addresses = servers.iter().map(|server| server.local_addr().ok_or("it listens on TCP"));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let bare =
            addresses.iter().map(|addr| Bare::builder(Target::Tcp(*addr)).max_idle(connections).build());
        let ids = ["billing-1", "billing-2", "billing-3"];
        let peers = ids.into_iter().zip(&addresses).map(|(id, addr)| StaticPeer::new(*addr).node_id(id));
        Ok(Self {
            bare: bare.collect(),
            turn: Arc::default(),
            whole: Client::builder_with(StaticDiscovery::new("billing", peers)?).build().await?,
            _servers: servers.into(),
        })
    }

    /// One exchange by hand; if it `tells`, with the headers that the whole client adds: who calls, and how
    /// much time is left.
    pub(crate) async fn by_hand(&self, tells: bool) -> Result<(), BoxError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.bare.len();
        let client = self.bare.get(turn).ok_or("three clients")?;
        let mut request = request::<ZapBody>()?;
        if tells {
            let headers = request.headers_mut();
            headers.insert(USER_AGENT, HeaderValue::from_static(WHO));
            headers.insert("peerage-timeout-ms", HeaderValue::from_static("30000"));
        }
        done(client.send(request).await?.into_body().collect().await?.to_bytes())
    }

    /// One exchange by the whole client.
    pub(crate) async fn whole(&self) -> Result<(), BoxError> {
        done(self.whole.send(request::<Body>()?).await?.into_body().collect().await?.to_bytes())
    }
}

fn request<B: Default>() -> Result<Request<B>, BoxError> {
    Ok(Request::get("http://billing/v1/ping").header("accept", "text/plain").body(B::default())?)
}

fn done(body: Bytes) -> Result<(), BoxError> {
    if body == "pong" { Ok(()) } else { Err("another answer".into()) }
}
