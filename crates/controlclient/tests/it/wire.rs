//! The messages as bytes, and the `.proto` against the tables of controlplane §2.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;
use peerage_controlclient::pb;
use prost::Message;

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn both_ways<M: Message + Default + PartialEq + Debug>(message: &M, hex: &str) {
    assert_eq!(message.encode_to_vec(), unhex(hex), "{message:?}");
    assert_eq!(M::decode(&unhex(hex)[..]).unwrap(), *message);
}

#[test]
fn c002_the_vectors_of_section_2_2_both_ways() {
    both_ways(
        &pb::RegisterRequest {
            addr: "127.0.0.1:50051".into(),
            services: vec![pb::ServiceBinding {
                namespace: "greeter".into(),
                proto_source: Bytes::from("syntax = \"proto3\";"),
                proto_imports: BTreeMap::from([("a.proto".into(), Bytes::from("x"))]),
                version: "v1".into(),
                max_concurrency: 7,
                max_concurrency_per_instance: 3,
                ..pb::ServiceBinding::default()
            }],
            ttl_seconds: 30,
            instance_id: "i-1".into(),
        },
        "0a0f3132372e302e302e313a353030353112330a0767726565746572121273796e746178203d202270726f746f33223b1a0c0a07612e70726f746f1201782202763138074003181e2203692d31",
    );
    both_ways(
        &pb::RegisterRequest {
            addr: "http://h:1".into(),
            services: vec![
                pb::ServiceBinding {
                    namespace: "b".into(),
                    openapi_spec: Bytes::from("{}"),
                    ..pb::ServiceBinding::default()
                },
                pb::ServiceBinding {
                    namespace: "p".into(),
                    version: "unstable".into(),
                    graphql_endpoint: "http://h/g".into(),
                    ..pb::ServiceBinding::default()
                },
            ],
            ..pb::RegisterRequest::default()
        },
        "0a0a687474703a2f2f683a3112070a01622a027b7d12190a01702208756e737461626c65320a687474703a2f2f682f67",
    );
    let registration_id = "0123456789abcdef01234567".to_owned();
    both_ways(
        &pb::RegisterResponse { registration_id: registration_id.clone(), ttl_seconds: 30 },
        "0a18303132333435363738396162636465663031323334353637101e",
    );
    let id = "0a18303132333435363738396162636465663031323334353637";
    both_ways(&pb::HeartbeatRequest { registration_id: registration_id.clone() }, id);
    both_ways(&pb::DeregisterRequest { registration_id }, id);
    both_ways(&pb::HeartbeatResponse { ok: true }, "0801");
    both_ways(&pb::HeartbeatResponse { ok: false }, "");
    both_ways(
        &pb::ListServicesResponse {
            services: vec![pb::ServiceInfo {
                namespace: "greeter".into(),
                version: "v2".into(),
                hash_hex: "ab".into(),
                replica_count: 2,
                manual_deprecation_reason: "old".into(),
            }],
            stable_vn: BTreeMap::from([("greeter".into(), 2)]),
        },
        "0a180a0767726565746572120276321a02616220022a036f6c641a0b0a07677265657465721002",
    );
    both_ways(
        &pb::Registration {
            registration_id: "r".into(),
            addr: "a".into(),
            instance_id: "i".into(),
            ttl_seconds: 30,
            last_heartbeat_unix_ms: 1_700_000_000_123,
            namespaces: vec!["greeter/v1".into()],
        },
        "0a01721201611a0169201e28fbd095ffbc31320a677265657465722f7631",
    );
    both_ways(
        &pb::RetractStableRequest { namespace: "greeter".into(), target_v_n: 1 },
        "0a07677265657465721001",
    );
    both_ways(&pb::RetractStableResponse { prior_v_n: 2, new_v_n: 1 }, "08021001");
    both_ways(
        &pb::SignSubscriptionTokenResponse {
            code: pb::SubscribeAuthCode::Ok.into(),
            hmac: "aGk=".into(),
            timestamp_unix: 1_700_000_000,
            kid: "v2".into(),
            ..pb::SignSubscriptionTokenResponse::default()
        },
        "0801120461476b3d1880e2cfaa062a027632",
    );
}

#[test]
fn c003_an_empty_heartbeat_response_is_no() {
    assert!(!pb::HeartbeatResponse::decode(&b""[..]).unwrap().ok);
}

#[test]
fn c004_a_text_in_the_reserved_field_is_passed_over() {
    // Field 2 with the text `prod`, between the two that are read.
    let bytes = unhex("0a030a016112047072 6f641a050a01611001".replace(' ', "").as_str());
    let list = pb::ListServicesResponse::decode(&bytes[..]).unwrap();
    assert_eq!(list.services[0].namespace, "a");
    assert_eq!(list.stable_vn, BTreeMap::from([("a".into(), 1)]));
}

/// Number, name and type.
type Field = (i32, &'static str, &'static str);

/// Each message's fields, as the tables of section 2.1 have them.
const FIELDS: &[(&str, &[Field])] = &[
    (
        "RegisterRequest",
        &[
            (1, "addr", "string"),
            (2, "services", "repeated ServiceBinding"),
            (3, "ttl_seconds", "uint32"),
            (4, "instance_id", "string"),
        ],
    ),
    (
        "ServiceBinding",
        &[
            (1, "namespace", "string"),
            (2, "proto_source", "bytes"),
            (3, "proto_imports", "map<string, bytes>"),
            (4, "version", "string"),
            (5, "openapi_spec", "bytes"),
            (6, "graphql_endpoint", "string"),
            (7, "max_concurrency", "uint32"),
            (8, "max_concurrency_per_instance", "uint32"),
        ],
    ),
    ("RegisterResponse", &[(1, "registration_id", "string"), (2, "ttl_seconds", "uint32")]),
    ("HeartbeatRequest", &[(1, "registration_id", "string")]),
    ("HeartbeatResponse", &[(1, "ok", "bool")]),
    ("DeregisterRequest", &[(1, "registration_id", "string")]),
    ("DeregisterResponse", &[]),
    ("ListRegistrationsRequest", &[]),
    ("ListRegistrationsResponse", &[(1, "registrations", "repeated Registration")]),
    (
        "Registration",
        &[
            (1, "registration_id", "string"),
            (2, "addr", "string"),
            (3, "instance_id", "string"),
            (4, "ttl_seconds", "uint32"),
            (5, "last_heartbeat_unix_ms", "uint64"),
            (6, "namespaces", "repeated string"),
        ],
    ),
    ("ListPeersRequest", &[]),
    ("ListPeersResponse", &[(1, "peers", "repeated Peer")]),
    ("Peer", &[(1, "node_id", "string"), (2, "name", "string"), (3, "joined_unix_ms", "int64")]),
    ("ForgetPeerRequest", &[(1, "node_id", "string")]),
    ("ForgetPeerResponse", &[(1, "removed", "bool"), (2, "new_replicas", "uint32")]),
    ("ListServicesRequest", &[]),
    (
        "ListServicesResponse",
        &[(1, "services", "repeated ServiceInfo"), (3, "stable_vn", "map<string, uint32>")],
    ),
    (
        "ServiceInfo",
        &[
            (1, "namespace", "string"),
            (2, "version", "string"),
            (3, "hash_hex", "string"),
            (4, "replica_count", "uint32"),
            (5, "manual_deprecation_reason", "string"),
        ],
    ),
    (
        "SignSubscriptionTokenRequest",
        &[(1, "channel", "string"), (2, "ttl_seconds", "int64"), (3, "kid", "string")],
    ),
    (
        "SignSubscriptionTokenResponse",
        &[
            (1, "code", "SubscribeAuthCode"),
            (2, "hmac", "string"),
            (3, "timestamp_unix", "int64"),
            (4, "reason", "string"),
            (5, "kid", "string"),
        ],
    ),
    ("RetractStableRequest", &[(1, "namespace", "string"), (2, "target_v_n", "uint32")]),
    ("RetractStableResponse", &[(1, "prior_v_n", "uint32"), (2, "new_v_n", "uint32")]),
    ("DeprecateRequest", &[(1, "namespace", "string"), (2, "version", "string"), (3, "reason", "string")]),
    ("DeprecateResponse", &[]),
    ("UndeprecateRequest", &[(1, "namespace", "string"), (2, "version", "string")]),
    ("UndeprecateResponse", &[(1, "prior_reason", "string")]),
];

fn descriptor() -> protox::prost_reflect::DescriptorPool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = protox::compile(["gateway/controlplane/v1/control.proto"], [root]).unwrap();
    protox::prost_reflect::DescriptorPool::from_file_descriptor_set(files).unwrap()
}

#[test]
fn c005_the_proto_has_the_fields_of_the_tables() {
    let pool = descriptor();
    let kind = |field: &protox::prost_reflect::FieldDescriptor| {
        use protox::prost_reflect::Kind;
        let name = |kind: Kind| match kind {
            Kind::Message(message) => message.name().to_owned(),
            Kind::Enum(kind) => kind.name().to_owned(),
            scalar => format!("{scalar:?}").to_lowercase(),
        };
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { panic!("a map has entries") };
            return format!(
                "map<{}, {}>",
                name(entry.map_entry_key_field().kind()),
                name(entry.map_entry_value_field().kind())
            );
        }
        let repeated = if field.is_list() { "repeated " } else { "" };
        format!("{repeated}{}", name(field.kind()))
    };
    let messages: BTreeMap<String, Vec<(i32, String, String)>> = pool
        .all_messages()
        .filter(|message| !message.is_map_entry())
        .map(|message| {
            assert_eq!(message.oneofs().count(), 0, "{}", message.name());
            let fields = message
                .fields()
                .map(|field| (i32::try_from(field.number()).unwrap(), field.name().to_owned(), kind(&field)))
                .collect();
            (message.name().to_owned(), fields)
        })
        .collect();
    let wanted: BTreeMap<String, Vec<(i32, String, String)>> = FIELDS
        .iter()
        .map(|(message, fields)| {
            let fields =
                fields.iter().map(|(number, name, kind)| (*number, (*name).into(), (*kind).into())).collect();
            ((*message).to_owned(), fields)
        })
        .collect();
    assert_eq!(messages, wanted);

    let list = pool.get_message_by_name("gateway.controlplane.v1.ListServicesResponse").unwrap();
    assert!(list.reserved_ranges().any(|range| range == (2..3)));
    assert!(list.reserved_names().any(|name| name == "environment"));

    let service = pool.services().next().unwrap();
    assert_eq!(service.full_name(), "gateway.controlplane.v1.ControlPlane");
    let methods: Vec<String> = service
        .methods()
        .map(|method| {
            assert!(!method.is_client_streaming() && !method.is_server_streaming());
            assert_eq!(method.input().name(), format!("{}Request", method.name()));
            assert_eq!(method.output().name(), format!("{}Response", method.name()));
            method.name().to_owned()
        })
        .collect();
    let wanted = [
        "Register",
        "Heartbeat",
        "Deregister",
        "ListRegistrations",
        "ListPeers",
        "ForgetPeer",
        "ListServices",
        "SignSubscriptionToken",
        "RetractStable",
        "Deprecate",
        "Undeprecate",
    ];
    assert_eq!(methods, wanted);
}

#[test]
fn c006_the_codes_of_a_token_have_their_numbers() {
    let wanted = [
        "UNSPECIFIED",
        "OK",
        "TOO_OLD",
        "TOO_NEW",
        "SIGNATURE_MISMATCH",
        "MALFORMED",
        "UNKNOWN_KID",
        "DENIED",
        "UNAVAILABLE",
        "NOT_CONFIGURED",
    ];
    for (number, name) in (0_i32..).zip(wanted) {
        let code = pb::SubscribeAuthCode::try_from(number).unwrap();
        assert_eq!(code.as_str_name(), format!("SUBSCRIBE_AUTH_CODE_{name}"));
    }
    assert!(pb::SubscribeAuthCode::try_from(10).is_err());
    let values = descriptor().get_enum_by_name("gateway.controlplane.v1.SubscribeAuthCode").unwrap();
    assert_eq!(values.values().count(), 10);
}
