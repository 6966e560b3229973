//! The table of TLS peers (threats §6.7).

use std::sync::Arc;
use std::time::Duration;

use peerage_tests::{ScriptedServer, TestCa, TestIdentity, Usage, alone};
use peerage_zaphttp::tls::{ClientTls, Identity, NamedGroup, San, ServerTls, TlsFailure};
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::foreign::{Foreign, dial, serve};
use super::support::{LIMIT, Refusal, dial_one, identity, meet, name, refusals, roots, serve_one};

use Refusal::{Ours, Theirs};
use TlsFailure::{
    Alpn, BadCertificate, BadSignature, ChainTooLong, Closed, Expired, KeyExchange, NoClientCertificate,
    NotACa, NotTls, NotYetValid, Timeout, Truncated, UnknownIssuer, Version,
};

const NODE: &str = "n1.cluster.example";

/// What a client must make of a server, and what the server is told.
struct Row {
    id: &'static str,
    server: TestIdentity,
    dialled: &'static str,
    expected: Result<(), (TlsFailure, TlsFailure)>,
}

fn rows(ca: &TestCa) -> Vec<Row> {
    let leaf = || ca.leaf().usage(Usage::Server);
    let good = || leaf().dns(NODE);
    let row = |id, server: TestIdentity, dialled, expected| Row { id, server, dialled, expected };
    let refused = |ours, theirs| Err((ours, theirs));
    let by_a_leaf = good().issue().misused_as_ca().server(&[NODE]);
    vec![
        row("SV-P01", good().issue(), NODE, Ok(())),
        row("SV-P02", good().expired().issue(), NODE, refused(Expired, Expired)),
        row("SV-P03", good().not_yet_valid().issue(), NODE, refused(NotYetValid, Expired)),
        row(
            "SV-P04",
            leaf().dns("other.cluster.example").issue(),
            NODE,
            refused(TlsFailure::Name, BadCertificate),
        ),
        row(
            "SV-P05",
            TestIdentity::self_signed().dns(NODE).issue(),
            NODE,
            refused(UnknownIssuer, UnknownIssuer),
        ),
        // As most tools make it: self-signed, and it calls itself a CA.
        row(
            "SV-P05",
            TestIdentity::self_signed().dns(NODE).claims_to_be_a_ca().issue(),
            NODE,
            refused(UnknownIssuer, UnknownIssuer),
        ),
        row("SV-P06", TestCa::new().server(&[NODE]), NODE, refused(BadSignature, BadSignature)),
        row("SV-P06", TestCa::named("Another").server(&[NODE]), NODE, refused(UnknownIssuer, UnknownIssuer)),
        row("SV-P07", leaf().common_name(NODE).issue(), NODE, refused(TlsFailure::Name, BadCertificate)),
        row("SV-P08", by_a_leaf, NODE, refused(NotACa, BadCertificate)),
        row("SV-P09", ca.client(&[NODE]), NODE, refused(TlsFailure::Usage, TlsFailure::Usage)),
        row(
            "SV-P09",
            ca.leaf().dns(NODE).usage(Usage::Other).issue(),
            NODE,
            refused(TlsFailure::Usage, TlsFailure::Usage),
        ),
        row(
            "SV-P09",
            ca.leaf().dns(NODE).claims_to_be_a_ca().issue(),
            NODE,
            refused(TlsFailure::Usage, TlsFailure::Usage),
        ),
        row("SV-P14", leaf().dns("*.cluster.example").issue(), NODE, Ok(())),
        row(
            "SV-P14",
            leaf().dns("*.cluster.example").issue(),
            "a.n1.cluster.example",
            refused(TlsFailure::Name, BadCertificate),
        ),
        row(
            "SV-P15",
            leaf().dns("n*.cluster.example").issue(),
            NODE,
            refused(TlsFailure::Name, BadCertificate),
        ),
        row("SV-P15", leaf().dns("*.example").issue(), NODE, refused(TlsFailure::Name, BadCertificate)),
        row("SV-P16", leaf().names(&["127.0.0.1"]).issue(), "127.0.0.1", Ok(())),
        row("SV-P16", leaf().names(&["::1"]).issue(), "::1", Ok(())),
        row(
            "SV-P16",
            leaf().dns("127.0.0.1").issue(),
            "127.0.0.1",
            refused(TlsFailure::Name, BadCertificate),
        ),
        row(
            "SV-P16",
            leaf().names(&["127.0.0.2"]).issue(),
            "127.0.0.1",
            refused(TlsFailure::Name, BadCertificate),
        ),
    ]
}

#[tokio::test]
async fn sv_p_servers_are_judged_each_fault_by_its_class() {
    let ca = TestCa::new();
    for Row { id, server, dialled, expected } in rows(&ca) {
        let client = ClientTls::new(roots(&ca));
        let server = ServerTls::new(identity(&server));
        let (seen, told) = meet(&client, dialled, &server).await;
        match expected {
            Ok(()) => {
                assert_eq!(seen.map(|info| info.group()), Ok(NamedGroup::X25519MLKEM768), "{id}: client");
                assert_eq!(told.map(|info| info.group()), Ok(NamedGroup::X25519MLKEM768), "{id}: server");
            }
            Err((ours, theirs)) => {
                assert_eq!(seen.map(|_| ()), Err(Ours(ours)), "{id}: client");
                assert_eq!(told.map(|_| ()), Err(Theirs(theirs)), "{id}: server");
            }
        }
    }
}

#[tokio::test]
async fn sv_p_09_10_11_clients_are_judged_each_fault_by_its_class() {
    let ca = TestCa::new();
    let client = |usage| ca.leaf().dns("c1").usage(usage);
    for (id, shown, expected) in [
        ("SV-P01", Some(ca.client(&["c1"])), Ok(())),
        ("SV-P01", Some(client(Usage::Unsaid).issue()), Ok(())),
        ("SV-P09", Some(ca.server(&["c1"])), Err((TlsFailure::Usage, TlsFailure::Usage))),
        ("SV-P10", None, Err((NoClientCertificate, NoClientCertificate))),
        ("SV-P11", None, Err((NoClientCertificate, NoClientCertificate))),
        ("SV-P11", Some(TestCa::named("Another").client(&["c1"])), Err((UnknownIssuer, UnknownIssuer))),
        ("SV-P11", Some(TestCa::new().client(&["c1"])), Err((BadSignature, BadSignature))),
        ("SV-P11", Some(client(Usage::Client).expired().issue()), Err((Expired, Expired))),
        ("SV-P11", Some(client(Usage::Client).not_yet_valid().issue()), Err((NotYetValid, Expired))),
    ] {
        let server = ServerTls::new(identity(&ca.server(&[NODE]))).require_client_certificates(roots(&ca));
        let mut tls = ClientTls::new(roots(&ca));
        if let Some(shown) = &shown {
            tls = tls.identity(identity(shown));
        }
        let (told, seen) = meet(&tls, NODE, &server).await;
        match expected {
            Ok(()) => {
                let names = seen.expect("the server accepts").peer_names().clone();
                assert_eq!(names.dns(), ["c1"], "{id}: the server knows who it is");
                assert!(told.is_ok(), "{id}: client");
            }
            Err((ours, theirs)) => {
                assert_eq!(seen.map(|_| ()), Err(Ours(ours)), "{id}: server");
                assert_eq!(told.map(|_| ()), Err(Theirs(theirs)), "{id}: client");
            }
        }
    }
}

#[tokio::test]
async fn sv_p10_a_server_that_only_resets_is_understood_as_well() {
    let ca = TestCa::new();
    let config = Foreign::modern().server(&ca.server(&[NODE]), Some(&ca));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let resetting = async {
        let (io, _) = listener.accept().await.unwrap();
        // A foreign server that swallows its own alert.
        let (mute, mut ours) = tokio::io::duplex(64 << 10);
        let (mut from_client, mut to_client) = io.into_split();
        let handshake = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(mute);
        let (mut from_tls, mut to_tls) = tokio::io::split(&mut ours);
        let passing = async {
            // The flight with the server's certificates comes whole; what follows it is the alert.
            let mut flight = vec![0; 64 << 10];
            let len = from_client.read(&mut flight).await.unwrap();
            to_tls.write_all(&flight[..len]).await.unwrap();
            let len = from_tls.read(&mut flight).await.unwrap();
            to_client.write_all(&flight[..len]).await.unwrap();
            let len = from_client.read(&mut flight).await.unwrap();
            to_tls.write_all(&flight[..len]).await.unwrap();
        };
        let (refused, ()) = tokio::join!(handshake, passing);
        refused.map(|_| ()).expect_err("the server wants a certificate");
        let io = from_client.reunite(to_client).unwrap();
        io.set_zero_linger().unwrap();
    };
    let client = ClientTls::new(roots(&ca));
    let dialling = async {
        let io = TcpStream::connect(addr).await.unwrap();
        dial_one(&client, NODE, io).await
    };
    let (told, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(dialling, resetting) }).await.unwrap();
    assert_eq!(told.map(|_| ()), Err(Theirs(NoClientCertificate)));
}

#[tokio::test]
async fn sv_p12_s051_a_classical_server_is_refused_unless_classical_is_allowed() {
    let ca = TestCa::new();
    let classical = Foreign::modern().groups(&[kx_group::X25519]).server(&ca.server(&[NODE]), None);
    let post_quantum = ClientTls::new(roots(&ca));
    for (client, expected) in [
        (post_quantum.clone(), Err(Theirs(KeyExchange))),
        (post_quantum.classical_allowed(), Ok((NamedGroup::X25519, false))),
    ] {
        let addr = serve(classical.clone(), async |stream| {
            if let Ok(stream) = stream {
                super::support::answer(stream).await.unwrap();
            }
        })
        .await;
        let io = TcpStream::connect(addr).await.unwrap();
        let seen = dial_one(&client, NODE, io).await;
        assert_eq!(seen.map(|info| (info.group(), info.is_post_quantum())), expected);
    }
}

#[tokio::test]
async fn sv_p12_s051_a_classical_client_is_refused_unless_classical_is_allowed() {
    let ca = TestCa::new();
    let config = Foreign::modern().groups(&[kx_group::X25519, kx_group::SECP256R1]).client(&ca, None);
    let post_quantum = ServerTls::new(identity(&ca.server(&[NODE])));
    for (server, expected) in [
        (post_quantum.clone(), Err(Ours(KeyExchange))),
        (post_quantum.classical_allowed(), Ok(NamedGroup::X25519)),
    ] {
        let seen = serve_foreign(&server, config.clone()).await;
        assert_eq!(seen.map(|info| info.group()), expected);
    }
}

#[tokio::test]
async fn s050_sv_p13_tls_1_2_is_refused_both_ways() {
    let ca = TestCa::new();
    let old = Foreign::modern().versions(&[&rustls::version::TLS12]);
    for client in [ClientTls::new(roots(&ca)), ClientTls::new(roots(&ca)).classical_allowed()] {
        let addr = serve(old.server(&ca.server(&[NODE]), None), async |stream| drop(stream)).await;
        let io = TcpStream::connect(addr).await.unwrap();
        assert_eq!(dial_one(&client, NODE, io).await.map(|_| ()), Err(Theirs(Version)));
    }
    let server = ServerTls::new(identity(&ca.server(&[NODE])));
    for server in [server.clone(), server.classical_allowed()] {
        let seen = serve_foreign(&server, old.client(&ca, None)).await;
        assert_eq!(seen.map(|_| ()), Err(Ours(Version)));
    }
}

/// Our server meets one foreign client, which asks its question if it gets that far.
async fn serve_foreign(server: &ServerTls, config: rustls::ClientConfig) -> super::support::Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let dialling = async {
        if let Ok(mut stream) = dial(config, NODE, addr).await {
            stream.write_all(b"?").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'!');
        }
    };
    let serving = async {
        let (io, _) = listener.accept().await.unwrap();
        serve_one(server, io).await
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(serving, dialling).0 }).await.unwrap()
}

#[tokio::test]
async fn sv_p17_s063_another_node_of_the_cluster_is_refused() {
    let ca = TestCa::new();
    let n2 = ca.leaf().dns("n2").dns(NODE).uri("spiffe://cluster.example/n2").usage(Usage::Server).issue();
    let server = ServerTls::new(identity(&n2));
    let client = ClientTls::new(roots(&ca));
    let uri = |uri| San::uri(uri).unwrap();
    for (expected_node, dialled, verdict) in [
        (San::dns("n2").unwrap(), "10.0.0.2", Ok(())),
        (San::dns("N2").unwrap(), "10.0.0.2", Ok(())),
        (uri("spiffe://cluster.example/n2"), "10.0.0.2", Ok(())),
        (San::dns("n1").unwrap(), NODE, Err(())),
        (uri("spiffe://cluster.example/n1"), NODE, Err(())),
        (uri("spiffe://cluster.example/n"), NODE, Err(())),
        ("10.0.0.2".parse::<std::net::IpAddr>().unwrap().into(), "10.0.0.2", Err(())),
    ] {
        let client = client.clone().expect_node(expected_node.clone());
        let (seen, told) = meet(&client, dialled, &server).await;
        match verdict {
            Ok(()) => assert!(seen.is_ok() && told.is_ok(), "{expected_node}: {seen:?}"),
            Err(()) => {
                let refusals = refusals((seen, told));
                assert_eq!(
                    refusals,
                    (Ours(TlsFailure::Identity), Theirs(TlsFailure::Identity)),
                    "{expected_node}"
                );
            }
        }
    }
    // Both may be demanded; and a wildcard fits a name, but is no node's identity.
    let both = client.clone().expect_name(name("n9")).expect_node(San::dns("n2").unwrap());
    assert_eq!(refusals(meet(&both, "n2", &server).await).0, Ours(TlsFailure::Name));
    let anyone = ServerTls::new(identity(&ca.server(&["*.cluster.example"])));
    let n1 = client.expect_node(San::dns(NODE).unwrap());
    assert_eq!(refusals(meet(&n1, NODE, &anyone).await).0, Ours(TlsFailure::Identity));
}

#[test]
fn sv_p18_sv_p25_s053_the_systems_roots_are_not_asked() {
    let directory = tempfile::tempdir().unwrap();
    let attacker = TestCa::named("Attacker");
    let file = attacker.write(directory.path());
    let key = directory.path().join("attacker.key");
    // The certificate of the attacker's server has to be known in the other process.
    let stolen = attacker.server(&[NODE]);
    std::fs::write(&key, stolen.key_pem()).unwrap();
    let chain = directory.path().join("attacker-leaf.pem");
    std::fs::write(&chain, stolen.chain_pem()).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let environment = [
        ("SSL_CERT_FILE", text(&file)),
        ("SSL_CERT_DIR", text(directory.path())),
        ("ATTACKER_CHAIN", text(&chain)),
        ("ATTACKER_KEY", text(&key)),
    ];
    let environment: Vec<_> = environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
    alone::run("tls::peers::sv_p18_sv_p25_s053_the_systems_roots_are_not_asked", &environment, || {
        let [chain, key] = ["ATTACKER_CHAIN", "ATTACKER_KEY"].map(|name| std::env::var(name).unwrap());
        let server = ServerTls::new(Identity::from_files(chain, key).unwrap());
        let client = ClientTls::new(roots(&TestCa::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let verdict = runtime.block_on(meet(&client, NODE, &server));
        assert_eq!(refusals(verdict), (Ours(UnknownIssuer), Theirs(UnknownIssuer)));
    });
}

#[tokio::test]
async fn sv_p19_s062_long_chains_and_mazes_are_refused_cheaply() {
    let ca = TestCa::new();
    let leaf = ca.server(&[NODE]);
    let strangers: Vec<_> = (0..99).map(|_| TestCa::named("x").certificate().clone()).collect();
    let shown = |count: usize| leaf.clone().with_chain(strangers.iter().take(count).cloned());
    let client = ClientTls::new(roots(&ca));
    let (seen, _) = meet(&client, NODE, &ServerTls::new(identity(&shown(9)))).await;
    assert!(seen.is_ok(), "10 certificates are the most: {seen:?}");

    // Each of three CAs is certified by the other two, and none of them by the root.
    let [a, b, c] = ["a", "b", "c"].map(TestCa::named);
    let maze = [(&a, &b), (&a, &c), (&b, &a), (&b, &c), (&c, &a), (&c, &b)];
    let maze = maze.map(|(subject, issuer)| subject.cross_signed_by(issuer));
    for (what, server, expected) in [
        ("11 certificates", shown(10), ChainTooLong),
        ("100 certificates", shown(99), ChainTooLong),
        ("a maze", a.server(&[NODE]).with_chain(maze), UnknownIssuer),
    ] {
        let server = ServerTls::new(identity(&server));
        let before = cpu_time();
        let (seen, told) = refusals(meet(&client, NODE, &server).await);
        let took = cpu_time().zip(before).map(|(after, before)| after - before);
        assert_eq!(seen, Ours(expected), "{what}");
        assert!(matches!(told, Theirs(BadCertificate | UnknownIssuer)), "{what}: {told:?}");
        // Both sides of the handshake are in it.
        assert!(took.is_none_or(|took| took <= Duration::from_millis(100)), "{what} took {took:?} of CPU");
    }
}

/// What this thread, on which the whole of a test runs, has used; `None` where the system does not say.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[tokio::test]
async fn s062_sv_p20_a_silent_server_costs_the_connect_budget() {
    let ca = TestCa::new();
    let silent = ScriptedServer::start(|conn| conn.stall()).await;
    let io = TcpStream::connect(silent.addr()).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(100);
    let error = ClientTls::new(roots(&ca)).connect(io, Some(name(NODE)), Some(deadline)).await.unwrap_err();
    assert_eq!((error.failure(), error.refused_by_peer()), (Timeout, false));
    assert!(Instant::now() >= deadline);

    // And the same for a client that says nothing to our server.
    let server = ServerTls::new(identity(&ca.server(&[NODE]))).handshake_timeout(Duration::from_millis(100));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (io, _) = listener.accept().await.unwrap();
    assert_eq!(server.accept(io).await.unwrap_err().failure(), Timeout);
}

#[tokio::test]
async fn sv_p21_what_is_not_tls_is_refused() {
    let ca = TestCa::new();
    // Not random at each run, but nothing that a TLS peer would say.
    let noise: Vec<u8> = (0_u32..4096).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let texts: [&[u8]; 4] = [
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &noise,
        &[0; 4096],
    ];
    for text in texts {
        let said = text.to_vec();
        let peer = ScriptedServer::start(move |mut conn| {
            let said = said.clone();
            async move {
                conn.send(&said).await;
                conn.close().await;
            }
        })
        .await;
        let io = TcpStream::connect(peer.addr()).await.unwrap();
        let refusal = dial_one(&ClientTls::new(roots(&ca)), NODE, io).await.unwrap_err();
        assert_eq!(
            refusal,
            Ours(NotTls),
            "{:?}",
            text.escape_ascii().take(20).map(char::from).collect::<String>()
        );

        let server = ServerTls::new(identity(&ca.server(&[NODE])));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(text).await.unwrap();
        client.shutdown().await.unwrap();
        let (io, _) = listener.accept().await.unwrap();
        assert_eq!(serve_one(&server, io).await.unwrap_err(), Ours(NotTls));
    }
}

#[tokio::test]
async fn n04_n05_a_peer_that_ends_the_handshake_has_a_class_of_its_own() {
    let ca = TestCa::new();
    for reset in [false, true] {
        let peer = ScriptedServer::start(move |mut conn| async move {
            conn.read(1).await;
            if reset { conn.reset() } else { conn.close().await }
        })
        .await;
        let io = TcpStream::connect(peer.addr()).await.unwrap();
        let refusal = dial_one(&ClientTls::new(roots(&ca)), NODE, io).await.unwrap_err();
        assert_eq!(refusal, Ours(Closed), "reset: {reset}");
    }
}

#[tokio::test]
async fn s061_sv_p22_an_end_without_close_notify_is_an_error() {
    let ca = TestCa::new();
    for polite in [true, false] {
        let config = Foreign::modern().server(&ca.server(&[NODE]), None);
        let addr = serve(config, async move |stream| {
            let mut stream = stream.unwrap();
            stream.write_all(b"half a bo").await.unwrap();
            stream.flush().await.unwrap();
            if polite {
                stream.shutdown().await.unwrap();
            } else {
                let (mut io, _) = stream.into_inner();
                io.shutdown().await.unwrap();
            }
        })
        .await;
        let io = TcpStream::connect(addr).await.unwrap();
        let tls = ClientTls::new(roots(&ca));
        let (mut stream, _) = tls.connect(io, Some(name(NODE)), None).await.unwrap();
        let mut read = Vec::new();
        let end = stream.read_to_end(&mut read).await;
        assert_eq!(read, b"half a bo");
        match end {
            Ok(_) => assert!(polite, "a truncated stream must not look whole"),
            Err(error) => {
                assert!(!polite, "{error}");
                assert_eq!(TlsFailure::of(&error), Some(Truncated));
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            }
        }
    }
}

#[tokio::test]
async fn sv_p23_s064_another_application_protocol_is_refused() {
    let ca = TestCa::new();
    for (protocol, expected) in
        [(Some("zap-http/1"), Ok(Some("zap-http/1"))), (None, Ok(None)), (Some("h2"), Err(()))]
    {
        let foreign = protocol.map_or_else(Foreign::modern, |protocol| Foreign::modern().alpn(protocol));
        let addr = serve(foreign.server(&ca.server(&[NODE]), None), async |stream| {
            if let Ok(stream) = stream {
                super::support::answer(stream).await.unwrap();
            }
        })
        .await;
        let io = TcpStream::connect(addr).await.unwrap();
        let seen = dial_one(&ClientTls::new(roots(&ca)), NODE, io).await;
        let alpn = |info: peerage_zaphttp::tls::TlsInfo| {
            info.alpn().map(|alpn| String::from_utf8(alpn.to_vec()).unwrap())
        };
        let expected_alpn = expected.map(|alpn| alpn.map(str::to_owned));
        assert_eq!(
            seen.map(alpn),
            expected_alpn.clone().map_err(|()| Theirs(Alpn)),
            "our client, a server with {protocol:?}"
        );
        let server = ServerTls::new(identity(&ca.server(&[NODE])));
        let seen = serve_foreign(&server, foreign.client(&ca, None)).await;
        assert_eq!(
            seen.map(alpn),
            expected_alpn.map_err(|()| Ours(Alpn)),
            "our server, a client with {protocol:?}"
        );
    }
}
