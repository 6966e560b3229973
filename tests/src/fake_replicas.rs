//! Nodes of Git's smart HTTP that do what a script says, request by request.
//!
//! They speak HTTP/1.1 by hand, because most of what they are for no real server would do.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::{Facts, TestIdentity};

/// How much of a request's body is recorded.
const RECORDED: usize = 1 << 20;

/// A request before its body is read: what a script decides on.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Which node it came to, from 0.
    pub node: usize,
    /// How many requests with this method and service came to any node before.
    pub earlier: usize,
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl RequestHead {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a push's POST.
    pub fn is_push(&self) -> bool {
        self.method == "POST" && self.target.ends_with("/git-receive-pack")
    }

    /// Whether it asks for an advertisement.
    pub fn is_info_refs(&self) -> bool {
        self.target.contains("/info/refs")
    }

    fn kind(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{} {}", self.method, path.rsplit('/').next().unwrap_or_default())
    }
}

/// A request that was read, as far as it was.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its head.
    pub head: RequestHead,
    /// How many bytes of its body came.
    pub body_len: u64,
    /// The first MiB of its body, without the framing of chunks.
    pub body: Vec<u8>,
}

/// What a node answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// What `git http-backend` answers.
    Git,
    /// `git http-backend` is run, so that a push is applied, and this is answered instead.
    GitThen(Reply),
    /// This, without reading the body.
    Early(Reply),
    /// This.
    Fixed(Reply),
}

/// An answer that a script makes.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status, e.g. 503.
    pub status: u16,
    /// Beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A status with a body in plain text.
    pub fn text(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: text.as_bytes().to_vec() }
            .header("Content-Type", "text/plain")
    }

    /// A status with a body of HTML, as a load balancer sends it.
    pub fn html(status: u16) -> Self {
        let body = format!("<html><body><h1>{status}</h1></body></html>");
        Self { status, headers: Vec::new(), body: body.into_bytes() }.header("Content-Type", "text/html")
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }.header("Location", location)
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What goes wrong with an answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The request is read, and what it asks for done, but nothing is ever answered.
    Hang,
    /// Nothing more of the request than its head is read, and nothing answered.
    HangUnread,
    /// The connection is reset when this many bytes of the body are read, or all of it; nothing is done.
    ResetRequest(u64),
    /// The request is done, and the connection reset before the answer.
    ResetAnswer,
    /// The connection is reset after this many bytes of the answer's body.
    ResetAfter(u64),
    /// The connection is closed after this many bytes of the answer's body.
    CutAfter(u64),
    /// The connection is reset this many bytes behind the first occurrence of a text in the answer's body.
    ResetBehind(&'static str, usize),
    /// `Content-Length` claims this many bytes more than there are.
    LengthTooLong(u64),
}

/// What a node does with one request.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it answers.
    pub answer: Answer,
    /// What goes wrong with that.
    pub fault: Fault,
}

impl Step {
    /// What `git http-backend` answers.
    pub fn git() -> Self {
        Self { answer: Answer::Git, fault: Fault::None }
    }

    /// The same, and something goes wrong.
    pub fn git_but(fault: Fault) -> Self {
        Self { answer: Answer::Git, fault }
    }

    /// An answer of the script's own.
    pub fn reply(reply: Reply) -> Self {
        Self { answer: Answer::Fixed(reply), fault: Fault::None }
    }
}

type Script = Arc<dyn Fn(&RequestHead) -> Step + Send + Sync>;

/// How `git http-backend` is run.
#[derive(Clone, Debug)]
pub(crate) struct Cgi {
    /// The program itself: behind the `git` command it would outlive a kill, and loop where its input ends early.
    pub(crate) program: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    /// Whether the server hears of protocol v1 and v2.
    pub(crate) tells_version: bool,
}

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
        None => serve(stream, socket, node, &shared).await,
        Some(acceptor) => {
            let Ok(stream) = acceptor.clone().accept(stream).await else { return };
            serve(stream, socket, node, &shared).await;
        }
    }
}

async fn serve<S>(stream: S, socket: Socket, node: usize, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (input, mut output) = tokio::io::split(stream);
    let mut input = BufReader::with_capacity(128 << 10, input);
    while let Some(end) = exchange(&mut input, &mut output, node, shared).await {
        match end {
            End::KeepAlive => {}
            End::Close => {
                let _ = output.shutdown().await;
                return;
            }
            End::Reset => {
                let _ = socket.set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}

enum End {
    KeepAlive,
    Close,
    Reset,
}

/// One request and its answer; `None` when the client has gone.
async fn exchange<R, W>(input: &mut R, output: &mut W, node: usize, shared: &Shared) -> Option<End>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let head = read_head(input, node, shared).await?;
    let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Step { answer, fault } = script(&head);
    let mut seen = Seen { head, body_len: 0, body: Vec::new() };
    if let Fault::HangUnread = fault {
        shared.seen.push(seen);
        return std::future::pending().await;
    }
    if let Answer::Early(reply) = answer {
        shared.seen.push(seen);
        write_reply(output, &reply, &fault).await;
        return Some(End::Close);
    }
    let mut child = match &answer {
        _ if matches!(fault, Fault::ResetRequest(_)) => None,
        Answer::Git | Answer::GitThen(_) => shared.cgi.as_ref().map(|cgi| cgi.start(&seen.head)),
        Answer::Fixed(_) | Answer::Early(_) => None,
    };
    let mut sink = child.as_mut().and_then(|child| child.stdin.take());
    if seen.head.header("expect").is_some() {
        output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        output.flush().await.ok()?;
    }
    let limit = match fault {
        Fault::ResetRequest(limit) => limit,
        _ => u64::MAX,
    };
    let mut body = Framing::of(&seen.head);
    while let Some(len) = body.next(input).await? {
        let ready = input.fill_buf().await.ok().filter(|ready| !ready.is_empty())?;
        let part = ready.get(..len).unwrap_or(ready).to_vec();
        input.consume(part.len());
        body.took(part.len());
        seen.body_len += part.len() as u64;
        let room = RECORDED.saturating_sub(seen.body.len());
        seen.body.extend_from_slice(part.get(..room).unwrap_or(&part));
        if let Some(sink) = &mut sink {
            // Git may refuse early; what it says then counts.
            let _ = sink.write_all(&part).await;
        }
        if seen.body_len >= limit {
            break;
        }
    }
    if limit != u64::MAX {
        shared.seen.push(seen);
        return Some(End::Reset);
    }
    drop(sink);
    let is_info_refs = seen.head.is_info_refs();
    let result = match (answer, child) {
        (Answer::Fixed(reply), _) => (Some(reply), None),
        (Answer::GitThen(reply), Some(child)) => {
            let _ = child.wait_with_output().await;
            (Some(reply), None)
        }
        (_, child) => (None, child),
    };
    if matches!(fault, Fault::Hang | Fault::ResetAnswer) {
        if let (_, Some(child)) = result {
            let _ = child.wait_with_output().await;
        }
        shared.seen.push(seen);
        return match fault {
            Fault::Hang => std::future::pending().await,
            _ => Some(End::Reset),
        };
    }
    shared.seen.push(seen);
    let replicas =
        is_info_refs.then(|| shared.nodes.lock().unwrap_or_else(PoisonError::into_inner).join(", "));
    match result {
        (Some(mut reply), _) => {
            if let Some(replicas) = replicas.filter(|replicas| reply.status == 200 && !replicas.is_empty()) {
                reply = reply.header("X-Entire-Replicas", &replicas);
            }
            Some(write_reply(output, &reply, &fault).await)
        }
        (None, Some(child)) => relay(child, output, replicas, &fault).await,
        (None, None) => Some(write_reply(output, &Reply::text(500, "no git behind this node"), &fault).await),
    }
}

async fn read_head<R>(input: &mut R, node: usize, shared: &Shared) -> Option<RequestHead>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = String::new();
    input.read_line(&mut line).await.ok().filter(|len| *len > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        line.clear();
        input.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut head = RequestHead { node, earlier: 0, method, target, headers };
    let mut counts = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(head.kind()).or_default();
    head.earlier = *count;
    *count += 1;
    Some(head)
}

/// Where the body of a request ends.
struct Framing {
    chunked: bool,
    left: usize,
    ended: bool,
    begun: bool,
}

impl Framing {
    fn of(head: &RequestHead) -> Self {
        let chunked = head.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let left = head.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        Self { chunked, left, ended: false, begun: false }
    }

    /// How many bytes of body come next; `Some(None)` at its end, `None` if the client has gone.
    async fn next<R: AsyncBufRead + Unpin>(&mut self, input: &mut R) -> Option<Option<usize>> {
        if self.left == 0 && self.chunked && !self.ended {
            let mut line = String::new();
            if std::mem::replace(&mut self.begun, true) {
                input.read_line(&mut line).await.ok()?;
                line.clear();
            }
            input.read_line(&mut line).await.ok()?;
            self.left = usize::from_str_radix(line.trim(), 16).ok()?;
            if self.left == 0 {
                self.ended = true;
                input.read_line(&mut line).await.ok()?;
            }
        }
        Some((self.left > 0).then_some(self.left))
    }

    fn took(&mut self, len: usize) {
        self.left -= len;
    }
}

impl Cgi {
    fn start(&self, head: &RequestHead) -> tokio::process::Child {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("REQUEST_METHOD", &head.method)
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REMOTE_USER", "tester")
            .env("REMOTE_ADDR", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        for (name, variable) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-length", "CONTENT_LENGTH"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ] {
            if let Some(value) = head.header(name) {
                command.env(variable, value);
            }
        }
        if let Some(version) = head.header("git-protocol").filter(|_| self.tells_version) {
            command.env("HTTP_GIT_PROTOCOL", version);
        }
        command.spawn().expect("git is installed")
    }
}

async fn write_reply<W: AsyncWrite + Unpin>(output: &mut W, reply: &Reply, fault: &Fault) -> End {
    let Reply { status, headers, body } = reply;
    let extra = match fault {
        Fault::LengthTooLong(extra) => *extra,
        _ => 0,
    };
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len() as u64 + extra);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _ = output.write_all(head.as_bytes()).await;
    let (len, end) = cut_of(fault, body);
    let _ = output.write_all(body.get(..len).unwrap_or(body)).await;
    let _ = output.flush().await;
    if extra > 0 { End::Close } else { end }
}

/// How much of a body is sent, and what follows.
fn cut_of(fault: &Fault, body: &[u8]) -> (usize, End) {
    let at = |len: u64| usize::try_from(len).unwrap_or(usize::MAX).min(body.len());
    match fault {
        Fault::ResetAfter(len) => (at(*len), End::Reset),
        Fault::CutAfter(len) => (at(*len), End::Close),
        Fault::ResetBehind(text, len) => {
            let found = body.windows(text.len()).position(|part| part == text.as_bytes());
            (found.map_or(body.len(), |found| (found + text.len() + len).min(body.len())), End::Reset)
        }
        _ => (body.len(), End::KeepAlive),
    }
}

/// Sends what `git http-backend` says, in chunks as it comes.
async fn relay<W: AsyncWrite + Unpin>(
    mut child: tokio::process::Child,
    output: &mut W,
    replicas: Option<String>,
    fault: &Fault,
) -> Option<End> {
    let mut from = BufReader::with_capacity(128 << 10, child.stdout.take()?);
    let (mut status, mut headers, mut line) = (200, Vec::new(), String::new());
    loop {
        line.clear();
        from.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            status = value.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(500);
        } else {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    if let Some(replicas) = replicas.filter(|replicas| status == 200 && !replicas.is_empty()) {
        headers.push(("X-Entire-Replicas".to_owned(), replicas));
    }
    if !matches!(fault, Fault::None) {
        let mut body = Vec::new();
        from.read_to_end(&mut body).await.ok()?;
        let _ = child.wait().await;
        return Some(write_reply(output, &Reply { status, headers, body }, fault).await);
    }
    let mut head = format!("HTTP/1.1 {status} Status\r\nTransfer-Encoding: chunked\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    output.write_all(head.as_bytes()).await.ok()?;
    loop {
        let ready = from.fill_buf().await.ok()?;
        if ready.is_empty() {
            break;
        }
        output.write_all(format!("{:x}\r\n", ready.len()).as_bytes()).await.ok()?;
        output.write_all(ready).await.ok()?;
        output.write_all(b"\r\n").await.ok()?;
        output.flush().await.ok()?;
        let len = ready.len();
        from.consume(len);
    }
    let _ = child.wait().await;
    output.write_all(b"0\r\n\r\n").await.ok()?;
    output.flush().await.ok()?;
    Some(End::KeepAlive)
}
