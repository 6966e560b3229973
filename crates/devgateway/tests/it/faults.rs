//! The faults of section 5, each switched on under a running client.

use std::time::Duration;

use peerage_controlclient::pb;
use peerage_devgateway::{BlackHole, Code, DevGateway, Rpc};
use tokio::net::TcpStream;

use crate::kit::{Client, LIMIT, P, fresh, proto, request};

/// Longer than a healthy answer takes here by far, shorter than anything else.
const SILENCE: Duration = Duration::from_millis(300);

async fn is_silent(client: &Client) -> bool {
    tokio::time::timeout(SILENCE, client.try_raw("ListPeers", &[], &[])).await.is_err()
}

#[tokio::test]
async fn a_stopped_gateway_refuses_connections_and_keeps_its_port() {
    let (gateway, client) = fresh().await;
    client.registered(vec![proto("a", "", P)]).await;
    gateway.stop().await.expect("it stops");
    assert!(TcpStream::connect(gateway.addr()).await.is_err());
    assert!(
        tokio::time::timeout(LIMIT, client.try_raw("ListPeers", &[], &[]))
            .await
            .expect("it is cut")
            .is_none()
    );
    assert!(gateway.registrations().is_empty() && gateway.connections() == 0);
    gateway.stop().await.expect("twice is once");
    gateway.start().await.expect("it serves");
    gateway.start().await.expect("twice is once");
    Client::connect(gateway.addr()).await.registered(vec![proto("a", "", P)]).await;
}

#[tokio::test]
async fn a_black_hole_swallows_the_connections_that_are_open() {
    let (gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "", P)]).await;
    gateway.black_hole(BlackHole::Existing);
    assert!(is_silent(&client).await);
    let new = Client::connect(gateway.addr()).await;
    assert!(new.beat(&id).await, "a new connection works");
    gateway.lift_black_hole();
    assert!(is_silent(&client).await, "what was swallowed stays dead");
    assert!(!client.connection.is_finished(), "nothing was closed");
}

#[tokio::test]
async fn a_black_hole_for_all_swallows_new_connections_until_it_is_lifted() {
    let (gateway, client) = fresh().await;
    gateway.black_hole(BlackHole::All);
    assert!(is_silent(&client).await);
    let new = Client::connect(gateway.addr()).await;
    assert!(is_silent(&new).await);
    gateway.lift_black_hole();
    let new = Client::connect(gateway.addr()).await;
    new.registered(vec![proto("a", "", P)]).await;
}

#[tokio::test]
async fn a_delayed_answer_was_carried_out_before() {
    let (gateway, client) = fresh().await;
    gateway.delay(Rpc::Register, SILENCE);
    let before = tokio::time::Instant::now();
    let (id, ()) = tokio::join!(client.registered(vec![proto("a", "", P)]), async {
        gateway.wait_for("a/v1").await.expect("it is carried out at once");
    });
    assert!(before.elapsed() >= SILENCE);
    gateway.delay(Rpc::Register, Duration::ZERO);
    assert!(client.beat(&id).await);
}

#[tokio::test]
async fn a_lost_answer_was_carried_out_and_the_next_is_not_lost() {
    let (gateway, client) = fresh().await;
    gateway.lose_answer(Rpc::Register, 1);
    let message = prost::Message::encode_to_vec(&request("127.0.0.1:1", vec![proto("a", "", P)]));
    tokio::select! {
        answer = client.try_raw("Register", &message, &[]) => panic!("{answer:?}"),
        waited = gateway.wait_for_calls(Rpc::Register, 1) => waited.expect("it is carried out"),
    }
    assert_eq!(gateway.registrations().len(), 1);
    assert!(!gateway.log()[0].answered);
    client.registered(vec![proto("a", "", P)]).await;
    assert!(gateway.log()[1].answered);
}

#[tokio::test]
async fn a_call_that_is_made_to_fail_is_not_carried_out() {
    let (gateway, client) = fresh().await;
    gateway.fail_next(Rpc::Register, 2, Code::Unavailable, "going away: 50 % done\n");
    for _ in 0..2 {
        let answer = client.register(vec![proto("a", "", P)]).await;
        assert_eq!((answer.code, answer.message.as_str()), (14, "going away: 50 % done\n"));
    }
    assert!(gateway.registrations().is_empty());
    client.registered(vec![proto("a", "", P)]).await;
    let codes: Vec<Code> = gateway.log().iter().map(|call| call.code).collect();
    assert_eq!(codes, [Code::Unavailable, Code::Unavailable, Code::Ok]);
}

#[tokio::test]
async fn goaway_ends_a_connection_after_its_calls() {
    let (gateway, mut client) = fresh().await;
    let id = client.registered(vec![proto("a", "", P)]).await;
    gateway.delay(Rpc::Heartbeat, SILENCE);
    let (is_ok, ()) = tokio::join!(client.beat(&id), async {
        gateway.wait_for_calls(Rpc::Heartbeat, 1).await.expect("it came");
        gateway.goaway();
    });
    assert!(is_ok, "the call in flight is answered");
    let ended = tokio::time::timeout(LIMIT, &mut client.connection).await.expect("it closes");
    ended.expect("no panic").expect("closed in order");
    assert!(Client::connect(gateway.addr()).await.beat(&id).await, "nothing was forgotten");
}

#[tokio::test]
async fn an_overridden_ttl_is_echoed_and_used() {
    let (gateway, client) = fresh().await;
    gateway.ttl_override(Some(1));
    let answer: pb::RegisterResponse = client.register(vec![proto("a", "", P)]).await.ok();
    assert_eq!(answer.ttl_seconds, 1);
    let view = gateway.registrations().remove(0);
    assert_eq!((view.ttl, view.asked_ttl), (Duration::from_secs(1), Duration::ZERO));
    gateway.advance(Duration::from_secs(5));
    assert!(gateway.registrations().is_empty());
    gateway.ttl_override(None);
    let answer: pb::RegisterResponse = client.register(vec![proto("a", "", P)]).await.ok();
    assert_eq!(answer.ttl_seconds, 30);
}

#[tokio::test]
async fn a_registration_can_be_looked_into() {
    let (gateway, client) = fresh().await;
    let mut binding = crate::kit::caps(proto("", "", P), 7, 3);
    binding = crate::kit::imports(binding, &[("b.proto", P), ("a.proto", P)]);
    let id = client.registered(vec![binding]).await;
    let view = gateway.registrations().remove(0);
    assert_eq!((view.id.as_str(), view.slots), (id.as_str(), vec!["entry/v1".to_owned()]));
    let binding = &view.bindings[0];
    assert_eq!((binding.namespace.as_str(), binding.version.as_str(), binding.schema_len), ("", "", P.len()));
    assert_eq!((binding.max_concurrency, binding.max_concurrency_per_instance), (7, 3));
    assert_eq!(binding.imports, ["a.proto", "b.proto"]);
    assert_eq!(binding.hash, gateway.services()[0].hash);
    let call = gateway.log().remove(0);
    assert_eq!(
        (call.rpc, call.registration_id, call.authorized, call.connection),
        (Rpc::Register, Some(id), false, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiter_has_a_limit() {
    let limit = Duration::from_secs(3);
    let gateway = DevGateway::builder().wait_limit(limit).start().await.expect("it starts");
    let error = gateway.wait_for("a/v1").await.expect_err("nobody registers");
    assert_eq!(error.limit, limit);
    assert!(gateway.wait_for_beats("unknown", 1).await.is_err());
}

#[tokio::test]
async fn a_dropped_or_shut_down_gateway_is_gone() {
    for polite in [true, false] {
        let (gateway, client) = fresh().await;
        let addr = gateway.addr();
        if polite {
            gateway.shutdown().await;
            assert!(TcpStream::connect(addr).await.is_err());
        } else {
            drop(gateway);
        }
        assert!(
            tokio::time::timeout(LIMIT, client.try_raw("ListPeers", &[], &[])).await.expect("cut").is_none()
        );
    }
}
