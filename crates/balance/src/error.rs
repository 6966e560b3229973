//! Why no peer was picked.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Flags, LeaveOut, Member, Set};

/// The reason, for programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PickErrorKind {
    /// Nobody was ever announced: the source has not spoken yet.
    NotReady,
    /// The source knows nobody.
    NoPeers,
    /// There are peers, and each is kept out.
    AllExcluded,
    /// All peers asked for less; the shortest wait.
    AllThrottled {
        /// Until the first of them takes work again.
        retry_after: Duration,
    },
    /// All peers that could be used have as many calls as they may.
    Saturated,
    /// The picker of the caller took none.
    NoneChosen,
}

impl fmt::Display for PickErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("nobody was announced yet"),
            Self::NoPeers => f.write_str("no peers are known"),
            Self::AllExcluded => f.write_str("every known peer is kept out"),
            Self::AllThrottled { retry_after } => {
                write!(f, "every peer asked for a pause, the shortest {retry_after:?}")
            }
            Self::Saturated => f.write_str("every peer has as many calls as it may"),
            Self::NoneChosen => f.write_str("the picker took none"),
        }
    }
}

/// Why no peer was picked. Its text names each peer and what keeps it out; it is made when shown.
pub struct PickError<P, C = ()> {
    kind: PickErrorKind,
    set: Arc<Set<P, C>>,
    now: u64,
}

impl<P, C> PickError<P, C> {
    pub(crate) const fn new(kind: PickErrorKind, set: Arc<Set<P, C>>, now: u64) -> Self {
        Self { kind, set, now }
    }

    /// The reason.
    pub const fn kind(&self) -> PickErrorKind {
        self.kind
    }

    /// The peers there were.
    pub fn set(&self) -> &Set<P, C> {
        &self.set
    }
}

impl<P, C> Member<P, C> {
    /// What keeps it from being picked at `now`, for people; `None` if nothing does.
    pub fn why_out(&self, now: u64) -> Option<impl fmt::Display + use<'_, P, C>> {
        let is_open = self.state.is_open(Flags::SUSPECT, now) && self.has_room(&LeaveOut::EMPTY);
        let out = self.weight.get() == 0 || !is_open;
        out.then_some(WhyOut { member: self, now })
    }
}

impl<P, C> fmt::Display for PickError<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if self.kind == PickErrorKind::NoneChosen {
            write!(f, " of {} peers", self.set.eligible().len())?;
        }
        for member in self.set.members() {
            if let Some(why) = member.why_out(self.now) {
                write!(f, "; {} {why}", member.key.as_str().escape_debug())?;
            }
        }
        Ok(())
    }
}

impl<P, C> fmt::Debug for PickError<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<P, C> std::error::Error for PickError<P, C> {}

struct WhyOut<'a, P, C> {
    member: &'a Member<P, C>,
    now: u64,
}

impl<P, C> fmt::Display for WhyOut<'_, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (member, state) = (self.member, &self.member.state);
        let flags = state.flags(self.now);
        let mut separator = "";
        let mut part = |text: fmt::Arguments<'_>| {
            write!(f, "{separator}{text}")?;
            separator = ", ";
            Ok(())
        };
        if member.weight.get() == 0 {
            part(format_args!("wants no new work (weight 0)"))?;
        }
        for (flag, text) in [
            (Flags::EJECTED, "is ejected"),
            (Flags::PROBING, "is being probed"),
            (Flags::THROTTLED, "asked for a pause"),
            (Flags::DOWN, "fails its checks"),
            (Flags::QUARANTINED, "did not prove who it is"),
            (Flags::DRAINING.union(Flags::SUSPECT), "cannot be reached"),
        ] {
            if flags.contains(flag) {
                part(format_args!("{text}"))?;
            }
        }
        if flags.contains(Flags::DRAINING) && !flags.contains(Flags::SUSPECT) {
            part(format_args!("left"))?;
        }
        if state.is_full() {
            part(format_args!("has its limit of {} calls", state.limit()))?;
        }
        if let Some(until) = state.until(self.now) {
            let rest = Duration::from_millis(until.saturating_sub(self.now).div_ceil(crate::MILLISECOND));
            write!(f, " for another {rest:?}")?;
        }
        Ok(())
    }
}
