//! How discovery itself is.

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use tokio::time::Instant;

use crate::escape::escape;

/// The condition of a source. Trouble with the network is told here and never ends discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Not started.
    Idle,
    /// Started, nothing known yet.
    Starting,
    /// All is well; the list may still be empty.
    Ready,
    /// No network interface can be used. Recovers by itself.
    NoInterface,
    /// Something is wrong; the last good list is kept.
    Degraded {
        /// What.
        what: Trouble,
        /// Since when.
        since: Instant,
        /// When it is tried again, if that is known.
        next_try: Option<Instant>,
    },
    /// Stopped for good.
    Stopped,
}

impl Status {
    /// Trouble since `since`.
    pub fn degraded(what: Trouble, since: Instant) -> Self {
        Self::Degraded { what, since, next_try: None }
    }

    /// A name of the variant that never changes.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NoInterface => "no_interface",
            Self::Degraded { .. } => "degraded",
            Self::Stopped => "stopped",
        }
    }

    /// What is wrong, if something is.
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Degraded { what, .. } => Some(what),
            _ => None,
        }
    }
}

/// A sentence for people, escaped, without a full stop.
impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("discovery was not started"),
            Self::Starting => f.write_str("discovery is starting"),
            Self::Ready => f.write_str("discovery works"),
            Self::NoInterface => f.write_str("no interface is usable"),
            Self::Degraded { what, .. } => what.fmt(f),
            Self::Stopped => f.write_str("discovery was stopped"),
        }
    }
}

/// What is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// No multicast socket could be opened.
    NoSocket,
    /// Announcements came faster than they could be taken in; nobody leaves until that is over.
    EventOverflow,
    /// More peers than multicast DNS carries well.
    ManyForMdns,
    /// The multicast daemon ended and is started again.
    DaemonLost,
    /// The file is not there.
    FileMissing,
    /// The file cannot be read, or not as a whole.
    FileUnreadable {
        /// The system's text.
        why: Arc<str>,
    },
    /// The file was read and refused as a whole.
    FileInvalid {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there. Foreign text.
        why: Arc<str>,
    },
    /// The source ended or failed; what it said last is kept.
    SourceFailed {
        /// What it said.
        why: Arc<str>,
    },
    /// Some sources of a merge are not ready. All are listed.
    Sources(Arc<[SourceReport]>),
    /// Something else, from a source that is not from this crate. Foreign text.
    Other(Arc<str>),
}

impl Trouble {
    /// Whether nothing can be heard of the peers while it lasts.
    pub(crate) fn is_blind(&self) -> bool {
        match self {
            Self::NoSocket
            | Self::DaemonLost
            | Self::FileMissing
            | Self::FileUnreadable { .. }
            | Self::FileInvalid { .. }
            | Self::SourceFailed { .. } => true,
            // Of a merge in a merge, some parts can be heard.
            Self::EventOverflow | Self::ManyForMdns | Self::Sources(_) | Self::Other(_) => false,
        }
    }

    /// A name of the variant that never changes.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoSocket => "no_socket",
            Self::EventOverflow => "event_overflow",
            Self::ManyForMdns => "many_for_mdns",
            Self::DaemonLost => "daemon_lost",
            Self::FileMissing => "file_missing",
            Self::FileUnreadable { .. } => "file_unreadable",
            Self::FileInvalid { .. } => "file_invalid",
            Self::SourceFailed { .. } => "source_failed",
            Self::Sources(_) => "sources",
            Self::Other(_) => "other",
        }
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket => f.write_str("no multicast socket can be opened"),
            Self::EventOverflow => f.write_str("announcements came too fast to be taken in"),
            Self::ManyForMdns => f.write_str("more than 300 peers are too many for mDNS: use a registry"),
            Self::DaemonLost => f.write_str("the multicast daemon ended and is started again"),
            Self::FileMissing => f.write_str("the file is not there"),
            Self::FileUnreadable { why } => write!(f, "the file cannot be read: {}", escape(why)),
            Self::FileInvalid { line, column, why } => {
                write!(f, "the file was refused at line {line}, column {column}: {}", escape(why))
            }
            Self::SourceFailed { why } => write!(f, "the source failed: {}", escape(why)),
            Self::Sources(reports) => Sources(reports).fmt(f),
            Self::Other(text) => escape(text).fmt(f),
        }
    }
}

/// How one source of a merge is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceReport {
    /// Its kind, with its position if there are several of the kind: `mdns`, `static 2`.
    pub name: Arc<str>,
    /// Its own status.
    pub status: Status,
}

impl SourceReport {
    /// A line of the list.
    pub fn new(name: impl Into<Arc<str>>, status: Status) -> Self {
        Self { name: name.into(), status }
    }
}

/// `mdns: no interface is usable; static: …`.
pub(crate) struct Sources<'a>(pub(crate) &'a [SourceReport]);

impl Display for Sources<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, SourceReport { name, status }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match status {
                Status::Ready => write!(f, "{separator}{} works", escape(name))?,
                _ => write!(f, "{separator}{}: {status}", escape(name))?,
            }
        }
        Ok(())
    }
}
