//! The figures that transport §16 wants, measured: `cargo run --release -p peerage-transport --example costs`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement for whoever runs it"
)]

use std::net::SocketAddr;
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

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

#[derive(Clone, Copy)]
enum Answers {
    /// This many bytes to any request.
    Bytes(u64),
    /// Takes the whole body and says so.
    TakesAll,
    /// 413, body unread, connection closed.
    TooLarge,
}

/// A server on a thread of its own.
fn serve(answers: Answers) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(connection(stream, answers));
            }
        });
    });
    told.recv().unwrap()
}

async fn connection(stream: TcpStream, answers: Answers) -> std::io::Result<()> {
    let mut stream = BufStream::with_capacity(256 * 1024, 16 * 1024, stream);
    let piece = vec![b'x'; 256 * 1024];
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let len = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().unwrap());
        match answers {
            Answers::Bytes(count) => {
                tokio::io::copy(&mut (&mut stream).take(len), &mut tokio::io::sink()).await?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let mut left = count;
                while left > 0 {
                    let next = left.min(piece.len() as u64);
                    stream.write_all(&piece[..next as usize]).await?;
                    left -= next;
                }
            }
            Answers::TakesAll => {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                stream.flush().await?;
                tokio::io::copy(&mut (&mut stream).take(len), &mut tokio::io::sink()).await?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
            }
            Answers::TooLarge => {
                let text = "declared size 67108864 exceeds limit 5";
                let answer = format!("HTTP/1.1 413 X\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await?;
                return stream.flush().await;
            }
        }
        stream.flush().await?;
    }
}

fn proxy(addresses: &[SocketAddr]) -> Proxy {
    let mut nodes = NodeConfig::default();
    nodes.initial_nodes = addresses.iter().map(|address| format!("http://{address}")).collect();
    nodes.cluster_host = Some("127.0.0.1".to_owned());
    Proxy::new(Config::new(nodes, "/et/owner/repo").allow_loopback_http(true)).unwrap()
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn bare(address: SocketAddr) -> SendRequest<Empty<bytes::Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn bare_request() -> http::Request<Empty<bytes::Bytes>> {
    http::Request::get("/et/owner/repo/info/refs?service=git-upload-pack")
        .header("host", "127.0.0.1")
        .body(Empty::new())
        .unwrap()
}

fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * of_hundred / 100).min(times.len() - 1)]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    parsers();
    warm().await;
    streams().await;
    pushes().await;
    black_holes().await;
}

/// GB-11 and GB-12: a header of 10,000 items, a cache of 10,000 repositories.
fn parsers() {
    let header: Vec<String> = (0..10_000).map(|n| format!("https://n{n}.c.example")).collect();
    let header = header.join(",");
    let begun = Instant::now();
    assert_eq!(Replica::list([header.as_bytes()]).len(), 32);
    println!("GB-11 a header of 10,000 items: {:?}", begun.elapsed());
    let now = SystemTime::now();
    let mut file = CacheFile::default();
    for n in 0..10_000 {
        let nodes = ["https://n1.c".to_owned(), "https://n2.c".to_owned()];
        file.set_repo("c", &format!("et/p/{n}"), &nodes, now + Duration::from_secs(3600));
    }
    let text = file.to_json();
    let mut took: Vec<Duration> = (0..30)
        .map(|_| {
            let begun = Instant::now();
            assert!(CacheFile::parse(&text).nodes("c", "et/p/0", now).is_some());
            begun.elapsed()
        })
        .collect();
    println!(
        "GB-12 a cache of 10,000 repositories loads in {:?}, fastest {:?} of 30",
        percentile(&mut took, 50),
        percentile(&mut took, 0)
    );
}

/// GB-17: a warm advertisement.
async fn warm() {
    let address = serve(Answers::Bytes(4));
    let proxy = proxy(&[address]);
    let mut sender = bare(address).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3000 {
        let begun = Instant::now();
        sender.ready().await.unwrap();
        let answer = sender.send_request(bare_request()).await.unwrap();
        answer.into_body().collect().await.unwrap();
        theirs.push(begun.elapsed());
        let begun = Instant::now();
        proxy.info_refs(Service::UploadPack).await.unwrap().collect(1024).await.unwrap();
        ours.push(begun.elapsed());
    }
    println!(
        "GB-17 warm info_refs: p50 {:?}, bare {:?}",
        percentile(&mut ours, 50),
        percentile(&mut theirs, 50)
    );
}

/// GB-01 and GB-17: 1 GiB to us.
async fn streams() {
    let address = serve(Answers::Bytes(GIB));
    let begun = Instant::now();
    let mut answer = bare(address).await.send_request(bare_request()).await.unwrap().into_body();
    while answer.frame().await.is_some() {}
    let theirs = begun.elapsed();
    let proxy = proxy(&[address]);
    let (before, mut most) = (resident(), 0);
    let begun = Instant::now();
    let mut answer = proxy.service_rpc(Service::UploadPack, "x", HeaderMap::new()).await.unwrap();
    let mut total = 0;
    while let Some(piece) = answer.chunk().await.unwrap() {
        if (total / (16 * MIB)) != (total + piece.len() as u64) / (16 * MIB) {
            most = most.max(resident().saturating_sub(before));
        }
        total += piece.len() as u64;
    }
    assert_eq!(total, GIB);
    println!("GB-01 1 GiB answer: grew by {} KiB; GB-17 {:?}, bare {theirs:?}", most / 1024, begun.elapsed());
}

/// GB-01 and GB-05: 1 GiB from us, and 64 MiB that nobody wants.
async fn pushes() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(GIB).unwrap();
    let body = ReplayBody::file(file).unwrap();
    let proxy_of_all = proxy(&[serve(Answers::TakesAll)]);
    let before = resident();
    let begun = Instant::now();
    let pushing = proxy_of_all.service_rpc(Service::ReceivePack, body, HeaderMap::new());
    tokio::pin!(pushing);
    let mut most = 0;
    loop {
        tokio::select! {
            answer = &mut pushing => {
                answer.unwrap();
                break;
            }
            // Looks at the memory in between.
            () = tokio::time::sleep(Duration::from_millis(10)) => most = most.max(resident().saturating_sub(before)),
        }
    }
    println!("GB-01 1 GiB push: grew by {} KiB in {:?}", most / 1024, begun.elapsed());
    let address = serve(Answers::TooLarge);
    let body = ReplayBody::from(vec![0; 64 << 20]);
    let mut refused = 0;
    for _ in 0..200 {
        let answer =
            proxy(&[address]).service_rpc(Service::ReceivePack, body.clone(), HeaderMap::new()).await;
        refused += u32::from(matches!(answer, Err(ProxyError::PushTooLarge { limit: 5, .. })));
    }
    println!("GB-05 64 MiB refused with 413 before the body: PushTooLarge in {refused} of 200 runs");
}

/// GB-02: two of three replicas drop packets.
async fn black_holes() {
    let (one, two) = (BlackHole::new(), BlackHole::new());
    let good = serve(Answers::Bytes(4));
    let mut took = Vec::new();
    for _ in 0..100 {
        let proxy = proxy(&[one.addr(), two.addr(), good]);
        let begun = Instant::now();
        proxy.info_refs(Service::UploadPack).await.unwrap().collect(1024).await.unwrap();
        took.push(begun.elapsed());
    }
    println!(
        "GB-02 two of three replicas black-holed: p50 {:?}, p99 {:?} over 100 runs",
        percentile(&mut took, 50),
        percentile(&mut took, 99)
    );
}
