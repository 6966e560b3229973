//! Which peer, may it be repeated, how long to wait: pure rules without I/O.
//!
//! Picking a peer and repeating a call are where clients do damage: two clients that start at the same
//! peer, a POST sent twice, three layers that each resend three times. The rules that avoid it are here,
//! apart from sockets and timers, so that each can be run with a given clock and given random numbers.
//!
//! ```
//! use peerage_balance::{Announced, Balancer, LeaveOut, Settings};
//!
//! let balancer: Balancer<&str> = Balancer::new(Settings { seed: Some(42), ..Settings::default() });
//! let peers = [("a", "192.0.2.1:80"), ("b", "192.0.2.2:80")];
//! balancer.update(0, peers.map(|(id, address)| Announced::new(id, id, address, ())));
//!
//! let mut left_out = LeaveOut::default();
//! let first = balancer.pick(&left_out, 0)?;
//! left_out.add(first.member().key());
//! let second = balancer.pick(&left_out, 0)?;
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
//! [`Balancer`] keeps the peers and picks among them; a pick is a [`Lease`] that counts the call on its
//! peer until it is dropped. [`RetryState`] is one call's retry loop: it is told how an attempt ended
//! ([`Event`]) and answers what to do ([`Action`]). [`outcome`] says what an answer means for the peer,
//! [`repeat`] what may be sent again, [`retry_after`] reads `Retry-After`, [`deadline`] turns deadlines
//! into header values and back.
//!
//! Section numbers in the docs ("B-4.2") are those of the balancing rules.

mod balancer;
pub mod deadline;
mod error;
mod hash;
mod lease;
pub mod outcome;
mod peer;
pub mod repeat;
mod retry;
pub mod retry_after;
mod rng;
mod set;
mod turn;

pub use balancer::{Balancer, Changes, Policy, Settings};
pub use error::{PickError, PickErrorKind};
pub use hash::hash64;
pub use lease::Lease;
pub use outcome::Outcome;
pub use peer::{Announced, Flags, LeaveOut, Member, PeerKey, PeerState, Weight};
pub use repeat::Stage;
pub use retry::{Action, Backoff, Event, InvalidPolicy, RetryPolicy, RetryState, Situation, StopReason};
pub use rng::{Generator, index_below, mix, two_below, unit};
pub use set::Set;
pub use turn::RoundRobin;

/// Nanoseconds in a millisecond, the unit most limits are written in.
pub(crate) const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
