//! Frames written and read by hand, and a caller that speaks them: independent of the code under test.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use peerage_zaphttp::{
    Body, Client, ClientBuilder, Connect, ConnectError, Connection, ConnectionInfo, Listener, Server,
    ServerBuilder, ServerHandle,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tower::service_fn;

/// Nothing in a test takes this long unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("hangs: {what}"),
    }
}

/// For what nobody tells: looks again and again.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(what, looking).await;
}

pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// For clients with a connector of their own.
pub(crate) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const HEAD: u8 = 3;
pub(crate) const DATA: u8 = 4;
pub(crate) const END: u8 = 5;

/// A request frame behind its prefix.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    request_with(method, target, headers, body, &[])
}

pub(crate) fn request_with(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    trailers: &[(&str, &str)],
) -> Vec<u8> {
    let fields = [method.as_bytes(), target.as_bytes(), b"HTTP/1.1", &pairs(headers), body, &pairs(trailers)];
    frame(REQUEST, &slots(&fields))
}

/// A response frame, or with `kind` [`HEAD`] the head of one, behind its prefix.
pub(crate) fn answer(kind: u8, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    answer_with(kind, status, headers, body, &[])
}

pub(crate) fn answer_with(
    kind: u8,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    trailers: &[(&str, &str)],
) -> Vec<u8> {
    let fields = [b"", b"reason".as_slice(), b"HTTP/1.1", &pairs(headers), body, &pairs(trailers)];
    let mut object = slots(&fields);
    object[..2].copy_from_slice(&status.to_le_bytes());
    frame(kind, &object)
}

/// An answer of one frame.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    answer(RESPONSE, 200, &[], body)
}

pub(crate) fn head() -> Vec<u8> {
    answer(HEAD, 200, &[], b"")
}

pub(crate) fn data(data: &[u8]) -> Vec<u8> {
    frame(DATA, &slots(&[data]))
}

pub(crate) fn end() -> Vec<u8> {
    frame(END, &slots(&[b""]))
}

pub(crate) fn end_with(block: &[u8]) -> Vec<u8> {
    frame(END, &slots(&[block]))
}

/// A pair block; nothing for no pairs.
pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    if !pairs.is_empty() {
        block.extend((pairs.len() as u32).to_le_bytes());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        block.extend((text.len() as u32).to_le_bytes());
        block.extend(text.as_bytes());
    }
    block
}

/// An object: a slot for each field, and the fields behind them.
fn slots(fields: &[&[u8]]) -> Vec<u8> {
    let mut object = Vec::new();
    let mut tail = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        if field.is_empty() {
            object.extend([0; 8]);
        } else {
            object.extend(((fields.len() - index) as u32 * 8 + tail.len() as u32).to_le_bytes());
            object.extend((field.len() as u32).to_le_bytes());
            tail.extend_from_slice(field);
        }
    }
    [object, tail].concat()
}

fn frame(kind: u8, object: &[u8]) -> Vec<u8> {
    let size = 16 + object.len() as u32;
    let mut bytes = size.to_be_bytes().to_vec();
    bytes.extend(b"ZAP\0\x01\0\0");
    bytes.push(kind);
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(object);
    bytes
}

/// A frame, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    bytes: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        assert_eq!(&bytes[..4], b"ZAP\0");
        Self { kind: bytes[7], bytes }
    }

    pub(crate) fn status(&self) -> u16 {
        u16::from_le_bytes(self.bytes[16..18].try_into().unwrap())
    }

    /// The field of slot number `index`.
    fn field(&self, index: usize) -> &[u8] {
        let slot = 16 + 8 * index;
        let number = |at: usize| u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap()) as usize;
        match number(slot) {
            0 => &[],
            rel => &self.bytes[slot + rel..slot + rel + number(slot + 4)],
        }
    }

    pub(crate) fn target(&self) -> &str {
        std::str::from_utf8(self.field(1)).unwrap()
    }

    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        read_pairs(self.field(3))
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.field(4)
    }

    pub(crate) fn trailers(&self) -> Vec<(String, String)> {
        read_pairs(self.field(5))
    }

    /// The data of a data frame.
    pub(crate) fn data(&self) -> &[u8] {
        self.field(0)
    }

    /// The trailers of an end frame.
    pub(crate) fn end_trailers(&self) -> Vec<(String, String)> {
        read_pairs(self.field(0))
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Names in lower case: peers compare them without case.
fn read_pairs(block: &[u8]) -> Vec<(String, String)> {
    let mut rest = block.get(4..).unwrap_or_default();
    let mut text = || {
        let len = u32::from_le_bytes(rest.get(..4)?.try_into().unwrap()) as usize;
        let text = String::from_utf8(rest[4..4 + len].to_vec()).unwrap();
        rest = &rest[4 + len..];
        Some(text)
    };
    std::iter::from_fn(|| Some((text()?.to_lowercase(), text()?))).collect()
}

/// A caller that sends bytes and reads frames.
#[derive(Debug)]
pub(crate) struct Caller<S = TcpStream> {
    pub(crate) io: S,
}

impl Caller {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self { io: TcpStream::connect(addr).await.unwrap() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` if the other side closed between frames.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        within("waiting for a frame", self.frame_some_day()).await
    }

    /// For peers whose time may be paused.
    pub(crate) async fn frame_some_day(&mut self) -> Option<Frame> {
        let mut prefix = [0; 4];
        let first = self.io.read(&mut prefix).await.unwrap_or(0);
        if first == 0 {
            return None;
        }
        self.io.read_exact(&mut prefix[first..]).await.unwrap();
        let mut bytes = vec![0; u32::from_be_bytes(prefix) as usize];
        self.io.read_exact(&mut bytes).await.unwrap();
        Some(Frame::new(bytes))
    }

    /// Waits until the server has closed or reset the connection; whether that was all it said.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(within("waiting for the end", self.io.read(&mut byte)).await, Ok(0) | Err(_))
    }
}

/// A server on a port of its own.
pub(crate) async fn serve<F, R>(builder: ServerBuilder, handler: F) -> ServerHandle
where
    F: Fn(Request<Body>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    builder.serve(
        listener,
        service_fn(move |request| {
            let response = handler(request);
            async { Ok::<_, Infallible>(response.await) }
        }),
    )
}

/// A server that answers each request with its body.
pub(crate) async fn echo() -> ServerHandle {
    serve(Server::builder(), async |request| Response::new(request.into_body())).await
}

pub(crate) fn client_of(server: &ServerHandle) -> Client {
    builder_for(server).build()
}

pub(crate) fn builder_for(server: &ServerHandle) -> ClientBuilder {
    Client::builder(server.local_addr().unwrap())
}

pub(crate) fn get(target: &str) -> Request<Body> {
    Request::get(target).body(Body::empty()).unwrap()
}

pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/").body(body.into()).unwrap()
}

pub(crate) async fn bytes_of(response: Response<Body>) -> Vec<u8> {
    within("collecting a body", response.into_body().collect()).await.unwrap().to_bytes().to_vec()
}

/// Connections in memory to a peer that follows a script, for tests whose time stands still.
pub(crate) struct Scripted {
    script: Box<dyn Fn(Caller<DuplexStream>) -> Script + Send + Sync>,
    window: usize,
    opened: AtomicUsize,
    running: Mutex<JoinSet<()>>,
}

type Script = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Scripted {
    pub(crate) fn new<S, F>(script: S) -> Self
    where
        S: Fn(Caller<DuplexStream>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            script: Box::new(move |peer| Box::pin(script(peer))),
            window: 64 << 10,
            opened: AtomicUsize::new(0),
            running: Mutex::default(),
        }
    }

    /// How much either side can write before the other reads.
    pub(crate) fn window(self, window: usize) -> Self {
        Self { window, ..self }
    }

    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait::async_trait]
impl Connect for Scripted {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (near, far) = tokio::io::duplex(self.window);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.running.lock().unwrap().spawn((self.script)(Caller { io: far }));
        Ok(Connection::new(near, ConnectionInfo::default()))
    }
}
