//! What is served is registered, and leaves in the order that loses no call.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use peerage::controlclient::{FailureKind, Service, StartError};
use peerage::discovery::mdns::Interfaces;
use peerage::zaphttp::{Body, Client};
use peerage::{Mesh, MeshError};
use peerage_devgateway::{DevGateway, Rpc};
use tokio::time::{Instant, timeout};

use crate::{LIMIT, loopback};

const OPENAPI: &str = r#"{"openapi":"3.0.3","info":{"title":"billing","version":"1"},"paths":{}}"#;

#[tokio::test]
async fn b_9_4_leaving_deregisters_and_serves_on_for_a_second() {
    let gateway = DevGateway::builder().start().await.expect("loopback has a free port");
    let mesh = Mesh::builder()
        .node_id("billing-1")
        .interfaces(Interfaces::LoopbackOnly)
        .register_with(gateway.addr().to_string())
        .build()
        .expect("consistent settings");
    let app = Router::new().route("/", get(|| async { "total" }));
    let served = mesh.serve("facade-leaving", loopback().await, app).expect("it serves");
    let address = served.local_addr();
    let registration = mesh.registration("http://127.0.0.1:9").expect("there is a gateway");
    let registration = served.register(registration.service(Service::openapi("billing", OPENAPI)));
    let registration = timeout(LIMIT, registration).await.expect("in time").expect("registered");
    assert!(registration.state().is_live());
    let held = gateway.registrations();
    let held: Vec<_> = held.iter().map(|held| (held.instance_id.as_str(), held.addr.as_str())).collect();
    assert_eq!(held, [("billing-1", "http://127.0.0.1:9")]);

    let client = Client::builder(address).build();
    let call = || client.send(http::Request::get("/").body(Body::empty()).expect("a request"));
    let began = Instant::now();
    let closing = tokio::spawn(async move { served.close(Duration::from_secs(5)).await });
    gateway.wait_for_calls(Rpc::Deregister, 1).await.expect("it says so");
    assert!(gateway.registrations().is_empty());
    assert_eq!(call().await.expect("those who have not heard of it are served").status(), 200);
    let cut = timeout(LIMIT, closing).await.expect("in time").expect("no panic");
    assert_eq!(cut, 0);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(call().await.is_err(), "it is gone");
}

#[tokio::test]
async fn without_a_gateway_or_with_one_that_refuses_there_is_an_error() {
    let plain = Mesh::builder().build().expect("consistent settings");
    assert!(matches!(plain.registration("127.0.0.1:9"), Err(MeshError::NoGateway)));

    let gateway = DevGateway::builder().start().await.expect("loopback has a free port");
    let mesh =
        Mesh::builder().register_with(gateway.addr().to_string()).build().expect("consistent settings");
    let served = mesh.listen(loopback().await, Router::new()).expect("it listens");
    let nonsense = mesh.registration("127.0.0.1:9").expect("there is a gateway");
    let nonsense = nonsense.service(Service::openapi("billing", "{"));
    let refused =
        timeout(LIMIT, served.register(nonsense)).await.expect("in time").expect_err("it is no OpenAPI");
    let MeshError::Register(StartError::Failed { source, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(source.kind(), FailureKind::BadSchema);
    assert!(gateway.registrations().is_empty());
}
