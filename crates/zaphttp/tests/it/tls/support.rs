//! One handshake between our two sides, with a byte each way behind it.

use std::io;
use std::time::Duration;

use peerage_tests::{TestCa, TestIdentity};
use peerage_zaphttp::tls::{
    ClientTls, Identity, Roots, ServerName, ServerTls, TlsError, TlsFailure, TlsInfo,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// No handshake of a test takes longer, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn roots(ca: &TestCa) -> Roots {
    Roots::from_der([ca.certificate().clone()]).expect("a test CA is a CA")
}

pub(crate) fn identity(identity: &TestIdentity) -> Identity {
    Identity::from_der(identity.chain().to_vec(), identity.key()).expect("a test identity is one")
}

pub(crate) fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("test names are names")
}

/// How a side ended: what it learned, or why not.
pub(crate) type Verdict = Result<TlsInfo, Refusal>;

/// A failure and who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// We refused the peer.
    Ours(TlsFailure),
    /// The peer refused us.
    Theirs(TlsFailure),
    /// The connection broke without a word of TLS.
    Io(io::ErrorKind),
}

impl From<TlsError> for Refusal {
    fn from(error: TlsError) -> Self {
        if error.refused_by_peer() { Self::Theirs(error.failure()) } else { Self::Ours(error.failure()) }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match TlsError::of(&error) {
            Some(tls) if tls.refused_by_peer() => Self::Theirs(tls.failure()),
            Some(tls) => Self::Ours(tls.failure()),
            None => Self::Io(error.kind()),
        }
    }
}

/// `client`, dialling `dialled`, meets `server`. Both must agree that it worked, or each says why not.
pub(crate) async fn meet(client: &ClientTls, dialled: &str, server: &ServerTls) -> (Verdict, Verdict) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async {
        let (io, _) = listener.accept().await.unwrap();
        serve_one(server, io).await
    };
    let dialling = async {
        let io = TcpStream::connect(addr).await.unwrap();
        dial_one(client, dialled, io).await
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(dialling, serving) }).await.expect("a handshake ends")
}

pub(crate) async fn dial_one(client: &ClientTls, dialled: &str, io: TcpStream) -> Verdict {
    let (mut stream, info) = client.connect(io, Some(name(dialled)), Some(Instant::now() + LIMIT)).await?;
    stream.write_all(b"?").await?;
    let answer = stream.read_u8().await?;
    assert_eq!(answer, b'!');
    Ok(info)
}

pub(crate) async fn serve_one(server: &ServerTls, io: TcpStream) -> Verdict {
    let (stream, info) = server.accept(io).await?;
    answer(stream).await?;
    Ok(info)
}

pub(crate) async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let question = stream.read_u8().await?;
    assert_eq!(question, b'?');
    stream.write_all(b"!").await?;
    stream.shutdown().await
}

/// The refusals of both sides.
///
/// # Panics
///
/// If one of them was content.
pub(crate) fn refusals((client, server): (Verdict, Verdict)) -> (Refusal, Refusal) {
    (client.expect_err("the client must fail"), server.expect_err("the server must fail"))
}
