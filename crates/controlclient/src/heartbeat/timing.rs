//! How long: deadlines, intervals, pauses (controlplane §4.6).

use std::time::Duration;

use super::Settings;

/// What a gateway grants when it is not asked for a TTL.
const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// Limits on what a gateway says (S-154).
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// A cluster forgets after 30 s without a beat, whatever the TTL (CB-17).
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// The janitor of a gateway looks this often (controlplane §3.15).
pub(super) const JANITOR: Duration = Duration::from_secs(5);

impl Settings {
    /// A given interval is no shorter.
    pub(crate) const LEAST_INTERVAL: Duration = Duration::from_millis(100);

    /// The TTL to count with before a gateway has said one.
    pub(super) fn expected_ttl(&self) -> Duration {
        self.ttl_asked.unwrap_or(DEFAULT_TTL).clamp(TTL.0, TTL.1)
    }

    /// The time between beats under this TTL.
    pub(super) fn interval(&self, ttl: Duration) -> Duration {
        match self.interval {
            // A gateway that grants less than was asked for overrules the setting.
            Some(interval) if interval < ttl => interval,
            _ => (ttl / 3).min(LONGEST_INTERVAL),
        }
    }

    /// How long a heartbeat's answer is waited for, and an attempt to connect may take.
    pub(crate) fn heartbeat_deadline(&self, ttl: Duration) -> Duration {
        self.heartbeat_deadline
            .unwrap_or_else(|| (ttl / 10).clamp(Duration::from_millis(250), Duration::from_secs(3)))
    }

    /// The same before a TTL is known.
    pub(crate) fn first_deadline(&self) -> Duration {
        self.heartbeat_deadline(self.expected_ttl())
    }
}

/// The TTL that a gateway's number stands for.
pub(super) fn ttl(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).clamp(TTL.0, TTL.1)
}

/// The pause before the `retry`-th retry (from 0): a random time in `[d/2, d]` with
/// `d = min(200 ms · 1.5ⁿ, cap)`, where the cap grows once the trouble has lasted 10 s. `unit` is in `0..1`.
pub(super) fn backoff(retry: u32, trouble: Duration, spread: Duration, unit: f64) -> Duration {
    let cap = if trouble < Duration::from_secs(10) { Duration::from_secs(1) } else { Duration::from_secs(5) };
    let cap = cap.max(spread / 4);
    // After 32 steps it is over 24 hours, more than any cap.
    let grown = Duration::from_millis(200).mul_f64(1.5_f64.powi(retry.min(32).cast_signed()));
    let most = grown.min(cap);
    most / 2 + (most / 2).mul_f64(unit)
}

/// Beats are sent at multiples of so small a part of the interval: registrations that share a connection, and
/// with it the zero of their time, wake this process together, and what they send and get shares a packet.
const GRID: u32 = 100;

/// The first beat: any time of the first interval. Together with [`on_grid`] no later than its end.
pub(super) fn first_pause(interval: Duration, unit: f64) -> Duration {
    (interval - interval / GRID).mul_f64(unit)
}

/// The time to the next beat: together with [`on_grid`] the interval ± 10 %.
pub(super) fn jittered(interval: Duration, unit: f64) -> Duration {
    let least = interval.mul_f64(0.9);
    least + (interval.mul_f64(0.2) - interval / GRID).mul_f64(unit)
}

/// The first time of the grid from `at` on.
pub(super) fn on_grid(at: Duration, interval: Duration) -> Duration {
    let step = (interval / GRID).as_nanos().max(1);
    let past = u64::try_from(at.as_nanos() % step).unwrap_or_default();
    if past == 0 { at } else { at - Duration::from_nanos(past) + interval / GRID }
}

/// The time to the next try while rejected: `about` ± 20 %.
pub(super) fn while_rejected(about: Duration, unit: f64) -> Duration {
    about.mul_f64(0.8 + 0.4 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pauses_grow_to_a_cap_that_grows_with_the_trouble() {
        let zero = Duration::ZERO;
        let rows = [
            (0, zero, zero, 100, 200),
            (1, zero, zero, 150, 300),
            (2, zero, zero, 225, 450),
            // 200 · 1.5⁴ = 1012.5
            (4, ms(9_999), zero, 500, 1_000),
            (40, ms(9_999), zero, 500, 1_000),
            // 200 · 1.5⁵ = 1518.75
            (5, ms(10_000), zero, 759, 1_519),
            (40, ms(10_000), zero, 2_500, 5_000),
            (40, zero, ms(10_000), 1_250, 2_500),
            (40, ms(60_000), ms(60_000), 7_500, 15_000),
        ];
        for (retry, trouble, spread, least, most) in rows {
            let close = |got: Duration, want: u64| got.as_millis().abs_diff(want.into()) <= 1;
            assert!(close(backoff(retry, trouble, spread, 0.0), least), "{retry} {trouble:?} {spread:?}");
            assert!(close(backoff(retry, trouble, spread, 1.0), most), "{retry} {trouble:?} {spread:?}");
        }
    }

    #[test]
    fn s154_a_gateways_ttl_is_clamped_and_intervals_follow() {
        let settings = super::super::tests::settings();
        for (seconds, ttl_ms, interval_ms, deadline_ms) in [
            (0, 1_000, 333, 250),
            (1, 1_000, 333, 250),
            (3, 3_000, 1_000, 300),
            (6, 6_000, 2_000, 600),
            (30, 30_000, 10_000, 3_000),
            (300, 300_000, 10_000, 3_000),
            (u32::MAX, 86_400_000, 10_000, 3_000),
        ] {
            let ttl = ttl(seconds);
            assert_eq!(ttl, ms(ttl_ms), "{seconds}");
            assert_eq!(settings.interval(ttl).as_millis(), interval_ms, "{seconds}");
            assert_eq!(settings.heartbeat_deadline(ttl), ms(deadline_ms), "{seconds}");
        }
        let given = Settings { interval: Some(ms(500)), ..settings };
        assert_eq!(given.interval(ms(1_000)), ms(500));
        assert_eq!(given.interval(ms(500)).as_millis(), 166, "an interval as long as the TTL is not kept");
    }
}
