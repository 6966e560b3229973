//! A call counted on its peer.

use std::sync::Arc;

use crate::{Member, Outcome, PeerState};

/// A picked peer, and the call on it: counted from the pick until this is dropped.
///
/// The steps are [`sent`](Self::sent) and [`head`](Self::head); dropping it at any point leaves the
/// counters as if the call had ended then.
#[derive(Debug)]
#[must_use = "dropping the lease ends the call"]
pub struct Lease<P, C = ()> {
    member: Arc<Member<P, C>>,
    /// When the call was sent, while it has no head.
    awaiting_since: Option<u64>,
}

impl<P, C> Lease<P, C> {
    /// Counts a call on `member`; gives it back if it has its limit of calls already.
    pub(crate) fn begin(member: &Arc<Member<P, C>>) -> Option<Self> {
        member.state.try_begin().then(|| Self { member: Arc::clone(member), awaiting_since: None })
    }

    /// The peer that was picked.
    pub fn peer(&self) -> &P {
        self.member.peer()
    }

    /// The same with all that is known of it.
    pub const fn member(&self) -> &Arc<Member<P, C>> {
        &self.member
    }

    /// The connection is ready and the first byte goes out.
    pub fn sent(&mut self, now: u64) {
        if self.awaiting_since.is_none() {
            self.state().sent(now);
            self.awaiting_since = Some(now);
        }
    }

    /// The attempt has its outcome, mostly because the head arrived. Returns how long that took since
    /// [`sent`](Self::sent), if it was sent.
    pub fn head(&mut self, outcome: Outcome, now: u64) -> Option<u64> {
        let since = self.awaiting_since.take()?;
        // Only an answer is progress: a peer that never answers must look stalled however many give up.
        let answered =
            matches!(outcome, Outcome::Success | Outcome::Ignored | Outcome::Soft | Outcome::Throttled);
        self.state().head(answered.then_some(now));
        Some(now.saturating_sub(since))
    }

    fn state(&self) -> &PeerState {
        &self.member.state
    }
}

impl<P, C> Drop for Lease<P, C> {
    fn drop(&mut self) {
        if self.awaiting_since.is_some() {
            self.state().head(None);
        }
        self.state().finish();
    }
}
