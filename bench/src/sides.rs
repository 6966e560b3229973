//! The clients and servers that run on tokio: ours and hyper's, with one handler and one request.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage_zaphttp::{Client, Listener, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::{Recorder, Window};
use crate::{BoxError, raw};

pub(crate) const TARGET: &str = "/v1/greeting";
/// HTTP/2 has no other way to name its host.
const ABSOLUTE_TARGET: &str = "http://greeter.local/v1/greeting";
pub(crate) const GREETING: &[u8] = b"Hello, World!";

pub(crate) fn request(target: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from_static(target);
    let headers = request.headers_mut();
    if target == TARGET {
        headers.insert(HOST, HeaderValue::from_static("greeter.local"));
    }
    headers.insert(USER_AGENT, HeaderValue::from_static("bench/1"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    request
}

pub(crate) fn greeting() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(GREETING)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The handler, whoever calls it.
async fn greet<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), TARGET);
    Ok(greeting())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuntimeKind {
    /// A current-thread runtime for each side.
    Split,
    /// One runtime for both, with a worker per core.
    Shared,
}

#[derive(Clone, Copy)]
pub(crate) enum ClientKind {
    Zap,
    Raw,
    Hyper1,
    Hyper2,
}

#[derive(Clone, Copy)]
pub(crate) enum ServerKind {
    Zap,
    Raw,
    Hyper1,
    Hyper2,
}

/// Where the two sides run.
pub(crate) struct Runtimes {
    kind: RuntimeKind,
    clients: Runtime,
}

/// A server that runs.
pub(crate) enum Running {
    Raw(raw::Server),
    Thread { addr: SocketAddr, stop: oneshot::Sender<()>, thread: JoinHandle<()> },
    Task { addr: SocketAddr, stop: oneshot::Sender<()> },
}

impl Running {
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Raw(server) => server.addr(),
            Self::Thread { addr, .. } | Self::Task { addr, .. } => *addr,
        }
    }

    pub(crate) fn stop(self) -> Result<(), BoxError> {
        match self {
            Self::Raw(server) => server.stop(),
            Self::Thread { stop, thread, .. } => {
                drop(stop);
                thread.join().map_err(|_| "the server panicked".into())
            }
            Self::Task { stop, .. } => {
                drop(stop);
                Ok(())
            }
        }
    }
}

impl Runtimes {
    pub(crate) fn new(kind: RuntimeKind) -> Result<Self, BoxError> {
        let clients = match kind {
            RuntimeKind::Split => current_thread()?,
            RuntimeKind::Shared => Builder::new_multi_thread().enable_all().build()?,
        };
        Ok(Self { kind, clients })
    }

    pub(crate) fn serve(&self, kind: ServerKind) -> Result<Running, BoxError> {
        let (stop, stopped) = oneshot::channel();
        let (bound, addr) = std::sync::mpsc::channel();
        match self.kind {
            RuntimeKind::Split => {
                let runtime = current_thread()?;
                let thread = std::thread::spawn(move || {
                    runtime.block_on(serve(kind, bound, stopped)).expect("a server on loopback");
                });
                Ok(Running::Thread { addr: addr.recv()?, stop, thread })
            }
            RuntimeKind::Shared => {
                self.clients.spawn(async move {
                    serve(kind, bound, stopped).await.expect("a server on loopback");
                });
                Ok(Running::Task { addr: addr.recv()?, stop })
            }
        }
    }

    pub(crate) fn load(
        &self,
        kind: ClientKind,
        addr: SocketAddr,
        connections: usize,
        window: Window,
    ) -> Result<Recorder, BoxError> {
        self.clients.block_on(async {
            match kind {
                ClientKind::Zap => load_zap(addr, connections, window).await,
                ClientKind::Hyper1 => load_hyper1(addr, connections, window).await,
                ClientKind::Hyper2 => load_hyper2(addr, connections, window).await,
                ClientKind::Raw => unreachable!("raw loops run on no runtime"),
            }
        })
    }
}

fn current_thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn serve(
    kind: ServerKind,
    bound: std::sync::mpsc::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    bound.send(listener.local_addr()?)?;
    if let ServerKind::Zap = kind {
        let handle = Server::builder().serve(Listener::from(listener), tower::service_fn(greet));
        let _ = stopped.await;
        drop(handle);
        return Ok(());
    }
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let io = TokioIo::new(stream);
            // How a connection ends is the client's business here.
            match kind {
                ServerKind::Hyper1 => {
                    let mut builder = server1::Builder::new();
                    builder.auto_date_header(false);
                    tokio::spawn(builder.serve_connection(io, service_fn(greet)));
                }
                ServerKind::Hyper2 => {
                    let mut builder = server2::Builder::new(TokioExecutor::new());
                    builder.auto_date_header(false).max_concurrent_streams(None);
                    tokio::spawn(builder.serve_connection(io, service_fn(greet)));
                }
                ServerKind::Zap | ServerKind::Raw => unreachable!("these have loops of their own"),
            }
        }
    };
    tokio::select! {
        _ = stopped => Ok(()),
        ended = accept => ended,
    }
}

/// Runs a caller per connection until the window closes; what they say has to be the greeting.
async fn callers<F, C>(
    window: Window,
    callers: impl IntoIterator<Item = C>,
    call: F,
) -> Result<Recorder, BoxError>
where
    C: Send + 'static,
    F: AsyncCaller<C>,
{
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        let call = call.clone();
        tasks.spawn(async move {
            let mut recorder = Recorder::new(window);
            let mut started = Instant::now();
            loop {
                let body = call.call(&mut caller).await?;
                assert_eq!(body, GREETING);
                let now = Instant::now();
                if !recorder.record(started, now) {
                    return Ok::<_, BoxError>(recorder);
                }
                started = now;
            }
        });
    }
    let mut sum = Recorder::new(window);
    while let Some(recorder) = tasks.join_next().await {
        sum = sum.merge(recorder??);
    }
    Ok(sum)
}

/// One exchange: a request, and the whole body of its answer.
trait AsyncCaller<C>: Clone + Send + Sync + 'static {
    fn call(&self, caller: &mut C) -> impl Future<Output = Result<Bytes, BoxError>> + Send;
}

#[derive(Clone)]
struct CallZap;

impl AsyncCaller<Client> for CallZap {
    async fn call(&self, client: &mut Client) -> Result<Bytes, BoxError> {
        let response = client.send(request(TARGET)).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

#[derive(Clone)]
struct CallHyper1;

impl AsyncCaller<client1::SendRequest<Empty<Bytes>>> for CallHyper1 {
    async fn call(&self, sender: &mut client1::SendRequest<Empty<Bytes>>) -> Result<Bytes, BoxError> {
        sender.ready().await?;
        let response = sender.send_request(request(TARGET)).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

#[derive(Clone)]
struct CallHyper2;

impl AsyncCaller<client2::SendRequest<Empty<Bytes>>> for CallHyper2 {
    async fn call(&self, sender: &mut client2::SendRequest<Empty<Bytes>>) -> Result<Bytes, BoxError> {
        sender.ready().await?;
        let response = sender.send_request(request(ABSOLUTE_TARGET)).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

async fn load_zap(addr: SocketAddr, connections: usize, window: Window) -> Result<Recorder, BoxError> {
    let client = Client::builder(addr).max_idle(connections).build();
    callers(window, vec![client; connections], CallZap).await
}

async fn load_hyper1(addr: SocketAddr, connections: usize, window: Window) -> Result<Recorder, BoxError> {
    let mut senders = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = client1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    callers(window, senders, CallHyper1).await
}

async fn load_hyper2(addr: SocketAddr, callers_count: usize, window: Window) -> Result<Recorder, BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        client2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    callers(window, vec![sender; callers_count], CallHyper2).await
}
