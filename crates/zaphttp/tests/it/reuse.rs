//! What is looked at before a connection is used, and what is sent again after it broke.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::StreamBody;
use peerage_tests::{Facts, ScriptedServer};
use peerage_zaphttp::wire::Limits;
use peerage_zaphttp::{
    Body, Client, Connect, ConnectError, Connection, ConnectionInfo, Listener, SendErrorKind, Server, Stage,
    Target,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::service_fn;

use crate::kit::{LIMIT, NOWHERE, bytes_of, get, ok, poll_once, post, request, until, within};

/// What a peer does to an idle connection.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    Close,
    Poison,
}

/// A peer with a thread of its own: it can act while the test holds the only thread of the runtime, which
/// therefore hears of nothing.
fn blocking_peer<S: Read + Write>(
    accept: impl Fn() -> io::Result<S> + Send + 'static,
    mischief: Mischief,
) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (act, told) = mpsc::channel();
    let (done, acted) = mpsc::channel();
    std::thread::spawn(move || {
        let mut first = accept().unwrap();
        read_frame(&mut first);
        first.write_all(&ok(b"first")).unwrap();
        told.recv().unwrap();
        let mut kept = Some(first);
        match mischief {
            Mischief::Close => kept = None,
            Mischief::Poison => kept.iter_mut().for_each(|conn| conn.write_all(&ok(b"poison")).unwrap()),
        }
        done.send(()).unwrap();
        let mut second = accept().unwrap();
        read_frame(&mut second);
        second.write_all(&ok(b"second")).unwrap();
        // Until the test is over.
        let _ = told.recv();
        drop(kept);
    });
    (act, acted)
}

fn read_frame(io: &mut impl Read) {
    let mut prefix = [0; 4];
    io.read_exact(&mut prefix).unwrap();
    io.read_exact(&mut vec![0; u32::from_be_bytes(prefix) as usize]).unwrap();
}

#[tokio::test]
async fn s042_a_connection_is_looked_at_when_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    for mischief in [Mischief::Close, Mischief::Poison] {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::from(tcp.local_addr().unwrap());
        let peer = blocking_peer(move || tcp.accept().map(|(io, _)| io), mischief);
        look_when_taken(target, peer, mischief).await;

        let path = directory.path().join(format!("{mischief:?}"));
        let unix = UnixListener::bind(&path).unwrap();
        let peer = blocking_peer(move || unix.accept().map(|(io, _)| io), mischief);
        look_when_taken(Target::Unix(path), peer, mischief).await;
    }
}

async fn look_when_taken(
    target: Target,
    (act, acted): (mpsc::Sender<()>, mpsc::Receiver<()>),
    mischief: Mischief,
) {
    let client = Client::builder(target.clone()).build();
    assert_eq!(bytes_of(client.send(post("body")).await.unwrap()).await, b"first");
    assert_eq!(client.idle_count(), 1);
    act.send(()).unwrap();
    // Not awaited: the runtime gets no turn, so nobody can have told the pool.
    acted.recv_timeout(LIMIT).unwrap();
    assert_eq!(client.idle_count(), 1, "{target}, {mischief:?}: nobody has heard of it");
    // A POST, which is not sent again once it is out.
    let answer = within("the second answer", client.send(post("body"))).await;
    assert_eq!(bytes_of(answer.unwrap()).await, b"second", "{target}, {mischief:?}");
    assert_eq!((client.idle_count(), client.connection_count()), (1, 1), "{target}, {mischief:?}");
}

#[tokio::test]
async fn what_did_not_leave_whole_on_a_reused_connection_goes_out_again() {
    let server = ScriptedServer::start(|mut conn| async move {
        if conn.number() == 0 {
            conn.read_frame().await;
            conn.send(&ok(b"first")).await;
            conn.read(100).await;
            return conn.reset();
        }
        let frame = conn.read_frame().await.unwrap();
        conn.send(&ok(frame.len().to_string().as_bytes())).await;
        conn.stall().await;
    })
    .await;
    let client = Client::builder(server.addr()).build();
    client.send(get("/")).await.unwrap();
    // A server cannot act on half a frame, so the method does not matter. More than sockets take unread.
    let body = vec![7; 32 << 20];
    let frame_len = request("POST", "/", &[], &body).len() - 4;
    let answer = within("the answer to the second try", client.send(post(body))).await.unwrap();
    assert_eq!(bytes_of(answer).await, frame_len.to_string().as_bytes(), "it came whole");
    assert_eq!(server.connection_count(), 2);
}

/// A stream that takes nothing, and on which an answer lies from the second look on.
struct Deaf {
    looks: usize,
    answer: io::Cursor<Vec<u8>>,
}

impl AsyncRead for Deaf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.looks += 1;
        if this.looks == 1 {
            return Poll::Pending;
        }
        Pin::new(&mut this.answer).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct DeafPeer;

#[async_trait::async_trait]
impl Connect for DeafPeer {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let stream = Deaf { looks: 0, answer: io::Cursor::new(ok(b"poison")) };
        Ok(Connection::new(stream, ConnectionInfo::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn s043_an_answer_to_a_request_of_which_no_byte_has_left_is_none() {
    let client = Client::builder(NOWHERE)
        .connector(Arc::new(DeafPeer))
        .response_timeout(Duration::from_secs(1))
        .build();
    let error = client.send(post("body")).await.expect_err("nothing was asked, so nothing was answered");
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Timeout, Stage::NotSent));
    assert!(error.into_request().is_some());
    assert_eq!(client.connection_count(), 0, "discarded");
}

#[tokio::test]
async fn a_connection_that_comes_back_to_a_closed_client_is_closed() {
    let release = Facts::<()>::new();
    let released = release.clone();
    let server = ScriptedServer::start(move |mut conn| {
        let released = released.clone();
        async move {
            conn.read_frame().await;
            released.at_least(1, LIMIT).await;
            conn.send(&ok(b"late")).await;
            conn.read_to_end().await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let mut running = pin!(client.send(get("/")));
    assert!(poll_once(running.as_mut()).await.is_pending());
    client.close();
    release.push(());
    let answer = within("the running request", running).await.unwrap();
    assert_eq!((client.idle_count(), client.connection_count()), (0, 0));
    assert_eq!(bytes_of(answer).await, b"late");
    server.wait_closed(0, LIMIT).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_given_up_where_it_crosses_it() {
    let server = ScriptedServer::start(|conn| conn.stall()).await;
    let limits = Limits { max_frame_len: 1000, ..Limits::default() };
    let client = Client::builder(server.addr()).limits(limits).build();
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    // 300, 600, 900, 1,200 bytes; it has an end, so that a client that does not judge fails here too.
    let pieces = futures_util::stream::iter(0..20).map(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(&[0; 300])))
    });
    let request = Request::post("/").body(StreamBody::new(pieces)).unwrap();
    let error = client.send(request).await.unwrap_err();
    let too_large = SendErrorKind::BodyTooLarge { limit: 1000 };
    assert_eq!((error.kind(), error.stage()), (too_large, Stage::NotSent));
    assert_eq!(made.load(Ordering::Relaxed), 4, "no more of it is asked for");
    assert_eq!(server.connection_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_do_not_pile_up() {
    const ANSWER: usize = 32 << 10;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handler = service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, std::convert::Infallible>(Response::new(Body::from(vec![7; ANSWER]))) }
    });
    let (listener, connector) = Listener::memory(1);
    let _server = Server::builder().serve(listener, handler);
    let mut caller = crate::kit::Caller { io: connector.connect().await.unwrap() };
    caller.send(&request("GET", "/", &[], b"").repeat(500)).await;
    // Paused time moves only when nothing else can happen any more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let made = calls.load(Ordering::Relaxed);
    // The window of the connection holds two, the outbox two; one may be on its way.
    assert!((2..=5).contains(&made), "{made} answers were made for a caller that reads none");
    for at in 0..500 {
        assert_eq!(caller.frame_some_day().await.unwrap().body().len(), ANSWER, "answer {at}");
    }
    until("all were called", || calls.load(Ordering::Relaxed) == 500).await;
}
