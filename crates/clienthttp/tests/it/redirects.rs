//! Redirects: handed over, or followed inside the service (clienthttp 3; S-020, SV-R38).

use axum::{Router, http::StatusCode, response::IntoResponse, routing::any};
use peerage_clienthttp::{Client, ClientError, Redirects};

use crate::kit::{Peer, client_of};

fn to(status: StatusCode, location: &str) -> impl IntoResponse + use<> {
    (status, [("location", location.to_owned())], "elsewhere")
}

async fn peer() -> Peer {
    let router = Router::new()
        .route("/a", any(async || to(StatusCode::TEMPORARY_REDIRECT, "/b")))
        .route("/c", any(async || to(StatusCode::SEE_OTHER, "/b")))
        .route("/evil", any(async || to(StatusCode::TEMPORARY_REDIRECT, "http://evil.test/")))
        .route("/found", any(async || to(StatusCode::FOUND, "http://evil.test/")))
        .route("/own", any(async || to(StatusCode::PERMANENT_REDIRECT, "http://billing/b?x=1")))
        .route(
            "/chain/{n}",
            any(async |axum::extract::Path(n): axum::extract::Path<u32>| match n {
                0 => "end".into_response(),
                n => to(StatusCode::TEMPORARY_REDIRECT, &format!("/chain/{}", n - 1)).into_response(),
            }),
        )
        .route("/b", any(async |method: http::Method, body: String| format!("{method} {body}")));
    Peer::serve("billing-1", router).await
}

async fn following(peer: &Peer) -> Client {
    client_of([peer]).redirects(Redirects::SameService { max: 10 }).bearer("T0KEN").build().await.unwrap()
}

fn paths(peer: &Peer) -> Vec<String> {
    peer.seen.all().iter().map(|seen| seen.uri.path_and_query().unwrap().to_string()).collect()
}

#[tokio::test]
async fn h027_s020_sv_r38_by_default_redirects_are_handed_over() {
    assert_eq!("SV-R38".len(), 6);
    let peer = peer().await;
    let client = client_of([&peer]).build().await.unwrap();
    for (path, status, location) in
        [("/a", 307, "/b"), ("/c", 303, "/b"), ("/found", 302, "http://evil.test/")]
    {
        let answer = client.get(path).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()),
            (status, location)
        );
        assert_eq!(answer.text().await.unwrap(), "elsewhere");
    }
    assert_eq!(paths(&peer), ["/a", "/c", "/found"], "no second request");
}

#[tokio::test]
async fn h027_inside_the_service_they_are_followed_if_told() {
    let peer = peer().await;
    let client = following(&peer).await;
    let answer = client.post("/a").body("hello").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "POST hello", "307 keeps method and body");
    let answer = client.post("/c").header("content-type", "text/plain").body("hello").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "GET ", "303 makes it a GET");
    assert!(peer.seen.all().last().unwrap().header("content-type").is_none());
    client.get("/own").send().await.unwrap();
    assert_eq!(paths(&peer), ["/a", "/b", "/c", "/b", "/own", "/b?x=1"]);
    assert!(peer.seen.all().iter().all(|seen| seen.header("authorization") == Some("Bearer T0KEN")));
}

#[tokio::test]
async fn h027_ten_are_followed_and_the_eleventh_is_an_error_that_names_the_chain() {
    let peer = peer().await;
    let client = following(&peer).await;
    let answer = client.get("/chain/10").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "end");
    assert_eq!(peer.seen.count(), 11);
    let error = client.get("/chain/11?secret=1").send().await.unwrap_err();
    let ClientError::TooManyRedirects { chain, .. } = &error else { panic!("{error:?}") };
    assert!(chain.starts_with("/chain/10 -> /chain/9 -> ") && chain.ends_with(" -> /chain/0"), "{chain}");
    assert!(!error.to_string().contains("secret"));
    assert_eq!(peer.seen.count(), 22);
}

#[tokio::test]
async fn h028_a_redirect_out_of_the_service_is_handed_over_with_both_settings() {
    let peer = peer().await;
    for client in [client_of([&peer]).bearer("T0KEN").build().await.unwrap(), following(&peer).await] {
        let answer = client.get("/evil").send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["location"]),
            (307, &"http://evil.test/".parse().unwrap())
        );
    }
    assert_eq!(paths(&peer), ["/evil", "/evil"]);
    assert_eq!(peer.server.connection_count(), 1, "that of the second client");
}

#[tokio::test]
async fn a_streamed_body_that_is_gone_is_not_sent_along() {
    let peer = peer().await;
    let client = following(&peer).await;
    let pieces = (0..40).map(|_| Ok::<_, std::convert::Infallible>(bytes::Bytes::from(vec![b'x'; 4 << 10])));
    let body =
        peerage_clienthttp::Body::new(axum::body::Body::from_stream(futures_util::stream::iter(pieces)));
    let answer = client.post("/a").body(body).send().await.unwrap();
    assert_eq!(answer.status(), 307, "160 KiB are more than is kept");
}
