use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use peerage_balance::Stage;
use peerage_discovery::{Endpoint, Peer};
use peerage_zaphttp::{
    Client, Connect, ConnectError, Connection, SendError, SendErrorKind, Stage as Sent, Target,
    tls::{ClientTls, NodeNames, TlsError, TlsFailure},
    wire::Limits,
};

use super::{Channel, Dialer, ExchangeError, FailureKind, Security, race};
use crate::BoxError;

/// Dials peers over ZAP-HTTP: plaintext, or TLS 1.3 with the peer verified to be the one that was picked.
///
/// One dialer serves many peers.
#[derive(Clone, Debug)]
#[must_use]
pub struct ZapDialer {
    tls: Option<(ClientTls, NodeNames)>,
    connect_timeout: Duration,
    stream_idle_timeout: Option<Duration>,
    max_idle: usize,
    limits: Limits,
}

impl Default for ZapDialer {
    fn default() -> Self {
        Self {
            tls: None,
            connect_timeout: Duration::from_secs(3),
            stream_idle_timeout: Some(Duration::from_secs(60)),
            max_idle: 32,
            limits: Limits::default(),
        }
    }
}

impl ZapDialer {
    /// Plaintext.
    pub fn new() -> Self {
        Self::default()
    }

    /// Encrypted. The certificate of each peer must contain the name that `names` gives for its node id,
    /// whatever address it was found at (S-044, S-063).
    pub fn tls(self, tls: ClientTls, names: NodeNames) -> Self {
        Self { tls: Some((tls, names)), ..self }
    }

    /// How long a connection may take to come up, handshake included. Default 3 s: the second packet that
    /// opens a connection goes out after one second.
    pub fn connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit, ..self }
    }

    /// How long a streamed answer may make no progress while somebody waits for it. Default 60 s.
    pub fn stream_idle_timeout(self, limit: Option<Duration>) -> Self {
        Self { stream_idle_timeout: limit, ..self }
    }

    /// The most idle connections kept to one peer. Default 32.
    pub fn max_idle(self, count: usize) -> Self {
        Self { max_idle: count, ..self }
    }

    /// What a frame may hold.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}

impl Dialer for ZapDialer {
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError> {
        let target = match peer.address() {
            Endpoint::Ip(address) => Target::Tcp(*address),
            Endpoint::Name { host, port } => Target::Name { host: host.to_string(), port: *port },
        };
        let client = Client::builder(target)
            .connector(Arc::new(Connector { addresses: peer.addresses().into() }))
            .connect_timeout(self.connect_timeout)
            // The time of a call is the client's to watch.
            .response_timeout(None)
            .stream_idle_timeout(self.stream_idle_timeout)
            .max_idle(self.max_idle)
            .limits(self.limits);
        let client = match &self.tls {
            None => client,
            Some((tls, names)) => client.tls(tls.clone().expect_node(names.of(peer.node_id())?)),
        };
        Ok(Channel::zap(client.build()))
    }

    fn security(&self) -> Security {
        match &self.tls {
            None => Security::Plaintext,
            Some((tls, _)) => Security::Verified { client_identity: tls.has_identity() },
        }
    }
}

/// Opens connections to one peer, at whichever of its addresses answers first.
#[derive(Debug)]
struct Connector {
    addresses: Arc<[Endpoint]>,
}

#[async_trait]
impl Connect for Connector {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let stream = race::connect(&self.addresses).await.map_err(ConnectError::Io)?;
        Connection::tcp(stream).map_err(ConnectError::Io)
    }
}

/// What a failure of the ZAP-HTTP client means here.
pub(super) fn failure(error: SendError) -> ExchangeError {
    let stage = match error.stage() {
        Sent::NotSent => Stage::NotSent,
        Sent::Stale => Stage::Stale,
        _ => Stage::Ambiguous,
    };
    let kind = match error.kind() {
        SendErrorKind::Tls(failure) => of_tls(failure, &error),
        SendErrorKind::Connect => FailureKind::Connect,
        SendErrorKind::Timeout if stage == Stage::NotSent => FailureKind::ConnectTimeout,
        SendErrorKind::Timeout => FailureKind::Timeout,
        SendErrorKind::Protocol(_) => FailureKind::Protocol,
        SendErrorKind::BodyTooLarge { limit } => FailureKind::BodyTooLarge { limit },
        SendErrorKind::RequestBody => FailureKind::RequestBody,
        SendErrorKind::Encode(_) => FailureKind::Request,
        SendErrorKind::Shutdown => FailureKind::Closed,
        // Accepted and closed before anything was sent: nobody useful is there.
        SendErrorKind::Closed if stage == Stage::NotSent => FailureKind::Connect,
        _ => FailureKind::Broken,
    };
    ExchangeError::new(kind, stage, error)
}

/// Whether a refused handshake says who is *not* there (B-3.6), or only that there is no connection.
fn of_tls(failure: TlsFailure, error: &(dyn Error + 'static)) -> FailureKind {
    let mut next = error.source();
    while let Some(source) = next {
        if source.downcast_ref::<TlsError>().is_some_and(TlsError::refused_by_peer) {
            // It is our certificate, or our offer, that displeases.
            return FailureKind::Tls;
        }
        next = source.source();
    }
    match failure {
        TlsFailure::Expired
        | TlsFailure::NotYetValid
        | TlsFailure::UnknownIssuer
        | TlsFailure::BadSignature
        | TlsFailure::Name
        | TlsFailure::Usage
        | TlsFailure::NotACa
        | TlsFailure::ChainTooLong
        | TlsFailure::Revoked
        | TlsFailure::RevocationUnknown
        | TlsFailure::BadCertificate
        | TlsFailure::Identity => FailureKind::Identity,
        _ => FailureKind::Tls,
    }
}
