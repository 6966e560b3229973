//! What became of a call: whom it went to, and how often.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode};
use peerage_balance::{Outcome, Stage, deadline::NO_RETRY_HEADER};
use peerage_discovery::{Endpoint, Peer, escape};

use crate::PickExplanation;

/// The peer that answered; in the extensions of every answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerInfo {
    peer: Peer,
}

impl PeerInfo {
    pub(crate) const fn new(peer: Peer) -> Self {
        Self { peer }
    }

    /// Its node id, foreign text: escape it before showing it.
    #[must_use]
    pub fn node_id(&self) -> &str {
        self.peer.node_id()
    }

    /// The address it is dialled at first.
    #[must_use]
    pub fn address(&self) -> &Endpoint {
        self.peer.address()
    }

    /// All that discovery knew of it when it was picked.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// `billing-2 (10.0.0.7:9999)`, escaped.
impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", escape(self.node_id()), self.address())
    }
}

/// One attempt of a call on one peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// Whom it went to.
    pub peer: PeerInfo,
    /// What it means for the peer.
    pub outcome: Outcome,
    /// How far it came.
    pub stage: Stage,
    /// The status, if there was an answer.
    pub status: Option<StatusCode>,
    /// What went wrong, if there was none: words of ours, without input from anybody.
    pub failure: Option<&'static str>,
    /// How long it took until the connection was there and the request went out; `None` if it never did.
    pub connected: Option<Duration>,
    /// How long it took, to the head of the answer or the failure.
    pub elapsed: Duration,
    /// Why it went there, if the call was [told to explain](crate::CallOptions::explain).
    pub pick: Option<Arc<PickExplanation>>,
    /// Whether it was a second copy, sent because the answer to the first was late (B-6).
    pub is_hedge: bool,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was tried and ", self.peer)?;
        match (self.status, self.failure) {
            (Some(status), _) => write!(f, "answered {}", status.as_u16()),
            (None, Some(failure)) => f.write_str(failure),
            (None, None) => f.write_str("failed"),
        }
    }
}

/// All attempts of a call, in order; in the extensions of every answer and in every error.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// Apart from the last, so that a call that succeeds at once allocates nothing for its list.
    earlier: Vec<Attempt>,
    last: Option<Attempt>,
    /// Another one was refused: by the budget, or because somebody said so.
    was_refused: bool,
}

impl Attempts {
    pub(crate) fn push(&mut self, attempt: Attempt) {
        if let Some(before) = self.last.replace(attempt) {
            self.earlier.push(before);
        }
    }

    /// Another attempt was refused: by the budget, or because somebody said so.
    pub(crate) fn refuse(&mut self) {
        self.was_refused = true;
    }

    /// Whether it was sent again, or that was refused.
    pub(crate) fn is_spent(&self) -> bool {
        self.was_refused || self.sends() > 1
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.earlier.len() + usize::from(self.last.is_some())
    }

    /// Each of them, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.earlier.iter().chain(&self.last)
    }

    /// How many of them a peer may have acted on.
    #[must_use]
    pub fn sends(&self) -> usize {
        self.iter().filter(|attempt| attempt.stage != Stage::NotSent).count()
    }

    /// Marks an answer of ours that is an error because of this call, if it was sent again already or was
    /// refused that: repeating it further up would only multiply load (B-5.1). Behind a
    /// [`ServingLayer`](crate::ServingLayer) that happens by itself.
    pub fn mark_answer(&self, headers: &mut HeaderMap) {
        if self.is_spent() {
            headers.insert(NO_RETRY_HEADER, HeaderValue::from_static("1"));
        }
    }

    /// The last of them.
    #[must_use]
    pub const fn last(&self) -> Option<&Attempt> {
        self.last.as_ref()
    }
}

/// The attempts, separated by `; `.
impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.iter().enumerate() {
            write!(f, "{}{attempt}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
