//! Rows C-053 to C-069: who may join a slot.

use peerage_controlclient::pb;
use peerage_devgateway::Kind;

use crate::kit::{
    O, P, P2, caps, fresh, graphql, http_server, imports, introspection, openapi, proto, request,
};

#[tokio::test]
async fn c053_two_addresses_share_a_slot() {
    let (_gateway, client) = fresh().await;
    for addr in ["127.0.0.1:1", "127.0.0.1:2"] {
        let request = request(addr, vec![proto("a", "v1", P)]);
        client.call("Register", &request).await.ok::<pb::RegisterResponse>();
    }
    assert_eq!(client.slots().await, [("a/v1".into(), 2)]);
}

#[tokio::test]
async fn c054_c062_a_numbered_slot_keeps_its_schema_until_it_is_empty() {
    let (_gateway, client) = fresh().await;
    let id = client.registered(vec![proto("a", "v1", P)]).await;
    let said = client.register(vec![proto("a", "v1", P2)]).await.refused();
    assert!(said.contains("different schema hash") && said.contains("vN is locked"), "{said}");
    assert_eq!(client.slots().await, [("a/v1".into(), 1)]);
    client.deregister(&id).await;
    client.registered(vec![proto("a", "v1", P2)]).await;
}

#[tokio::test]
async fn c055_c056_other_caps_are_refused_and_another_hash_comes_first() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![caps(proto("a", "v1", P), 64, 16)]).await;
    let said = client.register(vec![caps(proto("a", "v1", P), 128, 16)]).await.refused();
    assert!(said.contains("different concurrency caps"), "{said}");
    assert!(said.contains("have max=64/inst=16, got max=128/inst=16"), "{said}");
    let said = client.register(vec![caps(proto("a", "v1", P2), 1, 1)]).await.refused();
    assert!(said.contains("different schema hash"), "{said}");
    let said = client.register(vec![proto("a", "v1", P)]).await.refused();
    assert!(said.contains("got max=0/inst=0"), "0 is not the default's number: {said}");
}

#[tokio::test]
async fn c057_another_kind_is_refused_first() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "v1", P)]).await;
    let said = client.register(vec![openapi("a", "v1", O)]).await.refused();
    assert!(said.contains("already registered as proto; cannot re-register as openapi"), "{said}");
    assert!(said.starts_with("openapi: "), "{said}");
}

#[tokio::test]
async fn c058_c061_an_unstable_slot_is_swapped_and_the_evicted_beat_on() {
    let (_gateway, client) = fresh().await;
    let first = client.registered(vec![proto("a", "unstable", P)]).await;
    let before = client.slot("a/unstable").await.hash_hex;
    client.registered(vec![proto("a", "unstable", P2)]).await;
    let after = client.slot("a/unstable").await;
    assert_eq!(after.replica_count, 1);
    assert_ne!(after.hash_hex, before);
    assert!(client.beat(&first).await, "it stays registered");
    assert_eq!(client.slot("a/unstable").await.replica_count, 1);
    client.deregister(&first).await;
    assert_eq!(client.slot("a/unstable").await.replica_count, 1, "it had no replica there any more");
}

#[tokio::test]
async fn c059_an_unstable_slot_may_change_its_kind() {
    let (gateway, client) = fresh().await;
    client.registered(vec![proto("a", "unstable", P)]).await;
    client.registered(vec![openapi("a", "unstable", O)]).await;
    assert_eq!(gateway.services().iter().map(|slot| slot.kind).collect::<Vec<_>>(), [Kind::OpenApi]);
}

#[tokio::test]
async fn c060_an_unstable_slot_is_joined_with_equal_caps_and_swapped_with_others() {
    let (_gateway, client) = fresh().await;
    for (total, replicas) in [(0, 1), (0, 2), (1, 1)] {
        client.registered(vec![caps(proto("a", "unstable", P), total, 0)]).await;
        assert_eq!(client.slots().await, [("a/unstable".into(), replicas)]);
    }
}

#[tokio::test]
async fn c063_c083_the_bytes_of_an_openapi_document_are_its_hash() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![openapi("a", "", O)]).await;
    // sha256sum of the bytes.
    assert_eq!(
        client.slot("a/v1").await.hash_hex,
        "646b5cdafb8ff4f1578a0832f20bbff3eb338c69fc078e6bb9ca41bd7aabff2e"
    );
    let said = client.register(vec![openapi("a", "", &O.replace("\"1\"", "\"2\""))]).await.refused();
    assert!(said.contains("different schema hash"), "{said}");
}

#[tokio::test]
async fn c064_one_enum_name_changes_a_graphql_schema() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![graphql("g", &http_server(Some(introspection("A"))).await)]).await;
    let other = http_server(Some(introspection("B"))).await;
    let said = client.register(vec![graphql("g", &other)]).await.refused();
    assert!(said.contains("different schema hash"), "{said}");
    // sha256sum of the bytes of `data`.
    assert_eq!(
        client.slot("g/v1").await.hash_hex,
        "f9a6d34bbede371706f65a0b926b726d395da2a2d6760807010181da0371a856"
    );
}

#[tokio::test]
async fn c065_a_comment_changes_a_protobuf_schema() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "v1", P)]).await;
    let said = client.register(vec![proto("a", "v1", &format!("// hello\n{P}"))]).await.refused();
    assert!(said.contains("different schema hash"), "{said}");
}

#[tokio::test]
async fn c066_a_file_that_nobody_imports_changes_nothing_and_one_that_is_does() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("a", "v1", P)]).await;
    client.registered(vec![imports(proto("a", "v1", P), &[("unused.proto", "nonsense")])]).await;
    assert_eq!(client.slots().await, [("a/v1".into(), 2)]);
    let importing = "syntax = \"proto3\"; import \"x.proto\"; package p;";
    let x = "syntax = \"proto3\"; package x;";
    client.registered(vec![imports(proto("b", "v1", importing), &[("x.proto", x)])]).await;
    let changed = imports(proto("b", "v1", importing), &[("x.proto", "syntax = \"proto3\"; package y;")]);
    assert!(client.register(vec![changed]).await.refused().contains("different schema hash"));
}

#[tokio::test]
async fn c067_c068_c069_namespaces_and_versions_have_slots_of_their_own() {
    let (_gateway, client) = fresh().await;
    client
        .registered(vec![proto("a", "v1", P), proto("a", "v2", P2), proto("b", "", P), proto("_x", "", P)])
        .await;
    let services = client.services().await.services;
    let named: Vec<String> =
        services.iter().map(|info| format!("{}/{}", info.namespace, info.version)).collect();
    assert_eq!(named, ["_x/v1", "a/v1", "a/v2", "b/v1"]);
    assert_ne!(services[1].hash_hex, services[3].hash_hex, "the namespace is in the hash");
}
