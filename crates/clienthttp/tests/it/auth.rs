//! Credentials, and what may carry them (clienthttp 4, threats D and G).

use std::{fs, time::Duration};

use http::{HeaderValue, header::COOKIE, request::Parts};
use peerage_clienthttp::{Bearer, BoxError, ClientError, ConfigError, Insecure, NoAuth, Peer as Announced};
use peerage_discovery::{Report, SourceId};
use peerage_tests::LogCapture;

use crate::kit::{Announcer, Elsewhere, PATIENCE, Peer, at, client_of, far_away, fixed};

#[tokio::test]
async fn h004_the_bearer_arrives_once() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).bearer("T0KEN").build().await.unwrap();
    let answer = client.get("/v1/x").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "billing-1");
    let seen = peer.seen.all();
    assert_eq!(seen.len(), 1);
    let values: Vec<_> = seen[0].headers.get_all("authorization").iter().collect();
    assert_eq!(values, ["Bearer T0KEN"]);
}

#[tokio::test]
async fn h006_the_authorization_of_the_call_wins() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).bearer("T0KEN").build().await.unwrap();
    client.get("/").header("authorization", "Basic eDp5").send().await.unwrap();
    client.get("/").bearer_auth("other").send().await.unwrap();
    let values: Vec<_> = peer.seen.all().iter().map(|seen| format!("{:?}", seen.headers)).collect();
    assert!(values[0].contains("Basic eDp5") && values[1].contains("Bearer other"), "{values:?}");
    assert!(values.iter().all(|headers| !headers.contains("T0KEN")), "{values:?}");
}

#[tokio::test]
async fn h008_two_ways_to_authenticate_are_a_mistake() {
    let peer = Peer::start("billing-1").await;
    let error = client_of([&peer]).bearer("x").auth(NoAuth).build_lazy().unwrap_err();
    assert!(
        matches!(error, ConfigError::TwoWaysToAuthenticate { first: "bearer", second: "auth" }),
        "{error:?}"
    );
    let error = client_of([&peer]).auth(NoAuth).danger_plaintext_local_trust().build_lazy().unwrap_err();
    assert_eq!(error.to_string(), "two ways to authenticate are set: auth and danger_plaintext_local_trust");
    assert_eq!(peer.server.connection_count(), 0);
}

#[tokio::test]
async fn h009_an_empty_bearer_is_no_header() {
    let peer = Peer::start("billing-1").await;
    for client in
        [client_of([&peer]).bearer(""), client_of([&peer]).bearer_from(Bearer::from_fn(String::new))]
    {
        client.build().await.unwrap().get("/").send().await.unwrap();
    }
    assert_eq!(peer.seen.count(), 2);
    assert!(peer.seen.all().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn h010_an_error_of_the_attacher_ends_the_call_and_blames_nobody() {
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    let fails = |_: &mut Parts, _: &Announced| Err::<(), BoxError>("the vault is sealed".into());
    let client = source.client().auth(fails).build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    let ClientError::Auth { source: cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(cause.to_string(), "the vault is sealed");
    assert!(!error.is_retryable() && error.request().is_some());
    assert_eq!((peer.seen.count(), peer.server.connection_count()), (0, 0));
    assert_eq!(source.reports.count(), 0);
}

#[tokio::test]
async fn h011_the_attacher_sees_the_peer_that_was_picked() {
    let peers = [Peer::start("billing-1").await, Peer::start("billing-2").await];
    let by_peer = |head: &mut Parts, peer: &Announced| {
        head.headers.insert("x-for", peer.node_id().parse()?);
        Ok(())
    };
    let client = client_of(&peers).auth(by_peer).build().await.unwrap();
    for _ in 0..4 {
        client.get("/").send().await.unwrap();
    }
    for peer in &peers {
        assert_eq!(peer.seen.count(), 2);
        assert!(peer.seen.all().iter().all(|seen| seen.header("x-for") == Some(peer.id.as_str())));
    }
}

#[tokio::test]
async fn h011_what_was_attached_for_one_peer_is_not_shown_to_the_next() {
    let refuser = peerage_tests::Refuser::new();
    let peer = Peer::start("billing-2").await;
    let by_peer = |head: &mut Parts, peer: &Announced| {
        head.headers.append("x-for", peer.node_id().parse()?);
        Ok(())
    };
    let list = [at("billing-1", refuser.addr()), at("billing-2", peer.addr())];
    let client = peerage_clienthttp::Client::builder_with(fixed(list)).auth(by_peer).build().await.unwrap();
    for _ in 0..4 {
        client.get("/").send().await.unwrap();
    }
    let values: Vec<_> =
        peer.seen.all().iter().map(|seen| seen.headers.get_all("x-for").iter().count()).collect();
    assert_eq!(values, [1; 4]);
    assert!(peer.seen.all().iter().all(|seen| seen.header("x-for") == Some("billing-2")));
}

#[tokio::test]
async fn h021_s055_sv_p26_a_credential_does_not_cross_the_network_in_plaintext() {
    assert_eq!(("SV-P26", "S-055").0.len(), 6);
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[far_away()]);
    let dialer = Elsewhere::at(peer.addr());

    let client = source.client().dialer(dialer.clone()).bearer("T0KEN").build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    let refused = |error: &ClientError| {
        matches!(error, ClientError::InsecureTransport { why: Insecure::CredentialOverPlaintext, .. })
    };
    assert!(refused(&error), "{error:?}");
    // The plaintext dialer of our own, which would have to leave this host.
    let client = source.client().bearer("T0KEN").build().await.unwrap();
    assert!(refused(&client.get("/").send().await.unwrap_err()));

    let client = source.client().dialer(dialer.clone()).build().await.unwrap();
    assert!(refused(&client.get("/").header(COOKIE, "a=b").send().await.unwrap_err()));
    let mut secret = HeaderValue::from_static("k");
    secret.set_sensitive(true);
    assert!(refused(&client.get("/").header("x-api-key", secret).send().await.unwrap_err()));
    assert_eq!((peer.seen.count(), peer.server.connection_count()), (0, 0), "nothing was sent");
    client.get("/").header("x-api-key", "not marked").send().await.unwrap();
    assert_eq!(peer.seen.count(), 1);

    let log = LogCapture::start();
    let client =
        source.client().dialer(dialer).bearer("T0KEN").allow_plaintext_credentials().build().await.unwrap();
    client.get("/").send().await.unwrap();
    client.get("/").send().await.unwrap();
    assert_eq!(peer.seen.all()[1].header("authorization"), Some("Bearer T0KEN"));
    assert_eq!(log.count("cross the network in plaintext"), 1, "one warning");
    assert_eq!(log.count("T0KEN"), 0);
}

#[tokio::test]
async fn h022_s056_a_bearer_goes_to_a_peer_of_mdns_on_loopback_and_to_no_other() {
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[peer.addr()]);
    let client = source.client().bearer("T0KEN").build().await.unwrap();
    client.get("/").send().await.unwrap();
    assert_eq!(peer.seen.all()[0].header("authorization"), Some("Bearer T0KEN"));

    // One of its addresses is elsewhere: whoever announced it may sit there.
    source.join("billing-1", &[peer.addr(), far_away()]);
    tokio::task::yield_now().await;
    let client = source.client().bearer("T0KEN").build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::InsecureTransport { .. }), "{error:?}");
}

#[tokio::test]
async fn s120_metadata_decides_nothing_about_security() {
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    let claims =
        [("scheme", "https"), ("tls", "1"), ("authorization", "Bearer x"), ("local", "1"), ("name", "evil")];
    source.join_with("billing-1", &[far_away()], &claims);
    let client = source.client().dialer(Elsewhere::at(peer.addr())).bearer("T0KEN").build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::InsecureTransport { .. }), "{error:?}");
    let client = source.client().dialer(Elsewhere::at(peer.addr())).build().await.unwrap();
    client.get("/").send().await.unwrap();
    let seen = &peer.seen.all()[0];
    assert_eq!((seen.header("host"), seen.header("authorization")), (Some("billing"), None));
}

#[tokio::test]
async fn h036_a_token_file_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let replace = |content: &str| {
        let next = directory.path().join("next");
        fs::write(&next, content).unwrap();
        fs::rename(&next, &path).unwrap();
    };
    replace("first\n");
    let log = LogCapture::start();
    let peer = Peer::start("billing-1").await;
    let bearer = Bearer::from_file(&path).unwrap();
    let client = client_of([&peer]).bearer_from(bearer.clone()).build().await.unwrap();
    client.get("/").send().await.unwrap();

    // Calls go on while the file is replaced; each asks what the peer saw.
    let uses = async |token: &str| {
        let expected = format!("Bearer {token}");
        let calls = async {
            loop {
                client.get("/").send().await.unwrap();
                if peer.seen.look(|seen| seen.last().unwrap().header("authorization") == Some(&expected)) {
                    break;
                }
                // Between two calls: nothing tells when the file was read again.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, calls).await.expect("the new token");
    };
    uses("first").await;
    replace("second");
    uses("second").await;

    for (content, why) in
        [(Some(""), "it is empty"), (Some("a\u{1}b"), "cannot be a header value"), (None, "cannot be read")]
    {
        match content {
            Some(content) => replace(content),
            None => fs::remove_file(&path).unwrap(),
        }
        let warned = async {
            while log.count(why) == 0 {
                client.get("/").send().await.unwrap();
                // Between two looks: a log line tells nobody that it was written.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, warned).await.expect("a warning");
        uses("second").await;
        assert_eq!(log.count(why), 1, "one warning");
    }
    replace("third");
    uses("third").await;
    assert_eq!(log.count("third") + log.count("second"), 0, "no token in the log");

    assert!(matches!(Bearer::from_file(directory.path().join("none")), Err(ConfigError::BearerFile(_))));
    fs::write(&path, "a\nb").unwrap();
    assert!(matches!(Bearer::from_file(&path), Err(ConfigError::BearerToken)));
}

#[tokio::test]
async fn s105_values_that_no_header_may_have_are_refused_before_anything_is_sent() {
    let peer = Peer::start("billing-1").await;
    for token in ["a\r\nx: y", "a\nb", "a\0b", "a\u{7f}"] {
        let error = client_of([&peer]).bearer(token).build_lazy().unwrap_err();
        assert!(matches!(error, ConfigError::BearerToken), "{token:?}: {error:?}");
        let error = client_of([&peer]).client_id(token).build_lazy().unwrap_err();
        assert!(matches!(error, ConfigError::Setting { setting: "client_id", .. }), "{token:?}: {error:?}");
        let client =
            client_of([&peer]).bearer_from(Bearer::from_fn(move || token.to_owned())).build().await.unwrap();
        assert!(matches!(client.get("/").send().await.unwrap_err(), ClientError::Auth { .. }));
        let client = client_of([&peer]).build().await.unwrap();
        let error = client.get("/").bearer_auth(token).send().await.unwrap_err();
        assert!(matches!(error, ClientError::InvalidRequest { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains(token));
        assert!(client.get("/").header("x", token).send().await.is_err());
    }
    assert_eq!((peer.seen.count(), peer.server.connection_count()), (0, 0));
    client_of([&peer]).client_id("shop 7").build().await.unwrap().get("/").send().await.unwrap();
    client_of([&peer]).build().await.unwrap().get("/").header("user-agent", "own/1").send().await.unwrap();
    let agents: Vec<_> =
        peer.seen.all().iter().map(|seen| seen.header("user-agent").unwrap().to_owned()).collect();
    assert_eq!(agents, [concat!("peerage/", env!("CARGO_PKG_VERSION"), " (shop 7)"), "own/1"]);
}

#[tokio::test]
async fn a_peer_that_answers_is_reported_alive_not_more_than_once_a_second() {
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    let client = source.client().build().await.unwrap();
    for _ in 0..20 {
        client.get("/").send().await.unwrap();
    }
    assert_eq!(source.reports.all(), [("billing-1".to_owned(), Report::Alive)]);
}
