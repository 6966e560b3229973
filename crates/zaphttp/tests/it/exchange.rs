//! Requests and answers: what one side gives is what the other gets.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Frame as BodyFrame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use peerage_tests::ScriptedServer;
use peerage_zaphttp::wire::Limits;
use peerage_zaphttp::{Body, Client, ConnectionInfo, Listener, Server, Target};
use tower::{Service, ServiceExt};

use crate::kit::{
    Caller, DATA, END, Frame, HEAD, RESPONSE, answer, answer_with, bytes_of, client_of, data, echo, end_with,
    get, ok, pairs, post, request, request_with, serve,
};

/// A body of these pieces whose length nobody knows beforehand.
fn stream_of(pieces: Vec<Bytes>) -> Body {
    Body::new(StreamBody::new(futures_util::stream::iter(
        pieces.into_iter().map(|piece| Ok::<_, Infallible>(BodyFrame::data(piece))),
    )))
}

#[tokio::test]
async fn z007_the_handler_sees_the_host() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        Response::new(request.headers()[HOST].to_str().unwrap().to_owned().into())
    })
    .await;
    let client = client_of(&server);
    let given = Request::get("/").header(HOST, "given:1").body(Body::empty()).unwrap();
    assert_eq!(bytes_of(client.send(given).await.unwrap()).await, b"given:1");
    let authority = get("http://from.uri:2/x");
    assert_eq!(bytes_of(client.send(authority).await.unwrap()).await, b"from.uri:2");
    let both = Request::get("http://from.uri/").header(HOST, "given").body(Body::empty()).unwrap();
    assert_eq!(bytes_of(client.send(both).await.unwrap()).await, b"given");
}

#[tokio::test]
async fn s081_of_several_hosts_one_reaches_the_handler() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        Response::new(format!("{:?}", request.headers().get_all(HOST).iter().collect::<Vec<_>>()).into())
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&request("GET", "/", &[("Host", "a"), ("host", "b")], b"")).await;
    assert_eq!(caller.frame().await.unwrap().body(), br#"["b"]"#);
}

#[tokio::test]
async fn z015_five_requests_in_a_row_use_one_connection() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let info = request.extensions().get::<ConnectionInfo>().unwrap();
        Response::new(info.peer_addr().unwrap().to_string().into())
    })
    .await;
    let client = client_of(&server);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(bytes_of(client.send(get("/")).await.unwrap()).await);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "the server saw one socket of ours");
    assert_eq!((client.connection_count(), client.idle_count()), (1, 1));
}

#[tokio::test]
async fn z016_statuses_come_as_sent() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        Response::builder().status(status).header("x-was", status).body(request.into_body()).unwrap()
    })
    .await;
    let client = client_of(&server);
    for status in [404, 500, 503, 418, 204, 304] {
        for body in ["", "some text"] {
            let request = Request::post(format!("/{status}")).body(Body::from(body)).unwrap();
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["x-was"], status.to_string());
            let expected = if [204, 304].contains(&status) { "" } else { body };
            assert_eq!(bytes_of(response).await, expected.as_bytes(), "{status}");
        }
    }
    assert_eq!(client.connection_count(), 1, "all of them on one connection");
}

#[tokio::test]
async fn z016_what_can_have_no_body_is_sent_without_one() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let body = stream_of(vec![Bytes::from_static(b"never seen")]);
        Response::builder().status(status).body(body).unwrap()
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    for (method, target) in [("GET", "/204"), ("GET", "/304"), ("HEAD", "/200"), ("HEAD", "/500")] {
        caller.send(&request(method, target, &[], b"")).await;
        let answer = caller.frame().await.unwrap();
        assert_eq!((answer.kind, answer.body()), (RESPONSE, &b""[..]), "{method} {target}");
        assert_eq!(answer.status().to_string(), target[1..]);
    }
}

#[tokio::test]
async fn sv_f67_a_body_that_cannot_be_is_handed_on_empty_and_the_next_answer_is_right() {
    let server = ScriptedServer::start(|mut conn| async move {
        while let Some(frame) = conn.read_frame().await {
            let bytes = match Frame::new(frame).target() {
                "/whole" => answer(RESPONSE, 204, &[], b"nonsense"),
                // A stream, in answer to HEAD.
                "/stream" => {
                    [answer(HEAD, 200, &[], b""), data(b"non"), data(b"sense"), end_with(b"")].concat()
                }
                _ => ok(b"right"),
            };
            conn.send(&bytes).await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    assert_eq!(bytes_of(client.send(get("/whole")).await.unwrap()).await, b"");
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"right");
    let head = Request::head("/stream").body(Body::empty()).unwrap();
    assert_eq!(bytes_of(client.send(head).await.unwrap()).await, b"");
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"right");
    assert_eq!(server.connection_count(), 1);
}

#[tokio::test]
async fn z017_bodies_are_the_same_byte_for_byte() {
    let server = echo().await;
    let client = client_of(&server);
    // 4 MiB of xorshift with a fixed seed, and all byte values.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let random: Vec<u8> = (0..4 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    for body in [vec![0, 0xff, 0, 0xff], (0..=255).collect(), random] {
        let response = client.send(post(body.clone())).await.unwrap();
        assert!(bytes_of(response).await == body, "{} bytes", body.len());
    }
}

#[tokio::test]
async fn bodies_of_every_size_around_the_borders_come_through() {
    let server = echo().await;
    let client = client_of(&server);
    // What is copied, what is spliced, what gets memory of its own, what is streamed.
    for border in [0_usize, 1 << 10, 2 << 10, 4 << 10, 64 << 10, 128 << 10] {
        for len in border.saturating_sub(1)..=border + 1 {
            let body: Vec<u8> = (0..len).map(|at| at as u8).collect();
            assert!(bytes_of(client.send(post(body.clone())).await.unwrap()).await == body, "{len} bytes");
            let pieces = body.chunks(1000).map(Bytes::copy_from_slice).collect();
            assert!(
                bytes_of(client.send(post(stream_of(pieces))).await.unwrap()).await == body,
                "{len} in pieces"
            );
        }
    }
    assert_eq!(client.connection_count(), 1);
}

#[tokio::test]
async fn z025_connection_fields_and_lengths_do_not_reach_the_handler() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let mut names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        names.sort();
        let len = request.into_body().collect().await.unwrap().to_bytes().len();
        Response::new(format!("{names:?} {len}").into())
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    let headers = [
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
        ("Keep-Alive", "x"),
        ("X-Kept", "1"),
    ];
    caller.send(&request("POST", "/", &headers, b"nine bytes"[..9].as_ref())).await;
    assert_eq!(caller.frame().await.unwrap().body(), br#"["x-kept"] 9"#);
}

#[tokio::test]
async fn z025_connection_fields_and_lengths_do_not_reach_the_caller() {
    let server = ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        let headers = [("Connection", "close"), ("Content-Length", "5"), ("X-Kept", "1")];
        conn.send(&answer(RESPONSE, 200, &headers, b"nine byte")).await;
    })
    .await;
    let response = Client::builder(server.addr()).build().send(get("/")).await.unwrap();
    assert_eq!(response.headers().keys().collect::<Vec<_>>(), ["x-kept"]);
    assert_eq!(bytes_of(response).await, b"nine byte");
}

#[tokio::test]
async fn s079_trailers_smuggle_no_headers() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let headers = request.headers().len();
        let collected = request.into_body().collect().await.unwrap();
        Response::new(format!("{headers} {:?}", collected.trailers()).into())
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    let hostile = [
        ("Authorization", "Bearer x"),
        ("Host", "h"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("Cookie", "c"),
        ("Set-Cookie", "c"),
        ("X-Ok", "1"),
    ];
    caller.send(&request_with("POST", "/", &[], b"body", &hostile)).await;
    assert_eq!(caller.frame().await.unwrap().body(), br#"0 Some({"x-ok": "1"})"#);
}

#[tokio::test]
async fn trailers_travel_both_ways_whole_and_streamed() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let streamed = request.uri().path() == "/streamed";
        let collected = request.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap();
        let body = Body::with_trailers(collected.to_bytes(), trailers);
        // Boxing hides the length, so that the answer is streamed.
        Response::new(if streamed { Body::new(Unsized(body)) } else { body })
    })
    .await;
    let client = client_of(&server);
    for path in ["/whole", "/streamed"] {
        let trailers = HeaderMap::from_iter([("x-checksum".parse().unwrap(), "abc".parse().unwrap())]);
        let request = Request::post(path).body(Body::with_trailers("text", trailers.clone())).unwrap();
        let collected = client.send(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers), "{path}");
        assert_eq!(collected.to_bytes(), "text");
    }
}

/// A body that keeps its length to itself.
struct Unsized(Body);

impl http_body::Body for Unsized {
    type Data = Bytes;
    type Error = peerage_zaphttp::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[tokio::test]
async fn z004_what_trailer_declares_leaves_as_a_trailer() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let body = Body::from("text");
        let body = if request.uri().path() == "/streamed" { Body::new(Unsized(body)) } else { body };
        Response::builder()
            .header("trailer", "X-Checksum")
            .header("x-checksum", "abc")
            .header("x-head", "1")
            .body(body)
            .unwrap()
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());

    caller.send(&request("GET", "/whole", &[], b"")).await;
    let whole = caller.frame().await.unwrap();
    assert_eq!((whole.kind, whole.headers()), (RESPONSE, vec![pair("x-head", "1")]));
    assert_eq!(whole.trailers(), [pair("x-checksum", "abc")]);

    caller.send(&request("GET", "/streamed", &[], b"")).await;
    let head = caller.frame().await.unwrap();
    assert_eq!((head.kind, head.headers()), (HEAD, vec![pair("x-head", "1")]));
    assert_eq!(caller.frame().await.unwrap().data(), b"text");
    let end = caller.frame().await.unwrap();
    assert_eq!((end.kind, end.end_trailers()), (END, vec![pair("x-checksum", "abc")]));
}

#[tokio::test]
async fn a_body_of_known_length_leaves_in_one_frame_up_to_the_limit() {
    let respond = async |request: Request<Body>| {
        let len = request.uri().path()[1..].parse().unwrap();
        Response::new(vec![b'x'; len].into())
    };
    for (builder, limit) in [
        (Server::builder(), 64 << 10),
        (Server::builder().max_inline_body(10), 10),
        (Server::builder().max_inline_body(0), 0),
    ] {
        let server = serve(builder, respond).await;
        let mut caller = Caller::connect(server.local_addr().unwrap()).await;
        caller.send(&request("GET", &format!("/{limit}"), &[], b"")).await;
        let whole = caller.frame().await.unwrap();
        assert_eq!((whole.kind, whole.body().len()), (RESPONSE, limit));

        caller.send(&request("GET", &format!("/{}", limit + 1), &[], b"")).await;
        assert_eq!(caller.frame().await.unwrap().kind, HEAD);
        let data = caller.frame().await.unwrap();
        assert_eq!((data.kind, data.data().len()), (DATA, limit + 1));
        assert_eq!(caller.frame().await.unwrap().kind, END);
    }
}

#[tokio::test]
async fn a_chunk_over_the_frame_limit_is_split() {
    let limits = Limits { max_frame_len: 1000, ..Limits::default() };
    let server = serve(Server::builder().limits(limits).max_inline_body(0), async |_| {
        Response::new((0..5000).map(|at| at as u8).collect::<Vec<u8>>().into())
    })
    .await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&request("GET", "/", &[], b"")).await;
    assert_eq!(caller.frame().await.unwrap().kind, HEAD);
    let mut body = Vec::new();
    loop {
        let frame = caller.frame().await.unwrap();
        assert!(frame.len() <= 1000);
        if frame.kind == END {
            break;
        }
        body.extend_from_slice(frame.data());
    }
    assert!(body.iter().copied().eq((0..5000).map(|at| at as u8)));
}

#[tokio::test]
async fn an_answer_that_fits_into_no_frame_is_the_handlers_fault() {
    let server = serve(Server::builder(), async |request: Request<Body>| match request.uri().path() {
        "/headers" => (0..300).fold(Response::new(Body::empty()), |mut response, at| {
            response.headers_mut().append("x-many", at.into());
            response
        }),
        "/interim" => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::EARLY_HINTS;
            response
        }
        _ => Response::new("fine".into()),
    })
    .await;
    let client = client_of(&server);
    for path in ["/headers", "/interim"] {
        assert_eq!(client.send(get(path)).await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"fine");
    assert_eq!(client.connection_count(), 1);
}

#[tokio::test]
async fn z035_both_sides_know_the_connection() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        let info = request.extensions().get::<ConnectionInfo>().unwrap();
        Response::new(info.peer_addr().unwrap().to_string().into())
    })
    .await;
    let client = client_of(&server);
    let response = client.send(get("/")).await.unwrap();
    let info = response.extensions().get::<ConnectionInfo>().unwrap();
    assert_eq!(info.peer_addr(), server.local_addr());
    let ours: std::net::SocketAddr = String::from_utf8(bytes_of(response).await).unwrap().parse().unwrap();
    assert!(ours.ip().is_loopback() && Some(ours) != server.local_addr());
}

#[tokio::test]
async fn a_unix_socket_and_memory_carry_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let app = || axum::Router::new().route("/hello", axum::routing::get(|| async { "hello" }));

    let server = Server::builder().serve(Listener::unix(&path).await.unwrap(), app());
    let client = Client::builder(Target::Unix(path.clone())).build();
    assert_eq!(bytes_of(client.send(get("/hello")).await.unwrap()).await, b"hello");
    assert_eq!(server.local_addr(), None);

    let (listener, connector) = Listener::memory(1);
    let _server = Server::builder().serve(listener, app());
    let client = Client::builder(Target::Unix(path)).connector(std::sync::Arc::new(connector)).build();
    let response = client.send(get("/hello")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(bytes_of(response).await, b"hello");
    assert_eq!(client.send(get("/nowhere")).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_client_is_a_tower_service() {
    let server = echo().await;
    let mut client = client_of(&server);
    let ready = ServiceExt::<Request<Body>>::ready(&mut client).await.unwrap();
    let response = ready.call(post("hello")).await.unwrap();
    assert_eq!(bytes_of(response).await, b"hello");
    let twice = tower::ServiceBuilder::new().concurrency_limit(1).service(client);
    assert_eq!(bytes_of(twice.oneshot(post("again")).await.unwrap()).await, b"again");
}

#[tokio::test]
async fn any_method_and_target_travel() {
    let server = serve(Server::builder(), async |request: Request<Body>| {
        Response::new(format!("{} {}", request.method(), request.uri()).into())
    })
    .await;
    let client = client_of(&server);
    for (method, uri, expected) in [
        ("OPTIONS", "*", "OPTIONS *"),
        ("CONNECT", "host:1", "CONNECT host:1"),
        ("PROPFIND", "/a?b=c%20d", "PROPFIND /a?b=c%20d"),
        ("GET", "http://name/x?y", "GET /x?y"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        assert_eq!(bytes_of(client.send(request).await.unwrap()).await, expected.as_bytes());
    }
}

#[tokio::test]
async fn response_trailers_of_a_peer_are_read() {
    let server = ScriptedServer::start(|mut conn| async move {
        while let Some(frame) = conn.read_frame().await {
            let trailers = [("X-Sum", "1"), ("Set-Cookie", "no")];
            let bytes = match Frame::new(frame).target() {
                "/whole" => answer_with(RESPONSE, 200, &[], b"text", &trailers),
                _ => [crate::kit::head(), data(b"text"), end_with(&pairs(&trailers))].concat(),
            };
            conn.send(&bytes).await;
        }
    })
    .await;
    let client = Client::builder(server.addr()).build();
    for path in ["/whole", "/streamed"] {
        let collected = client.send(get(path)).await.unwrap().into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"1".parse().unwrap()), "{path}");
        assert_eq!(collected.to_bytes(), "text");
    }
    assert_eq!(server.connection_count(), 1);
}
