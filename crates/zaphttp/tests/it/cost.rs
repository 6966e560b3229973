//! What an exchange costs: system calls as reads and writes, allocations, memory.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use peerage_zaphttp::{Body, Client, Connect, ConnectError, Connection, ConnectionInfo, Listener, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::JoinSet;
use tower::service_fn;

use crate::kit::{NOWHERE, bytes_of, get, post};

/// Reads and writes of both ends of a connection.
#[derive(Debug, Default)]
struct Counts {
    client: Side,
    server: Side,
}

#[derive(Debug, Default)]
struct Side {
    reads: AtomicUsize,
    writes: AtomicUsize,
}

struct Counting {
    io: DuplexStream,
    counts: Arc<Counts>,
    side: fn(&Counts) -> &Side,
}

impl Counting {
    fn add(&self, counter: fn(&Side) -> &AtomicUsize) {
        counter((self.side)(&self.counts)).fetch_add(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.add(|side| &side.reads);
        }
        polled
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.add(|side| &side.writes);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.add(|side| &side.writes);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Connects to an echo server over counted streams.
#[derive(Debug, Default)]
struct Counted {
    counts: Arc<Counts>,
    serving: std::sync::Mutex<JoinSet<()>>,
}

#[async_trait::async_trait]
impl Connect for Counted {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let counting = |io, side| {
            let counts = self.counts.clone();
            Connection::new(Counting { io, counts, side }, ConnectionInfo::default())
        };
        let server = Server::builder().build();
        let far = counting(far, |counts| &counts.server);
        let echo = service_fn(async |request: Request<Body>| {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        self.serving.lock().unwrap().spawn(async move { server.serve_connection(far, echo).await });
        Ok(counting(near, |counts| &counts.client))
    }
}

#[tokio::test]
async fn an_exchange_is_one_write_and_one_read_on_each_side() {
    let connector = Arc::new(Counted::default());
    let client = Client::builder(NOWHERE).connector(connector.clone()).build();
    for (len, rounds) in [(0, 100), (1, 100), (1000, 100), (60_000, 10)] {
        // The first ones teach the buffers the size of what comes.
        for _ in 0..10 {
            client.send(post(vec![1; len])).await.unwrap();
        }
        let count = || {
            [&connector.counts.client, &connector.counts.server]
                .map(|side| (side.reads.load(Ordering::Relaxed), side.writes.load(Ordering::Relaxed)))
        };
        let before = count();
        for _ in 0..rounds {
            let response = client.send(post(vec![1; len])).await.unwrap();
            assert_eq!(bytes_of(response).await.len(), len);
        }
        let after = count();
        for (side, (before, after)) in ["client", "server"].iter().zip(before.into_iter().zip(after)) {
            assert_eq!(after.1 - before.1, rounds, "writes of the {side} at {len} bytes");
            // A long frame may find a buffer that is just too short for it.
            let reads = if len < 4000 { rounds..=rounds } else { rounds..=2 * rounds };
            assert!(
                reads.contains(&(after.0 - before.0)),
                "reads of the {side} at {len} bytes: {}",
                after.0 - before.0
            );
        }
    }
}

#[test]
fn an_exchange_allocates_little() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, client) = runtime.block_on(async {
        let hello =
            service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("hello"))));
        let server = Server::builder().serve(Listener::tcp("127.0.0.1:0").await.unwrap(), hello);
        let client = Client::builder(server.local_addr().unwrap()).build();
        (server, client)
    });
    let exchanges = |count: usize| {
        runtime.block_on(async {
            for _ in 0..count {
                client.send(get("/some/path")).await.unwrap();
            }
        });
    };
    exchanges(200);
    let measured = allocation_counter::measure(|| exchanges(1000));
    let each = measured.count_total as f64 / 1000.0;
    println!("{each} allocations an exchange, request and answer, both sides");
    assert!(each <= LIMIT, "{each}");
    drop(server);
}

/// Three a side are the map of extensions that `ConnectionInfo` travels in, one is the path of the test.
const LIMIT: f64 = 8.0;
