//! TLS, mutual TLS, bearers, and what is never shown.

use std::sync::Arc;

use peerage_controlclient::{
    Bearer, ConfigError, FailureKind, Gateway, GatewayTls, Registration, StartError, StartPolicy,
    TlsConfigError,
};
use peerage_devgateway::{DevGateway, Rpc};
use peerage_tests::Canary;
use peerage_tests::LogCapture;
use peerage_tests::{TestCa, TestIdentity};
use rustls::{RootCertStore, ServerConfig};

use crate::kit::{ADDR, LIMIT, at, gateway, greeter, id_of, ms, reaches, secs, started};

fn server_config(identity: &TestIdentity, clients: Option<&TestCa>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.certificate().clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    Arc::new(builder.with_single_cert(identity.chain().to_vec(), identity.key()).unwrap())
}

async fn start(gateway: Gateway) -> Result<Registration, StartError> {
    Registration::builder(gateway, ADDR)
        .service(greeter())
        .ttl(secs(6))
        .heartbeat_interval(ms(300))
        .start_policy(StartPolicy::Wait(secs(10)))
        .start()
        .await
}

fn kind(result: Result<Registration, StartError>) -> FailureKind {
    let error = result.unwrap_err();
    error.failure().map(|failure| failure.kind()).expect("not a local error")
}

#[tokio::test(start_paused = true)]
async fn c169_tls_works_with_the_right_ca_and_name_and_fails_with_others() {
    let ca = TestCa::new();
    let builder = DevGateway::builder().tls(server_config(&ca.server(&["gw.internal", "127.0.0.1"]), None));
    let gateway = started(builder).await;
    let at = || at(&gateway);
    let trusted = GatewayTls::new(ca.pem()).unwrap();
    start(at().tls(trusted.clone())).await.unwrap().shutdown(secs(5)).await;
    let named = trusted.clone().server_name("gw.internal").unwrap();
    start(at().tls(named)).await.unwrap().shutdown(secs(5)).await;
    assert_eq!(gateway.count(Rpc::Register), 2);

    // At once, however long one is willing to wait.
    let other_ca = GatewayTls::new(TestCa::new().pem()).unwrap();
    assert_eq!(kind(start(at().tls(other_ca)).await), FailureKind::Tls);
    let other_name = trusted.server_name("other.internal").unwrap();
    assert_eq!(kind(start(at().tls(other_name)).await), FailureKind::Tls);
    assert_eq!(gateway.count(Rpc::Register), 2);
}

// The same over TCP, with no limit that a slow machine could miss.
#[tokio::test]
async fn c169_tls_over_tcp() {
    let ca = TestCa::new();
    let builder = DevGateway::builder().tls(server_config(&ca.server(&["127.0.0.1"]), None));
    let gateway = started(builder).await;
    let start = |ca: &TestCa| {
        let at = Gateway::new(gateway.addr().to_string()).tls(GatewayTls::new(ca.pem()).unwrap());
        Registration::builder(at, ADDR)
            .service(greeter())
            .heartbeat_deadline(LIMIT)
            .start_policy(StartPolicy::FailFast(LIMIT))
            .start()
    };
    start(&ca).await.unwrap().shutdown(LIMIT).await;
    assert_eq!(kind(start(&TestCa::new()).await), FailureKind::Tls);
    assert_eq!((gateway.count(Rpc::Register), gateway.count(Rpc::Deregister)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn c170_mutual_tls_works_with_a_certificate_and_fails_without() {
    let ca = TestCa::new();
    let gateway =
        started(DevGateway::builder().tls(server_config(&ca.server(&["127.0.0.1"]), Some(&ca)))).await;
    let at = || at(&gateway);
    let client = ca.client(&["greeter-1.internal"]);
    let mutual = GatewayTls::mutual(ca.pem(), client.chain_pem(), client.key_pem()).unwrap();
    start(at().tls(mutual)).await.unwrap().shutdown(secs(5)).await;

    assert_eq!(kind(start(at().tls(GatewayTls::new(ca.pem()).unwrap())).await), FailureKind::Tls);
    let stranger = TestCa::new().client(&["greeter-1.internal"]);
    let stranger = GatewayTls::mutual(ca.pem(), stranger.chain_pem(), stranger.key_pem()).unwrap();
    assert_eq!(kind(start(at().tls(stranger)).await), FailureKind::Tls);
    assert_eq!(gateway.count(Rpc::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn cb15_certificates_that_change_on_disk_are_used_and_cost_no_registration() {
    let ca = TestCa::new();
    let gateway =
        started(DevGateway::builder().tls(server_config(&ca.server(&["127.0.0.1"]), Some(&ca)))).await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = ca.write(directory.path());
    let files = ca.client(&["greeter-1.internal"]).write(directory.path(), "client");
    let tls = GatewayTls::from_files(&ca_file, Some(files.clone())).unwrap();
    let registration = start(at(&gateway).tls(tls)).await.unwrap();
    let id = id_of(&registration);
    let connection = gateway.log()[0].connection;

    // Half of a change is no change: the old certificate stays in use.
    std::fs::write(&files.0, "not a certificate").unwrap();
    let beats = gateway.registrations()[0].beats;
    gateway.wait_for_beats(&id, beats + 5).await.unwrap();
    assert!(gateway.log().iter().all(|call| call.connection == connection));

    ca.client(&["greeter-2.internal"]).write(directory.path(), "client");
    let changed = tokio::time::Instant::now();
    gateway
        .wait_until(|gateway| gateway.log().iter().any(|call| call.connection != connection))
        .await
        .unwrap();
    assert!(changed.elapsed() <= secs(5), "{:?}", changed.elapsed());
    assert_eq!(gateway.count(Rpc::Register), 1);
    assert_eq!(id_of(&registration), id);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c171_a_bearer_goes_with_every_call_and_is_shown_nowhere() {
    let canary = Canary::new();
    let logs = LogCapture::start();
    let gateway = started(DevGateway::builder().bearer(canary.secret())).await;
    let at = at(&gateway);

    let anonymous = start(at.clone()).await;
    assert_eq!(kind(anonymous), FailureKind::Denied);
    let wrong = start(at.clone().bearer(Bearer::new("another").unwrap())).await;
    assert_eq!(kind(wrong), FailureKind::Denied);

    let calls_before = gateway.log().len();
    let bearer = Bearer::new(canary.secret()).unwrap();
    let known = at.clone().bearer(bearer.clone());
    let builder = Registration::builder(known.clone(), ADDR).service(greeter());
    let shown = format!("{bearer:?} {known:?} {builder:?}");
    canary.assert_absent("Debug", &shown);
    assert!(shown.contains("[redacted]"), "{shown}");

    let registration = start(known).await.unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    canary.assert_absent("Debug of the handle", format!("{registration:?}"));
    registration.shutdown(secs(5)).await;
    let calls = gateway.log();
    assert!(calls.len() > calls_before);
    assert!(calls[calls_before..].iter().all(|call| call.authorized), "{:?}", &calls[calls_before..]);
    canary.assert_absent("logs", logs.text());
    assert!(logs.count("registered") > 0, "something was logged");

    // From a file, which is read again when it changes.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!(" {}\n", canary.secret())).unwrap();
    let registration = start(at.clone().bearer(Bearer::from_file(&file).unwrap())).await.unwrap();
    registration.shutdown(secs(5)).await;
    for bad in ["", "a\nb", "\u{0}"] {
        let error = Bearer::new(bad).unwrap_err();
        assert!(matches!(error, ConfigError::Bearer { .. }));
        std::fs::write(&file, format!("{bad}{}\u{1}", canary.secret())).unwrap();
        let error = Bearer::from_file(&file).unwrap_err();
        canary.assert_absent("an error", format!("{error} {error:?}"));
    }
}

#[tokio::test(start_paused = true)]
async fn c172_a_bearer_does_not_leave_this_host_in_plaintext() {
    let bearer = Bearer::new("CANARY-token").unwrap();
    // TEST-NET-1: nothing would answer there, and nothing is tried.
    let remote = || Gateway::new("192.0.2.1:50090").bearer(bearer.clone());
    for refused in [remote(), remote().danger_plaintext()] {
        let Err(StartError::Config(error)) = start(refused).await else { panic!("not refused") };
        assert!(matches!(error, ConfigError::BearerOverPlaintext { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("CANARY"));
    }
    let Err(StartError::Config(error)) = start(Gateway::new("192.0.2.1:50090")).await else {
        panic!("not refused")
    };
    assert!(matches!(error, ConfigError::Plaintext { .. }), "{error:?}");
    // To this host it goes.
    let gateway = gateway().await;
    let registration = start(at(&gateway).bearer(bearer)).await.unwrap();
    assert!(gateway.log().iter().all(|call| call.authorized));
    reaches(&registration, "live").await;
    registration.shutdown(secs(5)).await;
}

#[test]
fn certificates_and_keys_that_cannot_be_used_are_refused_without_being_shown() {
    let ca = TestCa::new();
    let (one, two) = (ca.client(&["a"]), ca.client(&["b"]));
    assert!(matches!(GatewayTls::new(""), Err(TlsConfigError::Certificate { .. })));
    assert!(matches!(GatewayTls::mutual(ca.pem(), one.chain_pem(), ""), Err(TlsConfigError::Key)));
    let mixed = GatewayTls::mutual(ca.pem(), one.chain_pem(), two.key_pem());
    assert!(matches!(mixed, Err(TlsConfigError::KeyMismatch)), "{mixed:?}");
    assert!(matches!(
        GatewayTls::new(ca.pem()).unwrap().server_name("a b"),
        Err(TlsConfigError::Name { .. })
    ));
    assert!(matches!(GatewayTls::from_files("/nowhere/ca.pem", None), Err(TlsConfigError::Read { .. })));
    let shown = format!("{:?}", GatewayTls::mutual(ca.pem(), one.chain_pem(), one.key_pem()).unwrap());
    assert!(!shown.contains("BEGIN") && !shown.to_lowercase().contains("key"), "{shown}");
}
