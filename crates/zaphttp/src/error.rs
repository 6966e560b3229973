use std::error::Error as StdError;
use std::fmt;
use std::io;

use http::Request;

use crate::Body;
use crate::client::Outgoing;
#[cfg(feature = "tls")]
use crate::tls::{TlsError, TlsFailure};
use crate::wire::{EncodeError, WireError};

/// Any error, boxed.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request got no answer.
///
/// Two questions matter to a caller: what went wrong ([`kind`](Self::kind)), and whether the server may
/// have acted on the request ([`stage`](Self::stage)). Where nothing of the request left, it is given back
/// by [`into_request`](Self::into_request). `Display` tells this level only, the source chain the rest.
pub struct SendError {
    inner: Box<Inner>,
}

struct Inner {
    kind: SendErrorKind,
    stage: Stage,
    source: Option<BoxError>,
    /// Not as a request: its body could be a stream, and streams are not `Sync`.
    request: Option<Outgoing>,
}

/// What went wrong, by what a caller does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No connection came up.
    Connect,
    /// The handshake failed, or one side is not who the other expects.
    #[cfg(feature = "tls")]
    Tls(TlsFailure),
    /// The connect or the response timeout passed; the stage tells which.
    Timeout,
    /// The peer broke the protocol.
    Protocol(WireError),
    /// The request body does not fit into a frame. Nothing was sent.
    BodyTooLarge {
        /// The longest frame.
        limit: usize,
    },
    /// The request's own body failed. Nothing was sent.
    RequestBody,
    /// The request cannot be put into a frame. Nothing was sent.
    Encode(EncodeError),
    /// The peer closed the connection before its answer was whole.
    Closed,
    /// The connection broke.
    Io,
    /// This client was closed. Nothing was sent.
    Shutdown,
}

/// How far a failed request came, for the decision whether it may be repeated.
///
/// The order is that of certainty: `NotSent < Stale < Ambiguous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The server cannot have acted on it: the frame did not leave whole. May always be repeated.
    NotSent,
    /// It was written to a reused connection, which closed before a byte of the answer. Most likely the
    /// server had closed it already; the client repeats this by itself where the method is idempotent.
    Stale,
    /// It was written, and what became of it is unknown.
    Ambiguous,
}

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, stage: Stage) -> Self {
        Self { inner: Box::new(Inner { kind, stage, source: None, request: None }) }
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    pub(crate) fn giving_back(mut self, request: Outgoing) -> Self {
        self.inner.request = Some(request);
        self
    }

    /// An earlier try of the same request may have reached the server.
    pub(crate) fn at_least(mut self, stage: Stage) -> Self {
        self.inner.stage = self.inner.stage.max(stage);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> SendErrorKind {
        self.inner.kind
    }

    /// How far the request came.
    pub fn stage(&self) -> Stage {
        self.inner.stage
    }

    /// Whether time ran out.
    pub fn is_timeout(&self) -> bool {
        matches!(self.inner.kind, SendErrorKind::Timeout)
    }

    /// Whether no connection came up.
    pub fn is_connect(&self) -> bool {
        match self.inner.kind {
            SendErrorKind::Connect => true,
            #[cfg(feature = "tls")]
            SendErrorKind::Tls(_) => self.inner.stage == Stage::NotSent,
            SendErrorKind::Timeout => self.inner.stage == Stage::NotSent,
            _ => false,
        }
    }

    /// The request, whole, where the server cannot have seen all of it and its body was read to the end.
    pub fn into_request(self) -> Option<Request<Body>> {
        self.inner.request.map(Outgoing::into_request)
    }

    /// Whether [`into_request`](Self::into_request) has it.
    pub fn has_request(&self) -> bool {
        self.inner.request.is_some()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner.kind {
            SendErrorKind::Connect => f.write_str("cannot connect to the peer")?,
            #[cfg(feature = "tls")]
            SendErrorKind::Tls(_) => f.write_str("no secure connection to the peer")?,
            SendErrorKind::Timeout if self.inner.stage == Stage::NotSent => {
                f.write_str("the peer took too long to connect to, or to take the request")?;
            }
            SendErrorKind::Timeout => f.write_str("the peer took too long to answer")?,
            SendErrorKind::Protocol(_) => f.write_str("the peer broke the protocol")?,
            SendErrorKind::BodyTooLarge { limit } => {
                write!(f, "the request body does not fit into a frame of {limit} bytes")?;
            }
            SendErrorKind::RequestBody => f.write_str("the request body failed")?,
            SendErrorKind::Encode(_) => f.write_str("the request fits into no frame")?,
            SendErrorKind::Closed => f.write_str("the peer closed the connection before its answer")?,
            SendErrorKind::Io => f.write_str("the connection to the peer broke")?,
            SendErrorKind::Shutdown => f.write_str("the client is closed")?,
        }
        match self.inner.stage {
            Stage::NotSent => Ok(()),
            Stage::Stale | Stage::Ambiguous => f.write_str("; whether it acted on the request is unknown"),
        }
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The request is left out: its headers may hold credentials.
        let Inner { kind, stage, source, request } = &*self.inner;
        f.debug_struct("SendError")
            .field("kind", kind)
            .field("stage", stage)
            .field("source", source)
            .field("gives_back", &request.is_some())
            .finish()
    }
}

impl StdError for SendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let own: Option<&(dyn StdError + 'static)> = match &self.inner.kind {
            SendErrorKind::Protocol(error) => Some(error),
            SendErrorKind::Encode(error) => Some(error),
            _ => None,
        };
        self.inner.source.as_ref().map(|source| &**source as &(dyn StdError + 'static)).or(own)
    }
}

/// Why no connection came up. Nothing of a request was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot resolve the name of the peer")]
    Resolve(#[source] io::Error),
    /// The network or the peer refused.
    #[error("cannot open a connection")]
    Io(#[source] io::Error),
    /// The handshake failed, or one side is not who the other expects.
    #[cfg(feature = "tls")]
    #[error("no secure connection")]
    Tls(#[source] TlsError),
    /// Something else, from a [`Connect`](crate::Connect) of the caller's.
    #[error("the connector failed")]
    Other(#[source] BoxError),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection was closed in the middle of the body. What was read is not the whole.
    #[error("the body was cut short")]
    Cut,
    /// Nothing of the body arrived for too long. Empty pieces do not count (S-083).
    #[error("the body made no progress in time")]
    Idle,
    /// The peer broke the protocol inside the body.
    #[error("the peer broke the protocol")]
    Protocol(#[source] WireError),
    /// The connection broke.
    #[error("the connection to the peer broke")]
    Io(#[source] io::Error),
    /// The body this one was made from failed.
    #[error("the body failed")]
    Inner(#[source] BoxError),
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another process is being served at this Unix socket.
    #[error("{} is in use by a live process", path.display())]
    InUse {
        /// The socket.
        path: std::path::PathBuf,
    },
    /// Something that is no socket stands at the path of a Unix socket. It was left alone.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: std::path::PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {at}")]
    Io {
        /// The address or path.
        at: String,
        /// What the system says.
        source: io::Error,
    },
}
