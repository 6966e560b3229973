//! What can go wrong, by what a caller does about it.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use peerage_balance::deadline::NO_RETRY_HEADER;
use peerage_discovery::{DiscoveryError, ServiceType};

use crate::{Attempts, Body, PeerInfo, PickExplanation};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Settings that cannot be honoured. Nothing was opened or sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The name of the service is not one.
    #[error("invalid service type")]
    Service(#[source] BoxError),
    /// More than one way to authenticate was set.
    #[error("two ways to authenticate are set: {first} and {second}")]
    TwoWaysToAuthenticate {
        /// The one that was set first.
        first: &'static str,
        /// The one that was set then.
        second: &'static str,
    },
    /// The bearer token cannot be a header value.
    #[error("the bearer token holds characters that no header value may have")]
    BearerToken,
    /// The file of the bearer token cannot be read.
    #[error("cannot read the bearer token from its file")]
    BearerFile(#[source] std::io::Error),
    /// Local trust without what makes it trust.
    #[error("local trust needs peers verified against a cluster CA and a certificate of our own: {why}")]
    LocalTrust {
        /// What is missing.
        why: &'static str,
    },
    /// A setting out of its range.
    #[error("{setting}: {why}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it may be.
        why: &'static str,
    },
    /// The source of peers cannot be set up.
    #[error("cannot set up discovery")]
    Discovery(#[source] DiscoveryError),
    /// No source of peers is set, and this build has no default one.
    #[error("no source of peers is set, and this build leaves mDNS out")]
    NoSource,
}

/// Why no client came up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The settings cannot be honoured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Discovery could not start.
    #[error("discovery cannot start")]
    Discovery(#[source] DiscoveryError),
    /// Too few peers appeared in time. Discovery was stopped again.
    #[error("{have} of {want} peers for {service} after {}: {diagnosis}", Seconds(*.waited))]
    NotReady {
        /// The service.
        service: ServiceType,
        /// How many there had to be.
        want: usize,
        /// How many there were.
        have: usize,
        /// How long it took.
        waited: Duration,
        /// Why, for a person.
        diagnosis: String,
    },
}

/// Where a call was when its time was over.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for the caller to give the body of the request.
    RequestBody,
    /// Waiting for a connection.
    Connect,
    /// Waiting for the head of the answer.
    Head,
    /// Reading the body of the answer.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestBody => "waiting for the body of the request",
            Self::Connect => "connecting",
            Self::Head => "waiting for the answer",
            Self::Body => "reading the body",
        })
    }
}

/// Why a connection is not safe for what the call carries (S-055, S-056).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Insecure {
    /// The URI says `https`, and the dialer speaks plaintext.
    HttpsOverPlaintext,
    /// A credential would go over plaintext to another host.
    CredentialOverPlaintext,
    /// A credential would go to a peer that anybody could have announced and that proved nothing.
    CredentialToUnverified,
}

impl fmt::Display for Insecure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HttpsOverPlaintext => "the URI says https and the dialer speaks plaintext",
            Self::CredentialOverPlaintext => "a credential would cross the network in plaintext",
            Self::CredentialToUnverified => "a credential would go to a peer that did not prove who it is",
        })
    }
}

/// Why a call has no answer.
///
/// `Display` tells this level only, the source chain the rest. The types in that chain belong to our
/// dependencies and may change in any release: match on the variants, ask the predicates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is nobody to send it to.
    #[error("no peers for {service}{}: {why}", After(*.waited))]
    NoPeers {
        /// The service.
        service: ServiceType,
        /// How long the call waited for one.
        waited: Duration,
        /// Which peers were seen, and what kept each out.
        why: String,
        /// The call.
        call: Box<Failed>,
    },
    /// No connection came up, so nothing was sent.
    #[error("cannot connect{call}")]
    Connect {
        /// The call.
        call: Box<Failed>,
        /// Why.
        source: BoxError,
    },
    /// The peer, or we, refused the encrypted connection, so nothing was sent.
    #[error("no secure connection{call}")]
    Tls {
        /// The call.
        call: Box<Failed>,
        /// Why.
        source: BoxError,
    },
    /// The connection is not safe for what the call carries, so nothing was sent.
    #[error("insecure transport{call}: {why}")]
    InsecureTransport {
        /// What is not safe about it.
        why: Insecure,
        /// The call.
        call: Box<Failed>,
    },
    /// The attacher of credentials failed, so nothing was sent.
    #[error("no credentials{call}")]
    Auth {
        /// The call.
        call: Box<Failed>,
        /// Its error.
        source: BoxError,
    },
    /// The time of the call was over.
    #[error("timed out while {where_} after {attempts} attempts{call}")]
    Timeout {
        /// What it was doing.
        where_: Phase,
        /// How many attempts had begun.
        attempts: usize,
        /// The call.
        call: Box<Failed>,
    },
    /// The request cannot be put on the wire, or the answer is not one.
    #[error("protocol error{call}")]
    Protocol {
        /// The call.
        call: Box<Failed>,
        /// What was wrong.
        source: BoxError,
    },
    /// The connection was lost after the request was sent: it may have been acted on.
    #[error("lost the peer before its answer, the outcome is unknown{call}")]
    OutcomeUnknown {
        /// The call.
        call: Box<Failed>,
        /// How it was lost.
        source: BoxError,
    },
    /// The peer left, and the call to it still ran when its time to end was over: it may have been acted on
    /// (B-9.2, [`ClientBuilder::drain`](crate::ClientBuilder::drain)). Of an answer's body, that the rest of it
    /// does not come.
    #[error("drained: the peer left before the call ended{call}")]
    Drained {
        /// The call.
        call: Box<Failed>,
    },
    /// The request body does not fit, so nothing was sent.
    #[error("the request body exceeds the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: usize,
        /// The call.
        call: Box<Failed>,
    },
    /// As many calls run as may.
    #[error("saturated: {why}")]
    Saturated {
        /// Which limit was reached.
        why: String,
        /// The call.
        call: Box<Failed>,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed {
        /// The call.
        call: Box<Failed>,
    },
    /// A body failed: that of the request before it was sent whole, or that of the answer after its head.
    #[error("the body failed{call}")]
    Body {
        /// The call.
        call: Box<Failed>,
        /// How.
        source: BoxError,
    },
    /// The request cannot be built from what was given.
    #[error("invalid request")]
    InvalidRequest {
        /// What is wrong.
        source: BoxError,
    },
    /// The answer says that the call failed; only from `error_for_status`.
    #[error("the peer answered {status}")]
    Status {
        /// Its status.
        status: StatusCode,
        /// The call.
        call: Box<Failed>,
    },
    /// The answers sent us round too often.
    #[error("too many redirects: {chain}")]
    TooManyRedirects {
        /// The paths, without their queries.
        chain: String,
        /// The call.
        call: Box<Failed>,
    },
}

/// What is known about the call, borrowed as the error is.
macro_rules! call_of {
    ($error:expr) => {
        match $error {
            Self::NoPeers { call, .. }
            | Self::Connect { call, .. }
            | Self::Tls { call, .. }
            | Self::InsecureTransport { call, .. }
            | Self::Auth { call, .. }
            | Self::Timeout { call, .. }
            | Self::Protocol { call, .. }
            | Self::OutcomeUnknown { call, .. }
            | Self::BodyTooLarge { call, .. }
            | Self::Saturated { call, .. }
            | Self::Closed { call }
            | Self::Drained { call }
            | Self::Body { call, .. }
            | Self::Status { call, .. }
            | Self::TooManyRedirects { call, .. } => Some(call),
            Self::InvalidRequest { .. } => None,
        }
    };
}

impl ClientError {
    /// Whether the same call may be made again without doing it twice: nothing of it was sent.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoPeers { .. } | Self::Connect { .. } | Self::Saturated { .. } => true,
            Self::Timeout { where_, .. } => *where_ == Phase::Connect && !self.was_sent(),
            _ => false,
        }
    }

    /// Whether time ran out.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// Whether no connection came up.
    #[must_use]
    pub const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout { where_: Phase::Connect, .. })
    }

    /// Whether a peer may have acted on the call.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        self.attempts().is_some_and(|attempts| {
            attempts.iter().any(|attempt| attempt.stage != peerage_balance::Stage::NotSent)
        })
    }

    /// The peer of the last attempt, if one was picked.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerInfo> {
        Some(&self.attempts()?.last()?.peer)
    }

    /// What was tried.
    #[must_use]
    pub fn attempts(&self) -> Option<&Attempts> {
        self.call().map(|call| &call.attempts)
    }

    /// Why nobody could be picked: the candidates, and what kept each peer out. With
    /// [`NoPeers`](Self::NoPeers), and with [`Saturated`](Self::Saturated) if it is the peers that are.
    #[must_use]
    pub fn explanation(&self) -> Option<&PickExplanation> {
        self.call()?.pick.as_deref()
    }

    /// The request, if nothing of it was sent and its body is still whole.
    #[must_use]
    pub fn request(&self) -> Option<&Request<Body>> {
        self.call()?.request.as_ref()
    }

    /// As [`request`](Self::request), by value.
    #[must_use]
    pub fn into_request(mut self) -> Option<Request<Body>> {
        self.call_mut()?.request.take()
    }

    /// Marks an answer of ours that is an error because of this one, if repeating it further up would
    /// only multiply load: this call was sent again already, or was refused that (B-5.1).
    pub fn mark_answer(&self, headers: &mut HeaderMap) {
        if self.is_spent() {
            headers.insert(NO_RETRY_HEADER, HeaderValue::from_static("1"));
        }
    }

    /// Whether the call was sent again, or that was refused.
    pub(crate) fn is_spent(&self) -> bool {
        self.call().is_some_and(|call| call.resend_spent)
    }

    /// A name of the variant that never changes: for logs and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoPeers { .. } => "no_peers",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::InsecureTransport { .. } => "insecure_transport",
            Self::Auth { .. } => "auth",
            Self::Timeout { .. } => "timeout",
            Self::Protocol { .. } => "protocol",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Saturated { .. } => "saturated",
            Self::Closed { .. } => "closed",
            Self::Drained { .. } => "drained",
            Self::Body { .. } => "body",
            Self::InvalidRequest { .. } => "invalid_request",
            Self::Status { .. } => "status",
            Self::TooManyRedirects { .. } => "too_many_redirects",
        }
    }

    fn call(&self) -> Option<&Failed> {
        call_of!(self)
    }

    pub(crate) fn call_mut(&mut self) -> Option<&mut Failed> {
        call_of!(self)
    }

    pub(crate) fn invalid_request(source: impl Into<BoxError>) -> Self {
        Self::InvalidRequest { source: source.into() }
    }
}

/// The call that an error is about.
#[derive(Default)]
pub struct Failed {
    pub(crate) attempts: Attempts,
    pub(crate) request: Option<Request<Body>>,
    /// It was sent again, or that was refused.
    pub(crate) resend_spent: bool,
    /// The pick that found nobody.
    pub(crate) pick: Option<Arc<PickExplanation>>,
}

impl Failed {
    pub(crate) fn after(attempts: Attempts) -> Box<Self> {
        Box::new(Self { attempts, ..Self::default() })
    }

    pub(crate) fn spent(mut self: Box<Self>, spent: bool) -> Box<Self> {
        self.resend_spent = spent;
        self
    }
}

/// `: ` and the attempts, or nothing if there were none.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts.count() > 0 { write!(f, ": {}", self.attempts) } else { Ok(()) }
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The request is left out: its headers may hold credentials.
        let Self { attempts, request, resend_spent, pick } = self;
        f.debug_struct("Failed")
            .field("attempts", attempts)
            .field("gives_back", &request.is_some())
            .field("resend_spent", resend_spent)
            .field("explains_pick", &pick.is_some())
            .finish()
    }
}

/// A duration as people write it: `200 ms`, `10 s`.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis if millis % 1_000 == 0 => write!(f, "{} s", millis / 1_000),
            millis if millis < 10_000 => write!(f, "{millis} ms"),
            millis => write!(f, "{} s", millis / 1_000),
        }
    }
}

/// ` after 3 s`, or nothing if there was no wait.
struct After(Duration);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_millis(1) { Ok(()) } else { write!(f, " after {}", Seconds(self.0)) }
    }
}

const _: fn() = || {
    fn is_portable<T: Send + Sync + 'static>() {}
    is_portable::<ClientError>();
    is_portable::<BuildError>();
};
