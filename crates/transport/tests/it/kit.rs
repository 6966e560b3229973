//! Node servers of the tests: HTTP/1.1 written by hand, so that they can misbehave at any byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use peerage_tests::{Facts, TestIdentity};
use peerage_transport::{Config, NodeConfig, Proxy, ProxyError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The path of the repository in every test that does not care.
pub(crate) const PATH: &str = "/et/owner/repo";

/// What nothing takes, however busy the machine is.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// One request as a node saw it.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, Vec<String>>,
    pub(crate) body: Vec<u8>,
}

impl Hit {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|values| values.first()).map(String::as_str)
    }
}

/// What a node does with a request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// How much of the request body is read first.
    pub(crate) read: Read,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    All,
    Upto(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The whole answer, and the connection stays.
    Whole,
    /// The whole answer, then the connection is reset.
    WholeThenReset,
    /// The head and this much of the body, then an orderly close.
    ClosedAfter(usize),
    /// The head and this much of the body, then a reset.
    ResetAfter(usize),
    /// Not a byte; reset.
    Reset,
    /// Not a byte, and the connection stays open.
    Silent,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), read: Read::All, end: End::Whole }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// `X-Entire-Replicas` with these.
    pub(crate) fn replicas(self, replicas: &[&str]) -> Self {
        self.header("X-Entire-Replicas", replicas.join(","))
    }

    /// Answers without reading the request body.
    pub(crate) fn early(mut self) -> Self {
        self.read = Read::Upto(0);
        self
    }

    pub(crate) fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    pub(crate) fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn reset() -> Self {
        Self::new(200, "").end(End::Reset)
    }
}

type Script = dyn Fn(&Hit, usize) -> Reply + Send + Sync;

/// A server on loopback with a free port.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) url: String,
    pub(crate) hits: Arc<Facts<Hit>>,
    task: JoinHandle<()>,
}

impl Node {
    /// `script` gets the request (its body still unread, hence empty) and how many came before it.
    pub(crate) async fn start(script: impl Fn(&Hit, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(Arc::new(script), None).await
    }

    /// Always the same answer.
    pub(crate) async fn fixed(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    pub(crate) async fn tls(
        identity: &TestIdentity,
        script: impl Fn(&Hit, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain().to_vec(), identity.key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self::listen(Arc::new(script), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(script: Arc<Script>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let hits = Arc::new(Facts::new());
        let recorded = hits.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, hits, tls) = (script.clone(), recorded.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &*script, &hits).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &*script, &hits).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, url: format!("{scheme}://{addr}"), hits, task }
    }

    pub(crate) fn count(&self) -> usize {
        self.hits.count()
    }

    pub(crate) fn posts(&self) -> usize {
        self.hits.look(|hits| hits.iter().filter(|hit| hit.method == "POST").count())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What can be reset rather than closed.
trait Resettable {
    fn reset_on_drop(&self);
}

impl Resettable for TcpStream {
    fn reset_on_drop(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Resettable for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset_on_drop(&self) {
        self.get_ref().0.set_zero_linger().unwrap();
    }
}

async fn serve<S>(stream: S, script: &Script, hits: &Facts<Hit>)
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
{
    let mut stream = BufReader::new(stream);
    while let Some(mut hit) = read_head(&mut stream).await {
        let reply = script(&hit, hits.count());
        let length: usize = hit.header("content-length").map_or(0, |value| value.parse().unwrap());
        let want = match reply.read {
            Read::All => length,
            Read::Upto(limit) => limit.min(length),
        };
        if want > 0 && hit.header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        // Counted when its head is here: a test may ask before the body is.
        let mut body = vec![0; want];
        let whole = stream.read_exact(&mut body).await.is_ok();
        hit.body = body;
        hits.push(hit);
        if !whole {
            return;
        }
        if act(&mut stream, &reply).await.is_none() || want < length {
            return;
        }
    }
}

/// Answers; `None` ends the connection.
async fn act<S>(stream: &mut BufReader<S>, reply: &Reply) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
{
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let upto = |count: usize| [head.as_bytes(), &reply.body[..count]].concat();
    let send = match reply.end {
        End::Whole | End::WholeThenReset => upto(reply.body.len()),
        End::ClosedAfter(count) | End::ResetAfter(count) => upto(count),
        End::Reset | End::Silent => Vec::new(),
    };
    stream.write_all(&send).await.ok()?;
    stream.flush().await.ok()?;
    match reply.end {
        End::Whole => return Some(()),
        End::ClosedAfter(_) => {
            stream.shutdown().await.ok()?;
        }
        End::WholeThenReset | End::ResetAfter(_) | End::Reset => stream.get_ref().reset_on_drop(),
        // Until the other side gives up.
        End::Silent => drop(stream.read_to_end(&mut Vec::new()).await),
    }
    None
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Hit> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let mut headers: HashMap<String, Vec<String>> = HashMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
    }
    Some(Hit {
        method: first.next()?.to_owned(),
        target: first.next()?.to_owned(),
        headers,
        body: Vec::new(),
    })
}

/// Reads a head and gives it back, with its empty line.
pub(crate) async fn head_of<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Known nodes, cluster `127.0.0.1`, no entry.
pub(crate) fn nodes(urls: &[&str]) -> NodeConfig {
    let mut nodes = NodeConfig::default();
    nodes.initial_nodes = urls.iter().map(|url| (*url).to_owned()).collect();
    nodes.cluster_host = Some("127.0.0.1".to_owned());
    nodes
}

/// The same with an entry URL.
pub(crate) fn nodes_and_entry(urls: &[&str], entry: &str) -> NodeConfig {
    let mut nodes = nodes(urls);
    nodes.entry_url = Some(entry.to_owned());
    nodes
}

pub(crate) fn config(nodes: NodeConfig) -> Config {
    patient(Config::new(nodes, PATH).allow_loopback_http(true))
}

/// With timeouts that a busy machine does not run into: a test that is about one sets it.
pub(crate) fn patient(config: Config) -> Config {
    config
        .connect_timeout(LONG)
        .probe_connect_timeout(LONG)
        .head_timeout(Some(LONG))
        .cold_head_timeout(Some(LONG))
}

pub(crate) fn proxy(nodes: NodeConfig) -> Proxy {
    Proxy::new(config(nodes)).unwrap()
}

/// The whole body as text.
pub(crate) async fn text(
    body: Result<peerage_transport::AnswerBody, ProxyError>,
) -> Result<String, ProxyError> {
    let bytes = body?.collect(usize::MAX).await?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

pub(crate) fn no_headers() -> HeaderMap {
    HeaderMap::new()
}

pub(crate) fn replicas(proxy: &Proxy) -> Vec<String> {
    proxy.replicas().iter().map(ToString::to_string).collect()
}
