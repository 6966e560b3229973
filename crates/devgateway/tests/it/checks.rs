//! Rows C-010 to C-052: what Register refuses, in which order, and what it accepts.

use peerage_controlclient::pb;
use peerage_devgateway::{DevGateway, Tiers};

use crate::kit::{
    Client, O, P, caps, fresh, graphql, http_server, imports, introspection, openapi, proto, request, started,
};

/// Refusals that need nothing but the request.
fn refusals() -> Vec<(&'static str, pb::RegisterRequest, &'static str)> {
    let at = |services| request("127.0.0.1:41001", services);
    let both = |other: pb::ServiceBinding| pb::ServiceBinding {
        proto_source: proto("a", "v1", P).proto_source,
        ..other
    };
    let broken = "syntax = \"proto3\"; import \"x.proto\"; package p;";
    let no_paths = r#"{"openapi":"3.0.0","info":{"title":"t","version":"1"}}"#;
    let no_title = r#"{"openapi":"3.0.0","info":{"version":"1"},"paths":{}}"#;
    vec![
        ("C-010", request("", vec![]), "addr is required"),
        ("C-011", at(vec![]), "at least one ServiceBinding"),
        ("C-012", at(vec![both(openapi("a", "", O))]), "may set only one of"),
        ("C-013", at(vec![both(graphql("a", "http://127.0.0.1:1/"))]), "may set only one of"),
        ("C-014", at(vec![proto("a", "", "")]), "must set"),
        ("C-015", at(vec![imports(proto("a", "", ""), &[("x.proto", P)])]), "must set"),
        ("C-016", at(vec![proto("a", "v1", P), proto("a", "v1", P)]), "duplicate (namespace="),
        ("C-017", at(vec![proto("a", "", P), proto("a", "v1", P)]), "duplicate (namespace="),
        ("C-018", at(vec![proto("a.b", "", P)]), "reserved character"),
        ("C-018", at(vec![proto("a*", "", P)]), "reserved character"),
        ("C-018", at(vec![proto("a>", "", P)]), "reserved character"),
        ("C-018", at(vec![proto("a/b", "", P)]), "reserved character"),
        ("C-018", at(vec![proto("$a", "", P)]), "reserved character"),
        ("C-021", at(vec![openapi("", "", no_title)]), "openapi: validate"),
        ("C-023", request("", vec![graphql("g", "http://127.0.0.1:1/")]), "addr is required"),
        ("C-024", at(vec![proto("a", "", "not a proto")]), "compile proto"),
        ("C-025", at(vec![proto("a", "", broken)]), "proto import not found"),
        ("C-029", at(vec![openapi("a", "", "{")]), "parse openapi spec"),
        ("C-030", at(vec![openapi("a", "", no_paths)]), "openapi: validate"),
        ("C-043", at(vec![proto("a", "stable", P)]), "computed alias"),
        ("C-044", at(vec![proto("a", "3", P)]), "must be \"unstable\" or \"vN\""),
        ("C-044", at(vec![proto("a", "V3", P)]), "must be \"unstable\" or \"vN\""),
        ("C-044", at(vec![proto("a", "v", P)]), "must be \"unstable\" or \"vN\""),
        ("C-044", at(vec![proto("a", "v-1", P)]), "must be \"unstable\" or \"vN\""),
        ("C-044", at(vec![proto("a", "vNext", P)]), "must be \"unstable\" or \"vN\""),
        ("C-044", at(vec![proto("a", "latest", P)]), "must be \"unstable\" or \"vN\""),
        ("C-044", at(vec![proto("a", "foo", P)]), "must be \"unstable\" or \"vN\""),
        ("C-045", at(vec![proto("a", "v0", P)]), "leading zeros"),
        ("C-045", at(vec![proto("a", "v01", P)]), "leading zeros"),
        ("C-046", at(vec![proto("a", "v99999999999999999999", P)]), "vN"),
        ("C-047", at(vec![proto("a", "v+3", P)]), "vN"),
    ]
}

#[tokio::test]
async fn refusals_come_in_the_order_of_the_checks_and_leave_nothing() {
    let (gateway, client) = fresh().await;
    for (row, request, text) in refusals() {
        let said = client.call("Register", &request).await.refused();
        assert!(said.contains(text), "{row}: {said}");
        assert!(gateway.registrations().is_empty() && gateway.services().is_empty(), "{row}");
    }
    assert!(gateway.stable().is_empty(), "{:?}", gateway.stable());
}

#[tokio::test]
async fn a_fault_of_the_first_binding_comes_before_one_of_the_second() {
    let (_gateway, client) = fresh().await;
    let said = client.register(vec![proto("a", "latest", P), proto("b", "", "no proto")]).await.refused();
    assert!(said.contains("version"), "{said}");
    let said = client.register(vec![proto("a.b", "latest", "no proto")]).await.refused();
    assert!(said.contains("compile proto"), "compiled before the namespace is looked at: {said}");
}

/// A Register that succeeds, and the slots that are there then.
async fn accepted(row: &str, client: &Client, services: Vec<pb::ServiceBinding>, slots: &[&str]) {
    let id = client.registered(services).await;
    let there: Vec<String> = client.slots().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(there, slots, "{row}");
    client.deregister(&id).await;
}

#[tokio::test]
async fn what_a_gateway_accepts_is_accepted() {
    let (_gateway, client) = fresh().await;
    let titled = |title: &str| O.replace("billing", title);
    let google = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; package p; \
                  message M { google.protobuf.Timestamp at = 1; }";
    let common = "syntax = \"proto3\"; import \"common/t.proto\"; package p; message M { c.T t = 1; }";
    let t = "syntax = \"proto3\"; package c; message T {}";
    for (row, services, slots) in [
        ("C-020", vec![openapi("", "", &titled("Pet Store"))], &["Pet_Store/v1"][..]),
        ("C-021", vec![openapi("", "", &titled("2nd-api"))], &["_2nd_api/v1"]),
        ("C-021", vec![openapi("", "", &titled("日本"))], &["openapi/v1"]),
        ("C-022", vec![proto("", "", P)], &["entry/v1"]),
        ("C-026", vec![proto("a", "", google)], &["a/v1"]),
        ("C-027", vec![imports(proto("a", "", common), &[("common/t.proto", t)])], &["a/v1"]),
        (
            "C-042",
            vec![proto("a", "", P), proto("a", "v2", P), proto("a", "v10", P)],
            &["a/v1", "a/v10", "a/v2"],
        ),
        ("C-042", vec![proto("a", "v100", P), proto("a", "unstable", P)], &["a/unstable", "a/v100"]),
        ("C-048", vec![openapi("", "v2", O)], &["billing/v2"]),
        ("C-049", vec![proto("a", "unstable", P), proto("a", "v1", P)], &["a/unstable", "a/v1"]),
    ] {
        accepted(row, &client, services, slots).await;
    }
}

#[tokio::test]
async fn c019_a_graphql_binding_without_namespace_is_refused_before_its_endpoint_is_asked() {
    let (_gateway, client) = fresh().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let said = client.register(vec![graphql("", &endpoint)]).await.refused();
    assert!(said.contains("requires explicit namespace"), "{said}");
    let accepted = tokio::select! {
        biased;
        _ = listener.accept() => true,
        () = std::future::ready(()) => false,
    };
    assert!(!accepted, "the endpoint was never called");
}

#[tokio::test]
async fn c028_an_import_of_the_entrys_name_replaces_the_entry() {
    let (gateway, client) = fresh().await;
    let other = "syntax = \"proto3\"; package other; service O { rpc X(M) returns (M); } message M {}";
    client.registered(vec![imports(proto("auth", "", P), &[("auth.proto", other)])]).await;
    let shadowed = gateway.services().remove(0).hash;
    client.registered(vec![proto("auth", "v2", other)]).await;
    assert_eq!(client.slot("auth/v2").await.hash_hex, shadowed, "the import is what is served");
}

#[tokio::test]
async fn c031_an_endpoint_that_refuses_fails_or_is_not_there_refuses_the_registration() {
    let (gateway, client) = fresh().await;
    let dead = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    let failing =
        http_server(Some("HTTP/1.1 500 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")).await;
    let errors = http_server(Some(
        "HTTP/1.1 200 OK\r\ncontent-length: 36\r\nconnection: close\r\n\r\n{\"errors\":[{\"message\":\"n\"}],\"data\":1}",
    ))
    .await;
    for endpoint in [dead, failing, errors, "no url".into(), "ftp://127.0.0.1/".into()] {
        let said = client.register(vec![graphql("g", &endpoint)]).await.refused();
        assert!(said.starts_with("controlplane: introspect "), "{endpoint}: {said}");
    }
    assert!(gateway.services().is_empty());
}

#[tokio::test]
async fn c032_an_endpoint_that_never_answers_ends_with_the_callers_deadline() {
    let (gateway, client) = fresh().await;
    let endpoint = http_server(None).await;
    let message = prost::Message::encode_to_vec(&request("127.0.0.1:1", vec![graphql("g", &endpoint)]));
    let answer = client.raw("Register", &message, &[("grpc-timeout", "300m")]).await;
    assert!(matches!(answer.code, 1 | 2 | 4), "{}", answer.message);
    assert!(gateway.registrations().is_empty());
}

#[tokio::test]
async fn c033_c034_the_ttl_is_the_default_or_what_was_asked() {
    let (_gateway, client) = fresh().await;
    for (asked, echoed) in [(0, 30), (7, 7), (u32::MAX, u32::MAX)] {
        let mut request = request("127.0.0.1:1", vec![proto("a", "", P)]);
        request.ttl_seconds = asked;
        let answer: pb::RegisterResponse = client.call("Register", &request).await.ok();
        assert_eq!(answer.ttl_seconds, echoed);
        let listed = client.registrations().await;
        assert_eq!(listed[0].ttl_seconds, echoed);
        client.deregister(&answer.registration_id).await;
    }
}

#[tokio::test]
async fn c035_two_equal_calls_make_two_registrations() {
    let (_gateway, client) = fresh().await;
    let ids =
        [client.registered(vec![proto("a", "", P)]).await, client.registered(vec![proto("a", "", P)]).await];
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert!(id.len() == 24 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{id}");
    }
    assert_eq!(client.slots().await, [("a/v1".into(), 2)]);
}

#[tokio::test]
async fn c036_one_call_with_three_bindings_is_one_registration() {
    let (_gateway, client) = fresh().await;
    client.registered(vec![proto("c", "", P), openapi("a", "v2", O), proto("b", "unstable", P)]).await;
    let listed = client.registrations().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].namespaces, ["c/v1", "a/v2", "b/unstable"]);
}

#[tokio::test]
async fn c037_c041_the_address_is_not_tried_and_kept_as_it_was() {
    let (_gateway, client) = fresh().await;
    for addr in ["127.0.0.1:1", "h:1/", "http://h:1//"] {
        let request = request(addr, vec![openapi("a", "", O)]);
        let id = client.call("Register", &request).await.ok::<pb::RegisterResponse>().registration_id;
        assert_eq!(client.registrations().await[0].addr, addr);
        client.deregister(&id).await;
    }
}

#[tokio::test]
async fn c038_one_binding_that_conflicts_takes_the_others_back() {
    let (gateway, client) = fresh().await;
    client.registered(vec![proto("old", "", P)]).await;
    let said = client.register(vec![proto("new", "", P), openapi("old", "", O)]).await.refused();
    assert!(said.contains("cannot re-register as"), "{said}");
    assert_eq!(client.slots().await, [("old/v1".into(), 1)]);
    assert_eq!(gateway.registrations().len(), 1);
    assert_eq!(gateway.stable()["new"], 1, "the stable number is not taken back");
}

#[tokio::test]
async fn c039_equal_caps_join() {
    let (_gateway, client) = fresh().await;
    for _ in 0..2 {
        client.registered(vec![caps(proto("a", "", P), 7, 3)]).await;
    }
    assert_eq!(client.slots().await, [("a/v1".into(), 2)]);
}

#[tokio::test]
async fn c040_the_caps_of_graphql_bindings_are_ignored() {
    let (_gateway, client) = fresh().await;
    let endpoint = http_server(Some(introspection("A"))).await;
    for total in [1, 2] {
        client.registered(vec![caps(graphql("g", &endpoint), total, 0)]).await;
    }
    assert_eq!(client.slots().await, [("g/v1".into(), 2)]);
}

#[tokio::test]
async fn c050_c051_c052_versions_outside_the_tiers_are_refused_by_the_name_of_their_tier() {
    for (tiers, unstable, numbered) in
        [(Tiers::numbered(), false, true), (Tiers::unstable(), true, false), (Tiers::none(), false, false)]
    {
        let (_gateway, client) = started(DevGateway::builder().tiers(tiers)).await;
        for (version, tier, is_accepted) in
            [("unstable", "\"unstable\"", unstable), ("v1", "\"vN\"", numbered)]
        {
            let answer = client.register(vec![proto("a", version, P)]).await;
            if is_accepted {
                answer.ok::<pb::RegisterResponse>();
            } else {
                let said = answer.refused();
                assert!(said.contains("--allow-tier policy") && said.contains(tier), "{said}");
            }
        }
    }
}

#[tokio::test]
async fn a_namespace_that_is_no_graphql_name_is_refused_and_still_raises_stable() {
    let (gateway, client) = fresh().await;
    let said = client.register(vec![proto("my-service", "", P)]).await.refused();
    assert!(said.contains(
        "graphql.NewSchema: Names must match /^[_a-zA-Z][_a-zA-Z0-9]*$/ but \"my-service\" does not."
    ));
    assert!(gateway.services().is_empty() && gateway.registrations().is_empty());
    assert_eq!(gateway.stable()["my-service"], 1);
    client.registered(vec![proto("_x-y", "", P)]).await;
}

#[tokio::test]
async fn two_services_with_unary_methods_in_one_entry_cannot_be_built() {
    let (_gateway, client) = fresh().await;
    let two = format!("{P} service Second {{ rpc Hi(Req) returns (Res); }}");
    assert!(client.register(vec![proto("a", "", &two)]).await.refused().contains("version sub-group"));
    let streams = format!("{P} service Second {{ rpc Hi(Req) returns (stream Res); }}");
    client.registered(vec![proto("a", "", &streams)]).await;
}
