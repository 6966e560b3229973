//! Callers that mean harm, or know no better, and the server that outlives them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use peerage_zaphttp::wire::Limits;
use peerage_zaphttp::{Body, Client, Listener, Server};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tower::service_fn;

use crate::kit::{
    Caller, NOWHERE, RESPONSE, Scripted, bytes_of, client_of, data, echo, get, head, ok, post, request,
    serve, until, within,
};

/// The one answer to what is no request: status, and words that are ours.
async fn refusal(caller: &mut Caller) -> (u16, String) {
    let frame = caller.frame().await.expect("a refusal");
    assert_eq!(frame.kind, RESPONSE);
    let text = ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned());
    assert_eq!(frame.headers(), [text]);
    assert!(caller.is_closed().await);
    (frame.status(), String::from_utf8(frame.body().to_vec()).unwrap())
}

#[tokio::test]
async fn z013_s072_s086_what_is_no_frame_is_refused_in_fixed_words() {
    let server = echo().await;
    let wrong_type = "expected a request, got ";
    let mut old_magic = request("GET", "/secret", &[], b"");
    old_magic[4..8].copy_from_slice(b"ZAQ\0");
    let mut broken_pairs = request("GET", "/secret", &[("secret", "secret")], b"");
    let at = broken_pairs.len() - 6 - 4 - 6 - 4 - 4;
    broken_pairs[at] = 2;
    let long = |len: u32| format!("a frame of {len} bytes exceeds the limit of 67108864");
    let cases: Vec<(&str, Vec<u8>, u16, String)> = vec![
        ("SV-S01", vec![0; 4], 400, "a frame of length 0 was announced".into()),
        ("SV-S02", vec![4, 0, 0, 1], 413, long((64 << 20) + 1)),
        ("SV-S02", vec![0xff; 4], 413, long(u32::MAX)),
        (
            "SV-S17",
            vec![0, 0, 0, 3, b'S', b'S', b'H'],
            400,
            "a frame of 3 bytes is shorter than its header of 16".into(),
        ),
        (
            "SV-S17",
            b"GET /secret HTTP/1.1\r\nHost: secret\r\n\r\n".to_vec(),
            413,
            long(u32::from_be_bytes(*b"GET ")),
        ),
        ("SV-S17", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), 413, long(u32::from_be_bytes(*b"SSH-"))),
        ("SV-S17", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], 413, long(0x1603_0102)),
        ("Z-008", ok(b"secret"), 400, format!("{wrong_type}a response")),
        ("S-078", data(b"secret"), 400, format!("{wrong_type}a data frame")),
        ("Z-009", old_magic, 400, "the frame does not start with the magic of ZAP".into()),
        ("Z-011", broken_pairs, 400, "the pair block of 24 bytes does not hold the pairs it declares".into()),
    ];
    for (row, bytes, status, text) in cases {
        let mut caller = Caller::connect(server.local_addr().unwrap()).await;
        caller.send(&bytes).await;
        let (got, said) = refusal(&mut caller).await;
        assert_eq!((got, said.as_str()), (status, text.as_str()), "{row}");
    }
    assert_eq!(bytes_of(client_of(&server).send(post("fine")).await.unwrap()).await, b"fine");
}

#[tokio::test]
async fn a_refusal_is_heard_behind_everything_that_was_sent() {
    // A megabyte nobody reads: closing at once would reset the connection, and the refusal would be lost.
    let server = echo().await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&request("GET", "/", &[], b"first")).await;
    let mut bytes = vec![0xff; 4];
    bytes.resize(1 << 20, 0xff);
    caller.send(&bytes).await;
    assert_eq!(caller.frame().await.unwrap().body(), b"first");
    assert_eq!(refusal(&mut caller).await.0, 413);
}

#[tokio::test]
async fn z014_a_frame_of_64_mib_is_accepted_and_one_more_byte_is_not() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        Response::new(request.into_body().collect().await.unwrap().to_bytes().len().to_string().into())
    })
    .await;
    // Magic to size, six slots, "POST", "/", "HTTP/1.1".
    let room = (64 << 20) - 16 - 48 - 4 - 1 - 8;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    let frame = request("POST", "/", &[], &vec![7; room]);
    assert_eq!(frame.len(), 4 + (64 << 20));
    within("64 MiB", caller.send(&frame)).await;
    assert_eq!(caller.frame().await.unwrap().body(), room.to_string().as_bytes());
    caller.send(&request("POST", "/", &[], &vec![7; room + 1])[..100]).await;
    assert_eq!(refusal(&mut caller).await.0, 413);
}

#[tokio::test]
async fn z014_64_mib_travel_both_ways_between_our_own() {
    let server = echo().await;
    let client = client_of(&server);
    // What the client adds besides: nothing, the target is the same.
    let room = (64 << 20) - 16 - 48 - 4 - 1 - 8;
    let body = Bytes::from(vec![7; room]);
    let response = within("64 MiB", client.send(post(body.clone()))).await.unwrap();
    let back = within("64 MiB back", response.into_body().collect()).await.unwrap().to_bytes();
    assert!(back == body);
    let error = client.send(post(vec![7; room + 1])).await.unwrap_err();
    assert_eq!(error.kind(), peerage_zaphttp::SendErrorKind::BodyTooLarge { limit: 64 << 20 });
}

#[tokio::test]
async fn sv_s03_claims_are_cut_at_the_header_timeout() {
    const ROW: &str = "SV-S03";
    let server = serve(Server::builder().header_timeout(Duration::from_millis(300)), async |_| {
        Response::new("fine".into())
    })
    .await;
    let mut callers = Vec::new();
    for _ in 0..300 {
        let mut caller = Caller::connect(server.local_addr().unwrap()).await;
        caller.send(&[4, 0, 0, 0]).await;
        callers.push(caller);
    }
    assert_eq!(bytes_of(client_of(&server).send(get("/")).await.unwrap()).await, b"fine", "{ROW}");
    for caller in &mut callers {
        assert!(caller.is_closed().await, "{ROW}");
    }
}

#[tokio::test]
async fn sv_s04_a_stream_that_ends_inside_a_prefix_is_dropped() {
    const ROW: &str = "SV-S04";
    let server = echo().await;
    for len in 0..4 {
        let mut caller = Caller::connect(server.local_addr().unwrap()).await;
        caller.send(&[0, 0, 1, 0][..len]).await;
        caller.io.shutdown().await.unwrap();
        assert!(caller.is_closed().await, "{ROW}: {len} bytes; nothing is said to either");
    }
}

#[tokio::test(start_paused = true)]
async fn z028_sv_s05_s082_a_byte_a_second_is_cut_at_the_header_timeout_and_others_are_served() {
    const ROW: &str = "SV-S05";
    let (listener, connector) = Listener::memory(8);
    let handler =
        service_fn(async |request: Request<Body>| Ok::<_, Infallible>(Response::new(request.into_body())));
    let server = Server::builder().serve(listener, handler);
    let connector: Arc<dyn peerage_zaphttp::Connect> = Arc::new(connector);
    let mut slow = connector.connect().await.unwrap();
    let start = tokio::time::Instant::now();
    let other = Client::builder(NOWHERE).connector(connector).build();
    let mut sent = 0;
    for byte in request("GET", "/a/long/target/to/be/sent/slowly", &[], b"") {
        if slow.write_all(&[byte]).await.is_err() {
            break;
        }
        sent += 1;
        assert_eq!(bytes_of(other.send(post("neighbour")).await.unwrap()).await, b"neighbour", "{ROW}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // 30 s after the first byte; the write that finds out comes a second later at most.
    assert!((29..=33).contains(&start.elapsed().as_secs()), "{ROW}: {:?}", start.elapsed());
    assert!((29..=31).contains(&sent), "{ROW}: {sent}");
    assert_eq!(server.connection_count(), 1, "{ROW}: the neighbour's");
}

#[tokio::test]
async fn sv_s16_s082_a_reader_that_stalls_is_cut_at_the_write_timeout() {
    const ROW: &str = "SV-S16";
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let server = serve(Server::builder().write_timeout(Duration::from_millis(300)), move |_| {
        let count = count.clone();
        async move {
            let pieces = futures_util::stream::repeat_with(move || {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(vec![0; 1 << 20])))
            });
            Response::new(Body::new(http_body_util::StreamBody::new(pieces)))
        }
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    let _ = SockRef::from(&caller.io).set_recv_buffer_size(64 << 10);
    caller.send(&request("GET", "/", &[], b"")).await;
    until("the answer begins", || made.load(Ordering::Relaxed) > 0).await;
    until("the connection ends", || server.connection_count() == 0).await;
    // What the sockets took, and one piece that waits.
    assert!(made.load(Ordering::Relaxed) < 16, "{ROW}: {} MiB were made", made.load(Ordering::Relaxed));
}

#[tokio::test]
async fn sv_s18_ten_thousand_connections_that_come_and_go() {
    const ROW: &str = "SV-S18";
    let server = echo().await;
    for _ in 0..100 {
        let callers: Vec<_> =
            futures_util::future::join_all((0..100).map(|_| Caller::connect(server.local_addr().unwrap())))
                .await;
        drop(callers);
    }
    assert_eq!(bytes_of(client_of(&server).send(post("fine")).await.unwrap()).await, b"fine", "{ROW}");
    until(ROW, || server.connection_count() == 0).await;
}

#[tokio::test]
async fn s084_sv_s19_a_thousand_pipelined_requests_are_answered_in_order_one_at_a_time() {
    const ROW: &str = "SV-S19";
    let running = Arc::new(AtomicUsize::new(0));
    let server = serve(Server::builder(), move |request: Request<Body>| {
        let running = running.clone();
        async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            // Some answer at once, some after a while.
            if request.uri().path().ends_with('7') {
                tokio::task::yield_now().await;
            }
            running.fetch_sub(1, Ordering::SeqCst);
            Response::new(request.uri().path().to_owned().into())
        }
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    let bytes: Vec<u8> = (0..1000).flat_map(|at| request("GET", &format!("/{at}"), &[], b"")).collect();
    caller.send(&bytes).await;
    for at in 0..1000 {
        assert_eq!(caller.frame().await.unwrap().body(), format!("/{at}").as_bytes(), "{ROW}");
    }
}

#[tokio::test(start_paused = true)]
async fn s084_sv_s19_what_is_not_answered_waits_in_the_socket() {
    const ROW: &str = "SV-S19";
    let (listener, connector) = Listener::memory(1);
    let handler = service_fn(async |_: Request<Body>| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let _server = Server::builder().serve(listener, handler);
    let mut caller = peerage_zaphttp::Connect::connect(&connector).await.unwrap();
    let bytes = request("GET", "/", &[], &[0; 1000]);
    let mut taken = 0;
    // Paused time runs out only when nothing moves any more.
    while tokio::time::timeout(Duration::from_secs(1), caller.write_all(&bytes)).await.is_ok() {
        taken += bytes.len();
    }
    assert!(taken < (64 << 10) + (8 << 10), "{ROW}: the window of the connection and one read: {taken}");
}

#[tokio::test]
async fn z018_sv_s20_s085_every_second_handler_panics_and_the_connection_lives() {
    const ROW: &str = "SV-S20";
    let calls = Arc::new(AtomicUsize::new(0));
    let server = serve(Server::builder(), move |_| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        if call % 4 == 1 {
            panic!("in the call");
        }
        async move {
            tokio::task::yield_now().await;
            if call % 4 == 3 {
                panic!("in the future");
            }
            Response::new("fine".into())
        }
    })
    .await;
    let client = client_of(&server);
    for at in 0..8 {
        let response = client.send(get("/")).await.unwrap();
        assert_eq!(response.status().as_u16(), [200, 500][at % 2], "{ROW}: request {at}");
        let expected: &[u8] = if at % 2 == 0 { b"fine" } else { b"the handler failed" };
        assert_eq!(bytes_of(response).await, expected, "{ROW}");
    }
    assert_eq!(client.connection_count(), 1, "{ROW}");
}

#[tokio::test]
async fn a_service_that_errs_gives_a_500_and_says_no_more() {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let handler = service_fn(async |_: Request<Body>| Err::<Response<Body>, _>("secret"));
    let server = Server::builder().serve(listener, handler);
    let response = client_of(&server).send(get("/")).await.unwrap();
    assert_eq!(response.status().as_u16(), 500);
    assert_eq!(bytes_of(response).await, b"the handler failed");
}

#[tokio::test]
async fn s085_a_handler_that_hangs_holds_its_connection_and_no_other() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        if request.uri().path() == "/hang" {
            std::future::pending::<()>().await;
        }
        Response::new("fine".into())
    })
    .await;
    let mut hanging = Vec::new();
    for _ in 0..50 {
        let mut caller = Caller::connect(server.local_addr().unwrap()).await;
        caller.send(&request("GET", "/hang", &[], b"")).await;
        hanging.push(caller);
    }
    let client = client_of(&server);
    for _ in 0..10 {
        assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"fine");
    }
}

#[tokio::test]
async fn an_answer_is_not_held_back_for_the_next_handler() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        if request.uri().path() == "/hang" {
            std::future::pending::<()>().await;
        }
        Response::new(request.uri().path().to_owned().into())
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    // All in one segment, so that the second is here when the first is answered.
    let both = [request("GET", "/quick", &[], b""), request("GET", "/hang", &[], b"")].concat();
    caller.send(&both).await;
    assert_eq!(caller.frame().await.unwrap().body(), b"/quick");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_their_turn() {
    let server = serve(Server::builder().max_connections(2), async |_| Response::new("fine".into())).await;
    let addr = server.local_addr().unwrap();
    let mut first = Caller::connect(addr).await;
    let mut second = Caller::connect(addr).await;
    for caller in [&mut first, &mut second] {
        caller.send(&request("GET", "/", &[], b"")).await;
        assert_eq!(caller.frame().await.unwrap().body(), b"fine");
    }
    let mut third = Caller::connect(addr).await;
    third.send(&request("GET", "/", &[], b"")).await;
    // The first two are still served, and stay two.
    first.send(&request("GET", "/", &[], b"")).await;
    assert_eq!(first.frame().await.unwrap().body(), b"fine");
    assert_eq!(server.connection_count(), 2);
    drop(second);
    assert_eq!(third.frame().await.unwrap().body(), b"fine");
}

#[tokio::test]
async fn limits_hold_in_both_directions() {
    let limits = Limits { max_frame_len: 500, max_pairs: 2, max_block_len: 100 };
    let server = serve(Server::builder().limits(limits), async |_| Response::new("fine".into())).await;
    let two = [("a", "1"), ("b", "2")];
    let three = [("a", "1"), ("b", "2"), ("c", "3")];
    let wide = "x".repeat(100);
    for (headers, body, status) in
        [(&two[..], 100, 200), (&three[..], 0, 400), (&[("a", wide.as_str())][..], 0, 400), (&[], 500, 413)]
    {
        let mut caller = Caller::connect(server.local_addr().unwrap()).await;
        caller.send(&request("POST", "/", headers, &vec![0; body])).await;
        assert_eq!(caller.frame().await.unwrap().status(), status);
    }
    let connector = Arc::new(Scripted::new(|mut peer| async move {
        peer.frame_some_day().await;
        peer.send(&[head(), data(&[0; 600])].concat()).await;
        peer.frame_some_day().await;
    }));
    let client = Client::builder(NOWHERE).connector(connector).limits(limits).build();
    let body = client.send(get("/")).await.unwrap().into_body();
    let error = within("a chunk over the limit", body.collect()).await.unwrap_err();
    assert!(matches!(error, peerage_zaphttp::BodyError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn bytes_behind_the_last_request_do_not_stop_its_answer() {
    let server = echo().await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&[request("POST", "/", &[], b"whole"), vec![0, 0]].concat()).await;
    caller.io.shutdown().await.unwrap();
    assert_eq!(caller.frame().await.unwrap().body(), b"whole");
    assert!(within("the end", caller.is_closed()).await);
}
