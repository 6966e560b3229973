//! Rows C-001 to C-009 that concern the gateway: paths, sizes, bytes that are no message.

use peerage_controlclient::pb;
use peerage_devgateway::{Code, Rpc};
use prost::Message;

use crate::kit::{P, fresh, graphql, proto, request};

#[tokio::test]
async fn c001_each_of_the_eleven_paths_is_answered() {
    let (gateway, client) = fresh().await;
    for rpc in Rpc::ALL {
        let answer = client.raw(rpc.name(), &[], &[]).await;
        assert!(matches!(answer.code, 0 | 2), "{rpc}: {} {}", answer.code, answer.message);
        assert_eq!(gateway.count(rpc), 1);
    }
}

#[tokio::test]
async fn c007_a_request_over_four_mebibytes_is_exhausting() {
    let (gateway, client) = fresh().await;
    let fill = |len: usize| {
        let mut request = request("127.0.0.1:1", vec![graphql("g", "")]);
        request.instance_id = "x".repeat(len);
        request.encode_to_vec()
    };
    let overhead = fill(4_194_000).len() - 4_194_000;
    let largest = fill(4_194_304 - overhead);
    assert_eq!(largest.len(), 4_194_304);
    let answer = client.raw("Register", &largest, &[]).await;
    assert!(answer.refused().contains("must set"), "the largest request reaches the handler");
    let answer = client.raw("Register", &fill(4_194_305 - overhead), &[]).await;
    assert_eq!(answer.code, 8, "RESOURCE_EXHAUSTED: {}", answer.message);
    assert!(answer.message.contains("larger than max"), "{}", answer.message);
    assert!(gateway.registrations().is_empty());
    assert_eq!(gateway.log().last().map(|call| call.code), Some(Code::ResourceExhausted));
}

#[tokio::test]
async fn c008_an_unknown_method_is_unimplemented() {
    let (_gateway, client) = fresh().await;
    assert_eq!(client.raw("Nope", &[], &[]).await.code, 12);
}

#[tokio::test]
async fn c009_a_namespace_that_is_not_utf_8_is_no_message() {
    let (gateway, client) = fresh().await;
    let mut bytes = request("127.0.0.1:1", vec![proto("ab", "v1", P)]).encode_to_vec();
    let at = bytes.windows(4).position(|window| window == b"\x0a\x02ab").expect("field 1, two bytes");
    bytes[at + 2] = 0xff;
    assert!(pb::RegisterRequest::decode(&bytes[..]).is_err(), "the bytes are bad");
    let answer = client.raw("Register", &bytes, &[]).await;
    assert_eq!(answer.code, 13, "INTERNAL: {}", answer.message);
    assert!(gateway.registrations().is_empty());
}
