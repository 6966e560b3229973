//! Rows C-071 to C-080: heartbeats, TTLs, ends.

use std::time::Duration;

use peerage_devgateway::{Cause, DevGateway, Event};

use crate::kit::{Client, P, P2, fresh, proto, request};

const MS: Duration = Duration::from_millis(1);

async fn with_ttl(client: &Client, seconds: u32) -> String {
    let mut request = request("127.0.0.1:1", vec![proto("a", "", P)]);
    request.ttl_seconds = seconds;
    let answer = client.call("Register", &request).await;
    answer.ok::<peerage_controlclient::pb::RegisterResponse>().registration_id
}

#[tokio::test]
async fn c071_a_heartbeat_moves_the_time() {
    let (gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "", P)]).await;
    let before = client.registrations().await[0].last_heartbeat_unix_ms;
    gateway.advance(250 * MS);
    assert!(client.beat(&id).await);
    assert_eq!(client.registrations().await[0].last_heartbeat_unix_ms, before + 250);
    gateway.wait_for_beats(&id, 1).await.expect("it was counted");
}

#[tokio::test]
async fn c072_an_unknown_id_is_no_error() {
    let (_gateway, client) = fresh().await;
    for id in ["000000000000000000000000", "", "\u{0}\n", &"x".repeat(100_000)] {
        assert!(!client.beat(id).await);
    }
}

#[tokio::test]
async fn c073_who_is_silent_for_longer_than_the_ttl_is_gone_after_the_next_round() {
    let (gateway, client) = fresh().await;
    let mut events = gateway.events();
    let id = with_ttl(&client, 1).await;
    gateway.advance(999 * MS);
    assert_eq!(client.registrations().await.len(), 1);
    gateway.advance(4_001 * MS);
    assert!(client.registrations().await.is_empty(), "the round after 5 s took it");
    assert!(matches!(events.next().await, Some(Event::Registered(_))));
    assert!(matches!(events.next().await, Some(Event::Gone(gone, Cause::Expired)) if gone.id == id));
}

#[tokio::test]
async fn a_ttl_that_is_just_used_up_is_not_over() {
    let (gateway, client) = fresh().await;
    with_ttl(&client, 5).await;
    gateway.advance(5_000 * MS);
    assert_eq!(client.registrations().await.len(), 1, "exactly 5 s are not more than 5 s");
    gateway.advance(4_999 * MS);
    assert_eq!(client.registrations().await.len(), 1, "between two rounds nobody looks");
    gateway.advance(MS);
    assert!(client.registrations().await.is_empty());
}

#[tokio::test]
async fn c074_who_beats_in_time_is_never_evicted() {
    let (gateway, client) = fresh().await;
    let id = with_ttl(&client, 1).await;
    for _ in 0..34 {
        gateway.advance(300 * MS);
        assert!(client.beat(&id).await);
    }
}

#[tokio::test]
async fn the_janitor_of_a_real_clock_makes_its_rounds() {
    let gateway = DevGateway::builder().janitor_period(20 * MS).start().await.expect("it starts");
    let client = Client::connect(gateway.addr()).await;
    let registered = tokio::time::Instant::now();
    with_ttl(&client, 1).await;
    gateway.wait_until(|gateway| gateway.registrations().is_empty()).await.expect("it is evicted");
    assert!(registered.elapsed() > 1_000 * MS, "{:?}", registered.elapsed());
}

#[tokio::test]
async fn c075_a_slot_goes_with_its_last_replica() {
    let (gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "v1", P)]).await;
    assert!(gateway.evict(&id) && !gateway.evict(&id));
    assert!(client.slots().await.is_empty());
    assert!(!client.beat(&id).await);
    client.registered(vec![proto("a", "v1", P2)]).await;
}

#[tokio::test]
async fn c076_a_restarted_gateway_knows_nobody() {
    let (gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "v2", P)]).await;
    gateway.restart(Duration::ZERO).await.expect("it serves again");
    let client = Client::connect(gateway.addr()).await;
    assert!(!client.beat(&id).await);
    assert!(client.services().await.stable_vn.is_empty());
}

#[tokio::test]
async fn c077_c078_deregistering_is_final_and_may_be_repeated() {
    let (_gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "", P)]).await;
    client.deregister(&id).await;
    assert!(!client.beat(&id).await);
    client.deregister(&id).await;
    client.deregister("never given").await;
}

#[tokio::test]
async fn c079_c080_replicas_leave_with_their_registration() {
    let (_gateway, client) = fresh().await;
    let first = client.registered(vec![proto("a", "", P)]).await;
    let second = client.registered(vec![proto("a", "", P), proto("b", "", P)]).await;
    client.deregister(&first).await;
    assert_eq!(client.slots().await, [("a/v1".into(), 1), ("b/v1".into(), 1)]);
    client.deregister(&second).await;
    assert!(client.slots().await.is_empty());
}
