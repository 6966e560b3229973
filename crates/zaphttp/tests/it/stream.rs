//! Streamed answers: whole, cut, stalled, dropped, out of order.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame as BodyFrame};
use http_body_util::{BodyExt, StreamBody};
use peerage_tests::ScriptedServer;
use peerage_zaphttp::wire::{Expected, WireError};
use peerage_zaphttp::{Body, BodyError, Client, Listener, SendErrorKind, Server, Stage};
use tokio::sync::mpsc;
use tower::service_fn;

use crate::kit::{
    Caller, DATA, END, HEAD, LIMIT, NOWHERE, RESPONSE, Scripted, bytes_of, client_of, data, end, end_with,
    get, head, ok, request, serve, within,
};

type Piece = Result<BodyFrame<Bytes>, &'static str>;

/// A body whose pieces the test sends one by one.
fn channel() -> (mpsc::Sender<Piece>, Body) {
    let (sender, receiver) = mpsc::channel(8);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece: Piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (sender, Body::new(StreamBody::new(Box::pin(pieces))))
}

fn piece(text: &'static str) -> Piece {
    Ok(BodyFrame::data(Bytes::from_static(text.as_bytes())))
}

/// A server whose answers are streamed by the test: each request hands out the sender of its body.
async fn streaming() -> (peerage_zaphttp::ServerHandle, mpsc::Receiver<mpsc::Sender<Piece>>) {
    let (opened, streams) = mpsc::channel(8);
    let server = serve(Server::builder(), move |request: Request<Body>| {
        let opened = opened.clone();
        async move {
            if request.uri().path() == "/plain" {
                return Response::new("plain".into());
            }
            let (sender, body) = channel();
            opened.send(sender).await.unwrap();
            Response::new(body)
        }
    })
    .await;
    (server, streams)
}

async fn next(body: &mut Body) -> Option<Result<Bytes, BodyError>> {
    let frame = within("waiting for a piece", body.frame()).await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

#[tokio::test]
async fn z019_each_event_arrives_before_the_next_is_released() {
    let (server, mut streams) = streaming().await;
    let response = client_of(&server).send(get("/events")).await.unwrap();
    let sender = streams.recv().await.unwrap();
    let mut body = response.into_body();
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        sender.send(piece(event)).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), event);
    }
    drop(sender);
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn pieces_that_are_ready_leave_together_and_stay_pieces() {
    let server = serve(Server::builder(), async |_| {
        let pieces = ["one", "", "two"].map(|text| Ok::<_, Infallible>(BodyFrame::data(Bytes::from(text))));
        Response::new(Body::new(StreamBody::new(futures_util::stream::iter(pieces))))
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&request("GET", "/", &[], b"")).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let frame = caller.frame().await.unwrap();
        seen.push((frame.kind, if frame.kind == DATA { frame.data().to_vec() } else { Vec::new() }));
    }
    let expected =
        [(HEAD, b"".to_vec()), (DATA, b"one".to_vec()), (DATA, b"two".to_vec()), (END, b"".to_vec())];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_long_piece_leaves_in_frames_that_a_reader_can_hold() {
    let body: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
    let long = Bytes::from(body.clone());
    let server = serve(Server::builder(), move |_| {
        let pieces = [long.clone(), Bytes::from_static(b"short")]
            .map(|piece| Ok::<_, Infallible>(BodyFrame::data(piece)));
        async { Response::new(Body::new(StreamBody::new(futures_util::stream::iter(pieces)))) }
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&request("GET", "/", &[], b"")).await;
    assert_eq!(caller.frame().await.unwrap().kind, HEAD);
    let (mut seen, mut lens) = (Vec::new(), Vec::new());
    loop {
        let frame = caller.frame().await.unwrap();
        if frame.kind == END {
            break;
        }
        lens.push(frame.len());
        seen.extend_from_slice(frame.data());
    }
    // Header and slot take 24 bytes of each.
    let full = 256 << 10;
    assert_eq!(lens, [full, full, full, full, 4 * 24 + 24, 5 + 24]);
    assert!(seen == [body, b"short".to_vec()].concat());
}

#[tokio::test]
async fn z020_a_body_that_fails_is_cut_and_never_a_short_success() {
    let (server, mut streams) = streaming().await;
    let client = client_of(&server);
    let mut body = client.send(get("/")).await.unwrap().into_body();
    let sender = streams.recv().await.unwrap();
    sender.send(piece("some")).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "some");
    sender.send(Err("broken")).await.unwrap();
    assert!(matches!(next(&mut body).await, Some(Err(BodyError::Cut))));
    assert!(next(&mut body).await.is_none(), "said once");
    assert_eq!((client.connection_count(), client.idle_count()), (0, 0));
    assert_eq!(bytes_of(client.send(get("/plain")).await.unwrap()).await, b"plain");
}

#[tokio::test]
async fn z020_a_body_that_panics_is_cut() {
    let server = serve(Server::builder(), async |_| {
        let pieces = futures_util::stream::iter(0..2).map(|at| match at {
            0 => Ok::<_, Infallible>(BodyFrame::data(Bytes::from_static(b"some"))),
            _ => panic!("in the body"),
        });
        Response::new(Body::new(StreamBody::new(pieces)))
    })
    .await;
    let error = client_of(&server).send(get("/")).await.unwrap().into_body().collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Cut));
}

#[tokio::test]
async fn a_short_body_that_fails_gives_a_500() {
    // Its length was known, so nothing had left when it failed.
    struct Fails;
    impl http_body::Body for Fails {
        type Data = Bytes;
        type Error = &'static str;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Piece>> {
            std::task::Poll::Ready(Some(Err("broken")))
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(4)
        }
    }
    let server = serve(Server::builder(), async |_| Response::new(Body::new(Fails))).await;
    let client = client_of(&server);
    assert_eq!(client.send(get("/")).await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(client.idle_count(), 1);
}

#[tokio::test]
async fn z021_dropping_a_half_read_stream_closes_its_connection_and_no_other() {
    let (server, mut streams) = streaming().await;
    let client = client_of(&server);
    let first = client.send(get("/")).await.unwrap();
    let sender = streams.recv().await.unwrap();
    let other = client.send(get("/plain")).await.unwrap();
    assert_eq!(bytes_of(other).await, b"plain");
    assert_eq!((client.connection_count(), client.idle_count()), (2, 1));

    let mut body = first.into_body();
    sender.send(piece("some")).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "some");
    drop(body);
    assert_eq!((client.connection_count(), client.idle_count()), (1, 1));
    // The server sees it too, without having to write, and drops the body.
    within("the server dropping the stream", sender.closed()).await;
    assert_eq!(bytes_of(client.send(get("/plain")).await.unwrap()).await, b"plain");
    assert_eq!(client.connection_count(), 1);
}

#[tokio::test]
async fn a_stream_read_to_its_end_gives_its_connection_back() {
    let server = ScriptedServer::start(|mut conn| async move {
        while conn.read_frame().await.is_some() {
            conn.send(&[head(), data(b"all"), end()].concat()).await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    // Dropped right after its last byte, without asking for the end.
    let mut body = client.send(get("/")).await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "all");
    assert!(body.is_end_stream());
    drop(body);
    assert_eq!(client.idle_count(), 1);
    // Collected.
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"all");
    assert_eq!((client.idle_count(), server.connection_count()), (1, 1));
}

#[tokio::test]
async fn a_stream_without_data_is_over_before_it_is_asked() {
    let server = ScriptedServer::start(|mut conn| async move {
        while conn.read_frame().await.is_some() {
            conn.send(&[head(), end()].concat()).await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    for _ in 0..3 {
        // Its head and its end came together: the caller may look at the status and let go.
        let response = client.send(get("/")).await.unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!(client.idle_count(), 1, "the connection is free already");
    }
    assert_eq!(server.connection_count(), 1);
}

/// What a peer says instead of a proper answer.
async fn answering(bytes: Vec<u8>) -> (ScriptedServer, Client) {
    let server = ScriptedServer::start(move |mut conn| {
        let bytes = bytes.clone();
        async move {
            conn.read_frame().await;
            conn.send(&bytes).await;
            conn.close().await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    (server, client)
}

#[tokio::test]
async fn s078_frames_out_of_order_are_refused_by_name() {
    let wrong = |expected, got| WireError::Type { expected, got };
    let cases = [
        ("SV-S06", data(b"x"), wrong(Expected::Answer, DATA)),
        ("SV-S06", end(), wrong(Expected::Answer, END)),
        ("S-078", request("GET", "/", &[], b""), wrong(Expected::Answer, 1)),
        ("SV-S01", vec![0, 0, 0, 0], WireError::EmptyFrame),
        ("SV-S02", vec![4, 0, 0, 1], WireError::FrameTooLong { len: (64 << 20) + 1, limit: 64 << 20 }),
        ("SV-S02", vec![0xff; 4], WireError::FrameTooLong { len: u32::MAX as usize, limit: 64 << 20 }),
    ];
    for (row, bytes, expected) in cases {
        let (server, client) = answering(bytes).await;
        let error = client.send(get("/")).await.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::Protocol(expected), "{row}");
        assert_eq!(error.stage(), Stage::Ambiguous, "{row}: it was written");
        assert_eq!(client.connection_count(), 0, "{row}");
        server.wait_closed(0, LIMIT).await;
    }
}

#[tokio::test]
async fn s078_frames_out_of_order_inside_a_stream_end_it_with_an_error() {
    let wrong = |got| WireError::Type { expected: Expected::Chunk, got };
    let cases = [
        ("SV-S07", vec![head(), head()], Some(wrong(HEAD))),
        ("SV-S08", vec![head(), data(b"x"), ok(b"y")], Some(wrong(RESPONSE))),
        ("SV-S09", vec![head(), data(b"x")], None),
        ("SV-S09", vec![head()], None),
        ("SV-S09", vec![head(), data(b"x")[..20].to_vec()], None),
        ("SV-S12", vec![head(), data(b"x"), end_with(&[9, 0, 0, 0])], Some(WireError::Pairs { len: 4 })),
        ("SV-S01", vec![head(), vec![0; 4]], Some(WireError::EmptyFrame)),
    ];
    for (row, frames, expected) in cases {
        let (_server, client) = answering(frames.concat()).await;
        let body = client.send(get("/")).await.unwrap().into_body();
        match (within(row, body.collect()).await, expected) {
            (Err(BodyError::Protocol(error)), Some(expected)) => assert_eq!(error, expected, "{row}"),
            (Err(BodyError::Cut), None) => {}
            (other, _) => panic!("{row}: {other:?}"),
        }
        assert_eq!(client.connection_count(), 0, "{row}");
    }
}

#[test]
fn sv_s10_a_million_empty_frames_are_an_empty_body_in_constant_memory() {
    const ROW: &str = "SV-S10";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = async {
        let connector = Scripted::new(|mut peer| async move {
            peer.frame_some_day().await.unwrap();
            peer.send(&head()).await;
            let thousand = data(b"").repeat(1000);
            for _ in 0..1000 {
                peer.send(&thousand).await;
            }
            peer.send(&end()).await;
            peer.frame_some_day().await;
        });
        let client = Client::builder(NOWHERE).connector(Arc::new(connector)).build();
        let body = client.send(get("/")).await.unwrap().into_body();
        assert_eq!(within(ROW, body.collect()).await.unwrap().to_bytes(), "", "{ROW}");
        assert_eq!(client.idle_count(), 1, "{ROW}");
    };
    let measured = allocation_counter::measure(|| runtime.block_on(run));
    assert!(measured.bytes_max < 1 << 20, "{ROW}: {} bytes at a time", measured.bytes_max);
}

#[tokio::test(start_paused = true)]
async fn a_producer_waits_for_its_reader() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let handler = service_fn(move |_: Request<Body>| {
        let count = count.clone();
        let pieces = futures_util::stream::iter(0..).map(move |_: u32| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(BodyFrame::data(Bytes::from(vec![0; 64 << 10])))
        });
        async { Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(pieces)))) }
    });
    let (listener, connector) = Listener::memory(1);
    let _server = Server::builder().serve(listener, handler);
    let client = Client::builder(NOWHERE).connector(Arc::new(connector)).build();
    let mut body = client.send(get("/")).await.unwrap().into_body();
    // Paused time moves only when nothing else can happen any more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = made.load(Ordering::Relaxed);
    assert!(first <= 4, "one piece is under way, a few wait: {first}");
    for _ in 0..10 {
        next(&mut body).await.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let then = made.load(Ordering::Relaxed);
    assert!((10..=14).contains(&then), "{then}");
}
