//! One replica of the demo: a copy of the repository behind `git http-backend`, until it dies.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinSet;

use super::command::Git;
use crate::upstream::{AnswerBody, plain};

/// What every request has to show, as an access token would be.
pub(super) const TOKEN: &str = "of-the-demo";
/// How long a connect to a full queue is tried until it is believed to be full.
const QUEUE_PATIENCE: Duration = Duration::from_millis(100);
/// A queue of length 0 still completes a handshake or two.
const QUEUE_MOST: usize = 8;
/// Read from `git http-backend` at once.
const PIECE: usize = 64 * 1024;

/// A server of smart HTTP on loopback, with its own copies of the repositories under a directory.
pub(super) struct Replica {
    pub(super) address: SocketAddr,
    root: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
    state: State,
}

/// What listens at the address.
enum State {
    /// A server; it ends with this set.
    Up { tasks: JoinSet<()> },
    /// Nothing. The socket keeps the port from others.
    Dead { _bound: TcpSocket },
    /// A listener whose queue is full and that takes nobody from it.
    BlackHole { _listener: TcpListener, _queued: Vec<TcpStream> },
}

impl Replica {
    /// Listens, and answers nobody yet: the others have to be known first.
    pub(super) async fn bind(root: PathBuf) -> std::io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let state = State::Up { tasks: JoinSet::new() };
        let replica = Self { address: listener.local_addr()?, root, requests: Arc::default(), state };
        Ok((replica, listener))
    }

    /// Serves what lies under its directory, and names `replicas` in every advertisement.
    pub(super) fn serve(&mut self, listener: TcpListener, git: Arc<Git>, replicas: HeaderValue) {
        let backend =
            Arc::new(Backend { git, root: self.root.clone(), replicas, requests: self.requests.clone() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, backend));
        self.state = State::Up { tasks };
    }

    /// Where its copy of a repository lies.
    pub(super) fn repository(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What it was asked so far, such as `POST git-upload-pack`.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on connections to it are refused.
    pub(super) async fn kill(&mut self) -> std::io::Result<()> {
        self.state = State::Dead { _bound: self.rebind().await? };
        Ok(())
    }

    /// From now on a connect to it is neither accepted nor refused: the kernel drops what comes in.
    pub(super) async fn black_hole(&mut self) -> std::io::Result<()> {
        let listener = self.rebind().await?.listen(0)?;
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(QUEUE_PATIENCE, TcpStream::connect(self.address)).await {
            queued.push(stream?);
            if queued.len() > QUEUE_MOST {
                return Err(std::io::Error::other("the queue of a listener with backlog 0 does not fill"));
            }
        }
        self.state = State::BlackHole { _listener: listener, _queued: queued };
        Ok(())
    }

    /// Its server is gone, with all its connections, and its address is bound again.
    async fn rebind(&mut self) -> std::io::Result<TcpSocket> {
        if let State::Up { tasks } = &mut self.state {
            tasks.shutdown().await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        Ok(socket)
    }
}

/// What the connections of a replica share.
struct Backend {
    git: Arc<Git>,
    root: PathBuf,
    replicas: HeaderValue,
    requests: Arc<Mutex<Vec<String>>>,
}

/// The connections belong to this task and end with it.
async fn accept(listener: TcpListener, backend: Arc<Backend>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let backend = backend.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let backend = backend.clone();
                async move { backend.answer(request).await }
            });
            // How a connection ends is the caller's business.
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Backend {
    async fn answer(&self, request: Request<Incoming>) -> std::io::Result<Response<AnswerBody>> {
        let path = request.uri().path();
        let what = if path.ends_with("/info/refs") {
            "info/refs"
        } else {
            path.rsplit('/').next().unwrap_or_default()
        };
        let is_advertisement = what == "info/refs";
        let line = format!("{} {what}", request.method());
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if shown.and_then(|value| value.strip_prefix("Bearer ")) != Some(TOKEN) {
            return Ok(plain(StatusCode::UNAUTHORIZED, "no token, or a wrong one\n"));
        }
        let mut child = self.start(&request)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes to git http-backend"));
        };
        // Beside the answer: Git may say no before it has read all. Ends when Git closes its input.
        tokio::spawn(feed(request.into_body(), stdin));
        let mut answer = read_answer(child, BufReader::with_capacity(PIECE, stdout)).await?;
        if is_advertisement {
            answer.headers_mut().insert("x-entire-replicas", self.replicas.clone());
        }
        Ok(answer)
    }

    /// RFC 3875, as far as Git reads it.
    fn start(&self, request: &Request<Incoming>) -> std::io::Result<Child> {
        let mut command = self.git.backend();
        command
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REQUEST_METHOD", request.method().as_str())
            .env("PATH_INFO", request.uri().path())
            .env("QUERY_STRING", request.uri().query().unwrap_or_default())
            .env("REMOTE_USER", "demo")
            .env("REMOTE_ADDR", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        for (name, variable) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-length", "CONTENT_LENGTH"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
            ("git-protocol", "HTTP_GIT_PROTOCOL"),
        ] {
            if let Some(value) = request.headers().get(name).and_then(|value| value.to_str().ok()) {
                command.env(variable, value);
            }
        }
        command.spawn()
    }
}

async fn feed(mut body: Incoming, mut stdin: ChildStdin) {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { return };
        if stdin.write_all(&data).await.is_err() {
            return;
        }
    }
}

/// The head that a CGI program prints, then its output as it comes. The program lives as long as the body.
async fn read_answer(
    child: Child,
    mut stdout: BufReader<ChildStdout>,
) -> std::io::Result<Response<AnswerBody>> {
    let bad = || std::io::Error::other("git http-backend printed no head");
    let mut head = Response::builder();
    loop {
        let mut line = String::new();
        stdout.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let value = value.trim();
        head = if name.eq_ignore_ascii_case("status") {
            head.status(value.split(' ').next().unwrap_or_default())
        } else {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            head.header(name, value)
        };
    }
    let pieces = stream::try_unfold((child, stdout), |(child, mut stdout)| async move {
        let mut piece = Vec::with_capacity(PIECE);
        let count = stdout.read_buf(&mut piece).await?;
        Ok((count > 0).then(|| (Frame::data(Bytes::from(piece)), (child, stdout))))
    });
    head.body(StreamBody::new(pieces).boxed_unsync()).map_err(|_| bad())
}
