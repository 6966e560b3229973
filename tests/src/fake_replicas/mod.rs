//! Nodes of Git's smart HTTP that do what a script says, request by request.
//!
//! They speak HTTP/1.1 by hand, because most of what they are for no real server would do.

mod cgi;
mod read;
mod serve;
mod step;

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub(crate) use cgi::Cgi;
pub use step::{Answer, Fault, Reply, RequestHead, Seen, Step};

use crate::{Facts, TestIdentity};

type Script = Arc<dyn Fn(&RequestHead) -> Step + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    seen: Facts<Seen>,
    counts: Mutex<HashMap<String, usize>>,
    nodes: Mutex<Vec<String>>,
    cgi: Option<Cgi>,
    tls: Option<TlsAcceptor>,
}

/// Several nodes on loopback. Dropping it closes them and their connections.
pub struct FakeReplicas {
    shared: Arc<Shared>,
    addrs: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl FakeReplicas {
    /// Starts `count` nodes with one script. With an identity they speak TLS.
    ///
    /// # Panics
    ///
    /// If there is no loopback, or the identity is none.
    pub async fn start(
        count: usize,
        identity: Option<&TestIdentity>,
        script: impl Fn(&RequestHead) -> Step + Send + Sync + 'static,
    ) -> Self {
        Self::with_cgi(count, identity, None, script).await
    }

    pub(crate) async fn with_cgi(
        count: usize,
        identity: Option<&TestIdentity>,
        cgi: Option<Cgi>,
        script: impl Fn(&RequestHead) -> Step + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(script)),
            seen: Facts::new(),
            counts: Mutex::default(),
            nodes: Mutex::default(),
            cgi,
            tls: identity.map(acceptor),
        });
        let scheme = if identity.is_some() { "https" } else { "http" };
        let (mut addrs, mut tasks) = (Vec::new(), JoinSet::new());
        for node in 0..count {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
            addrs.push(listener.local_addr().expect("a bound listener has an address"));
            tasks.spawn(listen(listener, node, shared.clone()));
        }
        let nodes = addrs.iter().map(|addr| format!("{scheme}://{addr}")).collect();
        *shared.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        Self { shared, addrs, _tasks: tasks }
    }

    /// Where node `number` listens.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn addr(&self, number: usize) -> SocketAddr {
        *self.addrs.get(number).expect("there are that many nodes")
    }

    /// What is read as replicas of every advertisement from now on; at first all nodes.
    pub fn advertise(&self, nodes: Vec<String>) {
        *self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// The base URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        self.addrs.iter().map(|addr| format!("{scheme}://{addr}")).collect()
    }

    /// Another script for the requests to come.
    pub fn script(&self, script: impl Fn(&RequestHead) -> Step + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Every request, as far as it was read, in the order in which that ended.
    pub fn seen(&self) -> &Facts<Seen> {
        &self.shared.seen
    }

    /// How many POSTs of pushes came.
    pub fn push_count(&self) -> usize {
        self.shared.seen.look(|seen| seen.iter().filter(|seen| seen.head.is_push()).count())
    }

    /// Which values of `Authorization` came to which node, and how often.
    pub fn credentials(&self) -> HashMap<(usize, Option<String>), usize> {
        let mut counts = HashMap::new();
        self.shared.seen.look(|seen| {
            for seen in seen {
                let value = seen.head.header("authorization").map(str::to_owned);
                *counts.entry((seen.head.node, value)).or_default() += 1;
            }
        });
        counts
    }
}

impl fmt::Debug for FakeReplicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeReplicas").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

fn acceptor(identity: &TestIdentity) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default versions")
        .with_no_client_auth()
        .with_single_cert(identity.chain().to_vec(), identity.key())
        .expect("a test identity is one");
    TlsAcceptor::from(Arc::new(config))
}

async fn listen(listener: TcpListener, node: usize, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, node, shared.clone()));
    }
}

async fn connection(stream: TcpStream, node: usize, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    // A second handle on the socket, to reset it from under TLS.
    let Ok(handle) = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned() else { return };
    let socket = Socket::from(handle);
    match &shared.tls {
        None => serve::serve(stream, socket, node, &shared).await,
        Some(acceptor) => {
            let Ok(stream) = acceptor.clone().accept(stream).await else { return };
            serve::serve(stream, socket, node, &shared).await;
        }
    }
}
