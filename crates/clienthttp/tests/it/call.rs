//! One call (clienthttp 3).

use std::collections::HashMap;

use peerage_clienthttp::{Attempts, Client, ClientError, Insecure, PeerInfo, Policy};

use crate::kit::{Peer, at, client_of, fixed, until};

async fn three() -> [Peer; 3] {
    [Peer::start("billing-1").await, Peer::start("billing-2").await, Peer::start("billing-3").await]
}

#[tokio::test]
async fn h015_calls_are_spread_evenly_over_few_connections() {
    let peers = three().await;
    let client = client_of(&peers).balance(Policy::RoundRobin).build().await.unwrap();
    for _ in 0..2_000 {
        let answer = client.get("/").send().await.unwrap();
        answer.bytes().await.unwrap();
    }
    let counts: Vec<_> = peers.iter().map(|peer| peer.seen.count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 2_000);
    assert!(counts.iter().all(|count| (666..=667).contains(count)), "{counts:?}");
    let connections: Vec<_> = peers.iter().map(|peer| peer.server.connection_count()).collect();
    assert_eq!(connections, [1, 1, 1], "one call at a time needs one connection to a peer");
}

#[tokio::test]
async fn h019_the_authority_chooses_nothing() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    for uri in ["http://whatever/v1/x?y=1", "/v1/x?y=1"] {
        client.patch(uri).send().await.unwrap();
    }
    let seen = peer.seen.all();
    assert!(seen.iter().all(|seen| seen.method == http::Method::PATCH));
    let targets: Vec<_> = seen.iter().map(|seen| seen.uri.path_and_query().unwrap().as_str()).collect();
    assert_eq!(targets, ["/v1/x?y=1", "/v1/x?y=1"]);
    let hosts: Vec<_> = seen.iter().map(|seen| seen.header("host")).collect();
    assert_eq!(hosts, [Some("whatever"), Some("billing")]);
}

#[tokio::test]
async fn h020_https_over_plaintext_is_refused() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    let error = client.get("https://billing/").send().await.unwrap_err();
    assert!(
        matches!(error, ClientError::InsecureTransport { why: Insecure::HttpsOverPlaintext, .. }),
        "{error:?}"
    );
    assert!(error.request().is_some(), "nothing was sent");
    assert_eq!((peer.seen.count(), peer.server.connection_count()), (0, 0));
}

#[tokio::test]
async fn h032_a_peer_that_refuses_costs_no_call() {
    let refuser = peerage_tests::Refuser::new();
    let (one, two) = (Peer::start("billing-1").await, Peer::start("billing-2").await);
    let list = [at("billing-1", one.addr()), at("billing-2", two.addr()), at("billing-3", refuser.addr())];
    let client = Client::builder_with(fixed(list)).build().await.unwrap();
    for method in [http::Method::GET, http::Method::POST] {
        for _ in 0..500 {
            let answer = client.request(method.clone(), "/").body("x").send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
    }
    assert_eq!(one.seen.count() + two.seen.count(), 1_000, "each call arrived once");
}

#[tokio::test]
async fn h034_the_answer_tells_the_peer_and_the_attempts() {
    let refuser = peerage_tests::Refuser::new();
    let peer = Peer::start("billing-2").await;
    let list = [at("billing-1", refuser.addr()), at("billing-2", peer.addr())];
    let client = Client::builder_with(fixed(list)).balance(Policy::RoundRobin).build().await.unwrap();
    let mut by_count = HashMap::new();
    for _ in 0..4 {
        let answer = client.get("/").send().await.unwrap().into_http();
        let info = answer.extensions().get::<PeerInfo>().unwrap();
        assert_eq!((info.node_id(), info.address().socket_addr()), ("billing-2", Some(peer.addr())));
        let attempts = answer.extensions().get::<Attempts>().unwrap();
        *by_count.entry(attempts.count()).or_insert(0) += 1;
        assert_eq!(attempts.last().unwrap().status, Some(http::StatusCode::OK));
        if attempts.count() == 2 {
            let first = attempts.iter().next().unwrap();
            assert_eq!(first.peer.node_id(), "billing-1");
            assert_eq!(first.stage, peerage_clienthttp::Stage::NotSent);
            let text = format!("billing-1 ({}) was tried and could not be connected to", refuser.addr());
            assert_eq!(first.to_string(), text);
        }
    }
    assert!(by_count.contains_key(&2), "{by_count:?}");
    assert!(peer.seen.look(|seen| seen.iter().any(|seen| seen.header("peerage-attempt") == Some("2"))));
}

#[tokio::test]
async fn s132_a_peer_is_dialled_when_it_is_called_and_not_when_it_is_seen() {
    // Every address of 127.0.0.0/8 leads to one listener: a thousand peers, each with an address of its own.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let peers = (0..1_000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        at(&format!("billing-{number}"), ([127, 9, high, low], port).into())
    });
    let client = Client::builder_with(fixed(peers)).build().await.unwrap();
    assert_eq!(client.peers().len(), 1_000);
    let none = listener.accept().unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock, "nobody was dialled");

    let call = tokio::spawn(client.get("/").send());
    let mut dialled = None;
    until(|| {
        dialled = dialled.take().or_else(|| listener.accept().ok());
        dialled.is_some()
    })
    .await;
    assert!(listener.accept().is_err(), "the peer that was picked, and no other");
    assert!(!call.is_finished(), "it waits for an answer");
    call.abort();
}

#[tokio::test]
async fn a_source_may_be_given_as_text() {
    let peer = Peer::start("billing-1").await;
    let client = Client::builder("billing").source(format!("static:{}", peer.addr())).build().await.unwrap();
    let answer = client.get("/").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "billing-1");
    let refused = Client::builder("billing").source("pigeon:coop").build_lazy();
    assert!(matches!(refused, Err(peerage_clienthttp::ConfigError::Discovery(_))), "{refused:?}");
}
