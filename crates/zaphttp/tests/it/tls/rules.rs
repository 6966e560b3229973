//! The rules of threats §4.D that are no row of the table of peers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use peerage_tests::{Canary, TestCa, TestIdentity, alone};
use peerage_zaphttp::tls::{
    ClientTls, ClusterTls, Identity, KeyExchange, NodeNames, Roots, San, ServerTls, TlsConfigError,
    TlsFailure,
};
use rustls::{HandshakeKind, KeyLog};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::foreign::{Foreign, dial, rustls_error, serve};
use super::support::{Refusal, answer, dial_one, identity, meet, name, refusals, roots, serve_one};

use Refusal::{Ours, Theirs};

const NODE: &str = "n1.cluster.example";

#[tokio::test]
async fn s052_names_come_from_the_alternative_names_only() {
    let ca = TestCa::new();
    let leaf = ca.leaf().common_name("cn.example").dns("N1.Cluster.Example").uri("spiffe://x/n1");
    let leaf = leaf.names(&["10.0.0.1", "::1"]).issue();
    let server = ServerTls::new(identity(&ca.server(&[NODE]))).require_client_certificates(roots(&ca));
    let client = ClientTls::new(roots(&ca)).identity(identity(&leaf));
    let (_, seen) = meet(&client, NODE, &server).await;
    let seen = seen.unwrap();
    assert_eq!(seen.peer_certificate(), Some(leaf.certificate().as_ref()));
    let names = seen.peer_names();
    assert_eq!(names.dns(), ["n1.cluster.example"]);
    assert_eq!(names.uris(), ["spiffe://x/n1"]);
    assert_eq!(names.ips(), ["10.0.0.1", "::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert!(names.contains(&San::dns("N1.cluster.EXAMPLE").unwrap()));
    assert!(!names.contains(&San::dns("cn.example").unwrap()));
}

/// A foreign server that gives out tickets and early data, and counts on them.
#[tokio::test]
async fn s057_our_client_never_resumes_and_sends_no_early_data() {
    let ca = TestCa::new();
    let mut config = Foreign::modern().server(&ca.server(&[NODE]), None);
    config.max_early_data_size = 16 << 10;
    config.send_tls13_tickets = 4;
    let client = ClientTls::new(roots(&ca));
    for attempt in 0..2 {
        let (tell, told) = tokio::sync::oneshot::channel();
        // One store for both attempts: a ticket of the first would be good in the second.
        let config = config.clone();
        let addr = serve(config, async move |stream| {
            let mut stream = stream.unwrap();
            let mut question = [0];
            stream.read_exact(&mut question).await.unwrap();
            let state = &mut stream.get_mut().1;
            tell.send((state.handshake_kind(), state.early_data().is_some())).unwrap();
            stream.write_all(b"!").await.unwrap();
        })
        .await;
        dial_one(&client, NODE, TcpStream::connect(addr).await.unwrap()).await.unwrap();
        assert_eq!(told.await.unwrap(), (Some(HandshakeKind::Full), false), "attempt {attempt}");
    }
}

#[tokio::test]
async fn s057_our_server_gives_no_tickets_and_takes_no_early_data() {
    let ca = TestCa::new();
    let server = ServerTls::new(identity(&ca.server(&[NODE])));
    let mut config = Foreign::modern().client(&ca, None);
    config.enable_early_data = true;
    for attempt in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = async {
            let (io, _) = listener.accept().await.unwrap();
            serve_one(&server, io).await.unwrap();
        };
        let dialling = async {
            let mut stream = dial(config.clone(), NODE, addr).await.unwrap();
            stream.write_all(b"?").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
            let state = stream.get_ref().1;
            assert_eq!(state.handshake_kind(), Some(HandshakeKind::Full), "attempt {attempt}");
            assert_eq!(state.tls13_tickets_received(), 0);
            assert!(!state.is_early_data_accepted());
        };
        tokio::join!(serving, dialling);
    }
}

#[test]
fn s058_sslkeylogfile_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let environment = [("SSLKEYLOGFILE", file.to_str().unwrap())];
    alone::run("tls::rules::s058_sslkeylogfile_is_ignored", &environment, || {
        let file = std::env::var_os("SSLKEYLOGFILE").unwrap();
        // The variable does what it is known for where somebody asks for it.
        rustls::KeyLogFile::new().log("PROBE", &[1], &[2]);
        let before = std::fs::read(&file).expect("the probe was written");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ca = TestCa::new();
        let cluster = ClusterTls::new(roots(&ca), identity(&ca.node(&[NODE]))).unwrap();
        let (client, server) = runtime.block_on(meet(&cluster.client(), NODE, &cluster.server().unwrap()));
        assert!(client.is_ok() && server.is_ok());
        assert_eq!(std::fs::read(&file).unwrap(), before, "a handshake of ours was logged");
    });
}

#[tokio::test]
async fn s060_with_revocation_lists_unknown_is_refused() {
    let root = TestCa::new();
    let below = root.intermediate("below");
    let (good, bad) = (below.server(&[NODE]), below.server(&[NODE]));
    let stranger = TestCa::new();
    let past = SystemTime::now() - Duration::from_secs(60);
    let lists = |lists: &[&[u8]]| {
        lists.iter().fold(roots(&root), |roots, list| roots.revocation_lists(list).unwrap())
    };
    let (of_root, of_below) = (root.revocation_list(&[]), below.revocation_list(&[&bad]));
    for (what, lists, server, expected) in [
        ("no lists at all", vec![], &bad, Ok(())),
        ("not revoked", vec![of_root.as_slice(), &of_below], &good, Ok(())),
        ("revoked", vec![&of_root, &of_below], &bad, Err(TlsFailure::Revoked)),
        ("no list of the root", vec![&of_below], &good, Err(TlsFailure::RevocationUnknown)),
        ("no list of the intermediate", vec![&of_root], &good, Err(TlsFailure::RevocationUnknown)),
        (
            "a list out of date",
            vec![&of_root, &below.revocation_list_until(&[], past)],
            &good,
            Err(TlsFailure::RevocationUnknown),
        ),
        (
            "a list of a stranger",
            vec![&of_root, &stranger.intermediate("below").revocation_list(&[])],
            &good,
            Err(TlsFailure::RevocationUnknown),
        ),
    ]
    .map(|(what, list, server, expected)| (what, lists(&list), server, expected))
    {
        let client = ClientTls::new(lists.clone());
        let (seen, _) = meet(&client, NODE, &ServerTls::new(identity(server))).await;
        assert_eq!(seen.map(|_| ()), expected.map_err(Ours), "{what}");
    }
    // The same for a server that judges clients.
    let (shown, revoked) = (root.client(&["c1"]), root.client(&["c2"]));
    let server = ServerTls::new(identity(&good))
        .require_client_certificates(lists(&[&root.revocation_list(&[&revoked])]));
    for (shown, expected) in [(&shown, Ok(())), (&revoked, Err(Ours(TlsFailure::Revoked)))] {
        let client = ClientTls::new(roots(&root)).identity(identity(shown));
        let (_, seen) = meet(&client, NODE, &server).await;
        assert_eq!(seen.map(|_| ()), expected);
    }
}

#[tokio::test]
async fn s051_both_sides_post_quantum_is_the_default_and_classical_is_visible() {
    let ca = TestCa::new();
    let cluster = ClusterTls::new(roots(&ca), identity(&ca.node(&[NODE]))).unwrap();
    let (client, server) = (cluster.client(), cluster.server().unwrap());
    assert_eq!(
        (client.key_exchange(), server.key_exchange()),
        (KeyExchange::PostQuantum, KeyExchange::PostQuantum)
    );
    // Between two that allow classical groups the hybrid is still taken.
    let (seen, told) = meet(&client.classical_allowed(), NODE, &server.classical_allowed()).await;
    assert!(seen.unwrap().is_post_quantum() && told.unwrap().is_post_quantum());
}

#[tokio::test]
async fn s065_there_is_no_setting_that_trusts_a_stranger() {
    let ca = TestCa::new();
    // Everything that weakens is on.
    let client = ClientTls::new(roots(&ca))
        .identity(identity(&ca.client(&["c1"])))
        .expect_name(name(NODE))
        .classical_allowed();
    let stranger = ServerTls::new(identity(&TestCa::named("Stranger").server(&[NODE]))).classical_allowed();
    let refused = refusals(meet(&client, NODE, &stranger).await);
    assert_eq!(refused, (Ours(TlsFailure::UnknownIssuer), Theirs(TlsFailure::UnknownIssuer)));
    let shown = format!("{client:?}");
    assert!(shown.contains("ClassicalAllowed"), "what weakens is seen in Debug: {shown}");
}

#[tokio::test]
async fn s064_s050_a_foreign_client_learns_why() {
    let ca = TestCa::new();
    let server = ServerTls::new(identity(&ca.server(&[NODE]))).require_client_certificates(roots(&ca));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async {
        let (io, _) = listener.accept().await.unwrap();
        serve_one(&server, io).await.unwrap_err()
    };
    let dialling = async {
        let mut stream = dial(Foreign::modern().client(&ca, None), NODE, addr).await.unwrap();
        // It goes on writing while the refusal is on its way: that must not turn into a reset.
        for _ in 0..3 {
            stream.write_all(&[0; 10 << 10]).await.unwrap();
            stream.flush().await.unwrap();
            stream.get_ref().0.readable().await.unwrap();
        }
        stream.read_u8().await.unwrap_err()
    };
    let (refused, error) = tokio::join!(serving, dialling);
    assert_eq!(refused, Ours(TlsFailure::NoClientCertificate));
    let alert = rustls::AlertDescription::CertificateRequired;
    assert_eq!(rustls_error(&error), &rustls::Error::AlertReceived(alert));
}

#[test]
fn s040_each_change_is_another_generation_and_a_clone_is_not() {
    let ca = TestCa::new();
    let node = ca.node(&[NODE]);
    let cluster = ClusterTls::new(roots(&ca), identity(&node)).unwrap();
    let client = cluster.client();
    let variants = [
        client.clone(),
        client.clone().expect_name(name("n1")),
        client.clone().expect_node(San::dns("n1").unwrap()),
        client.clone().classical_allowed(),
        client.clone().identity(identity(&node)),
        cluster.client(),
        ClientTls::new(roots(&ca)),
        ClientTls::new(roots(&ca)),
    ];
    assert_eq!(variants[0].generation(), client.generation());
    for (at, one) in variants.iter().enumerate() {
        for other in &variants[..at] {
            assert_ne!(one.generation(), other.generation());
        }
    }
    let before = variants.each_ref().map(ClientTls::generation);
    cluster.replace(roots(&ca), identity(&ca.node(&[NODE]))).unwrap();
    let after = variants.each_ref().map(ClientTls::generation);
    for (at, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(before != after, at < 6, "variant {at}: those of the cluster change with it");
    }
}

#[test]
fn s054_a_client_knows_whether_it_shows_a_certificate() {
    let ca = TestCa::new();
    let node = ca.node(&[NODE]);
    assert!(!ClientTls::new(roots(&ca)).has_identity());
    assert!(ClientTls::new(roots(&ca)).identity(identity(&node)).has_identity());
    assert!(ClusterTls::new(roots(&ca), identity(&node)).unwrap().client().has_identity());
    assert!(
        ClusterTls::new(roots(&ca), identity(&node))
            .unwrap()
            .server()
            .unwrap()
            .requires_client_certificates()
    );
    assert!(!ServerTls::new(identity(&node)).requires_client_certificates());
}

#[test]
fn broken_material_is_refused_with_its_reason() {
    use TlsConfigError as E;
    let ca = TestCa::new();
    let (one, other) = (ca.node(&["n1"]), ca.node(&["n2"]));
    let der = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());

    assert!(matches!(Roots::from_pem(""), Err(E::NoCertificate)));
    assert!(matches!(Roots::from_pem(one.key_pem()), Err(E::NoCertificate)));
    assert!(matches!(Roots::from_der([]), Err(E::NoCertificate)));
    let half = &ca.certificate()[..100];
    assert!(matches!(Roots::from_der([der(half)]), Err(E::BadCertificate { index: 0, .. })));
    let cut = ca.pem();
    assert!(matches!(Roots::from_pem(&cut[..cut.len() / 2]), Err(E::Pem)));
    assert!(matches!(roots(&ca).revocation_lists(ca.pem()), Err(E::BadRevocationList { source: None, .. })));
    assert!(matches!(
        roots(&ca).revocation_lists(&ca.revocation_list(&[])[..50]),
        Err(E::BadRevocationList { index: 0, source: Some(_) })
    ));

    assert!(matches!(Identity::from_pem(one.chain_pem(), ""), Err(E::NoKey)));
    assert!(matches!(Identity::from_pem("", one.key_pem()), Err(E::NoCertificate)));
    assert!(matches!(Identity::from_pem(one.chain_pem(), other.key_pem()), Err(E::KeyMismatch)));
    assert!(matches!(Identity::from_der(vec![], one.key()), Err(E::NoCertificate)));
    assert!(matches!(
        Identity::from_der(vec![der(half)], one.key()),
        Err(E::BadCertificate { index: 0, .. })
    ));
    let one_file = one.chain_pem() + &one.key_pem();
    assert!(Identity::from_pem(&one_file, &one_file).is_ok(), "both may be in one file");

    for (node, expected) in [
        (TestCa::named("Other").node(&["n1"]), TlsFailure::UnknownIssuer),
        (ca.leaf().dns("n1").expired().issue(), TlsFailure::Expired),
        (ca.leaf().dns("n1").not_yet_valid().issue(), TlsFailure::NotYetValid),
        (one.misused_as_ca().node(&["n1"]), TlsFailure::NotACa),
        (TestIdentity::self_signed().dns("n1").issue(), TlsFailure::UnknownIssuer),
    ] {
        let error = ClusterTls::new(roots(&ca), identity(&node)).unwrap_err();
        assert!(matches!(error, E::Identity(failure) if failure == expected), "{error:?}");
    }
    assert!(
        ClusterTls::new(roots(&ca), identity(&ca.client(&["n1"]))).is_ok(),
        "a client's certificate will do"
    );
}

#[test]
fn s202_s200_no_text_holds_a_key() {
    // A canary in the place of a key: not valid, but just what a broken file looks like.
    let canary = Canary::new();
    let ca = TestCa::new();
    let chain = ca.node(&["n1"]).chain_pem();
    let secret = canary.secret();
    for key in [
        format!("-----BEGIN PRIVATE KEY-----{secret}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}\n"),
        secret.to_owned(),
    ] {
        let error = Identity::from_pem(&chain, &key).unwrap_err();
        canary.assert_absent("an error", format!("{error} {error:?}"));
    }
    let node = ca.node(&["n1"]);
    let cluster = ClusterTls::new(roots(&ca), identity(&node)).unwrap();
    let shown = format!(
        "{cluster:?} {:?} {:?} {:?}",
        cluster.client(),
        cluster.server().unwrap(),
        cluster.identity()
    );
    let key = node.key_pem();
    for line in key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!shown.contains(line), "{shown}");
    }
    assert!(shown.contains("<redacted>"));
    let numbers = format!("{:?}", &node.key().secret_der()[..8]);
    assert!(!shown.contains(numbers.trim_matches(['[', ']'])), "{shown}");
}

#[test]
fn node_names_follow_the_rule_of_the_cluster() {
    let plain = |id: &str| NodeNames::Plain.of(id).map(|san| san.to_string()).ok();
    assert_eq!(plain("Billing-1").as_deref(), Some("billing-1"));
    assert_eq!(plain("10.0.0.7").as_deref(), Some("10.0.0.7"));
    assert_eq!(plain("a b"), None);
    assert_eq!(plain("n1."), None);
    assert_eq!(plain(""), None);
    let under = NodeNames::Under("mesh.example".into());
    assert_eq!(under.of("n1").unwrap(), San::dns("n1.mesh.example").unwrap());
    assert!(under.of("*").is_err(), "no wildcard from a node id");
    let uri = NodeNames::Uri("spiffe://mesh.example/".into());
    assert_eq!(uri.of("n1").unwrap(), San::uri("spiffe://mesh.example/n1").unwrap());
    for hostile in ["", "a/b", "n1?x", "n1#x", "n%31", "n 1", "n\u{e9}"] {
        assert!(uri.of(hostile).is_err(), "{hostile:?} must stay one segment");
    }
    let custom = NodeNames::Custom(Arc::new(|id| (id == "n1").then(|| San::dns("one.example").unwrap())));
    assert_eq!(custom.of("n1").unwrap().to_string(), "one.example");
    assert!(custom.of("n2").is_err());
}

#[tokio::test]
async fn a_unix_socket_needs_a_name() {
    let ca = TestCa::new();
    let server = ServerTls::new(identity(&ca.leaf().dns("n1").uri("spiffe://x/n1").issue()));
    let client = ClientTls::new(roots(&ca));
    for (client, expected) in [
        (client.clone(), Err(TlsFailure::Name)),
        (client.clone().expect_name(name("n1")), Ok(())),
        (client.clone().expect_node(San::dns("n1").unwrap()), Ok(())),
        (client.expect_node(San::uri("spiffe://x/n1").unwrap()), Ok(())),
    ] {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let serving = async {
            if let Ok((stream, _)) = server.accept(theirs).await {
                answer(stream).await.unwrap();
            }
        };
        let dialling = async {
            let (mut stream, _) = client.connect(ours, None, None).await.map_err(|error| error.failure())?;
            stream.write_all(b"?").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
            Ok(())
        };
        assert_eq!(tokio::join!(dialling, serving).0, expected);
    }
}
