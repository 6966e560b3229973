//! Whether each peer can be dialled, and whether it is who it should be.

use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use peerage::Mesh;
use peerage::discovery::{Endpoint, Peer};
use peerage::zaphttp::tls::{ClientTls, ClusterTls, San, TlsError, TlsFailure, Validity};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::certificate::{rate, remedy};
use super::{Check, Grade};

/// More peers are not looked at one by one.
const MOST: usize = 256;
/// How many are dialled at a time.
const AT_ONCE: usize = 64;
/// What an address answered.
struct Answer {
    took: Duration,
    /// With TLS: how long the certificate holds, where that could be read.
    validity: Option<Validity>,
}

/// Why an address cannot be called.
struct Trouble {
    text: String,
    hint: String,
}

pub(super) async fn dial_all(peers: &[Peer], identity: Option<&ClusterTls>, limit: Duration) -> Vec<Check> {
    let looks = peers.iter().take(MOST).cloned().map(|peer| dial(peer, identity.cloned(), limit));
    let mut checks: Vec<Check> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    if let Some(more) = peers.len().checked_sub(MOST).filter(|more| *more > 0) {
        checks.push(Check::warning("peers", format!("{more} more were not dialled")));
    }
    checks
}

async fn dial(peer: Peer, identity: Option<ClusterTls>, limit: Duration) -> Check {
    let subject = format!("peer {}", peer.node_id());
    let (tls, name) = match identity.map(|identity| expecting(&identity, peer.node_id())) {
        None => (None, String::new()),
        Some(Some((tls, name))) => (Some(tls), name.to_string()),
        Some(None) => {
            return Check::failed(subject, "no certificate can hold its node id, so it is never called")
                .hint("give it a node id that is a DNS name or an IP address");
        }
    };
    let looks = peer.addresses().iter().map(|address| {
        let tls = tls.as_ref();
        let name = name.as_str();
        async move { (address, look(address, tls, name, limit).await) }
    });
    let looks = join_all(looks).await;
    let is_good = |(_, outcome): &&(&Endpoint, Result<Answer, Trouble>)| outcome.is_ok();
    let good: Vec<_> = looks.iter().filter(is_good).collect();
    let bad: Vec<String> = looks
        .iter()
        .filter_map(|(address, outcome)| Some(format!("{address}: {}", outcome.as_ref().err()?.text)))
        .collect();
    let hint = looks.iter().find_map(|(_, outcome)| outcome.as_ref().err()).map(|trouble| &trouble.hint);
    let addresses: Vec<String> = peer.addresses().iter().map(ToString::to_string).collect();
    let check = match good.first() {
        None => {
            Check::failed(subject, if bad.is_empty() { "it has no address".into() } else { bad.join("; ") })
        }
        Some((address, Ok(answer))) => {
            let text = format!("{address} answers in {:.1?}", answer.took);
            let mut check = rate(subject, &text, answer.validity).hint_if_soon("renew its certificate");
            if !bad.is_empty() {
                check.grade = Grade::Warning;
                check.text = format!("{}; {}", check.text, bad.join("; "));
            }
            check
        }
        Some((_, Err(trouble))) => Check::failed(subject, &trouble.text),
    };
    let check = match hint {
        Some(hint) if check.hint.is_none() => check.hint(hint),
        _ => check,
    };
    check.with("node_id", peer.node_id()).with("addresses", addresses)
}

/// TLS that takes this node and no other.
fn expecting(identity: &ClusterTls, node_id: &str) -> Option<(ClientTls, San)> {
    let name = Mesh::certificate_name(node_id)?;
    Some((identity.client().expect_node(name.clone()), name))
}

async fn look(
    address: &Endpoint,
    tls: Option<&ClientTls>,
    name: &str,
    limit: Duration,
) -> Result<Answer, Trouble> {
    let (began, until) = (Instant::now(), Instant::now() + limit);
    let stream = match timeout_at(until, connect(address)).await {
        Ok(connected) => connected.map_err(|error| refused(&error))?,
        Err(_) => {
            return Err(Trouble {
                text: format!("no connection within {limit:?}"),
                hint: "is the host up, and does a firewall let this port through?".into(),
            });
        }
    };
    let Some(tls) = tls else { return Ok(Answer { took: began.elapsed(), validity: None }) };
    let failed = |error: &TlsError| Trouble {
        text: match error.refused_by_peer() {
            true => format!("it ended the TLS handshake: {}", error.failure()),
            false => error.failure().to_string(),
        },
        hint: remedy(error.failure(), error.refused_by_peer(), name),
    };
    let shaken = tls.connect(stream, None, Some(until)).await;
    let (mut stream, info) = shaken.map_err(|error| failed(&error))?;
    let took = began.elapsed();
    // In TLS 1.3 a server refuses a client after the client is done. Nothing is sent, so one that takes us says
    // nothing. Discovery's own look takes longer than this, so nobody waits for it.
    match timeout(limit / 2, stream.read_u8()).await {
        Ok(Err(error)) => match TlsError::of(&error) {
            Some(error) => Err(failed(error)),
            None => Err(Trouble {
                text: "it closed the connection after the TLS handshake".into(),
                hint: remedy(TlsFailure::Other, true, name),
            }),
        },
        Ok(Ok(_)) | Err(_) => Ok(Answer { took, validity: info.peer_validity() }),
    }
}

async fn connect(address: &Endpoint) -> io::Result<TcpStream> {
    match address {
        Endpoint::Ip(address) => TcpStream::connect(address).await,
        Endpoint::Name { host, port } => TcpStream::connect((&**host, *port)).await,
    }
}

fn refused(error: &io::Error) -> Trouble {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there: is the service running, and is this its port?"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to that network"
        }
        _ => "see that its name resolves and that it can be reached",
    };
    Trouble { text: error.to_string().to_lowercase(), hint: hint.into() }
}
