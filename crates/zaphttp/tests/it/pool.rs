//! Which connection a request goes out on, and what happens when it is not there any more.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use peerage_tests::{Facts, ScriptedServer, ServerConn};
use peerage_zaphttp::wire::Limits;
use peerage_zaphttp::{Body, Client, Listener, SendErrorKind, Server, Stage};
use tower::service_fn;

use crate::kit::{
    Frame, LIMIT, NOWHERE, RESPONSE, Scripted, answer, builder_for, bytes_of, client_of, data, echo, end,
    get, head, ok, poll_once, post, serve, until, within,
};

fn with(method: &str) -> Request<Body> {
    Request::builder().method(method).uri("/").body(Body::from("body")).unwrap()
}

/// Closes connection 0 after one answer and one more request; all others answer for ever.
async fn closes_after_one(mut conn: ServerConn) {
    let mut answered = 0;
    while conn.read_frame().await.is_some() {
        if conn.number() == 0 && answered == 1 {
            return conn.close().await;
        }
        conn.send(&ok(b"answer")).await;
        answered += 1;
    }
}

/// How many whole requests a server has seen on all connections.
async fn requests_seen(server: &ScriptedServer) -> usize {
    (0..server.connection_count())
        .map(|conn| {
            let bytes = server.received(conn);
            let mut rest = &bytes[..];
            std::iter::from_fn(|| {
                let len = u32::from_be_bytes(rest.get(..4)?.try_into().unwrap()) as usize;
                rest = rest.get(4 + len..)?;
                Some(())
            })
            .count()
        })
        .sum()
}

#[tokio::test]
async fn z022_sv_s15_a_request_survives_a_connection_that_closes_under_it() {
    const ROW: &str = "SV-S15";
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        let server = ScriptedServer::start(closes_after_one).await;
        let client = Client::builder(server.addr()).build();
        client.send(with(method)).await.unwrap();
        let second = client.send(with(method)).await.unwrap();
        assert_eq!(second.status(), StatusCode::OK, "{ROW} {method}");
        assert_eq!(server.connection_count(), 2, "{ROW} {method}: on a new one");
        assert_eq!(requests_seen(&server).await, 3, "{ROW} {method}: sent twice, answered once");
    }
}

#[tokio::test]
async fn z023_sv_s15_what_may_not_be_repeated_is_not() {
    const ROW: &str = "SV-S15";
    for method in ["POST", "PATCH", "CONNECT", "PROPFIND"] {
        let with = || {
            let uri = if method == "CONNECT" { "a:1" } else { "/" };
            Request::builder().method(method).uri(uri).body(Body::from("body")).unwrap()
        };
        let server = ScriptedServer::start(closes_after_one).await;
        let client = Client::builder(server.addr()).build();
        client.send(with()).await.unwrap();
        let error = client.send(with()).await.unwrap_err();
        assert_eq!((error.kind(), error.stage()), (SendErrorKind::Closed, Stage::Stale), "{ROW} {method}");
        assert!(error.to_string().contains("unknown"), "{ROW}: {error}");
        assert!(error.into_request().is_none(), "{ROW}: it is not handed out to be sent again");
        assert_eq!(server.connection_count(), 1, "{ROW} {method}");
    }
}

#[tokio::test]
async fn z023_a_fresh_connection_that_dies_before_the_answer_leaves_the_outcome_unknown() {
    for method in ["GET", "POST"] {
        let server = ScriptedServer::start(|mut conn| async move {
            conn.read_frame().await;
            conn.reset();
        })
        .await;
        let client = Client::builder(server.addr()).build();
        let error = client.send(with(method)).await.unwrap_err();
        assert_eq!((error.kind(), error.stage()), (SendErrorKind::Io, Stage::Ambiguous), "{method}");
        assert_eq!(requests_seen(&server).await, 1, "{method} is sent once");
    }
}

#[tokio::test]
async fn half_an_answer_on_a_reused_connection_is_not_sent_again() {
    let server = ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        conn.send(&ok(b"answer")).await;
        conn.read_frame().await;
        conn.send(&ok(b"answer")[..20]).await;
        conn.close().await;
    })
    .await;
    let client = Client::builder(server.addr()).build();
    client.send(get("/")).await.unwrap();
    let error = client.send(get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Closed, Stage::Ambiguous));
    assert_eq!(requests_seen(&server).await, 2);
}

#[tokio::test]
async fn a_second_failure_is_reported_and_not_repeated() {
    let server = ScriptedServer::start(|mut conn| async move {
        if conn.number() == 0 {
            conn.read_frame().await;
            conn.send(&ok(b"answer")).await;
        }
        conn.read_frame().await;
        conn.close().await;
    })
    .await;
    let client = Client::builder(server.addr()).build();
    client.send(get("/")).await.unwrap();
    let error = client.send(get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Closed, Stage::Ambiguous));
    assert_eq!((server.connection_count(), requests_seen(&server).await), (2, 3));
}

#[tokio::test]
async fn z022_a_server_that_restarts_between_two_requests_is_not_noticed() {
    let server = echo().await;
    let addr = server.local_addr().unwrap();
    let client = client_of(&server);
    // A POST: closed connections are seen before anything is written, so the method does not matter.
    assert_eq!(bytes_of(client.send(post("one")).await.unwrap()).await, b"one");
    server.shutdown(LIMIT).await;
    let again = service_fn(async |request: Request<Body>| {
        Ok::<_, std::convert::Infallible>(Response::new(request.into_body()))
    });
    let _server = Server::builder().serve(Listener::tcp(addr).await.unwrap(), again);
    assert_eq!(bytes_of(client.send(post("two")).await.unwrap()).await, b"two");
    assert_eq!(client.connection_count(), 1);
}

#[tokio::test]
async fn s042_an_idle_connection_on_which_something_happens_is_closed_at_once() {
    let act = Facts::<()>::new();
    let release = act.clone();
    let server = ScriptedServer::start(move |mut conn| {
        let act = release.clone();
        async move {
            conn.read_frame().await;
            conn.send(&ok(b"answer")).await;
            act.at_least(1, LIMIT).await;
            match conn.number() {
                0 => conn.send(b"x").await,
                1 => return conn.reset(),
                2 => conn.half_close().await,
                _ => {
                    conn.read_frame().await;
                    conn.send(&ok(b"answer")).await;
                }
            }
            conn.read_to_end().await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let answers = futures_util::future::join_all((0..5).map(|_| client.send(get("/")))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((client.idle_count(), client.connection_count()), (5, 5));
    // Nobody asks for anything any more.
    act.push(());
    until("the three are gone", || client.connection_count() == 2).await;
    assert_eq!(client.idle_count(), 2);
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"answer");
    assert_eq!(server.connection_count(), 5, "those that stayed are used");
}

#[tokio::test(start_paused = true)]
async fn s042_an_idle_connection_in_memory_is_closed_at_once_too() {
    let connector = Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        peer.send(&ok(b"answer")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let client = Client::builder(NOWHERE).connector(Arc::new(connector)).build();
    client.send(get("/")).await.unwrap();
    assert_eq!(client.idle_count(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((client.idle_count(), client.connection_count()), (0, 0));
}

#[tokio::test]
async fn s042_sv_s14_bytes_on_an_idle_connection_are_nobodys_answer() {
    const ROW: &str = "SV-S14";
    let late = Facts::<()>::new();
    let release = late.clone();
    let server = ScriptedServer::start(move |mut conn| {
        let late = release.clone();
        async move {
            while conn.read_frame().await.is_some() {
                match conn.number() {
                    // Two answers in one segment.
                    0 => conn.send(&[ok(b"first"), ok(b"poison")].concat()).await,
                    // The second comes later, while the connection is idle.
                    1 => {
                        conn.send(&ok(b"second")).await;
                        late.at_least(1, LIMIT).await;
                        conn.send(&ok(b"poison")).await;
                    }
                    _ => conn.send(&ok(b"third")).await,
                }
            }
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"first", "{ROW}");
    assert_eq!(client.idle_count(), 0, "{ROW}: discarded at once");
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"second", "{ROW}");
    assert_eq!(client.idle_count(), 1, "{ROW}");
    late.push(());
    server
        .events()
        .eventually(LIMIT, "the late answer", |events| {
            let sent = |event: &&_| matches!(event, peerage_tests::ServerEvent::Sent { conn: 1, .. });
            events.iter().filter(sent).count() == 2
        })
        .await;
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"third", "{ROW}");
    assert_eq!(server.connection_count(), 3, "{ROW}");
}

#[tokio::test(start_paused = true)]
async fn s043_sv_s13_an_answer_before_the_request_is_refused() {
    const ROW: &str = "SV-S13";
    let opened = Arc::new(AtomicUsize::new(0));
    let number = opened.clone();
    let connector = Arc::new(Eager(Scripted::new(move |mut peer| {
        let eager = number.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if eager {
                peer.send(&ok(b"poison")).await;
            }
            while peer.frame_some_day().await.is_some() {
                peer.send(&ok(b"right")).await;
            }
        }
    })));
    let client = Client::builder(NOWHERE).connector(connector).build();
    let error = client.send(post("body")).await.unwrap_err();
    assert_eq!(error.stage(), Stage::NotSent, "{ROW}: nothing was written");
    assert!(error.into_request().is_some(), "{ROW}");
    assert_eq!(client.connection_count(), 0, "{ROW}: discarded");
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"right", "{ROW}");
    assert_eq!(opened.load(Ordering::Relaxed), 2, "{ROW}");
}

/// Lets the peer speak first.
#[derive(Debug)]
struct Eager(Scripted);

#[async_trait::async_trait]
impl peerage_zaphttp::Connect for Eager {
    async fn connect(&self) -> Result<peerage_zaphttp::Connection, peerage_zaphttp::ConnectError> {
        let connection = self.0.connect().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        connection
    }
}

#[tokio::test]
async fn s045_a_future_dropped_at_any_await_point_leaves_no_connection_behind() {
    // Windows of 16 bytes make an await point of every few bytes, out and in.
    let connector = Arc::new(
        Scripted::new(|mut peer| async move {
            while peer.frame_some_day().await.is_some() {
                peer.send(&[head(), data(&[7; 100]), end()].concat()).await;
            }
        })
        .window(16),
    );
    let client = Client::builder(NOWHERE).connector(connector.clone()).build();
    let mut polls = 0;
    loop {
        polls += 1;
        let exchange = async {
            let response = client.send(post(vec![1; 100])).await.unwrap();
            response.into_body().collect().await.unwrap()
        };
        let done = polled_at_most(polls, exchange).await;
        let counts = (client.connection_count(), client.idle_count());
        if let Some(body) = done {
            assert_eq!(body.to_bytes(), vec![7; 100]);
            assert_eq!(counts, (1, 1), "an exchange that ended gives its connection back");
            break;
        }
        assert_eq!(counts, (0, 0), "after {polls} polls");
    }
    assert!(polls > 20, "{polls} polls are not many await points");
    assert_eq!(connector.opened(), polls, "no connection was used twice");
}

/// Runs a future for so many polls, then drops it.
async fn polled_at_most<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        let polled = future.as_mut().poll(cx).map(Some);
        if polled.is_pending() && polls == 0 {
            // Nothing may wake us before the peer acts, and then the answer would be there.
            return Poll::Ready(None);
        }
        polled
    })
    .await
}

#[tokio::test]
async fn s045_a_future_that_was_never_polled_opens_nothing() {
    let server = echo().await;
    let client = client_of(&server);
    drop(client.send(get("/")));
    let mut polled = pin!(client.send(get("/")));
    assert!(polled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(client.connection_count(), 0, "still connecting");
}

#[tokio::test]
async fn the_connection_used_last_is_used_next_and_the_others_are_bounded() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let info = request.extensions().get::<peerage_zaphttp::ConnectionInfo>().unwrap();
        Response::new(info.peer_addr().unwrap().to_string().into())
    })
    .await;
    let client = builder_for(&server).max_idle(2).build();
    let together = futures_util::future::join_all((0..5).map(|_| client.send(get("/")))).await;
    assert_eq!(together.len(), 5);
    assert_eq!((client.idle_count(), client.connection_count()), (2, 2), "two are kept");
    let last = bytes_of(client.send(get("/")).await.unwrap()).await;
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, last);

    let client = builder_for(&server).max_idle(0).build();
    client.send(get("/")).await.unwrap();
    assert_eq!(client.connection_count(), 0);
}

#[tokio::test]
async fn a_closed_client_lets_running_requests_finish_and_takes_no_more() {
    let server = ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        if conn.number() == 1 {
            conn.send(&ok(b"")).await;
            conn.read_to_end().await;
        }
        conn.stall().await;
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let mut running = pin!(client.send(get("/")));
    assert!(poll_once(running.as_mut()).await.is_pending());
    server.wait_connections(1, LIMIT).await;
    let mut second = pin!(client.send(get("/")));
    tokio::select! { biased; _ = second.as_mut() => {}, _ = running.as_mut() => panic!("nobody answered") }
    assert_eq!((client.idle_count(), client.connection_count()), (1, 2));
    client.close();
    client.close();
    assert_eq!((client.idle_count(), client.connection_count()), (0, 1), "idle ones close at once");
    server.wait_closed(1, LIMIT).await;
    let error = client.send(get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Shutdown, Stage::NotSent));
    assert!(error.has_request());
    assert!(poll_once(running.as_mut()).await.is_pending(), "the first still waits");
}

#[tokio::test]
async fn a_request_that_was_not_sent_comes_back_whole() {
    let refuser = peerage_tests::Refuser::new();
    let client = Client::builder(refuser.addr()).build();
    let pieces = futures_util::stream::iter(
        ["one ", "two"]
            .map(|text| Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(text)))),
    );
    let request =
        Request::post("/path").header("x-kept", "1").body(http_body_util::StreamBody::new(pieces)).unwrap();
    let error = client.send(request).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Connect, Stage::NotSent));
    assert!(error.is_connect() && !error.is_timeout());
    let request = error.into_request().unwrap();
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/path"));
    assert_eq!(request.headers()["x-kept"], "1");
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "one two");
}

#[tokio::test]
async fn a_body_over_the_frame_limit_fails_before_anything_is_sent() {
    let server = ScriptedServer::start(|conn| conn.stall()).await;
    let limits = Limits { max_frame_len: 1000, ..Limits::default() };
    let client = Client::builder(server.addr()).limits(limits).build();
    let too_large = SendErrorKind::BodyTooLarge { limit: 1000 };
    let long = futures_util::stream::repeat_with(|| {
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(&[0; 100])))
    });
    // Long enough, and no danger to the machine where nobody judges it.
    let long = long.take(1_000);
    let long = Request::post("/").body(http_body_util::StreamBody::new(long)).unwrap();
    assert_eq!(client.send(long).await.unwrap_err().kind(), too_large);
    // Known beforehand; and one that fits by itself, but not with its head.
    for len in [1001, 1000] {
        let error = client.send(post(vec![0; len])).await.unwrap_err();
        assert_eq!((error.kind(), error.stage()), (too_large, Stage::NotSent), "{len}");
    }
    assert!(server.connection_count() <= 1 && server.received(0).is_empty());
}

#[tokio::test]
async fn a_request_body_that_fails_sends_nothing() {
    let server = ScriptedServer::start(|conn| conn.stall()).await;
    let client = Client::builder(server.addr()).build();
    let failing =
        futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from("some"))), Err("broken")]);
    let request = Request::put("/").body(http_body_util::StreamBody::new(failing)).unwrap();
    let error = client.send(request).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::RequestBody, Stage::NotSent));
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "broken");
    assert_eq!(server.connection_count(), 0);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_written_is_heard() {
    let server = ScriptedServer::start(|mut conn| async move {
        // Too much, it says, and takes no more of it.
        conn.read(100).await;
        conn.send(&answer(RESPONSE, 413, &[], b"too much")).await;
        conn.stall().await;
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let response = within("an early answer", client.send(post(vec![0; 32 << 20]))).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(bytes_of(response).await, b"too much");
    assert_eq!(client.connection_count(), 0, "half a request is on it");
}

#[tokio::test]
async fn a_frame_that_did_not_leave_whole_was_not_sent() {
    let server = ScriptedServer::start(|mut conn| async move {
        conn.read(100).await;
        conn.reset();
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let error = within("a reset", client.send(post(vec![0; 32 << 20]))).await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Io, Stage::NotSent));
    assert_eq!(error.into_request().unwrap().into_body().collect().await.unwrap().to_bytes().len(), 32 << 20);
}

#[tokio::test]
async fn errors_say_what_they_know_and_no_more() {
    fn is_an_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_an_error::<peerage_zaphttp::SendError>();
    is_an_error::<peerage_zaphttp::BodyError>();
    is_an_error::<peerage_zaphttp::ConnectError>();
    let refuser = peerage_tests::Refuser::new();
    let client = Client::builder(refuser.addr()).build();
    let request = Request::get("/?token=canary")
        .header("authorization", "Bearer canary")
        .body(Body::from("canary"))
        .unwrap();
    let error = client.send(request).await.unwrap_err();
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text += &format!(" {inner} {inner:?}");
        source = inner.source();
    }
    assert!(!text.contains("canary"), "{text}");
    assert!(text.contains("cannot connect to the peer") && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn requests_at_the_same_time_do_not_mix() {
    let server = echo().await;
    let client = client_of(&server);
    let exchange = async |number: usize| {
        for round in 0..20 {
            let text = format!("{number} {round}").repeat(number % 7 * 100 + 1);
            let response = client.send(post(text.clone())).await.unwrap();
            assert!(bytes_of(response).await == text.as_bytes());
        }
    };
    futures_util::future::join_all((0..40).map(exchange)).await;
    assert!(client.connection_count() <= 40);
}

#[tokio::test]
async fn a_frame_read_by_hand_is_what_the_client_wrote() {
    let server = ScriptedServer::start(|mut conn| async move {
        let frame = Frame::new(conn.read_frame().await.unwrap());
        assert_eq!((frame.target(), frame.body()), ("/path?q", &b"body"[..]));
        assert_eq!(
            frame.headers(),
            [("host".to_owned(), "name".to_owned()), ("x-a".to_owned(), "1".to_owned())]
        );
        conn.send(&ok(b"right")).await;
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let request = Request::post("http://name/path?q").header("X-A", "1").body(Body::from("body")).unwrap();
    assert_eq!(bytes_of(client.send(request).await.unwrap()).await, b"right");
}

#[tokio::test]
async fn s042_a_request_on_an_opened_connection_goes_out_on_no_other() {
    let act = Facts::<()>::new();
    let release = act.clone();
    let server = ScriptedServer::start(move |mut conn| {
        let act = release.clone();
        async move {
            if conn.number() == 0 {
                act.at_least(1, LIMIT).await;
                return conn.reset();
            }
            while conn.read_frame().await.is_some() {
                conn.send(&ok(b"answer")).await;
            }
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    let (head, _) = get("/").into_parts();
    let lost = client.open(None).await.unwrap();
    assert_eq!((client.idle_count(), client.connection_count()), (0, 1), "it is nobody else's");
    act.push(());
    let is_done = |event: &_| matches!(event, peerage_tests::ServerEvent::Done { conn: 0 });
    server.events().eventually(LIMIT, "the reset", |events| events.iter().any(is_done)).await;
    let sent = lost.send_once_noting(&head, Body::from("body"), None, |_| panic!("it does not go out"));
    let error = sent.await.unwrap_err();
    assert_eq!((error.kind(), error.stage()), (SendErrorKind::Closed, Stage::NotSent));
    assert!(error.has_request());
    assert_eq!((server.connection_count(), client.connection_count()), (1, 0), "no other one was opened");

    let used = client.open(None).await.unwrap();
    let answer = used.send_once_noting(&head, Body::empty(), None, |_| {}).await.unwrap();
    assert_eq!(bytes_of(answer).await, b"answer");
    client.open(None).await.unwrap().keep();
    assert_eq!((client.idle_count(), client.connection_count()), (2, 2), "both are kept");
    drop(client.open(None).await.unwrap());
    assert_eq!(client.connection_count(), 2, "and this one is closed");
}
