//! Nobody counts.

use std::{sync::Arc, time::Duration};

use peerage_balance::{Event, Notice, Outcome, Policy, StopReason};
use peerage_discovery::ServiceType;

use super::{Hedge, Levels};
use crate::{PeerView, error::Phase};

pub(crate) const OBSERVED_EVERY: Option<Duration> = None;

#[derive(Debug)]
pub(crate) struct Meters;

#[derive(Debug)]
pub(crate) struct PeerMeters;

/// A pick that nobody times.
pub(crate) struct Untimed;

impl Meters {
    pub(crate) fn new(_: &ServiceType, _: Option<Policy>, _: Option<Arc<str>>) -> Self {
        Self
    }

    pub(crate) fn of_peer(&self, _: &str) -> PeerMeters {
        PeerMeters
    }

    pub(crate) fn time_pick(&self, _: u64) -> Untimed {
        Untimed
    }

    pub(crate) fn timed_pick(&self, _: Untimed) {}

    pub(crate) fn picked(&self, _: Option<&str>) {}

    pub(crate) fn resent(&self, _: Event) {}

    pub(crate) fn refused(&self, _: StopReason, _: bool) {}

    pub(crate) fn hedged(&self, _: Hedge) {}

    pub(crate) fn late(&self, _: Phase) {}

    pub(crate) fn ended(&self, _: usize) {}

    pub(crate) fn guarded(&self, _: usize) {}

    pub(crate) fn noticed(&self, _: &Notice) {}

    pub(crate) fn observe(&self, _: &[PeerView], _: &Levels) {}
}

impl PeerMeters {
    pub(crate) fn ended(&self, _: &Meters, _: Outcome, _: Option<u64>) {}
}
