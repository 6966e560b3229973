//! Making a client (clienthttp 2).

use std::{sync::Arc, time::Duration};

use peerage_clienthttp::{BuildError, Client, ConfigError, LocalTrust, RetryPolicy, ZapDialer};
use peerage_discovery::SourceId;
use peerage_tests::{Leaks, TestCa, alone};
use peerage_zaphttp::tls::{ClientTls, ClusterTls, Identity, NodeNames, Roots};
use tokio::time::Instant;

use crate::kit::{Announcer, PATIENCE, Peer, client_of};

#[test]
fn h007_a_name_that_is_none_is_refused_before_anything_is_opened() {
    alone::run("build::h007_a_name_that_is_none_is_refused_before_anything_is_opened", &[], || {
        let before = Leaks::now();
        for name in ["", "sixteen-letters-", "a b", "a--b", "-a"] {
            let error = Client::builder(name).build_lazy().unwrap_err();
            assert!(matches!(error, ConfigError::Service(_)), "{name:?}: {error:?}");
        }
        assert_eq!(Leaks::now(), before);
    });
}

#[tokio::test]
async fn settings_that_cannot_be_honoured_are_named() {
    let peer = Peer::start("billing-1").await;
    let builder = || client_of([&peer]);
    for (builder, named) in [
        (builder().max_in_flight(0), "max_in_flight"),
        (builder().per_try_timeout(Duration::from_micros(1)), "per_try_timeout"),
        (builder().dialer(ZapDialer::new()).connect_timeout(Duration::from_secs(1)), "connect_timeout"),
        (builder().max_in_flight_per_peer(0), "max_in_flight_per_peer"),
    ] {
        let error = builder.build_lazy().unwrap_err();
        assert!(matches!(error, ConfigError::Setting { setting, .. } if setting == named), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn h012_build_resolves_when_enough_peers_are_there() {
    let source = Announcer::new(SourceId::Static);
    for id in ["billing-1", "billing-2"] {
        source.join(id, &[([127, 0, 0, 1], 1).into()]);
    }
    let building = tokio::spawn(source.client().min_peers(3).build());
    let third = {
        let source = source.clone();
        tokio::spawn(async move {
            // The 300 ms of the row itself, in paused time: the moment at which the third peer appears.
            tokio::time::sleep(Duration::from_millis(300)).await;
            source.join("billing-3", &[([127, 0, 0, 1], 3).into()]);
            Instant::now()
        })
    };
    building.await.unwrap().unwrap();
    let waited = third.await.unwrap().elapsed();
    assert!(waited <= Duration::from_millis(50), "{waited:?}");
}

#[test]
fn h013_nobody_in_time_is_an_error_with_a_reason_and_leaves_nothing() {
    alone::run("build::h013_nobody_in_time_is_an_error_with_a_reason_and_leaves_nothing", &[], || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            // The first timer and the first build set things up that stay.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let before = Leaks::now();
            let source = Announcer::new(SourceId::Static);
            let handed_in = source.clone();
            let began = Instant::now();
            let error = Client::builder_with(handed_in)
                .discover_timeout(Duration::from_millis(200))
                .build()
                .await
                .unwrap_err();
            let took = began.elapsed().as_millis();
            println!("nobody found: {took} ms of at most 250 ms");
            assert!((200..10_000).contains(&took), "{took} ms");
            let BuildError::NotReady { want: 1, have: 0, diagnosis, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(diagnosis.contains("peers: none"), "{diagnosis}");
            assert!(
                error.to_string().starts_with("0 of 1 peers for _billing._tcp after 200 ms: "),
                "{error}"
            );
            assert!(!source.has_ended(), "who handed it in decides about it");
            drop(source);
            before.gone(PATIENCE).await;
        });
    });
}

#[tokio::test]
async fn h014_without_peers_to_wait_for_a_call_waits_for_the_first() {
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    let began = Instant::now();
    let client = source.client().min_peers(0).build().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "it did not wait the 10 s of its default");
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").send().await }
    });
    // Too short a wait cannot make this fail, only miss a call that ended without a peer.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!calling.is_finished());
    source.join("billing-1", &[peer.addr()]);
    assert_eq!(calling.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_first_peer_no_longer_than_it_may() {
    let source = Announcer::new(SourceId::Static);
    let wait = RetryPolicy::default().ready_wait(Duration::from_millis(100));
    let client = source.client().retry(wait).build_lazy().unwrap();
    let began = Instant::now();
    let error = client.get("/").send().await.unwrap_err();
    assert_eq!(began.elapsed().as_millis(), 100);
    assert!(error.to_string().starts_with("no peers for _billing._tcp after 1"), "{error}");
}

#[test]
fn a_client_made_outside_of_a_runtime_starts_with_its_first_call() {
    let source = Announcer::new(SourceId::Static);
    let client = source.client().build_lazy().unwrap();
    for _ in 0..2 {
        // The second runtime finds the follower of the first one gone.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let peer = Peer::start("billing-1").await;
            source.join("billing-1", &[peer.addr()]);
            let answer = client.get("/").send().await.unwrap();
            assert_eq!(answer.text().await.unwrap(), "billing-1");
        });
    }
}

#[test]
fn s054_sv_p27_local_trust_needs_mutual_tls() {
    assert_eq!("SV-P27".len(), 6);
    let ca = TestCa::new();
    let node = ca.node(&["billing-1"]);
    let roots = || Roots::from_pem(ca.pem()).unwrap();
    let identity = Identity::from_pem(node.chain_pem(), node.key_pem()).unwrap();
    let error = LocalTrust::with_tls(ClientTls::new(roots())).unwrap_err();
    assert!(matches!(error, ConfigError::LocalTrust { .. }), "{error:?}");

    let trust = || LocalTrust::new(&ClusterTls::new(roots(), identity.clone()).unwrap()).unwrap();
    let builder = || Announcer::new(SourceId::Static).client();
    let why = |error: ConfigError| match error {
        ConfigError::LocalTrust { why } => why,
        other => panic!("{other:?}"),
    };
    let plaintext = builder().dialer(ZapDialer::new()).local_trust(trust()).build_lazy().unwrap_err();
    assert_eq!(why(plaintext), "the dialer does not verify peers");
    let nameless = ZapDialer::new().tls(ClientTls::new(roots()), NodeNames::Plain);
    assert_eq!(
        why(builder().local_trust(trust()).dialer(nameless).build_lazy().unwrap_err()),
        "the dialer shows no certificate"
    );
    builder().local_trust(trust()).build_lazy().unwrap();
    let error = builder().local_trust(trust()).bearer("x").build_lazy().unwrap_err();
    assert!(matches!(error, ConfigError::TwoWaysToAuthenticate { .. }), "{error:?}");
    let _shared: Arc<dyn peerage_clienthttp::AuthAttacher> = Arc::new(trust());
}
