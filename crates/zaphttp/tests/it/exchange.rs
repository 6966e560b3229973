//! Requests and answers between our client and our server.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::BodyExt;
use peerage_zaphttp::{Body, Client, Listener, Server};
use tower::service_fn;

#[tokio::test]
async fn an_answer_comes_back() {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let echo =
        service_fn(async |request: Request<Body>| Ok::<_, Infallible>(Response::new(request.into_body())));
    let server = Server::builder().serve(listener, echo);
    let client = Client::builder(server.local_addr().unwrap()).build();
    for text in ["hello", "again"] {
        let response = client.send(Request::post("/echo").body(Body::from(text)).unwrap()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
    }
    assert_eq!(client.connection_count(), 1);
}
