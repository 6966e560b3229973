//! Rows C-082 to C-102, C-118 and C-119: lists, the stable alias, deprecation, peers.

use peerage_controlclient::pb;

use crate::kit::{Answer, Client, P, P2, fresh, proto, request};

async fn stable(client: &Client, namespace: &str) -> Option<u32> {
    client.services().await.stable_vn.get(namespace).copied()
}

async fn retract(client: &Client, namespace: &str, target: u32) -> Answer {
    let request = pb::RetractStableRequest { namespace: namespace.into(), target_v_n: target };
    client.call("RetractStable", &request).await
}

async fn deprecate(client: &Client, namespace: &str, version: &str, reason: &str) -> Answer {
    let request =
        pb::DeprecateRequest { namespace: namespace.into(), version: version.into(), reason: reason.into() };
    client.call("Deprecate", &request).await
}

async fn undeprecate(client: &Client, namespace: &str, version: &str) -> Answer {
    let request = pb::UndeprecateRequest { namespace: namespace.into(), version: version.into() };
    client.call("Undeprecate", &request).await
}

async fn reason(client: &Client, slot: &str) -> String {
    client.slot(slot).await.manual_deprecation_reason
}

#[tokio::test]
async fn c082_services_are_sorted_as_texts() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("b", "v1", P), proto("a", "v10", P), proto("a", "v2", P)]).await;
    let slots: Vec<String> = client.slots().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(slots, ["a/v10", "a/v2", "b/v1"]);
}

#[tokio::test]
async fn c084_c085_c086_stable_is_the_highest_number_that_ever_was() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "unstable", P)]).await;
    assert_eq!(stable(&client, "a").await, None);
    client.registered(vec![proto("a", "v1", P)]).await;
    let second = client.registered(vec![proto("a", "v2", P)]).await;
    assert_eq!(stable(&client, "a").await, Some(2));
    client.deregister(&second).await;
    assert_eq!(stable(&client, "a").await, Some(2));
    client.registered(vec![proto("b", "v3", P)]).await;
    client.registered(vec![proto("b", "v1", P)]).await;
    assert_eq!(stable(&client, "b").await, Some(3));
    client.registered(vec![proto("c", "v4294967297", P)]).await;
    assert_eq!(stable(&client, "c").await, Some(1), "32 bits are kept");
}

#[tokio::test]
async fn c087_c091_c092_a_retract_holds_until_the_higher_slot_is_made_again() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "v1", P)]).await;
    let first = client.registered(vec![proto("a", "v2", P)]).await;
    let done: pb::RetractStableResponse = retract(&client, "a", 1).await.ok();
    assert_eq!((done.prior_v_n, done.new_v_n), (2, 1));
    assert_eq!(stable(&client, "a").await, Some(1));
    let second = client.registered(vec![proto("a", "v2", P)]).await;
    assert_eq!(stable(&client, "a").await, Some(1), "one more replica makes no slot");
    client.deregister(&first).await;
    client.deregister(&second).await;
    client.registered(vec![proto("a", "v2", P)]).await;
    assert_eq!(stable(&client, "a").await, Some(2));
}

#[tokio::test]
async fn c088_c089_c090_a_retract_to_nowhere_is_refused() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "v3", P), proto("b", "v2", P)]).await;
    for (namespace, target, text) in [
        ("a", 2, "not currently registered"),
        ("b", 2, "not lower than current"),
        ("b", 5, "not lower than current"),
        ("", 1, "namespace"),
        ("a", 0, "target_vN must be >= 1"),
        ("zz", 1, "no stable set"),
    ] {
        let said = retract(&client, namespace, target).await.refused();
        assert!(said.contains(text), "{namespace} {target}: {said}");
    }
    assert_eq!(stable(&client, "a").await, Some(3));
}

#[tokio::test]
async fn c093_what_was_sent_is_listed_verbatim() {
    let (_gateway, client) = fresh().await;
    let mut request = request("h:1", vec![proto("a", "", P)]);
    request.instance_id = "x@y".into();
    request.ttl_seconds = 9;
    client.call("Register", &request).await.ok::<pb::RegisterResponse>();
    let listed = client.registrations().await.remove(0);
    assert_eq!((listed.addr.as_str(), listed.instance_id.as_str(), listed.ttl_seconds), ("h:1", "x@y", 9));
}

#[tokio::test]
async fn c094_c097_c098_c099_a_reason_shows_until_it_is_taken_back() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "v1", P)]).await;
    let prior: pb::UndeprecateResponse = undeprecate(&client, "a", "v1").await.ok();
    assert_eq!(prior.prior_reason, "", "none was there");
    for text in ["old", "older"] {
        deprecate(&client, "a", "v1", text).await.ok::<pb::DeprecateResponse>();
        assert_eq!(reason(&client, "a/v1").await, text);
    }
    let prior: pb::UndeprecateResponse = undeprecate(&client, "a", "v1").await.ok();
    assert_eq!(prior.prior_reason, "older");
    assert_eq!(reason(&client, "a/v1").await, "");
}

#[tokio::test]
async fn c095_c096_c101_an_absent_slot_is_refused_and_born_deprecated() {
    let (_gateway, client) = fresh().await;
    for (namespace, version, text, says) in [
        ("", "v1", "r", "namespace and version are required"),
        ("a", "", "r", "namespace and version are required"),
        ("a", "v1", "", "reason is required"),
        ("a", "v1", "early", "not currently registered"),
        ("b", "v1", "early", "not currently registered"),
    ] {
        let said = deprecate(&client, namespace, version, text).await.refused();
        assert!(said.contains(says), "{said}");
    }
    assert!(undeprecate(&client, "b", "v1").await.refused().contains("not currently registered"));
    client.registered(vec![proto("a", "v1", P), proto("b", "v1", P)]).await;
    assert_eq!(reason(&client, "a/v1").await, "early");
    assert_eq!(reason(&client, "b/v1").await, "", "refused, but forgotten");
}

#[tokio::test]
async fn c100_a_reason_outlives_its_slot() {
    let (_gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "v1", P)]).await;
    deprecate(&client, "a", "v1", "old").await.ok::<pb::DeprecateResponse>();
    client.deregister(&id).await;
    client.registered(vec![proto("a", "v1", P2)]).await;
    assert_eq!(reason(&client, "a/v1").await, "old");
}

#[tokio::test]
async fn c102_a_swap_drops_the_reason() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "unstable", P)]).await;
    deprecate(&client, "a", "unstable", "old").await.ok::<pb::DeprecateResponse>();
    client.registered(vec![proto("a", "unstable", P2)]).await;
    assert_eq!(reason(&client, "a/unstable").await, "");
}

#[tokio::test]
async fn c118_c119_there_are_no_peers_to_list_or_forget() {
    let (_gateway, client) = fresh().await;
    let peers: pb::ListPeersResponse = client.call("ListPeers", &pb::ListPeersRequest {}).await.ok();
    assert!(peers.peers.is_empty());
    for (node_id, text) in [("", "node_id"), ("x", "cluster not configured")] {
        let request = pb::ForgetPeerRequest { node_id: node_id.into() };
        assert!(client.call("ForgetPeer", &request).await.refused().contains(text));
    }
}
