//! A body of 64 MiB, each way, each side in a process of its own so that its peak memory is its own.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use peerage_zaphttp::{Body, Client, Listener, Server};
use tokio::runtime::Builder;
use tokio::time::Instant;

use crate::{BoxError, machine};

/// A request is one frame, so its body has to leave room for the head.
const BODY_LEN: usize = (64 << 20) - 1024;
const TIMES: u32 = 7;

/// What is sent. Made at its first use: after memory was looked at, so that the sender's growth counts it.
static BODY: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![7; BODY_LEN]));

/// What a body of 64 MiB takes.
pub(crate) struct Figures {
    pub(crate) upload: Direction,
    pub(crate) download: Direction,
    /// Bytes a second through a bare socket, one way, read and written in pieces of 64 KiB.
    pub(crate) raw_rate: f64,
}

pub(crate) struct Direction {
    /// Bytes a second, the best of a few.
    pub(crate) rate: f64,
    /// Growth of the peak resident memory in KiB, over what the side held before.
    pub(crate) client_growth: u64,
    pub(crate) server_growth: u64,
}

pub(crate) fn run() -> Result<Figures, BoxError> {
    Ok(Figures { upload: direction("upload")?, download: direction("download")?, raw_rate: raw_rate()? })
}

/// Starts the two sides; the client prints what it found.
fn direction(direction: &str) -> Result<Direction, BoxError> {
    let mut server = Side::start(&["server", direction])?;
    let addr = server.line()?;
    let mut client = Side::start(&["client", direction, &addr])?;
    let line = client.line()?;
    let figures: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let &[rate, client_growth, server_growth] = &figures[..] else {
        return Err(format!("the client said: {line}").into());
    };
    Ok(Direction { rate, client_growth: client_growth as u64, server_growth: server_growth as u64 })
}

/// A child that ends with us.
struct Side {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Side {
    fn start(args: &[&str]) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("body-side")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("a child without output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    fn line(&mut self) -> Result<String, BoxError> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            return Err("a side of the large body ended early".into());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child: `server DIRECTION` or `client DIRECTION ADDR`.
pub(crate) fn side(args: &[String]) -> Result<(), BoxError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["server", _] => runtime.block_on(server()),
        ["client", direction, addr] => runtime.block_on(client(direction == "upload", addr.parse()?)),
        _ => Err("one side of the large body: server DIRECTION, or client DIRECTION ADDR".into()),
    }
}

async fn server() -> Result<(), BoxError> {
    let listener = Listener::tcp("127.0.0.1:0").await?;
    let handle = Server::builder().serve(listener, tower::service_fn(handle));
    println!("{}", handle.local_addr().ok_or("a TCP listener has an address")?);
    // Until the parent is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// `/upload` takes a body, `/download` gives one; `/forget` and `/peak` are about memory.
async fn handle(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let text = match request.uri().path() {
        "/download" => return Ok(Response::new(Body::from(BODY.clone()))),
        "/upload" => request.into_body().size_hint().lower().to_string(),
        "/forget" => {
            machine::forget_peak();
            machine::memory().0.to_string()
        }
        _ => machine::memory().1.to_string(),
    };
    Ok(Response::new(Body::from(text)))
}

async fn client(upload: bool, addr: SocketAddr) -> Result<(), BoxError> {
    let client = Client::builder(addr).build();
    let ask = async |path: &'static str| -> Result<u64, BoxError> {
        let response = client.send(Request::get(path).body(Body::empty())?).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(std::str::from_utf8(&body)?.parse()?)
    };
    let mut best = f64::INFINITY;
    let server_before = ask("/forget").await?;
    machine::forget_peak();
    let before = machine::memory().0;
    for _ in 0..TIMES {
        let started;
        let moved = if upload {
            let body = Body::from(BODY.clone());
            started = Instant::now();
            let response = client.send(Request::post("/upload").body(body)?).await?;
            let body = response.into_body().collect().await?.to_bytes();
            std::str::from_utf8(&body)?.parse()?
        } else {
            started = Instant::now();
            let response = client.send(Request::get("/download").body(Body::empty())?).await?;
            let mut body = response.into_body();
            let mut moved = 0;
            while let Some(frame) = body.frame().await {
                moved += frame?.data_ref().map_or(0, Bytes::len);
            }
            moved
        };
        best = best.min(started.elapsed().as_secs_f64());
        if moved != BODY_LEN {
            return Err(format!("{moved} of {BODY_LEN} bytes arrived").into());
        }
    }
    let growth = machine::memory().1.saturating_sub(before);
    let server_growth = ask("/peak").await?.saturating_sub(server_before);
    println!("{} {growth} {server_growth}", BODY_LEN as f64 / best);
    Ok(())
}

fn raw_rate() -> Result<f64, BoxError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let reader = std::thread::spawn(move || -> std::io::Result<()> {
        let mut scratch = vec![0; 64 << 10];
        for _ in 0..TIMES {
            let (mut stream, _) = listener.accept()?;
            let mut missing = BODY_LEN;
            while missing > 0 {
                missing -= match stream.read(&mut scratch)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => read,
                };
            }
            stream.write_all(b"x")?;
        }
        Ok(())
    });
    let piece = vec![7; 64 << 10];
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let mut stream = std::net::TcpStream::connect(addr)?;
        let started = Instant::now();
        let mut missing = BODY_LEN;
        while missing > 0 {
            missing -= stream.write(piece.get(..missing.min(piece.len())).unwrap_or_default())?;
        }
        stream.read_exact(&mut [0])?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    reader.join().map_err(|_| "the raw reader panicked")??;
    Ok(BODY_LEN as f64 / best)
}
