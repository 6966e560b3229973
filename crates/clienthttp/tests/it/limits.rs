//! What a message may hold (clienthttp 11, H-035; threats K).

use std::error::Error;

use axum::{Router, body::Body as AxumBody, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use peerage_clienthttp::{Body, Client, ClientError, Outcome, Stage, ZapDialer};
use peerage_zaphttp::wire::Limits;

use crate::kit::{Peer, client_of};

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("abc"))])
}

#[tokio::test]
async fn h035_trailers_arrive_both_ways() {
    let router = Router::new().fallback(async |request: Request<AxumBody>| {
        let body = request.into_body().collect().await.unwrap();
        let checksum = body.trailers().unwrap()["x-checksum"].clone();
        assert_eq!(body.to_bytes(), "hello");
        let frames = [Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"bye")))];
        let last = HeaderMap::from_iter([("x-checksum".parse().unwrap(), checksum)]);
        let frames = frames.into_iter().chain([Ok(Frame::trailers(last))]);
        Response::new(AxumBody::new(StreamBody::new(futures_util::stream::iter(frames))))
    });
    let peer = Peer::serve("billing-1", router).await;
    let client = client_of([&peer]).build().await.unwrap();
    let streamed = || {
        let frames = [
            Frame::data(Bytes::from_static(b"hel")),
            Frame::data(Bytes::from_static(b"lo")),
            Frame::trailers(trailers()),
        ];
        Body::new(StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>))))
    };
    for body in [Body::with_trailers("hello", trailers()), streamed()] {
        let answer = client.put("/").body(body).send().await.unwrap().into_http();
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&trailers()));
        assert_eq!(body.to_bytes(), "bye");
    }
}

/// The texts of an error and its sources.
fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!("; {source}");
        next = source.source();
    }
    text
}

#[tokio::test]
async fn h035_a_request_over_a_limit_is_a_protocol_error_that_names_it() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    let long = client.get("/").header("x-long", vec![b'a'; 1 << 20].as_slice()).send().await.unwrap_err();
    assert!(matches!(long, ClientError::Protocol { .. }), "{long:?}");
    assert!(chain(&long).contains("65536"), "{}", chain(&long));
    assert!(long.to_string().len() < 300, "the value itself is not shown");

    let many = (0..300).map(|i| (format!("x-{i}").parse().unwrap(), HeaderValue::from_static("v")));
    let error = client.get("/").headers(many.collect()).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(chain(&error).contains("256"), "{}", chain(&error));
    let attempt = error.attempts().unwrap().last().unwrap();
    assert_eq!(
        (attempt.stage, attempt.outcome),
        (Stage::NotSent, Outcome::Cancelled),
        "the peer is not to blame"
    );
    assert_eq!(peer.seen.count(), 0);

    let small = ZapDialer::new().limits(Limits { max_frame_len: 1 << 10, ..Limits::default() });
    let client = client_of([&peer]).dialer(small).build().await.unwrap();
    let error = client.put("/").body(vec![0; 2 << 10]).send().await.unwrap_err();
    assert!(matches!(error, ClientError::BodyTooLarge { limit: 1_024, .. }), "{error:?}");
    assert_eq!(error.to_string(), "the request body exceeds the limit of 1024 bytes");
    assert_eq!(client.put("/").body("small").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn h035_an_answer_over_a_limit_is_a_protocol_error_that_names_it() {
    let router = Router::new().fallback(async || {
        let many = (0..40).map(|i| (format!("x-{i}").parse().unwrap(), HeaderValue::from_static("v")));
        (many.collect::<HeaderMap>(), "body")
    });
    let peer = Peer::serve("billing-1", router).await;
    let few = ZapDialer::new().limits(Limits { max_pairs: 20, ..Limits::default() });
    let client = client_of([&peer]).dialer(few).build().await.unwrap();
    let error = client.post("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(chain(&error).contains("20"), "{}", chain(&error));
    assert_eq!(error.attempts().unwrap().last().unwrap().outcome, Outcome::Hard);
}

#[tokio::test]
async fn s107_cookies_are_not_kept() {
    let router = Router::new().fallback(async || ([("set-cookie", "a=b; Path=/")], "sweet"));
    let peer = Peer::serve("billing-1", router).await;
    let client = client_of([&peer]).build().await.unwrap();
    for _ in 0..3 {
        let answer = client.get("/").send().await.unwrap();
        assert_eq!(answer.headers()["set-cookie"], "a=b; Path=/");
    }
    assert!(peer.seen.all().iter().all(|seen| seen.header("cookie").is_none()));
}

#[tokio::test]
async fn s106_absurd_numbers_in_an_answer_are_harmless() {
    for value in ["9e99", "99999999999999999999", "-1", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let router = Router::new()
            .fallback(async move || (http::StatusCode::SERVICE_UNAVAILABLE, [("retry-after", value)], "no"));
        let peer = Peer::serve("billing-1", router).await;
        let client = client_of([&peer]).build().await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(client.post("/").send().await.unwrap().status(), 503, "{value}");
        assert!(began.elapsed().as_millis() < 500, "{value}");
    }
}

#[tokio::test]
async fn what_people_know_of_other_clients_works() {
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Invoice {
        id: u32,
        paid: bool,
    }
    let router = Router::new()
        .route("/v1/invoices/{id}", axum::routing::get(async || axum::Json(Invoice { id: 7, paid: true })))
        .route(
            "/echo",
            axum::routing::any(async |request: Request<AxumBody>| {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let kind = head.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
                format!(
                    "{} {} {} {}",
                    head.method,
                    head.uri,
                    kind.unwrap_or_default(),
                    String::from_utf8_lossy(&body)
                )
            }),
        );
    let peer = Peer::serve("billing-1", router).await;
    let client: Client = client_of([&peer]).build().await.unwrap();
    let invoice = client
        .get("/v1/invoices/7")
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap()
        .json::<Invoice>()
        .await;
    assert_eq!(invoice.unwrap(), Invoice { id: 7, paid: true });

    let echo = async |request: peerage_clienthttp::RequestBuilder| {
        request.send().await.unwrap().text().await.unwrap()
    };
    let pairs = [("a", "1 2"), ("b", "ä&=")];
    assert_eq!(echo(client.get("/echo?x=y").query(&pairs)).await, "GET /echo?x=y&a=1+2&b=%C3%A4%26%3D  ");
    assert_eq!(echo(client.get("/echo").query(&[("", ""); 0])).await, "GET /echo  ");
    assert_eq!(
        echo(client.post("/echo").form(&pairs)).await,
        "POST /echo application/x-www-form-urlencoded a=1+2&b=%C3%A4%26%3D"
    );
    let invoice = Invoice { id: 1, paid: false };
    assert_eq!(
        echo(client.patch("/echo").json(&invoice)).await,
        r#"PATCH /echo application/json {"id":1,"paid":false}"#
    );
    let own = client.delete("/echo").header("content-type", "x/y").json(&1);
    assert_eq!(echo(own).await, "DELETE /echo x/y 1");
    assert_eq!(client.head("/echo").send().await.unwrap().bytes().await.unwrap(), "");

    let error = client.get("/none").send().await.unwrap().error_for_status().unwrap_err();
    assert!(matches!(error, ClientError::Status { status: http::StatusCode::NOT_FOUND, .. }), "{error:?}");
    assert_eq!(error.to_string(), "the peer answered 404 Not Found");
    let error = client.get("/echo").send().await.unwrap().json::<Invoice>().await.unwrap_err();
    assert!(matches!(error, ClientError::Body { .. }), "{error:?}");
    assert!(matches!(client.get("not a uri").send().await.unwrap_err(), ClientError::InvalidRequest { .. }));

    let mut stream = std::pin::pin!(client.get("/echo").send().await.unwrap().bytes_stream());
    let mut text = String::new();
    while let Some(piece) = futures_util::StreamExt::next(&mut stream).await {
        text += std::str::from_utf8(&piece.unwrap()).unwrap();
    }
    assert_eq!(text, "GET /echo  ");
}
