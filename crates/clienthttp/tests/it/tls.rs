//! Peers that prove who they are (clienthttp 4, 5; threats C and D).

use axum::{Router, extract::Extension};
use peerage_clienthttp::{Client, ClientBuilder, ClientError, LocalTrust, Outcome, Stage, ZapDialer};
use peerage_discovery::SourceId;
use peerage_tests::{FaultProxy, LogCapture, TestCa, TestIdentity};
use peerage_zaphttp::{
    ConnectionInfo, Listener, Server, ServerHandle,
    tls::{ClientTls, ClusterTls, Identity, NodeNames, Roots, ServerTls},
};

use crate::kit::{Announcer, Seen, far_away};

fn roots(ca: &TestCa) -> Roots {
    Roots::from_pem(ca.pem()).unwrap()
}

fn identity(identity: &TestIdentity) -> Identity {
    Identity::from_pem(identity.chain_pem(), identity.key_pem()).unwrap()
}

fn cluster(ca: &TestCa, node: &str) -> ClusterTls {
    ClusterTls::new(roots(ca), identity(&ca.node(&[node]))).unwrap()
}

/// A peer that tells whom it saw.
struct Secured {
    server: ServerHandle,
    seen: peerage_tests::Facts<(Seen, Vec<String>)>,
}

impl Secured {
    async fn start(tls: ServerTls) -> Self {
        let seen = peerage_tests::Facts::new();
        let facts = seen.clone();
        let router = Router::new().fallback(
            async move |Extension(info): Extension<ConnectionInfo>, request: axum::extract::Request| {
                let names = info.tls().unwrap().peer_names().dns().to_vec();
                facts.push((Seen::of(&request), names));
                "secured"
            },
        );
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        Self { server: Server::builder().tls(tls).serve(listener, router), seen }
    }

    fn addr(&self) -> std::net::SocketAddr {
        self.server.local_addr().unwrap()
    }
}

fn trusting(source: &Announcer, ca: &TestCa) -> ClientBuilder {
    source.client().local_trust(LocalTrust::new(&cluster(ca, "shop-1")).unwrap())
}

#[tokio::test]
async fn h005_local_trust_shows_a_certificate_and_no_credential() {
    let ca = TestCa::new();
    let peer = Secured::start(cluster(&ca, "billing-1").server().unwrap()).await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[peer.addr()]);
    let client = trusting(&source, &ca).build().await.unwrap();
    for _ in 0..3 {
        client.get("https://billing/v1/x").send().await.unwrap();
    }
    for (seen, names) in peer.seen.all() {
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(names, ["shop-1"]);
    }
    assert_eq!((peer.seen.count(), peer.server.connection_count()), (3, 1));
    let answer = client.get("/").send().await.unwrap();
    assert!(
        answer.extensions().get::<ConnectionInfo>().unwrap().tls().is_some(),
        "the caller sees what was agreed on"
    );
}

#[tokio::test]
async fn h023_s044_s063_an_impostor_gets_nothing() {
    let ca = TestCa::new();
    // A member of the cluster, and a stranger; both are announced as nodes that they are not.
    let member = Secured::start(cluster(&ca, "billing-9").server().unwrap()).await;
    let stranger = Secured::start(cluster(&TestCa::new(), "billing-2").server().unwrap()).await;
    let real = Secured::start(cluster(&ca, "billing-3").server().unwrap()).await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[member.addr()]);
    source.join("billing-2", &[stranger.addr()]);
    source.join("billing-3", &[real.addr()]);
    let log = LogCapture::start();
    let client = trusting(&source, &ca).min_peers(3).build().await.unwrap();
    for _ in 0..9 {
        let answer = client.post("/").body("secret").send().await.unwrap();
        assert_eq!(answer.peer().unwrap().node_id(), "billing-3");
    }
    assert_eq!((member.seen.count(), stranger.seen.count(), real.seen.count()), (0, 0, 9));
    assert_eq!(log.count("did not prove who it is"), 2, "each is tried once, then left alone");
    assert!(client.explain().contains("did not prove who it is for another"), "{}", client.explain());
}

#[tokio::test]
async fn h023_a_failure_of_identity_is_told_by_type() {
    let ca = TestCa::new();
    let impostor = Secured::start(cluster(&ca, "billing-9").server().unwrap()).await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[impostor.addr()]);
    let client = trusting(&source, &ca).build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    let attempt = error.attempts().unwrap().iter().next().unwrap();
    assert_eq!((attempt.outcome, attempt.stage), (Outcome::Identity, Stage::NotSent));
    assert!(error.into_request().is_some());
}

#[tokio::test]
async fn s053_a_certificate_that_a_peer_refuses_is_not_the_peers_fault() {
    let ca = TestCa::new();
    let peer = Secured::start(cluster(&ca, "billing-1").server().unwrap()).await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    let nameless = ZapDialer::new().tls(ClientTls::new(roots(&ca)), NodeNames::Plain);
    let client = source.client().dialer(nameless).build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    let attempts = error.attempts().unwrap();
    assert!(attempts.iter().all(|attempt| attempt.outcome == Outcome::Dial), "{attempts}");
    assert!(!client.explain().contains("did not prove"), "{}", client.explain());
    assert_eq!(peer.seen.count(), 0);
}

#[tokio::test]
async fn s040_s053_connections_of_other_settings_are_not_shared() {
    let ca = TestCa::new();
    let peer = Secured::start(cluster(&ca, "billing-1").server().unwrap()).await;
    let proxy = FaultProxy::start(peer.addr()).await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[proxy.addr()]);
    let first = trusting(&source, &ca).build().await.unwrap();
    let second =
        source.client().local_trust(LocalTrust::new(&cluster(&ca, "shop-2")).unwrap()).build().await.unwrap();
    for client in [&first, &second, &first, &second] {
        client.get("/").send().await.unwrap();
    }
    assert_eq!(proxy.connection_count(), 2);
    let names: Vec<_> = peer.seen.all().into_iter().map(|(_, names)| names.join(" ")).collect();
    assert_eq!(names, ["shop-1", "shop-2", "shop-1", "shop-2"]);

    // Only the roots that were given count: another CA is a stranger, whatever the system trusts.
    let other = source.client().local_trust(LocalTrust::new(&cluster(&TestCa::new(), "shop-1")).unwrap());
    let error = other.build().await.unwrap().get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    assert_eq!(peer.seen.count(), 4);
}

#[tokio::test]
async fn s040_a_renewed_identity_is_shown_from_then_on() {
    let ca = TestCa::new();
    let peer = Secured::start(cluster(&ca, "billing-1").server().unwrap()).await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[peer.addr()]);
    let own = cluster(&ca, "shop-1");
    let client: Client = source.client().local_trust(LocalTrust::new(&own).unwrap()).build().await.unwrap();
    client.get("/").send().await.unwrap();
    own.replace(roots(&ca), identity(&ca.node(&["shop-1-renewed"]))).unwrap();
    client.get("/").send().await.unwrap();
    let names: Vec<_> = peer.seen.all().into_iter().map(|(_, names)| names.join(" ")).collect();
    assert_eq!(names, ["shop-1", "shop-1-renewed"]);
}

#[tokio::test]
async fn s055_s056_a_bearer_goes_anywhere_over_verified_tls() {
    let ca = TestCa::new();
    let tls = ServerTls::new(identity(&ca.server(&["billing-1"])));
    let peer = Secured::start(tls).await;
    let source = Announcer::new(SourceId::Mdns);
    source.join("billing-1", &[peer.addr(), far_away()]);
    let dialer = ZapDialer::new().tls(ClientTls::new(roots(&ca)), NodeNames::Plain);
    let client = source.client().dialer(dialer).bearer("T0KEN").build().await.unwrap();
    client.get("/").send().await.unwrap();
    assert_eq!(peer.seen.all()[0].0.header("authorization"), Some("Bearer T0KEN"));
}
