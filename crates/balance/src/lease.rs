//! A call counted on its peer.

use std::sync::{Arc, atomic::Ordering};

use crate::{Flags, Member, Outcome, PeerState};

/// A picked peer, and the call on it: counted from the pick until this is dropped.
///
/// The steps are [`sent`](Self::sent) and [`Balancer::head`](crate::Balancer::head); dropping it at any
/// point leaves the counters as if the call had ended then.
#[derive(Debug)]
#[must_use = "dropping the lease ends the call"]
pub struct Lease<P, C = ()> {
    member: Arc<Member<P, C>>,
    /// When the call was sent, while it has no head.
    awaiting_since: Option<u64>,
    kind: Kind,
    is_reported: bool,
    /// It has the permit to probe: until it has an outcome, and given back if it never has one.
    has_permit: bool,
}

/// What a call is for, beside its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Call,
    /// Finds out whether a peer is still as bad as it looks.
    Trial,
    /// Finds out whether an ejected peer works again.
    Probe,
}

impl<P, C> Member<P, C> {
    /// Counts a call, unless it has its limit of calls already. The count is of a lease to be made at once.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        let has_begun = self.state.try_begin();
        if let Some(total) = self.total.as_ref().filter(|_| has_begun) {
            total.fetch_add(1, Ordering::Relaxed);
        }
        has_begun
    }

    /// The same for the call that finds out whether an ejected peer works again, if no other does.
    pub(crate) fn begin_probe(&self) -> bool {
        if !self.state.try_probe() {
            return false;
        }
        let has_begun = self.begin();
        if !has_begun {
            self.give_back_permit();
        }
        has_begun
    }

    fn give_back_permit(&self) {
        // The flag first: whoever looks because a probe is due must find it free.
        self.state.set_flag(Flags::PROBING, false);
        self.probe_due.no_later_than(0);
    }
}

impl<P, C> Lease<P, C> {
    /// Of a call that was counted on `member`.
    #[inline]
    pub(crate) const fn of(member: Arc<Member<P, C>>, kind: Kind) -> Self {
        let has_permit = matches!(kind, Kind::Probe);
        Self { member, awaiting_since: None, kind, is_reported: false, has_permit }
    }

    /// The peer that was picked.
    pub fn peer(&self) -> &P {
        self.member.peer()
    }

    /// The same with all that is known of it.
    pub const fn member(&self) -> &Arc<Member<P, C>> {
        &self.member
    }

    /// Whether this call finds out if an ejected peer works again (B-3.3). If it fails, the call goes on
    /// elsewhere and no budget pays for that.
    pub const fn is_probe(&self) -> bool {
        matches!(self.kind, Kind::Probe)
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The connection is ready and the first byte goes out.
    ///
    /// Not to be called for calls whose time says nothing, such as long polls: then neither their time nor
    /// their silence counts against the peer.
    #[inline]
    pub fn sent(&mut self, now: u64) {
        if self.awaiting_since.is_none() && !self.is_reported {
            self.state().waits().sent(now);
            self.awaiting_since = Some(now);
        }
    }

    /// Whether it was sent and has no outcome yet. Who drops it then gives up waiting, and reports
    /// [`Cancelled`](Outcome::Cancelled) first: the time waited so far is news about the peer (B-2.5).
    pub const fn is_waiting(&self) -> bool {
        self.awaiting_since.is_some()
    }

    /// The attempt has an outcome: ends the waiting. Returns whether that is news and how long it took.
    #[inline]
    pub(crate) fn end_wait(&mut self, outcome: Outcome, now: u64) -> (bool, Option<u64>) {
        let is_news = !std::mem::replace(&mut self.is_reported, true);
        let Some(since) = self.awaiting_since.take() else { return (is_news, None) };
        // Only an answer is progress: a peer that never answers must look stalled however many give up.
        let answered =
            matches!(outcome, Outcome::Success | Outcome::Ignored | Outcome::Soft | Outcome::Throttled);
        self.state().waits().ended(answered.then_some(now));
        (is_news, Some(now.saturating_sub(since)))
    }

    /// Forgets the permit, because the outcome is known and its flags are set accordingly.
    pub(crate) const fn end_probe(&mut self) {
        self.has_permit = false;
    }

    fn state(&self) -> &PeerState {
        &self.member.state
    }
}

impl<P, C> Drop for Lease<P, C> {
    #[inline]
    fn drop(&mut self) {
        if self.awaiting_since.is_some() {
            self.state().waits().ended(None);
        }
        // The permit of an address that the peer has left is nobody's.
        if self.has_permit && self.member.is_current() {
            self.member.give_back_permit();
        }
        self.state().finish();
        if let Some(total) = &self.member.total {
            total.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
