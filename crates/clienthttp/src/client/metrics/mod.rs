//! Counts and times for dashboards (B-10.3), through the `metrics` facade. Without the feature nothing of it
//! is left.
//!
//! Every handle is asked for once, by the first thing it counts, and kept: counting costs an atomic addition,
//! and nothing is looked up or allocated for it, whether somebody listens or not.

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod on;

#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::{Meters, OBSERVED_EVERY, PeerMeters};
#[cfg(feature = "metrics")]
pub(crate) use self::on::{Meters, OBSERVED_EVERY, PeerMeters};

/// What gauges show, besides the peers.
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "nobody looks"))]
pub(crate) struct Levels {
    pub(crate) panic_picks: u64,
    /// Calls that could be sent again.
    pub(crate) resends_left: Option<f64>,
}

/// What became of a second copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hedge {
    Won,
    Lost,
    /// No budget.
    Refused,
}
