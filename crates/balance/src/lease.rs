//! A call counted on its peer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

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
    is_reported: bool,
    is_probe: bool,
    is_trial: bool,
    /// The permit, until the probe has an outcome.
    probe: Option<Probe>,
}

/// The permit to probe an ejected peer. It is given back if the probe has no outcome.
#[derive(Debug)]
struct Probe {
    /// When the next probe of any peer is due.
    due: Arc<AtomicU64>,
}

impl<P, C> Lease<P, C> {
    /// Counts a call on `member`, unless it has its limit of calls already.
    #[inline]
    pub(crate) fn begin(member: &Arc<Member<P, C>>) -> Option<Self> {
        if !member.state.try_begin() {
            return None;
        }
        if let Some(total) = &member.total {
            total.fetch_add(1, Ordering::Relaxed);
        }
        Some(Self {
            member: Arc::clone(member),
            awaiting_since: None,
            is_reported: false,
            is_probe: false,
            is_trial: false,
            probe: None,
        })
    }

    /// The same for the call that finds out whether an ejected peer works again, if no other does.
    pub(crate) fn begin_probe(member: &Arc<Member<P, C>>, due: &Arc<AtomicU64>) -> Option<Self> {
        if !member.state.try_probe() {
            return None;
        }
        let probe = Probe { due: Arc::clone(due) };
        let Some(mut lease) = Self::begin(member) else {
            probe.give_back(&member.state);
            return None;
        };
        lease.is_probe = true;
        lease.probe = Some(probe);
        Some(lease)
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
        self.is_probe
    }

    /// A call that finds out whether a peer is still as bad as it looks.
    pub(crate) fn begin_trial(member: &Arc<Member<P, C>>) -> Option<Self> {
        let mut lease = Self::begin(member)?;
        lease.is_trial = true;
        Some(lease)
    }

    pub(crate) const fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// The connection is ready and the first byte goes out.
    ///
    /// Not to be called for calls whose time says nothing, such as long polls: then neither their time nor
    /// their silence counts against the peer.
    pub fn sent(&mut self, now: u64) {
        if self.awaiting_since.is_none() && !self.is_reported {
            self.state().sent(now);
            self.awaiting_since = Some(now);
        }
    }

    /// Whether it was sent and has no outcome yet. Who drops it then gives up waiting, and reports
    /// [`Cancelled`](Outcome::Cancelled) first: the time waited so far is news about the peer (B-2.5).
    pub const fn is_waiting(&self) -> bool {
        self.awaiting_since.is_some()
    }

    /// The attempt has an outcome: ends the waiting. Returns whether that is news and how long it took.
    pub(crate) fn end_wait(&mut self, outcome: Outcome, now: u64) -> (bool, Option<u64>) {
        let is_news = !std::mem::replace(&mut self.is_reported, true);
        let Some(since) = self.awaiting_since.take() else { return (is_news, None) };
        // Only an answer is progress: a peer that never answers must look stalled however many give up.
        let answered =
            matches!(outcome, Outcome::Success | Outcome::Ignored | Outcome::Soft | Outcome::Throttled);
        self.state().head(answered.then_some(now));
        (is_news, Some(now.saturating_sub(since)))
    }

    /// Forgets the permit, because the outcome is known and its flags are set accordingly.
    pub(crate) fn end_probe(&mut self) {
        self.probe = None;
    }

    fn state(&self) -> &PeerState {
        &self.member.state
    }
}

impl Probe {
    fn give_back(self, state: &PeerState) {
        // The flag first: whoever looks because a probe is due must find it free.
        state.set_flag(Flags::PROBING, false);
        self.due.store(0, Ordering::SeqCst);
    }
}

impl<P, C> Drop for Lease<P, C> {
    fn drop(&mut self) {
        if self.awaiting_since.is_some() {
            self.state().head(None);
        }
        // The permit of an address that the peer has left is nobody's.
        if let Some(probe) = self.probe.take().filter(|_| self.member.is_current()) {
            probe.give_back(&self.member.state);
        }
        self.state().finish();
        if let Some(total) = &self.member.total {
            total.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
