//! Gateways that answer what no gateway should.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage_controlclient::{
    Failure, FailureKind, Gateway, Registration, StartError, StartPolicy, State, pb,
};
use prost::Message as _;
use tokio::io::DuplexStream;
use tokio::time::Instant;

use crate::kit::{ADDR, TICK, greeter, ms, nowhere, secs};

/// What to answer a call with.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    trailers: Option<Vec<(&'static str, String)>>,
}

impl Answer {
    /// A gRPC answer with these bytes after the frame's head.
    fn message(bytes: &[u8]) -> Self {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(bytes.len() as u32);
        body.put_slice(bytes);
        Self {
            status: 200,
            headers: vec![("content-type", "application/grpc".into())],
            body: body.freeze(),
            trailers: Some(vec![("grpc-status", "0".into())]),
        }
    }

    fn registered(id: &str, ttl_seconds: u32) -> Self {
        let answer = pb::RegisterResponse { registration_id: id.into(), ttl_seconds };
        Self::message(&answer.encode_to_vec())
    }

    fn status(code: &str, message: &str) -> Self {
        let mut answer = Self::message(b"");
        answer.body = Bytes::new();
        answer.trailers = Some(vec![("grpc-status", code.into()), ("grpc-message", message.into())]);
        answer
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        self.headers.clone()
    }

    fn response(
        self,
    ) -> Response<StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>>> {
        let mut frames = Vec::new();
        if !self.body.is_empty() {
            frames.push(Ok(Frame::data(self.body.clone())));
        }
        if let Some(trailers) = &self.trailers {
            frames.push(Ok(Frame::trailers(fields(trailers))));
        }
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
        *response.status_mut() = http::StatusCode::from_u16(self.status).unwrap();
        *response.headers_mut() = fields(&self.headers());
        response
    }
}

fn fields(pairs: &[(&'static str, String)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        })
        .collect()
}

/// The way to a server of HTTP/2 in this process; `serve` gets each connection.
fn served_by<F>(serve: impl Fn(TokioIo<DuplexStream>) -> F + Send + Sync + 'static) -> Gateway
where
    F: Future<Output = ()> + Send + 'static,
{
    Gateway::new("127.0.0.1:1").dialed_by(move || {
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(serve(TokioIo::new(far)));
        std::future::ready(Ok(near))
    })
}

/// A server that answers each method as told; counts calls.
fn server(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (Gateway, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let answer = Arc::new(answer);
    let gateway = served_by(move |stream| {
        let (answer, counted) = (answer.clone(), counted.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let answer = answer(&method);
            async move { Ok::<_, Infallible>(answer.response()) }
        });
        let connection =
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service);
        async move { drop(connection.await) }
    });
    (gateway, calls)
}

async fn start(gateway: Gateway) -> Result<Registration, StartError> {
    Registration::builder(gateway, ADDR)
        .service(greeter())
        .register_deadline(secs(5))
        .start_policy(StartPolicy::FailFast(secs(5)))
        .start()
        .await
}

async fn failure(answer: Answer) -> Failure {
    let (gateway, _) = server(move |_| answer.clone());
    start(gateway).await.unwrap_err().failure().expect("a failure of the gateway").clone()
}

#[tokio::test(start_paused = true)]
async fn s151_sv_h08_answers_that_are_none_have_their_kinds() {
    let good = pb::RegisterResponse { registration_id: "a".into(), ttl_seconds: 30 }.encode_to_vec();
    assert_eq!(failure(Answer::message(&vec![0; 5 << 20])).await.kind(), FailureKind::TooLarge);
    // A length that runs past the end.
    assert_eq!(failure(Answer::message(&[0x0a, 0x7f, b'x'])).await.kind(), FailureKind::Malformed);
    // A frame whose head promises more than comes.
    let mut cut = Answer::message(&good);
    cut.body.truncate(7);
    assert!(matches!(failure(cut).await.kind(), FailureKind::Malformed | FailureKind::Unknown));
    let mut html = Answer::message(&good);
    html.headers = vec![("content-type", "text/html".into())];
    assert_eq!(failure(html).await.kind(), FailureKind::Malformed);
    let mut only_trailers = Answer::message(&good);
    only_trailers.body = Bytes::new();
    let only_trailers = failure(only_trailers).await;
    assert!(!only_trailers.is_permanent(), "{only_trailers}");
    let mut proxy = Answer::message(b"");
    proxy.status = 503;
    proxy.headers = vec![("content-type", "text/plain".into())];
    proxy.trailers = None;
    assert_eq!(failure(proxy).await.kind(), FailureKind::Unavailable);

    // Unknown fields are passed over.
    let mut unknown = good;
    unknown.extend_from_slice(&[0xfa, 0x01, 0x03, b'x', b'y', b'z']);
    let (gateway, _) = server(move |_| Answer::message(&unknown));
    start(gateway).await.unwrap().shutdown(ms(500)).await;
}

#[tokio::test(start_paused = true)]
async fn s152_sv_h09_a_gateways_words_are_escaped_and_cut() {
    let words = failure(Answer::status("2", "a%0aERROR forged%1b[2J must set")).await;
    assert_eq!(words.kind(), FailureKind::BadRequest);
    assert_eq!(words.words(), r"a\u{a}ERROR forged\u{1b}[2J must set");
    let long = failure(Answer::status("2", &"A".repeat(8 << 10))).await;
    assert!(long.words().len() <= 1024 && long.words().ends_with('…'), "{}", long.words().len());
    // Longer than the limit on headers: an error, and no memory to match.
    let longer = failure(Answer::status("2", &"A".repeat(64 << 10))).await;
    assert!(longer.words().len() <= 1024 && !longer.is_permanent(), "{longer}");
}

#[tokio::test(start_paused = true)]
async fn s155_s154_sv_h10_ids_and_times_are_judged() {
    for id in [String::new(), "x".repeat(257), "a\0b".into(), "a\nb".into()] {
        let (gateway, _) = server(move |_| Answer::registered(&id, 30));
        let error = start(gateway).await.unwrap_err();
        assert_eq!(error.failure().map(Failure::kind), Some(FailureKind::Malformed));
    }
    for (ttl, least, most) in [(0, 0, 1), (1, 0, 1), (u32::MAX, 86_390, 86_400)] {
        let (gateway, _) = server(move |_| Answer::registered(&"x".repeat(256), ttl));
        let registration = start(gateway).await.unwrap();
        let (State::Live { lease_ends, .. } | State::Suspect { lease_ends, .. }) = registration.state()
        else {
            panic!("{registration:?}")
        };
        let left = lease_ends.saturating_duration_since(Instant::now());
        assert!(left >= secs(least) && left <= secs(most), "{ttl}: {left:?}");
        registration.shutdown(ms(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sv_h11_no_to_every_beat_is_no_storm() {
    let (gateway, calls) = server(|method| match method {
        "Register" => Answer::registered("a", 1),
        _ => Answer::message(b""),
    });
    let registration = start(gateway).await.unwrap();
    // With a TTL of 1 s beats come within 333 ms, and each costs a Register after a growing pause.
    let mut states = registration.states();
    let lost = states.wait_for(|state| state.name() == "lost");
    lost.await.unwrap();
    tokio::time::sleep(secs(3)).await;
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 20, "{calls} calls in 3 s");
    registration.shutdown(ms(500)).await;
}

#[tokio::test(start_paused = true)]
async fn sv_h12_strange_statuses_are_unknown_and_transient() {
    for code in ["99", "-1", "x", ""] {
        let failure = failure(Answer::status(code, "must set")).await;
        assert!(!failure.is_permanent() || failure.kind() == FailureKind::BadRequest, "{code}: {failure}");
        assert!(
            matches!(failure.kind(), FailureKind::Unknown | FailureKind::BadRequest),
            "{code}: {failure:?}"
        );
    }
    let mut missing = Answer::registered("a", 30);
    missing.trailers = None;
    let failure = failure(missing).await;
    assert_eq!(failure.kind(), FailureKind::Unknown, "{failure:?}");
    assert!(!failure.is_permanent());
}

#[tokio::test(start_paused = true)]
async fn sv_h13_a_compressed_answer_that_was_not_asked_for_is_an_error() {
    let mut compressed = Answer::registered("a", 30);
    let mut body = BytesMut::from(&compressed.body[..]);
    body[0] = 1;
    compressed.body = body.freeze();
    assert_eq!(failure(compressed.clone()).await.kind(), FailureKind::Malformed);
    compressed.headers.push(("grpc-encoding", "gzip".into()));
    let failure = failure(compressed).await;
    assert!(matches!(failure.kind(), FailureKind::Malformed | FailureKind::NotAGateway), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn s156_sv_h14_a_server_that_says_nothing_is_given_up() {
    let silent = served_by(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    for (gateway, wanted) in [(nowhere(), FailureKind::Unreachable), (silent, FailureKind::Timeout)] {
        let began = Instant::now();
        let error = Registration::builder(gateway, ADDR)
            .service(greeter())
            .ttl(secs(3))
            .register_deadline(ms(500))
            .start_policy(StartPolicy::Wait(secs(1)))
            .start()
            .await
            .unwrap_err();
        let took = began.elapsed();
        assert!(took >= secs(1) && took <= secs(1) + TICK, "{took:?}");
        assert_eq!(error.failure().map(Failure::kind), Some(wanted), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sv_h07_a_connection_that_closes_after_each_answer_is_no_storm() {
    // One exchange a connection: what follows is closed.
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let gateway = served_by(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let done = Arc::new(tokio::sync::Notify::new());
            let answered = done.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = match request.uri().path().rsplit('/').next() {
                    Some("Register") => Answer::registered("a", 6),
                    _ => Answer::message(&[0x08, 0x01]),
                };
                answered.notify_one();
                async move { Ok::<_, Infallible>(answer.response()) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service);
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => return,
                () = done.notified() => connection.as_mut().graceful_shutdown(),
            }
            drop(connection.await);
        }
    });
    let registration = start(gateway).await.unwrap();
    tokio::time::sleep(secs(60)).await;
    let connections = connections.load(Ordering::Relaxed);
    // The interval is 2 s ± 10 %: its beats, and one early one for each.
    assert!((27..=68).contains(&connections), "{connections} connections in 60 s");
    assert!(registration.state().is_live(), "{registration:?}");
    registration.shutdown(ms(500)).await;
}
