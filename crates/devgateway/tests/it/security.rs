//! TLS, bearers, who may reach the port, and what is never shown (S-159, S-209).

use std::sync::Arc;

use peerage_devgateway::{Code, DevGateway, StartError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::{Client, P, proto, started};

/// A CA and what it signed.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("rcgen makes it");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("rcgen makes it"))
                .expect("rcgen makes it"),
        )
    }

    fn issue(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("rcgen makes it");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("rcgen makes it");
        let certificate = params.signed_by(&key, &self.0).expect("rcgen makes it");
        (
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen makes it"),
        )
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).expect("rcgen makes it");
        Arc::new(roots)
    }
}

async fn handshake(addr: std::net::SocketAddr, config: ClientConfig) -> std::io::Result<Client> {
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Client::over(stream).await)
}

#[tokio::test]
async fn mutual_tls_lets_in_who_has_a_certificate() {
    let ca = Ca::new();
    let (chain, key) = ca.issue();
    let verifier = rustls::server::WebPkiClientVerifier::builder(ca.roots()).build().unwrap();
    let config =
        ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let gateway = DevGateway::builder().tls(Arc::new(config)).start().await.expect("it starts");

    let (chain, key) = ca.issue();
    let with =
        ClientConfig::builder().with_root_certificates(ca.roots()).with_client_auth_cert(chain, key).unwrap();
    let client = handshake(gateway.addr(), with).await.expect("both are known");
    client.registered(vec![proto("a", "", P)]).await;

    let without = ClientConfig::builder().with_root_certificates(ca.roots()).with_no_client_auth();
    if let Ok(client) = handshake(gateway.addr(), without).await {
        // With TLS 1.3 a client learns of the refusal when it reads.
        assert!(client.try_raw("ListPeers", &[], &[]).await.is_none());
    }
    let stranger = ClientConfig::builder().with_root_certificates(Ca::new().roots()).with_no_client_auth();
    assert!(handshake(gateway.addr(), stranger).await.is_err());
    assert_eq!(gateway.log().len(), 1);
}

#[tokio::test]
async fn a_bearer_for_all_is_asked_of_every_call_and_kept_nowhere() {
    let (gateway, client) = started(DevGateway::builder().bearer("CANARY-qwertyuiopasdfgh")).await;
    for bearer in ["", "Bearer CANARY-qwertyuiopasdfg", "bearer CANARY-qwertyuiopasdfgh"] {
        let answer = client.raw("ListPeers", &[], &[("authorization", bearer)]).await;
        assert_eq!(answer.code, 16, "UNAUTHENTICATED: {}", answer.message);
    }
    let answer = client.raw("ListPeers", &[], &[("authorization", "Bearer CANARY-qwertyuiopasdfgh")]).await;
    assert_eq!(answer.code, 0);
    let log = gateway.log();
    assert_eq!(log.iter().filter(|call| call.code == Code::Unauthenticated).count(), 3);
    assert!(log.iter().all(|call| call.authorized));
    assert!(!format!("{log:?} {gateway:?}").contains("CANARY"));
}

#[tokio::test]
async fn settings_show_no_secret() {
    let builder = DevGateway::builder()
        .signer_secret("CANARY-a")
        .admin_token("CANARY-b")
        .subscription_secret("", "CANARY-c")
        .subscription_secret("kid", "CANARY-d")
        .bearer("CANARY-e");
    let shown = format!("{builder:?}");
    assert!(!shown.contains("CANARY"), "{shown}");
    assert!(shown.contains("kid"), "{shown}");
}

#[tokio::test]
async fn s159_an_address_beyond_loopback_has_to_be_asked_for_by_name() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let refused = DevGateway::builder().bind(everywhere).start().await;
    assert!(matches!(refused, Err(StartError::NotLoopback { .. })));
    DevGateway::builder().bind(everywhere).danger_beyond_loopback().start().await.expect("it was asked for");
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_name_are_errors_that_say_which() {
    let gateway = DevGateway::builder().start().await.expect("it starts");
    let error = DevGateway::builder().bind(gateway.addr()).start().await.expect_err("it is taken");
    assert!(error.to_string().contains(&gateway.addr().to_string()), "{error}");
    let error = DevGateway::builder().taken(["a.b"]).start().await.expect_err("a bad name");
    assert!(error.to_string().contains("a.b"), "{error}");
}
