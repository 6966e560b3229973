//! TLS below requests and answers: what callers and handlers see.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use peerage_tests::{TestCa, TestIdentity};
use peerage_zaphttp::tls::{ALPN, ClientTls, ClusterTls, NamedGroup, ServerTls, TlsFailure};
use peerage_zaphttp::{
    Body, BodyError, Client, ConnectionInfo, Listener, SendError, SendErrorKind, Server, ServerHandle, Stage,
    wire,
};
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tower::service_fn;

use super::foreign::{Foreign, serve};
use super::support::{identity, name, roots};

const NODE: &str = "n1.cluster.example";

/// A server that counts its requests.
async fn server(tls: ServerTls) -> (ServerHandle, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let service = service_fn(move |request: Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(Response::new(request.into_body())) }
    });
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    (Server::builder().tls(tls).serve(listener, service), requests)
}

async fn ask(server: &ServerHandle, tls: ClientTls) -> Result<(), SendError> {
    let client = Client::builder(server.local_addr().unwrap()).tls(tls.expect_name(name(NODE))).build();
    let response = client.send(Request::get("/").body(Body::from("hello")).unwrap()).await?;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    Ok(())
}

#[tokio::test]
async fn z027_each_wrong_certificate_has_its_own_error_and_no_request_gets_through() {
    let ca = TestCa::new();
    let mutual = |node: &TestIdentity| ServerTls::new(identity(node)).require_client_certificates(roots(&ca));
    let client = || ClientTls::new(roots(&ca)).identity(identity(&ca.client(&["c1"])));
    let good = ca.server(&[NODE]);
    let x25519 = |config: ServerTls| config.classical_allowed();
    for (what, server_tls, client_tls, expected) in [
        ("right CA", mutual(&good), client(), None),
        (
            "wrong CA",
            mutual(&TestCa::named("Wrong").server(&[NODE])),
            client(),
            Some(TlsFailure::UnknownIssuer),
        ),
        ("expired", mutual(&ca.leaf().dns(NODE).expired().issue()), client(), Some(TlsFailure::Expired)),
        ("wrong name", mutual(&ca.server(&["n2"])), client(), Some(TlsFailure::Name)),
        (
            "no client certificate where required",
            x25519(mutual(&good)),
            ClientTls::new(roots(&ca)),
            Some(TlsFailure::NoClientCertificate),
        ),
    ] {
        let (server, requests) = server(server_tls).await;
        let result = ask(&server, client_tls).await;
        match expected {
            None => {
                result.unwrap();
                assert_eq!(requests.load(Ordering::Relaxed), 1, "{what}");
            }
            Some(failure) => {
                let error = result.expect_err(what);
                assert_eq!(error.kind(), SendErrorKind::Tls(failure), "{what}: {error:?}");
                assert_eq!(error.stage(), Stage::NotSent, "{what}: a refused connection carried nothing");
                assert_eq!(requests.load(Ordering::Relaxed), 0, "{what}");
            }
        }
    }
    // The peer that offers X25519 only, as a server and as a client.
    let classical = Foreign::modern().groups(&[kx_group::X25519]);
    let addr = serve(classical.server(&good, None), async |stream| drop(stream)).await;
    let x25519_only = Client::builder(addr).tls(client().expect_name(name(NODE))).build();
    let error = x25519_only.send(Request::get("/").body(Body::default()).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Tls(TlsFailure::KeyExchange));
    let (server, requests) = server(ServerTls::new(identity(&good))).await;
    super::foreign::dial(classical.client(&ca, None), NODE, server.local_addr().unwrap())
        .await
        .expect_err("the handshake fails");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn sv_p10_the_refusal_is_typed_however_often_one_tries() {
    let ca = TestCa::new();
    let tls = ServerTls::new(identity(&ca.server(&[NODE]))).require_client_certificates(roots(&ca));
    let (server, requests) = server(tls).await;
    // The alert races with the request; whoever wins, the error is the same.
    for attempt in 0..50 {
        let error = ask(&server, ClientTls::new(roots(&ca))).await.unwrap_err();
        let expected = SendErrorKind::Tls(TlsFailure::NoClientCertificate);
        assert_eq!((error.kind(), error.stage()), (expected, Stage::NotSent), "attempt {attempt}: {error:?}");
    }
    // A request that is still being written when the refusal comes.
    let client = Client::builder(server.local_addr().unwrap())
        .tls(ClientTls::new(roots(&ca)).expect_name(name(NODE)))
        .build();
    for attempt in 0..5 {
        let large = Body::from(vec![0; 16 << 20]);
        let error = client.send(Request::post("/").body(large).unwrap()).await.unwrap_err();
        let expected = SendErrorKind::Tls(TlsFailure::NoClientCertificate);
        assert_eq!((error.kind(), error.stage()), (expected, Stage::NotSent), "attempt {attempt}: {error:?}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn z035_the_handler_knows_the_connection_and_so_does_the_caller() {
    let ca = TestCa::new();
    let caller = ca.client(&["caller-1", "10.0.0.9"]);
    let callee = ca.server(&[NODE]);
    let tls = ServerTls::new(identity(&callee)).require_client_certificates(roots(&ca));
    let service = service_fn(async |request: Request<Body>| {
        let info = request.extensions().get::<ConnectionInfo>().expect("every request has it");
        let tls = info.tls().expect("this server speaks TLS");
        let names = tls.peer_names();
        let text = format!(
            "{:?} {:?} {:?} {:?} {:?} {}",
            tls.group(),
            tls.alpn().map(String::from_utf8_lossy),
            tls.sni(),
            names.dns(),
            names.ips(),
            tls.peer_certificate().map_or(0, <[u8]>::len),
        );
        assert!(info.peer_addr().is_some_and(|addr| addr.ip().is_loopback()));
        Ok::<_, Infallible>(Response::new(Body::from(text)))
    });
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let server = Server::builder().tls(tls).serve(listener, service);
    let tls = ClientTls::new(roots(&ca)).identity(identity(&caller)).expect_name(name(NODE));
    let client = Client::builder(server.local_addr().unwrap()).tls(tls).build();
    let response = client.send(Request::get("/").body(Body::default()).unwrap()).await.unwrap();

    let tls = response.extensions().get::<ConnectionInfo>().unwrap().tls().unwrap().clone();
    assert_eq!(tls.group(), NamedGroup::X25519MLKEM768);
    assert_eq!(tls.alpn(), Some(ALPN));
    assert_eq!(tls.sni(), Some(NODE));
    assert_eq!(tls.peer_names().dns(), [NODE]);
    assert_eq!(tls.peer_certificate(), Some(callee.certificate().as_ref()));

    let text = response.into_body().collect().await.unwrap().to_bytes();
    let expected = format!(
        "X25519MLKEM768 Some(\"zap-http/1\") Some(\"{NODE}\") [\"caller-1\"] [10.0.0.9] {}",
        caller.certificate().len()
    );
    assert_eq!(String::from_utf8_lossy(&text), expected);
}

#[tokio::test]
async fn sv_p22_s061_half_a_body_and_no_close_notify_is_a_body_error() {
    let ca = TestCa::new();
    for polite in [true, false] {
        let config = Foreign::modern().server(&ca.server(&[NODE]), None);
        let addr = serve(config, async move |stream| {
            let mut stream = stream.unwrap();
            let len = stream.read_u32().await.unwrap();
            let mut request = vec![0; len as usize];
            stream.read_exact(&mut request).await.unwrap();
            let mut answer = bytes::BytesMut::new();
            let limits = wire::Limits::default();
            wire::put_head(&mut answer, http::StatusCode::OK, &http::HeaderMap::new(), &limits).unwrap();
            wire::put_data(&mut answer, wire::Payload::Inline(b"half a bo"), &limits).unwrap();
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
            if polite {
                stream.shutdown().await.unwrap();
            } else {
                let (mut io, _) = stream.into_inner();
                io.shutdown().await.unwrap();
            }
        })
        .await;
        let tls = ClientTls::new(roots(&ca)).expect_name(name(NODE));
        let client = Client::builder(addr).tls(tls).build();
        let response = client.send(Request::get("/").body(Body::default()).unwrap()).await.unwrap();
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "half a bo");
        // On this wire the end has a frame of its own: without it even close_notify is too early.
        let error = body.frame().await.expect("not the end").unwrap_err();
        assert!(matches!(error, BodyError::Cut | BodyError::Io(_)), "polite: {polite}: {error:?}");
        drop(body);
        assert_eq!(client.connection_count(), 0, "such a connection is not kept");
    }
}

#[tokio::test]
async fn sv_p20_the_handshake_is_inside_the_connect_budget() {
    let silent = peerage_tests::ScriptedServer::start(|conn| conn.stall()).await;
    let limit = Duration::from_millis(200);
    let tls = ClientTls::new(roots(&TestCa::new())).expect_name(name(NODE));
    let client = Client::builder(silent.addr()).tls(tls).connect_timeout(limit).build();
    let began = Instant::now();
    let error = client.send(Request::get("/").body(Body::default()).unwrap()).await.unwrap_err();
    let took = began.elapsed();
    assert!(error.is_timeout() && error.is_connect(), "{error:?}");
    // The default is 10 s.
    assert!(took >= limit && took < Duration::from_secs(5), "took {took:?}");
}

#[tokio::test]
async fn s040_connections_made_under_old_certificates_are_not_used_again() {
    let ca = TestCa::new();
    let (first, second) = (ca.node(&[NODE, "first"]), ca.node(&[NODE, "second"]));
    let cluster = ClusterTls::new(roots(&ca), identity(&first)).unwrap();
    let service = service_fn(async |request: Request<Body>| {
        let info = request.extensions().get::<ConnectionInfo>().unwrap();
        let names = info.tls().unwrap().peer_names().dns().join(" ");
        Ok::<_, Infallible>(Response::new(Body::from(names)))
    });
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let server = Server::builder().tls(cluster.server().unwrap()).serve(listener, service);
    let tls = cluster.client().expect_name(name(NODE));
    let client = Client::builder(server.local_addr().unwrap()).tls(tls).build();
    let caller = async || {
        let response = client.send(Request::get("/").body(Body::default()).unwrap()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    assert_eq!(caller().await, format!("{NODE} first"));
    assert_eq!(client.idle_count(), 1);
    cluster.replace(roots(&ca), identity(&second)).unwrap();
    assert_eq!(caller().await, format!("{NODE} second"), "the new identity is shown");
    assert_eq!(client.connection_count(), 1, "the old connection is closed");
}
