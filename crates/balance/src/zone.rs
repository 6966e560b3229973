//! Zones: calls stay near while those near can take them (B-2.8).

use std::sync::Arc;

use crate::InvalidPolicy;

/// A zone takes more than its share of the peers would, by so much.
const OVERPROVISION: f64 = 1.4;
/// A zone with fewer eligible peers is not worth staying in.
const LEAST_PEERS: usize = 2;
/// Cost of a local peer over that of a remote one from which on the remote one is taken.
pub(crate) const SPILL: f64 = 2.0;

/// Where this client is.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    pub(crate) zone: Arc<str>,
    pub(crate) region: Option<Arc<str>>,
    pub(crate) callers: Option<f64>,
}

impl Zone {
    /// In `zone`.
    #[must_use]
    pub fn new(zone: impl Into<Arc<str>>) -> Self {
        Self { zone: zone.into(), region: None, callers: None }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.zone
    }

    /// In a region: its other zones are preferred to those elsewhere.
    #[must_use]
    pub fn region(self, region: impl Into<Arc<str>>) -> Self {
        Self { region: Some(region.into()), ..self }
    }

    /// What part of all callers is in this zone, 0 to 1. Unknown unless given, or if 0: then each zone is
    /// taken to call for itself.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn callers(self, part: f64) -> Result<Self, InvalidPolicy> {
        if !(0.0..=1.0).contains(&part) {
            return Err(InvalidPolicy("part of the callers in the zone: 0 to 1"));
        }
        Ok(Self { callers: (part > 0.0).then_some(part), ..self })
    }
}

/// Weights of the peers, from which follows how much stays in the zone.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "an input: every figure counts")]
pub struct ZoneWeights {
    /// Of the eligible peers in the zone.
    pub eligible: u64,
    /// Of the known peers in the zone.
    pub known: u64,
    /// Of all eligible peers.
    pub all_eligible: u64,
    /// How many eligible peers the zone has.
    pub peers: usize,
}

/// What part of the calls stays in the zone. `callers` is the part of all callers that is in it.
#[must_use]
pub fn local_part(weights: ZoneWeights, callers: Option<f64>) -> f64 {
    if weights.eligible == weights.all_eligible {
        return if weights.eligible > 0 { 1.0 } else { 0.0 };
    }
    if weights.peers < LEAST_PEERS {
        return 0.0;
    }
    let part = |of: u64, whole: u64| of as f64 / whole.max(1) as f64;
    let healthy = (OVERPROVISION * part(weights.eligible, weights.known)).min(1.0);
    let room = callers.map_or(1.0, |callers| {
        (part(weights.eligible, weights.all_eligible) / callers.max(f64::EPSILON)).min(1.0)
    });
    healthy * room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(eligible: u64, known: u64, all_eligible: u64, callers: Option<f64>) -> f64 {
        local_part(ZoneWeights { eligible, known, all_eligible, peers: eligible as usize }, callers)
    }

    #[test]
    fn b_2_8_the_local_part_by_its_vectors() {
        assert_eq!(part(3, 3, 10, None), 1.0);
        assert!((part(2, 3, 9, None) - 1.4 * 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(part(1, 3, 8, None), 0.0, "too few");
        assert!((part(3, 3, 10, Some(0.5)) - 0.6).abs() < 1e-12);
    }

    #[test]
    fn b_2_8_edges_of_the_local_part() {
        assert_eq!(part(1, 1, 1, None), 1.0, "there are no others");
        assert_eq!(part(0, 0, 0, None), 0.0);
        assert_eq!(part(0, 3, 5, None), 0.0);
        assert_eq!(part(3, 3, 10, Some(0.3)), 1.0);
        assert_eq!(part(3, 3, 10, Some(0.1)), 1.0, "room for more callers than there are");
        let zone = Zone::new("a");
        assert_eq!(zone.clone().callers(0.0).unwrap().callers, None, "0 is unknown");
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(zone.clone().callers(bad).is_err(), "{bad}");
        }
    }
}
