//! A peer of another house: OpenSSL, where it is installed. Version 3.0 knows no ML-KEM and is the
//! classical peer of SV-P12; from 3.5 on it could do the hybrid, so it is told not to.

use std::process::{Command, Stdio};

use peerage_tests::TestCa;
use peerage_zaphttp::tls::{ClientTls, NamedGroup, ServerTls, TlsFailure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::support::{LIMIT, Refusal, identity, name, roots};

const NODE: &str = "n1.cluster.example";

struct Openssl {
    directory: TempDir,
}

impl Openssl {
    /// `None`, and a line about it, where there is no `openssl`.
    fn find(test: &str, ca: &TestCa) -> Option<Self> {
        let known = Command::new("openssl").arg("version").stdout(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            peerage_tests::skipped(test, "there is no `openssl` here");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        ca.write(directory.path());
        ca.server(&[NODE]).write(directory.path(), "node");
        Some(Self { directory })
    }

    fn run(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("openssl");
        command.args(arguments).current_dir(self.directory.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// `s_server` on a port of its choice; answers each connection with a line.
async fn s_server(openssl: &Openssl, more: &[&str]) -> (tokio::process::Child, std::net::SocketAddr) {
    let base = ["s_server", "-accept", "127.0.0.1:0", "-cert", "node.pem", "-key", "node.key", "-rev"];
    let mut child = openssl.run(&[&base, more].concat()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(addr) = line.strip_prefix("ACCEPT ") {
                return addr.parse().unwrap();
            }
        }
        panic!("s_server does not say where it listens");
    };
    let addr = tokio::time::timeout(LIMIT, reading).await.expect("s_server starts");
    // Its output is read on, so that it never waits for us.
    tokio::spawn(async move { while lines.next_line().await.is_ok_and(|line| line.is_some()) {} });
    (child, addr)
}

async fn ask(client: &ClientTls, addr: std::net::SocketAddr) -> Result<NamedGroup, Refusal> {
    let io = TcpStream::connect(addr).await.unwrap();
    let (mut stream, info) = client.connect(io, Some(name(NODE)), Some(Instant::now() + LIMIT)).await?;
    stream.write_all(b"hello\n").await?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"olleh\n", "`-rev` turns lines around");
    Ok(info.group())
}

#[tokio::test]
async fn sv_p12_sv_p13_openssl_as_a_server() {
    let ca = TestCa::new();
    let Some(openssl) = Openssl::find("sv_p12_sv_p13_openssl_as_a_server", &ca) else { return };
    let client = ClientTls::new(roots(&ca));
    let (_running, addr) = s_server(&openssl, &["-tls1_3", "-groups", "X25519"]).await;
    let refused = Err(Refusal::Theirs(TlsFailure::KeyExchange));
    assert_eq!(ask(&client, addr).await, refused, "it has no hybrid exchange");
    assert_eq!(ask(&client.clone().classical_allowed(), addr).await, Ok(NamedGroup::X25519));

    let (_running, addr) = s_server(&openssl, &["-tls1_2"]).await;
    let refused = Err(Refusal::Theirs(TlsFailure::Version));
    assert_eq!(ask(&client.classical_allowed(), addr).await, refused);
}

#[tokio::test]
async fn sv_p12_sv_p13_openssl_as_a_client() {
    let ca = TestCa::new();
    let Some(openssl) = Openssl::find("sv_p12_sv_p13_openssl_as_a_client", &ca) else { return };
    let server = ServerTls::new(identity(&ca.server(&[NODE])));
    for (what, server, version, expected) in [
        ("no hybrid", server.clone(), "-tls1_3", Err(TlsFailure::KeyExchange)),
        ("classical allowed", server.clone().classical_allowed(), "-tls1_3", Ok(NamedGroup::X25519)),
        ("TLS 1.2", server.classical_allowed(), "-tls1_2", Err(TlsFailure::Version)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let arguments = [
            "s_client",
            "-connect",
            &at,
            "-CAfile",
            "ca.pem",
            "-servername",
            NODE,
            "-groups",
            "X25519",
            "-verify_return_error",
            "-quiet",
            version,
        ];
        let mut client = openssl.run(&arguments).spawn().unwrap();
        let (io, _) = listener.accept().await.unwrap();
        let result = tokio::time::timeout(LIMIT, server.accept(io)).await.expect("the handshake ends");
        match result {
            Ok((mut stream, info)) => {
                assert_eq!(expected, Ok(info.group()), "{what}");
                assert_eq!(info.sni(), Some(NODE), "{what}");
                stream.write_all(b"from ours\n").await.unwrap();
                let mut line = [0; 10];
                client.stdout.take().unwrap().read_exact(&mut line).await.unwrap();
                assert_eq!(&line, b"from ours\n");
            }
            Err(error) => assert_eq!(Err(error.failure()), expected, "{what}"),
        }
        client.kill().await.unwrap();
    }
}
