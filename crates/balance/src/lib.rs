//! Which peer, may it be repeated, how long to wait: pure rules without I/O.
//!
//! Picking a peer and repeating a call are where clients do damage: two clients that start at the same
//! peer, a POST sent twice, three layers that each resend three times. The rules that avoid it are here,
//! apart from sockets and timers, so that each can be run with a given clock and given random numbers.
//!
//! ```
//! use peerage_balance::{Announced, Balancer, LeaveOut, Outcome, PickInput, Settings};
//!
//! let balancer: Balancer<&str> = Balancer::new(Settings { seed: Some(42), ..Settings::default() });
//! let peers = [("a", "192.0.2.1:80"), ("b", "192.0.2.2:80")];
//! balancer.update(0, peers.map(|(id, address)| Announced::new(id, id, address, ())));
//!
//! let mut left_out = LeaveOut::default();
//! let mut first = balancer.pick(&PickInput::new(0))?;
//! first.sent(1_000);
//! balancer.head(&mut first, Outcome::Dial, 2_000);
//! left_out.add(first.member().key());
//! let second = balancer.pick(&PickInput::new(3_000).without(&left_out))?;
//! assert_ne!(first.peer(), second.peer());
//! assert_eq!(first.member().state().pending(), 1);
//! # Ok::<(), peerage_balance::PickError<&'static str, ()>>(())
//! ```
//!
//! # Time and randomness
//! `now` is monotonic nanoseconds from a clock of the caller, any zero; differences saturate. Random
//! numbers come from [`Generator`], seeded by the caller in tests. Nothing here reads a clock, opens a
//! socket or needs a runtime.
//!
//! # Map
//! [`Membership`] turns what sources say into the peers that are announced. [`Balancer`] keeps them and
//! picks among them by a [`Policy`]; a pick is a [`Lease`] that counts the call on its peer until it is
//! dropped. [`Balancer::head`] is told how the attempt ended: from that follow the peer's estimate
//! ([`estimate`]) and its [`Health`], that is whether it is ejected, probed, slowly brought back.
//! [`Balancer::take_notices`] tells what happened, [`Balancer::pick_explained`] why a pick went where it
//! went.
//!
//! [`RetryState`] is one call's retry loop: it is told how an attempt ended ([`Event`]) and answers what to
//! do ([`Action`]); a [`Budget`] that all calls of a service share keeps resends few, [`Hedging`] says when a
//! second copy of a slow call may go. [`outcome`] says what an answer means for the peer, [`repeat`] what may
//! be sent again, [`retry_after`] reads `Retry-After`, [`deadline`] turns deadlines into header values and
//! back.
//!
//! Section numbers in the docs ("B-4.2") are those of the balancing rules.

mod balancer;
mod budget;
pub mod deadline;
mod error;
pub mod estimate;
mod explain;
mod group;
mod hash;
mod health;
mod hedge;
#[cfg(test)]
mod interleaved;
mod lease;
mod limit;
mod membership;
mod notice;
pub mod outcome;
mod peer;
mod permit;
mod pick;
pub mod repeat;
mod report;
mod retry;
pub mod retry_after;
mod rng;
mod set;
mod slow;
mod state;
mod sticky;
mod turn;
mod waits;
mod weighted;
mod window;
mod zone;

pub use balancer::{Balancer, Changes, Policy, Settings, StickyBound};
pub use budget::{Budget, BudgetPolicy};
pub use error::{PickError, PickErrorKind};
pub use explain::{Candidate, Explained, Explanation, How};
pub use hash::hash64;
pub use health::{Health, Panic, Rule, ejection_time};
pub use hedge::{HedgePolicy, Hedging};
pub use lease::Lease;
pub use limit::AdaptiveLimit;
pub use membership::{Delta, Membership, Source, Standing, Step};
pub use notice::{Counters, Notice, What};
pub use outcome::Outcome;
pub use peer::{Announced, LeaveOut, Member, PeerKey, Weight};
pub use pick::PickInput;
pub use repeat::Stage;
pub use report::{next_check, next_check_of};
pub use retry::{Action, Backoff, Event, InvalidPolicy, RetryPolicy, RetryState, Situation, StopReason};
pub use rng::{Generator, index_below, mix, two_below, unit};
pub use set::Set;
pub use slow::Warmup;
pub use state::{Flags, PeerState};
pub use sticky::{Maglev, fair_share, key_hash, score, weighted_score};
pub use turn::RoundRobin;
pub use weighted::{Alias, turns};
pub use zone::{Zone, ZoneWeights, local_part};

/// What `permit` and `waits` are made of; other atomics in their tests.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}

/// Draws before a scan (B-1.4).
pub(crate) const DRAWS: usize = 4;
/// Nanoseconds in a millisecond, the unit most limits are written in.
pub(crate) const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
