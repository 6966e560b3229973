//! What can go wrong, by what a caller does about it.

use std::fmt;

use http::StatusCode;

use crate::text;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Settings that cannot be honoured. Nothing was opened or sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The cluster host is not the host of anything.
    #[error("{host:?} is not a cluster host: want a host name or an address, with or without a port")]
    ClusterHost {
        /// What was given.
        host: String,
    },
    /// The entry URL is not one.
    #[error("the entry URL has to be http or https, a host and nothing secret")]
    EntryUrl,
    /// The path cannot stand behind a replica's base URL.
    #[error(
        "{path:?} is not the path of a repository: want it to begin with `/`, without `?`, `#`, `\\` and control characters"
    )]
    Path {
        /// What was given.
        path: String,
    },
    /// The user agent cannot be a header value.
    #[error("the user agent holds characters that no header value may have")]
    UserAgent,
    /// The remote URL names no host.
    #[error("the remote URL has no host")]
    RemoteUrl,
}

/// Why a request was not sent, or a redirect not followed, although it could have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Plain HTTP to a target that may only have `https` (transport §3.2).
    #[error("HTTPS required: {target} is not https")]
    HttpsRequired {
        /// Scheme, host and port.
        target: String,
    },
    /// The host of the request is outside the cluster, and there is a credential to protect (§3.3).
    #[error("out-of-cluster host {host}: no credential goes there, cluster is {cluster}")]
    OutOfCluster {
        /// The host of the request.
        host: String,
        /// The cluster.
        cluster: String,
    },
    /// A chain of redirects that used `https` leaves it (§11, rule 3).
    #[error("TLS floor: the redirect to {target} would leave https")]
    TlsFloor {
        /// Scheme, host and port.
        target: String,
    },
    /// The chain of redirects has no end in sight (§11, rule 2).
    #[error("stopped after 10 redirects")]
    TooManyRedirects,
    /// Following this redirect means sending a GET where there was a POST (§11 b).
    #[error("the {status} redirect would drop the request body")]
    BodyLost {
        /// 301, 302 or 303.
        status: StatusCode,
    },
    /// The body names private commits, and the redirect leads out of the cluster (S-024).
    #[error("out-of-cluster host {host}: the request body does not follow a redirect there")]
    BodyOutOfCluster {
        /// The target's host.
        host: String,
    },
    /// The embedder's own rule refused the redirect.
    #[error("the redirect was refused")]
    Refused(#[source] BoxError),
}

impl PolicyError {
    /// Whether this refusal says nothing about the replica that gave rise to it.
    pub(crate) fn spares_the_replica(&self) -> bool {
        !matches!(self, Self::TooManyRedirects)
    }
}

/// A push that may have been applied, and was not sent again (transport §12.5).
///
/// Wrap what broke while reading the report of a push with [`push_outcome_unknown`].
#[derive(Debug)]
pub struct PushOutcomeUnknown {
    cause: BoxError,
}

impl fmt::Display for PushOutcomeUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "push outcome unknown: {}\nsome or all ref updates may have been applied, and sending the push \
             again could apply one twice, so it was not sent again; look at the remote's refs before you \
             push again. A read may be answered by a replica that lags behind the primary: seeing an old \
             value there proves nothing.",
            self.cause
        )
    }
}

impl std::error::Error for PushOutcomeUnknown {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

/// Marks `cause` as the end of a push whose outcome nobody knows. A cause that is marked already stays
/// as it is.
pub fn push_outcome_unknown(cause: impl Into<BoxError>) -> PushOutcomeUnknown {
    let cause = match cause.into().downcast::<PushOutcomeUnknown>() {
        Ok(already) => return *already,
        Err(cause) => cause,
    };
    match cause.downcast::<ProxyError>() {
        Ok(error) => match *error {
            ProxyError::PushOutcomeUnknown(already) => already,
            other => PushOutcomeUnknown { cause: Box::new(other) },
        },
        Err(cause) => PushOutcomeUnknown { cause },
    }
}

/// Why a Git request to the replica set failed.
///
/// `Display` tells this level, the source chain the rest; [`ProxyError::chain`] is both as one line. The
/// types in the chain belong to our dependencies and may change in any release: match on the variants.
/// No variant holds a credential, a `Location`, or raw bytes of a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// There is nobody to ask.
    #[error("no healthy nodes for this repository")]
    NoReplicas,
    /// No replica is known, and no entry domain to learn one from.
    #[error("no replica is known, and there is no entry URL to ask for one")]
    NoEntryUrl,
    /// Every replica was tried.
    #[error("all {count} nodes failed")]
    AllFailed {
        /// How many there were.
        count: usize,
        /// What the last one did.
        source: Box<Self>,
    },
    /// The replicas known before failed, and asking the entry domain for others did too.
    #[error("the cached replicas failed ({}), and asking for others did too", warm.chain())]
    WarmAndCold {
        /// What the known replicas did.
        warm: Box<Self>,
        /// What came of asking the entry domain.
        #[source]
        cold: Box<Self>,
    },
    /// The entry domain could not be asked.
    #[error("cannot ask the entry domain {entry}")]
    EntryDomain {
        /// Scheme, host and port.
        entry: String,
        /// Why.
        source: BoxError,
    },
    /// The entry domain sent us on, and what it named did not serve us.
    #[error("no replica answered after entry-domain redirect{}", text::aside(salvage.as_deref()))]
    AfterRedirect {
        /// What the named replicas did.
        #[source]
        failover: Box<Self>,
        /// What asking the redirect's own target came to, if that was tried.
        salvage: Option<Box<Self>>,
    },
    /// A rule forbids the request.
    #[error(transparent)]
    Policy(PolicyError),
    /// The credential hook failed; `source` is its own error. No other replica is asked.
    #[error("no credential for {host}")]
    Auth {
        /// The host that it was for.
        host: String,
        /// What the hook returned.
        source: BoxError,
    },
    /// The credential was refused, and so was a new one (401).
    #[error("authentication failed{}", text::or(server_msg.as_deref(), ": the credential was renewed once and refused again; sign in again"))]
    Unauthorized {
        /// What the server said.
        server_msg: Option<String>,
    },
    /// There is no such repository (404).
    #[error("{message}")]
    NotFound {
        /// The server's text, or one that names the URL.
        message: String,
    },
    /// Any other answer that is not a success.
    #[error("server error (HTTP {}){}", status.as_u16(), text::or(server_msg.as_deref(), ""))]
    Status {
        /// The answer's status.
        status: StatusCode,
        /// What the server said.
        server_msg: Option<String>,
    },
    /// The push is over the server's limit (413).
    #[error("entire: push too large: {}", text::too_large(*.size, *.limit, server_msg))]
    PushTooLarge {
        /// How long it is, in bytes; 0 if the server did not say.
        size: i64,
        /// How long it may be, in bytes; 0 if the server did not say.
        limit: i64,
        /// What the server said; may be empty.
        server_msg: String,
    },
    /// The server is out of room (507). Nothing was applied.
    #[error("the server is low on disk space{}", text::or(Some(server_msg).filter(|text| !text.is_empty()).map(String::as_str), ""))]
    InsufficientStorage {
        /// What the server said; may be empty.
        server_msg: String,
    },
    /// A push was answered with a redirect. It was not applied, and the redirect is not followed.
    #[error("{replica} answered the push with a redirect (HTTP {}); a push does not follow redirects, and it was not applied", status.as_u16())]
    PushRedirected {
        /// Who.
        replica: String,
        /// 300 to 399.
        status: StatusCode,
    },
    /// A push may have been applied.
    #[error(transparent)]
    PushOutcomeUnknown(#[from] PushOutcomeUnknown),
    /// No answer came: no connection, or it broke before one.
    #[error("cannot reach {replica}")]
    Transport {
        /// Scheme, host and port.
        replica: String,
        /// Why.
        source: BoxError,
    },
    /// The body of an answer broke off: what was read of it is not the whole.
    #[error("the answer of {replica} broke off")]
    Body {
        /// Who was answering.
        replica: String,
        /// Why.
        source: BoxError,
    },
    /// The answer is encoded in a way that cannot be read.
    #[error("{replica} answered with the content coding {coding:?}")]
    Coding {
        /// Who.
        replica: String,
        /// Which.
        coding: String,
    },
    /// The request body could not be read.
    #[error("cannot read the request body")]
    RequestBody(#[source] std::io::Error),
}

impl ProxyError {
    /// This error and its causes in one text.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        // An Unknown shows its cause itself.
        if matches!(self, Self::PushOutcomeUnknown(_)) {
            return text;
        }
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            if error.is::<PushOutcomeUnknown>() {
                break;
            }
            next = error.source();
        }
        text
    }

    /// Whether asking the entry domain, or another replica, could not help.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Policy(_) | Self::Auth { .. } | Self::RequestBody(_))
    }
}

/// What an answer with `status` means to the person who asked (transport §13.2).
///
/// `server_msg` is the server's text, as [`ProxyError`] shows it; `base_url` stands in the text of a 404
/// without one. Not for a 413 to a push, which is [`ProxyError::PushTooLarge`].
pub fn http_error_message(status: StatusCode, server_msg: Option<&str>, base_url: &str) -> ProxyError {
    let server_msg = server_msg.filter(|text| !text.is_empty()).map(str::to_owned);
    match status {
        StatusCode::UNAUTHORIZED => ProxyError::Unauthorized { server_msg },
        StatusCode::NOT_FOUND => ProxyError::NotFound {
            message: server_msg.unwrap_or_else(|| format!("repository not found: {base_url}")),
        },
        StatusCode::INSUFFICIENT_STORAGE => {
            ProxyError::InsufficientStorage { server_msg: server_msg.unwrap_or_default() }
        }
        status => ProxyError::Status { status, server_msg },
    }
}

/// A 413 to a push; the two numbers come from the server's text, or are 0 (transport §9).
pub(crate) fn push_too_large(server_msg: Option<String>) -> ProxyError {
    let server_msg = server_msg.unwrap_or_default();
    let (size, limit) = text::declared_size(&server_msg).unwrap_or_default();
    ProxyError::PushTooLarge { size, limit, server_msg }
}

const _: fn() = || {
    fn is_send<T: Send + Sync + 'static>() {}
    is_send::<ProxyError>();
};
