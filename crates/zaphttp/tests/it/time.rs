//! What takes too long ends when it should. Time stands still and moves when nothing else does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use peerage_zaphttp::{
    Body, BodyError, Client, ClientBuilder, Connect, ConnectError, Connection, Listener, SendErrorKind,
    Server, ServerBuilder, ServerHandle, Stage,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tower::service_fn;

use crate::kit::{NOWHERE, Scripted, data, get, head, ok, post, request};

const SECOND: Duration = Duration::from_secs(1);

fn client(connector: impl Connect) -> ClientBuilder {
    Client::builder(NOWHERE).connector(Arc::new(connector))
}

#[derive(Debug)]
struct BlackHole;

#[async_trait::async_trait]
impl Connect for BlackHole {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_come_up_ends_at_the_connect_timeout() {
    for (builder, limit) in
        [(client(BlackHole), 10 * SECOND), (client(BlackHole).connect_timeout(3 * SECOND), 3 * SECOND)]
    {
        let start = Instant::now();
        let error = builder.build().send(post("x")).await.unwrap_err();
        assert_eq!(start.elapsed(), limit);
        assert_eq!((error.kind(), error.stage()), (SendErrorKind::Timeout, Stage::NotSent));
        assert!(error.is_timeout() && error.has_request());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_ends_at_the_response_timeout() {
    let silent = || {
        Scripted::new(|mut peer| async move {
            peer.frame_some_day().await;
            std::future::pending().await
        })
    };
    for (builder, limit) in
        [(client(silent()), 30 * SECOND), (client(silent()).response_timeout(2 * SECOND), 2 * SECOND)]
    {
        let start = Instant::now();
        let client = builder.build();
        let error = client.send(get("/")).await.unwrap_err();
        assert_eq!(start.elapsed(), limit);
        assert_eq!((error.kind(), error.stage()), (SendErrorKind::Timeout, Stage::Ambiguous));
        assert_eq!(client.connection_count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_has_its_own_deadline() {
    let connector = Scripted::new(|mut peer| async move {
        while peer.frame_some_day().await.is_some() {
            sleep(20 * SECOND).await;
            peer.send(&ok(b"late")).await;
        }
    });
    let client = client(connector).build();
    // Together they take far longer than the 30 s that each may take.
    for _ in 0..5 {
        client.send(get("/")).await.unwrap();
        sleep(100 * SECOND).await;
    }
    assert_eq!(client.connection_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_ends_at_the_response_timeout_with_nothing_sent() {
    let connector = Scripted::new(|peer| async move {
        std::future::pending::<()>().await;
        drop(peer);
    })
    .window(1000);
    let client = client(connector).build();
    let start = Instant::now();
    let error = client.send(post(vec![0; 5000])).await.unwrap_err();
    assert_eq!(start.elapsed(), 30 * SECOND);
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Timeout, Stage::NotSent));
    assert!(error.has_request(), "a frame in part is no request");
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_may_take_as_long_as_it_keeps_coming() {
    let connector = Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        for part in ok(&vec![1; 1 << 20]).chunks(20_000) {
            sleep(10 * SECOND).await;
            peer.send(part).await;
        }
        peer.frame_some_day().await;
    });
    let start = Instant::now();
    let response = client(connector).build().send(get("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1 << 20);
    assert!(start.elapsed() > 500 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_stops_coming_ends_at_the_idle_timeout() {
    let connector = Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        peer.send(&ok(&vec![1; 1 << 20])[..100_000]).await;
        std::future::pending().await
    });
    let start = Instant::now();
    let error = client(connector).build().send(get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Timeout, Stage::Ambiguous));
    assert_eq!(start.elapsed(), 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn s083_sv_s11_empty_frames_are_no_progress() {
    const ROW: &str = "SV-S11";
    let connector = Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        peer.send(&[head(), data(b"some")].concat()).await;
        loop {
            sleep(SECOND).await;
            peer.send(&data(b"")).await;
        }
    });
    let client = client(connector).build();
    let mut body = client.send(get("/")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some", "{ROW}");
    let start = Instant::now();
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, BodyError::Idle), "{ROW}: {error:?}");
    assert_eq!(start.elapsed(), 60 * SECOND, "{ROW}");
    assert_eq!(client.connection_count(), 0, "{ROW}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_piece_now_and_then_is_not_cut() {
    let connector = Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        peer.send(&head()).await;
        for _ in 0..10 {
            sleep(59 * SECOND).await;
            peer.send(&data(b"x")).await;
        }
        // A piece that comes in pieces is progress too.
        for byte in data(&[1; 50]) {
            sleep(SECOND).await;
            peer.send(&[byte]).await;
        }
        std::future::pending().await
    });
    let mut body = client(connector).build().send(get("/")).await.unwrap().into_body();
    for _ in 0..10 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    }
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 50);
    assert!(matches!(body.frame().await, Some(Err(BodyError::Idle))));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_is_not_the_peers_fault() {
    let connector = Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        peer.send(&head()).await;
        for _ in 0..3 {
            sleep(SECOND).await;
            peer.send(&data(b"x")).await;
        }
        sleep(500 * SECOND).await;
        peer.send(&data(b"y")).await;
        std::future::pending().await
    });
    let mut body = client(connector).build().send(get("/")).await.unwrap().into_body();
    for expected in ["x", "x", "x"] {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), expected);
    }
    // 460 s pass before anybody asks again; the peer has 60 s from then on, and uses 40.
    sleep(460 * SECOND).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "y");
}

fn server(builder: ServerBuilder) -> (ServerHandle, impl Connect) {
    let (listener, connector) = Listener::memory(4);
    let echo =
        service_fn(async |request: Request<Body>| Ok::<_, Infallible>(Response::new(request.into_body())));
    (builder.serve(listener, echo), connector)
}

/// When the server closes the connection.
async fn closes_after(io: &mut Connection) -> Duration {
    let start = Instant::now();
    assert_eq!(io.read(&mut [0; 1000]).await.unwrap(), 0);
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn s082_an_idle_connection_ends_at_the_idle_timeout_if_there_is_one() {
    let (_server, connector) = server(Server::builder().idle_timeout(75 * SECOND));
    let mut io = connector.connect().await.unwrap();
    assert_eq!(closes_after(&mut io).await, 75 * SECOND);

    // It starts again with each request.
    let mut io = connector.connect().await.unwrap();
    for _ in 0..3 {
        sleep(70 * SECOND).await;
        io.write_all(&request("POST", "/", &[], b"x")).await.unwrap();
        assert!(io.read(&mut [0; 1000]).await.unwrap() > 0);
    }
    assert_eq!(closes_after(&mut io).await, 75 * SECOND);

    let (_server, connector) = server(Server::builder());
    let mut io = connector.connect().await.unwrap();
    let read = tokio::time::timeout(86_400 * SECOND, io.read(&mut [0; 1])).await;
    assert!(read.is_err(), "without one it stays for ever");
}

#[tokio::test(start_paused = true)]
async fn s082_each_request_has_the_header_timeout_from_its_first_byte() {
    let (_server, connector) = server(Server::builder());
    let mut io = connector.connect().await.unwrap();
    let bytes = request("POST", "/", &[], b"body");
    for _ in 0..3 {
        // Waiting for the first byte does not count, and each may use nearly all of it.
        sleep(100 * SECOND).await;
        io.write_all(&bytes[..10]).await.unwrap();
        sleep(29 * SECOND).await;
        io.write_all(&bytes[10..]).await.unwrap();
        assert!(io.read(&mut [0; 1000]).await.unwrap() > 0);
    }
    io.write_all(&bytes[..1]).await.unwrap();
    assert_eq!(closes_after(&mut io).await, 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn s082_a_caller_that_takes_nothing_ends_at_the_write_timeout() {
    let (server, connector) = server(Server::builder().write_timeout(5 * SECOND).max_inline_body(0));
    let mut io = connector.connect().await.unwrap();
    io.write_all(&request("POST", "/", &[], &vec![0; 300_000])).await.unwrap();
    // As long as it takes a little now and then it is served.
    for _ in 0..3 {
        sleep(4 * SECOND).await;
        assert!(io.read(&mut [0; 10_000]).await.unwrap() > 0);
    }
    assert_eq!(server.connection_count(), 1);
    sleep(5 * SECOND + SECOND / 1000).await;
    assert_eq!(server.connection_count(), 0);
}
