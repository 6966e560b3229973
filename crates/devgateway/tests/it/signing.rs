//! Rows C-103 to C-111: who may have a subscription token signed.

use std::time::Duration;

use peerage_controlclient::pb;
use peerage_controlclient::pb::SubscribeAuthCode as Code;
use peerage_devgateway::{DevGateway, DevGatewayBuilder};
use prost::Message;

use crate::kit::{Answer, Client, started};

/// Hexadecimal of `signer` and of `admin`.
const SIGNER: &str = "Bearer 7369676e6572";
const ADMIN: &str = "Bearer 61646d696e";

fn builder() -> DevGatewayBuilder {
    DevGateway::builder().signer_secret("signer").admin_token("admin").subscription_secret("", "legacy-key")
}

async fn sign(client: &Client, bearer: Option<&str>, channel: &str, kid: &str) -> Answer {
    let request =
        pb::SignSubscriptionTokenRequest { channel: channel.into(), kid: kid.into(), ttl_seconds: 5 };
    let headers: Vec<_> = bearer.map(|bearer| ("authorization", bearer)).into_iter().collect();
    client.raw("SignSubscriptionToken", &request.encode_to_vec(), &headers).await
}

async fn signed(client: &Client, bearer: Option<&str>, kid: &str) -> pb::SignSubscriptionTokenResponse {
    sign(client, bearer, "events.x", kid).await.ok()
}

#[tokio::test]
async fn c103_c106_without_a_good_bearer_nothing_is_signed() {
    let (_gateway, client) = started(builder()).await;
    for bearer in
        [None, Some("Bearer 00"), Some("Bearer signe"), Some("bearer 7369676e6572"), Some("Bearer"), Some("")]
    {
        let answer = signed(&client, bearer, "").await;
        assert_eq!(answer.code(), Code::Denied, "{bearer:?}");
        assert_eq!((answer.hmac.as_str(), answer.timestamp_unix, answer.kid.as_str()), ("", 0, ""));
        assert!(!answer.reason.is_empty());
    }
    let (_gateway, client) = started(DevGateway::builder().subscription_secret("", "k")).await;
    for bearer in [SIGNER, "Bearer ", "Bearer k"] {
        assert_eq!(
            signed(&client, Some(bearer), "").await.code(),
            Code::Denied,
            "nobody has a secret that is not set"
        );
    }
}

#[tokio::test]
async fn c104_c105_the_signer_secret_and_the_admin_token_open() {
    let (_gateway, client) = started(builder()).await;
    for bearer in [SIGNER, ADMIN, "Bearer signer", "Bearer   7369676e6572  "] {
        let answer = signed(&client, Some(bearer), "").await;
        assert_eq!(answer.code(), Code::Ok, "{bearer}");
        assert!(!answer.hmac.is_empty() && answer.timestamp_unix > 0);
    }
    let (_gateway, client) =
        started(DevGateway::builder().admin_token("admin").subscription_secret("", "k")).await;
    assert_eq!(signed(&client, Some(ADMIN), "").await.code(), Code::Ok);
}

#[tokio::test]
async fn c107_an_empty_channel_is_looked_at_after_the_bearer() {
    let (_gateway, client) = started(builder()).await;
    let answer: pb::SignSubscriptionTokenResponse = sign(&client, None, "", "").await.ok();
    assert_eq!(answer.code(), Code::Denied);
    assert!(sign(&client, Some(SIGNER), "", "").await.refused().contains("channel is required"));
}

#[tokio::test]
async fn c108_without_a_secret_or_a_need_there_is_no_token() {
    for builder in [builder().insecure_subscriptions(), DevGateway::builder().signer_secret("signer")] {
        let (_gateway, client) = started(builder).await;
        let answer = signed(&client, Some(SIGNER), "").await;
        assert_eq!(answer.code(), Code::NotConfigured);
        assert_eq!((answer.hmac.as_str(), answer.timestamp_unix), ("", 0));
    }
}

#[tokio::test]
async fn c109_c110_c111_the_key_id_chooses_the_secret() {
    let (gateway, client) = started(builder().subscription_secret("v2", "rotated-key")).await;
    // The moment of the recorded vectors.
    gateway.advance(Duration::ZERO);
    let answer = signed(&client, Some(SIGNER), "v9").await;
    assert_eq!((answer.code(), answer.kid.as_str(), answer.hmac.as_str()), (Code::UnknownKid, "v9", ""));
    let answer = signed(&client, Some(SIGNER), "v2").await;
    assert_eq!((answer.code(), answer.kid.as_str()), (Code::Ok, "v2"));
    let message = format!("v2\nevents.x\n{}", answer.timestamp_unix);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"rotated-key");
    let tag =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &answer.hmac).expect("base64");
    aws_lc_rs::hmac::verify(&key, message.as_bytes(), &tag).expect("it verifies");

    let (_gateway, client) =
        started(DevGateway::builder().signer_secret("signer").subscription_secret("v2", "k")).await;
    assert_eq!(signed(&client, Some(SIGNER), "").await.code(), Code::UnknownKid);
}
