//! Subscription tokens (controlplane §3.18).

use std::time::Duration;

use peerage_controlclient::token::{DEFAULT_SKEW, Kid, Secrets, SubscribeAuthCode, Token};

const NOW: i64 = 1_700_000_000;

#[test]
fn c112_the_vectors_of_section_3_18() {
    let rows = [
        ("legacy-key", "", "events.x", NOW, "L7VAFHMtA890F9T/mBDEQB8AUsQGfOrZr054IZoGpkc="),
        ("rotated-key", "v2", "events.x", NOW, "e4sTcSex1FIFdbrzm0SL4vVeix1xYh4Amu+Yuk5UBdg="),
        ("k", "", "events.greeter.Greetings.alice", 1, "6GUq0kOyZvlFkbFazLQKiTSjgBdIipSpa99QfGEpeCk="),
    ];
    for (secret, kid, channel, timestamp, hmac) in rows {
        let secrets =
            if kid.is_empty() { Secrets::new().unnamed(secret) } else { Secrets::new().keyed(kid, secret) };
        assert_eq!(secrets.sign(kid, channel, timestamp).as_deref(), Some(hmac), "{secret}");
        let token = Token::new(kid, hmac, timestamp);
        assert_eq!(secrets.verify(&token, channel, timestamp, DEFAULT_SKEW), SubscribeAuthCode::Ok);
    }
}

#[test]
fn c113_a_token_of_one_key_is_not_one_of_another() {
    let secrets = Secrets::new().keyed("a", "one").keyed("b", "two");
    let hmac = secrets.sign("a", "c", NOW).unwrap();
    let code = secrets.verify(&Token::new("b", &hmac, NOW), "c", NOW, DEFAULT_SKEW);
    assert_eq!(code, SubscribeAuthCode::SignatureMismatch);
    // Not even with the same secret: the id is signed as well.
    let secrets = Secrets::new().keyed("a", "one").keyed("b", "one");
    let hmac = secrets.sign("a", "c", NOW).unwrap();
    let code = secrets.verify(&Token::new("b", &hmac, NOW), "c", NOW, DEFAULT_SKEW);
    assert_eq!(code, SubscribeAuthCode::SignatureMismatch);
    let code = secrets.verify(&Token::new("c", &hmac, NOW), "c", NOW, DEFAULT_SKEW);
    assert_eq!(code, SubscribeAuthCode::UnknownKid);
    assert_eq!(secrets.sign("c", "c", NOW), None);
}

#[test]
fn c114_the_window_is_five_minutes_either_way() {
    let secrets = Secrets::new().unnamed("k");
    let rows = [
        (-301, SubscribeAuthCode::TooOld),
        (-300, SubscribeAuthCode::Ok),
        (300, SubscribeAuthCode::Ok),
        (301, SubscribeAuthCode::TooNew),
    ];
    for (offset, wanted) in rows {
        let hmac = secrets.sign("", "c", NOW + offset).unwrap();
        let token = Token::new("", &hmac, NOW + offset);
        assert_eq!(secrets.verify(&token, "c", NOW, Duration::from_secs(300)), wanted, "{offset}");
    }
    // Numbers at the ends of their range do not wrap.
    for timestamp in [i64::MIN, i64::MAX] {
        let token = Token::new("", "", timestamp);
        let code = secrets.verify(&token, "c", NOW, Duration::MAX);
        assert_eq!(
            code,
            if timestamp < 0 { SubscribeAuthCode::TooOld } else { SubscribeAuthCode::SignatureMismatch }
        );
    }
}

#[test]
fn c115_a_token_that_lacks_something_is_malformed() {
    let secrets = Secrets::new().unnamed("k");
    let hmac = secrets.sign("", "c", NOW).unwrap();
    let whole = Token::new("", &hmac, NOW);
    let verify = |token: &Token<'_>| secrets.verify(token, "c", NOW, DEFAULT_SKEW);
    let mut without_hmac = whole;
    without_hmac.hmac = None;
    let mut without_time = whole;
    without_time.timestamp = None;
    let mut strange_kid = whole;
    strange_kid.kid = Kid::NotAString;
    for token in [without_hmac, without_time, strange_kid] {
        assert_eq!(verify(&token), SubscribeAuthCode::Malformed, "{token:?}");
    }
    assert_eq!(verify(&whole), SubscribeAuthCode::Ok);
}

#[test]
fn c116_a_signature_that_is_no_base64_or_for_another_channel_does_not_match() {
    let secrets = Secrets::new().unnamed("k");
    let hmac = secrets.sign("", "c", NOW).unwrap();
    let rows = [("%%%", "c"), (hmac.as_str(), "d"), (hmac.trim_end_matches('='), "c"), ("", "c")];
    for (hmac, channel) in rows {
        let code = secrets.verify(&Token::new("", hmac, NOW), channel, NOW, DEFAULT_SKEW);
        assert_eq!(code, SubscribeAuthCode::SignatureMismatch, "{hmac} {channel}");
    }
}

#[test]
fn c117_old_and_new_tokens_verify_while_keys_rotate() {
    let secrets = Secrets::new().unnamed("legacy-key").keyed("v2", "rotated-key").keyed("", "never used");
    let old = Token::new("", "L7VAFHMtA890F9T/mBDEQB8AUsQGfOrZr054IZoGpkc=", NOW);
    let new = Token::new("v2", "e4sTcSex1FIFdbrzm0SL4vVeix1xYh4Amu+Yuk5UBdg=", NOW);
    for token in [old, new] {
        assert_eq!(secrets.verify(&token, "events.x", NOW, DEFAULT_SKEW), SubscribeAuthCode::Ok);
    }
}

#[test]
fn secrets_and_tokens_show_nothing_of_themselves() {
    let secrets = Secrets::new().unnamed("CANARY-one").keyed("v2", "CANARY-two");
    let hmac = secrets.sign("v2", "c", NOW).unwrap();
    let shown = format!("{secrets:?} {:?}", Token::new("v2", &hmac, NOW));
    assert!(!shown.contains("CANARY") && !shown.contains(&hmac) && shown.contains("v2"), "{shown}");
}
