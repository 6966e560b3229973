//! Why the helper gives up.

use std::io;
use std::process::ExitStatus;

use crate::pktline::PacketError;
use crate::remote::BoxError;

/// Why the helper gives up. The whole chain in one line is what stands behind `fatal:`.
///
/// Texts of foreign origin in it are escaped. No variant holds a credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// Git asked for something this helper does not know, or that has no place there.
    #[error("unsupported command \"{line}\"")]
    UnsupportedCommand {
        /// The line, fit to be shown.
        line: String,
    },
    /// Git's request is no sequence of packets.
    #[error("cannot read the request of git")]
    Request {
        /// What is wrong with it.
        #[source]
        source: PacketError,
    },
    /// Nothing more can be read from Git.
    #[error("cannot read from git")]
    Input {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing more can be written to Git.
    #[error("cannot write to git")]
    Output {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server sent no advertisement of the service that was asked for.
    #[error("the server's advertisement of {service} cannot be read: {reason}")]
    Advertisement {
        /// The service.
        service: &'static str,
        /// What is wrong with it, fit to be shown.
        reason: String,
        /// What is wrong with its packets, if that is it.
        #[source]
        source: Option<PacketError>,
    },
    /// The server refused in an `ERR` packet.
    #[error("remote: {text}")]
    RemoteSaid {
        /// Its words, fit to be shown.
        text: String,
    },
    /// An answer of the server broke off, or holds what it may not.
    #[error("the server's answer cannot be read")]
    Answer {
        /// What is wrong with it.
        #[source]
        source: PacketError,
    },
    /// Something is longer than its limit.
    #[error("{what} exceeds the limit of {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The limit, in bytes unless `what` says otherwise.
        limit: u64,
    },
    /// The operation failed on the way to the server or there.
    #[error(transparent)]
    Remote(BoxError),
    /// There is no room to put the body aside.
    #[error("cannot put the body into a temporary file")]
    Spool {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A `git` of ours cannot be started.
    #[error("cannot run {program}")]
    Start {
        /// The command.
        program: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A `git` of ours sent something else than its protocol.
    #[error("reading {program} request")]
    Child {
        /// The command.
        program: &'static str,
        /// What is wrong with it.
        #[source]
        source: PacketError,
    },
    /// A `git` of ours ended without success.
    #[error("{program} exited with {status}")]
    Exit {
        /// The command.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What failed while it was fed, if something did.
        #[source]
        source: Option<BoxError>,
    },
    /// A signal ended the command.
    #[error("interrupted")]
    Cancelled,
    /// A push may or may not have been applied.
    #[error(
        "push outcome unknown: {}\n\
         Some or all ref updates may have been applied. The push was not sent again, since that could repeat \
         an update.\nLook at the remote refs before you push again; a read may reach a replica that lags \
         behind the primary, so an old value there proves nothing.",
        crate::diagnostics::chain(cause.as_ref())
    )]
    OutcomeUnknown {
        /// Why nothing more is known. Its chain is part of the text.
        cause: BoxError,
    },
}

impl HelperError {
    /// Says of a push that was sent that its outcome is unknown. Told once: an error that says so already stays.
    #[must_use]
    pub fn into_outcome_unknown(self, is_unknown: impl FnOnce(&BoxError) -> bool) -> Self {
        match self {
            Self::OutcomeUnknown { .. } => self,
            Self::Remote(error) if is_unknown(&error) => Self::Remote(error),
            Self::Remote(cause) => Self::OutcomeUnknown { cause },
            other => Self::OutcomeUnknown { cause: other.into() },
        }
    }
}

impl From<BoxError> for HelperError {
    fn from(error: BoxError) -> Self {
        Self::Remote(error)
    }
}
