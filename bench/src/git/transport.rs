//! The transport alone, without Git: what it holds in memory, what it waits for, what it adds to a bare client
//! (transport §16).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use peerage_tests::BlackHole;
use peerage_transport::cache::CacheFile;
use peerage_transport::{Config, NodeConfig, Proxy, ProxyError, ReplayBody, Replica, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::{MIB, Plan, Table, mib, percentile};
use crate::BoxError;
use crate::machine::memory;

const PIECE: usize = 256 * 1024;

pub(super) fn run(plan: &Plan, table: &mut Table) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        answer(plan, table).await?;
        push(plan, table).await?;
        warm(table).await?;
        black_holes(plan, table).await?;
        refusals(table).await
    })?;
    parsers(table)
}

/// What a server does with every request.
#[derive(Clone, Copy)]
enum Answers {
    /// This many bytes.
    Bytes(u64),
    /// Takes the whole body and says so.
    TakesAll,
    /// 413, the body unread, the connection closed.
    TooLarge,
}

/// A server on a thread of its own, for the rest of the process.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(answers: Answers) -> Result<Self, BoxError> {
        let requests = Arc::new(AtomicUsize::new(0));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let counter = requests.clone();
        std::thread::spawn(move || -> std::io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                // Whoever asked waits for it.
                let _told = tell.send(listener.local_addr()?);
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(connection(stream, answers, counter.clone()));
                }
            })
        });
        Ok(Self { address: told.recv()?, requests })
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn connection(stream: TcpStream, answers: Answers, requests: Arc<AtomicUsize>) -> Result<(), BoxError> {
    let mut stream = BufStream::with_capacity(PIECE, 16 * 1024, stream);
    let piece = vec![b'x'; PIECE];
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let head = String::from_utf8(head)?;
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let len: u64 = len.parse()?;
        match answers {
            Answers::Bytes(count) => {
                tokio::io::copy(&mut (&mut stream).take(len), &mut tokio::io::sink()).await?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let mut left = count;
                while left > 0 {
                    let next = piece.get(..usize::try_from(left).unwrap_or(PIECE).min(PIECE));
                    let next = next.unwrap_or(&piece);
                    stream.write_all(next).await?;
                    left -= next.len() as u64;
                }
            }
            Answers::TakesAll => {
                if head.contains("100-continue") {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                    stream.flush().await?;
                }
                tokio::io::copy(&mut (&mut stream).take(len), &mut tokio::io::sink()).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
            }
            Answers::TooLarge => {
                let text = "declared size 67108864 exceeds limit 5";
                let answer = format!("HTTP/1.1 413 X\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await?;
                return Ok(stream.flush().await?);
            }
        }
        stream.flush().await?;
    }
}

fn proxy(addresses: &[SocketAddr]) -> Result<Proxy, BoxError> {
    let mut nodes = NodeConfig::default();
    nodes.initial_nodes = addresses.iter().map(|address| format!("http://{address}")).collect();
    nodes.cluster_host = Some("127.0.0.1".to_owned());
    Ok(Proxy::new(Config::new(nodes, "/et/owner/repo").allow_loopback_http(true))?)
}

/// What this process holds, servers and all.
fn resident() -> u64 {
    memory().0 * 1024
}

/// hyper's client, one connection, nothing around it.
async fn bare(address: SocketAddr) -> Result<SendRequest<Empty<bytes::Bytes>>, BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn bare_request() -> Result<http::Request<Empty<bytes::Bytes>>, http::Error> {
    http::Request::get("/et/owner/repo/info/refs?service=git-upload-pack")
        .header("host", "127.0.0.1")
        .body(Empty::new())
}

/// GB-01 and GB-17: a long answer.
async fn answer(plan: &Plan, table: &mut Table) -> Result<(), BoxError> {
    let server = Server::start(Answers::Bytes(plan.stream))?;
    let proxy = proxy(&[server.address])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut most = 0;
    for _ in 0..plan.rounds.min(3) {
        let began = Instant::now();
        let mut answer = bare(server.address).await?.send_request(bare_request()?).await?.into_body();
        while answer.frame().await.is_some() {}
        theirs.push(began.elapsed());
        let before = resident();
        let began = Instant::now();
        let mut answer = proxy.service_rpc(Service::UploadPack, "x", HeaderMap::new()).await?;
        let (mut total, mut looked) = (0, 0);
        while let Some(piece) = answer.chunk().await? {
            total += piece.len() as u64;
            if total / (16 * MIB) != looked {
                looked = total / (16 * MIB);
                most = most.max(resident().saturating_sub(before));
            }
        }
        ours.push(began.elapsed());
        if total != plan.stream {
            return Err(format!("{total} bytes came, not {}", plan.stream).into());
        }
    }
    let (ours, theirs) = (percentile(&mut ours, 50), percentile(&mut theirs, 50));
    let size = plan.stream / MIB;
    let what = format!("{size} MiB answer through service_rpc, memory growth");
    table.row("GB-01", &what, mib(most), "≤ 16 MiB", most <= 16 * MIB);
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    let shown = format!("{ratio:.2} ({ours:.2?}, bare {theirs:.2?})");
    table.row("GB-17", "the same, speed beside a bare client", shown, "≥ 0.95", ratio >= 0.95);
    Ok(())
}

/// GB-01: a long push, from a file.
async fn push(plan: &Plan, table: &mut Table) -> Result<(), BoxError> {
    let file = tempfile::tempfile()?;
    file.set_len(plan.stream)?;
    let proxy = proxy(&[Server::start(Answers::TakesAll)?.address])?;
    let before = resident();
    let pushing = proxy.service_rpc(Service::ReceivePack, ReplayBody::file(file)?, HeaderMap::new());
    tokio::pin!(pushing);
    let mut most = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            answer = &mut pushing => break drop(answer?),
            // Looks at the memory in between.
            _ = tick.tick() => most = most.max(resident().saturating_sub(before)),
        }
    }
    let what = format!("{} MiB push through service_rpc, memory growth", plan.stream / MIB);
    table.row("GB-01", &what, mib(most), "≤ 32 MiB", most <= 32 * MIB);
    Ok(())
}

/// GB-17: an advertisement over a connection that is there.
async fn warm(table: &mut Table) -> Result<(), BoxError> {
    let server = Server::start(Answers::Bytes(4))?;
    let proxy = proxy(&[server.address])?;
    let mut sender = bare(server.address).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3000 {
        let began = Instant::now();
        sender.ready().await?;
        sender.send_request(bare_request()?).await?.into_body().collect().await?;
        theirs.push(began.elapsed());
        let began = Instant::now();
        proxy.info_refs(Service::UploadPack).await?.collect(1024).await?;
        ours.push(began.elapsed());
    }
    let (ours, theirs) = (percentile(&mut ours, 50), percentile(&mut theirs, 50));
    let more = ours.saturating_sub(theirs);
    let shown = format!("{more:.1?} ({ours:.1?}, bare {theirs:.1?})");
    table.row(
        "GB-17",
        "warm info_refs, p50 more than a bare client",
        shown,
        "≤ 100 µs",
        more <= Duration::from_micros(100),
    );
    Ok(())
}

/// GB-02: two of three replicas drop packets; a request is on the wire once all the same.
async fn black_holes(plan: &Plan, table: &mut Table) -> Result<(), BoxError> {
    let (one, two) = (BlackHole::new(), BlackHole::new());
    let runs = plan.black_holes;
    let server = Server::start(Answers::Bytes(4))?;
    let mut took = Vec::new();
    for _ in 0..runs {
        let proxy = proxy(&[one.addr(), two.addr(), server.address])?;
        let began = Instant::now();
        proxy.info_refs(Service::UploadPack).await?.collect(1024).await?;
        took.push(began.elapsed());
    }
    let (half, late) = (percentile(&mut took, 50), percentile(&mut took, 99));
    let what = format!("info_refs, 2 of 3 replicas black-holed, p99 of {runs}");
    let shown = format!("{late:.0?} (p50 {half:.0?})");
    table.row("GB-02", &what, shown, "≤ 800 ms", late <= Duration::from_millis(800));
    let sent = server.requests();
    table.row(
        "GB-02",
        "the same, requests on the wire",
        format!("{sent} in {runs} runs"),
        "1 a run",
        sent == runs,
    );
    let (server, runs) = (Server::start(Answers::TakesAll)?, runs.div_ceil(5));
    for _ in 0..runs {
        let proxy = proxy(&[one.addr(), two.addr(), server.address])?;
        proxy.service_rpc(Service::ReceivePack, "0000", HeaderMap::new()).await?;
    }
    let sent = server.requests();
    table.row(
        "GB-02",
        "push, 2 of 3 black-holed, POSTs on the wire",
        format!("{sent} in {runs} runs"),
        "1 a run",
        sent == runs,
    );
    Ok(())
}

/// GB-05: 64 MiB that nobody wants.
async fn refusals(table: &mut Table) -> Result<(), BoxError> {
    const RUNS: usize = 200;
    let address = Server::start(Answers::TooLarge)?.address;
    let body = ReplayBody::from(vec![0; 64 << 20]);
    let mut refused = 0;
    for _ in 0..RUNS {
        let answer =
            proxy(&[address])?.service_rpc(Service::ReceivePack, body.clone(), HeaderMap::new()).await;
        refused += usize::from(matches!(answer, Err(ProxyError::PushTooLarge { limit: 5, .. })));
    }
    let shown = format!("{refused} of {RUNS}");
    table.row(
        "GB-05",
        "64 MiB refused with 413 before the body, told as such",
        shown,
        "all",
        refused == RUNS,
    );
    Ok(())
}

/// GB-11 and GB-12: a header of 10,000 items, a cache of 10,000 repositories.
fn parsers(table: &mut Table) -> Result<(), BoxError> {
    let header: Vec<String> = (0..10_000).map(|n| format!("https://n{n}.c.example")).collect();
    let header = header.join(",");
    let began = Instant::now();
    let count = Replica::list([header.as_bytes()]).len();
    let took = began.elapsed();
    let met = took < Duration::from_millis(1) && count == 32;
    table.row("GB-11", "a header of 10,000 replicas, 32 kept", format!("{took:.1?}"), "< 1 ms", met);
    let now = SystemTime::now();
    let mut file = CacheFile::default();
    for n in 0..10_000 {
        let nodes = ["https://n1.c".to_owned(), "https://n2.c".to_owned()];
        file.set_repo("c", &format!("et/p/{n}"), &nodes, now + Duration::from_secs(3600));
    }
    let text = file.to_json();
    let began = Instant::now();
    let found = CacheFile::parse(&text).nodes("c", "et/p/0", now).is_some();
    let took = began.elapsed();
    let met = took < Duration::from_millis(20) && found;
    table.row("GB-12", "a cache of 10,000 repositories, loaded", format!("{took:.1?}"), "< 20 ms", met);
    Ok(())
}
