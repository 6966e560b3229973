//! What it costs: memory of long streams, allocations of a request, processes that die while they write.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use peerage_tests::{LogCapture, alloc, alone};
use peerage_transport::{NodeCache, ReplayBody, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::kit::{Node, Reply, head_of, no_headers, nodes, proxy, text};

const MIB: u64 = 1024 * 1024;

/// A build for tests moves a quarter of what an optimised one does.
const LARGE: u64 = if cfg!(debug_assertions) { 64 * MIB } else { 256 * MIB };

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A server that answers any request with so many bytes, made as they go.
async fn streaming(len: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                head_of(&mut stream).await;
                // The body, which would reset the connection if it stayed unread.
                stream.read_u8().await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let piece = vec![b'x'; 64 * 1024];
                for _ in 0..len / piece.len() as u64 {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

#[test]
fn gb01_t262_a_long_answer_is_never_held() {
    alone::run("cost::gb01_t262_a_long_answer_is_never_held", &[("ENTIRE_DEBUG", "1")], || {
        // Every line of debug output is made, and kept.
        let _logs = LogCapture::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let proxy = proxy(nodes(&[&format!("http://{}", streaming(LARGE).await)]));
            let mut body = proxy.service_rpc(Service::UploadPack, "x", no_headers()).await.unwrap();
            let first = body.chunk().await.unwrap().unwrap().len() as u64;
            let (before, mut total, mut most) = (resident(), first, 0);
            while let Some(piece) = body.chunk().await.unwrap() {
                total += piece.len() as u64;
                most = most.max(resident().saturating_sub(before));
            }
            assert_eq!(total, LARGE);
            assert!(most < 8 * MIB, "grew by {most} bytes");
        });
    });
}

#[test]
fn gb01_a_long_push_is_read_from_its_file() {
    alone::run("cost::gb01_a_long_push_is_read_from_its_file", &[], || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                head_of(&mut stream).await;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                let taken = tokio::io::copy(&mut (&mut stream).take(LARGE), &mut tokio::io::sink()).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                taken.unwrap()
            });
            let file = tempfile::tempfile().unwrap();
            file.set_len(LARGE).unwrap();
            let body = ReplayBody::file(file).unwrap();
            let proxy = proxy(nodes(&[&url]));
            let before = resident();
            let pushing = proxy.service_rpc(Service::ReceivePack, body, no_headers());
            tokio::pin!(pushing);
            let mut most = 0;
            let answer = loop {
                tokio::select! {
                    answer = &mut pushing => break answer,
                    () = tokio::time::sleep(Duration::from_millis(5)) => {
                        most = most.max(resident().saturating_sub(before));
                    }
                }
            };
            assert_eq!(text(answer).await.unwrap(), "ok");
            assert_eq!(server.await.unwrap(), LARGE);
            assert!(most < 32 * MIB, "grew by {most} bytes");
        });
    });
}

/// A server on a thread of its own, so that what it allocates is not counted.
fn apart() -> (SocketAddr, std::sync::mpsc::SyncSender<()>) {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(Node::fixed(Reply::new(200, "refs")));
        tell.send(node.addr).unwrap();
        runtime.block_on(async {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                // Looks whether the test is over.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    });
    (told.recv().unwrap(), stop)
}

#[test]
fn gb17_a_warm_request_allocates_little_more_than_a_bare_one() {
    let (addr, _stop) = apart();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bare = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = async || {
            sender.ready().await.unwrap();
            let request = http::Request::get("/et/owner/repo/info/refs?service=git-upload-pack")
                .header("host", "127.0.0.1")
                .header("accept-encoding", "gzip")
                .body(Empty::<bytes::Bytes>::new())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "refs");
        };
        request().await;
        let (mut total, rounds) = (0, 20);
        for _ in 0..rounds {
            total += counted(request()).await;
        }
        total / rounds
    });
    let ours = runtime.block_on(async {
        let proxy = proxy(nodes(&[&format!("http://{addr}")]));
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
        let (mut total, rounds) = (0, 20);
        for _ in 0..rounds {
            total += counted(async {
                let answer = proxy.info_refs(Service::UploadPack).await.unwrap();
                assert_eq!(answer.collect(1024).await.unwrap(), "refs");
            })
            .await;
        }
        total / rounds
    });
    println!("allocations of a warm info_refs: {ours}, of a bare request {bare}");
    // The row has 10; what is reached is kept.
    assert!(ours <= bare + 8, "{ours} against {bare}");
}

/// What polling this future allocates, on this thread.
async fn counted(future: impl Future<Output = ()>) -> u64 {
    let mut future = std::pin::pin!(future);
    let mut count = 0;
    std::future::poll_fn(|cx| {
        let mut polled = std::task::Poll::Pending;
        count += alloc::measure(|| polled = future.as_mut().poll(cx)).count_total;
        polled
    })
    .await;
    count
}

#[test]
fn sv_n15_a_writer_that_is_killed_leaves_a_cache_that_can_be_read() {
    killed_writers("cost::sv_n15_a_writer_that_is_killed_leaves_a_cache_that_can_be_read", 60);
}

#[test]
#[ignore = "1,000 processes, as the row has it: for a release build"]
fn sv_n15_1000_writers_that_are_killed_leave_a_cache_that_can_be_read() {
    killed_writers("cost::sv_n15_1000_writers_that_are_killed_leave_a_cache_that_can_be_read", 1000);
}

/// Runs the test of this name in other processes, which write until they are killed.
fn killed_writers(test: &str, rounds: u32) {
    const PLACE: &str = "PEERAGE_TEST_CACHE";
    if let Some(place) = std::env::var_os(PLACE) {
        let cache = NodeCache::new(place);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for number in 0_u64.. {
                cache.persist("c", &format!("r{}", number % 50), &["https://n1.c".to_owned()]).await;
            }
        });
    }
    let directory = tempfile::TempDir::new().unwrap();
    let place = directory.path().join("entire");
    let cache = NodeCache::new(&place);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(cache.persist("c", "kept", &["https://n1.c".to_owned()]));
    for round in 0..rounds {
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--include-ignored"])
            .env(PLACE, &place)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Until it has begun to write, and then a little longer.
        let changed = || std::fs::metadata(place.join("nodes.json")).unwrap().modified().unwrap();
        let before = changed();
        while changed() == before {
            std::thread::yield_now();
        }
        for _ in 0..(round % 60) * 20 {
            std::thread::yield_now();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert!(cache.lookup("c", "kept").is_some(), "round {round}");
        let files = std::fs::read_dir(&place).unwrap().count();
        assert!(files <= 3, "the file, its lock, and one stale temporary file");
    }
    runtime.block_on(cache.persist("c", "after", &["https://n1.c".to_owned()]));
    assert!(cache.lookup("c", "after").is_some());
}
