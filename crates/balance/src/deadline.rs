//! Deadlines: how much of one an attempt gets, and how it is told to the peer (B-8).
//!
//! Clocks of two machines differ, so the wire carries what is *left*, never a time of day.

use std::{fmt, time::Duration};

use crate::MILLISECOND;

/// The header that tells a peer how many milliseconds are left.
pub const TIMEOUT_HEADER: &str = "peerage-timeout-ms";
/// The header that tells a peer the number of the attempt, from the second on.
pub const ATTEMPT_HEADER: &str = "peerage-attempt";
/// The header of an answer that must not be repeated because a call further down failed after its resend.
pub const NO_RETRY_HEADER: &str = "peerage-no-retry";
/// The header by which Envoy tells what is left, in milliseconds.
pub const ENVOY_TIMEOUT_HEADER: &str = "x-envoy-expected-rq-timeout-ms";
/// The header by which gRPC tells what is left.
pub const GRPC_TIMEOUT_HEADER: &str = "grpc-timeout";

/// No attempt starts with less left than this.
pub const LEAST: Duration = Duration::from_millis(1);
/// A deadline read from a request counts as at most this.
pub const LONGEST_READ: Duration = Duration::from_secs(3_600);
/// What a call keeps of the deadline it serves, to be able to answer in time.
pub const KEPT_FOR_ANSWER: Duration = Duration::from_millis(5);
/// A peer that was given less time than this is not blamed for a deadline.
const FAIR_CHANCE: u64 = 100 * MILLISECOND;

/// How long the next attempt may take: what is left, or the per-try limit if that is less. `None`: no limit.
#[must_use]
pub fn attempt_limit(now: u64, deadline: Option<u64>, per_try: Option<u64>) -> Option<u64> {
    let rest = deadline.map(|deadline| deadline.saturating_sub(now));
    match (rest, per_try) {
        (Some(rest), Some(per_try)) => Some(rest.min(per_try)),
        (limit, None) | (None, limit) => limit,
    }
}

/// Whether the peer is to blame that a deadline passed after `elapsed` of its attempt, or whether the call
/// was late already.
///
/// It had a fair chance if it used up its per-try time, or ran for ten times what it usually takes
/// (`estimate`) and at least 100 ms, or was given nearly all the time the call had (`whole`), if that is 100 ms
/// and more and longer than it usually takes. A caller that gives a call 5 ms must not take peers out for
/// everybody.
#[must_use]
pub fn is_blamed(elapsed: u64, per_try: Option<u64>, estimate: u64, whole: Option<u64>) -> bool {
    per_try.is_some_and(|per_try| elapsed >= per_try)
        || elapsed > FAIR_CHANCE.max(estimate.saturating_mul(10))
        || whole
            .is_some_and(|whole| whole >= FAIR_CHANCE && elapsed >= whole - whole / 10 && elapsed > estimate)
}

/// The value of [`TIMEOUT_HEADER`]: whole milliseconds, rounded down, at least 1.
#[must_use]
pub fn to_millis(left: Duration) -> u64 {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Reads [`TIMEOUT_HEADER`] or [`ENVOY_TIMEOUT_HEADER`]. Zero and unreadable values are `None`; more than
/// an hour is an hour.
#[must_use]
pub fn read_millis(value: &[u8]) -> Option<Duration> {
    let millis = decimal(value.trim_ascii())?;
    (millis > 0).then(|| Duration::from_millis(millis).min(LONGEST_READ))
}

/// The value of [`GRPC_TIMEOUT_HEADER`] when shown: at most eight digits and a unit, rounded down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GrpcTimeout {
    number: u64,
    unit: char,
}

impl GrpcTimeout {
    const MOST: u128 = 99_999_999;

    /// The finest value not above `left`.
    #[must_use]
    pub fn new(left: Duration) -> Self {
        let nanos = left.as_nanos();
        let units = [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000), ('M', 60_000_000_000)];
        let finest = units.into_iter().find(|(_, size)| nanos / size <= Self::MOST);
        let (unit, size) = finest.unwrap_or(('H', 3_600_000_000_000));
        // At most `MOST` after the cut.
        Self { number: (nanos / size).min(Self::MOST) as u64, unit }
    }

    /// Reads a value; zero and unreadable ones are `None`, more than an hour is an hour.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Duration> {
        let (unit, digits) = value.split_last()?;
        if digits.len() > 8 {
            return None;
        }
        let number = decimal(digits)?;
        let left = match unit {
            b'H' => Duration::from_secs(number * 3_600),
            b'M' => Duration::from_secs(number * 60),
            b'S' => Duration::from_secs(number),
            b'm' => Duration::from_millis(number),
            b'u' => Duration::from_micros(number),
            b'n' => Duration::from_nanos(number),
            _ => return None,
        };
        (!left.is_zero()).then(|| left.min(LONGEST_READ))
    }
}

impl fmt::Display for GrpcTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.unit)
    }
}

/// What a call made while serving another may use of what that one has left.
#[must_use]
pub const fn onwards(left: Duration) -> Duration {
    left.saturating_sub(KEPT_FOR_ANSWER)
}

/// A decimal number without sign; one too large is the largest.
fn decimal(digits: &[u8]) -> Option<u64> {
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then(|| {
        digits.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn b_an_attempt_gets_the_lesser_of_rest_and_per_try() {
        assert_eq!(attempt_limit(10, None, None), None);
        assert_eq!(attempt_limit(10, Some(30), None), Some(20));
        assert_eq!(attempt_limit(10, None, Some(5)), Some(5));
        assert_eq!(attempt_limit(10, Some(30), Some(5)), Some(5));
        assert_eq!(attempt_limit(28, Some(30), Some(5)), Some(2));
        assert_eq!(attempt_limit(40, Some(30), Some(5)), Some(0));
    }

    #[test]
    fn b_blame_needs_a_fair_chance() {
        let ms = MILLISECOND;
        assert!(is_blamed(50 * ms, Some(50 * ms), 0, None), "the per-try time is used up");
        assert!(!is_blamed(49 * ms, Some(50 * ms), 0, None));
        assert!(is_blamed(101 * ms, None, 0, None));
        assert!(!is_blamed(100 * ms, None, 0, None));
        assert!(!is_blamed(299 * ms, None, 30 * ms, None), "ten times what it usually takes");
        assert!(is_blamed(301 * ms, None, 30 * ms, None));
        assert!(is_blamed(90 * ms, None, 30 * ms, Some(100 * ms)), "it had the whole call");
        assert!(!is_blamed(50 * ms, None, 30 * ms, Some(100 * ms)), "the call was late already");
        assert!(is_blamed(100 * ms, None, 30 * ms, Some(100 * ms)));
        for whole in [0, 1, 5, 50, 99] {
            assert!(!is_blamed(whole * ms, None, 2 * ms, Some(whole * ms)), "{whole} ms is no fair chance");
        }
        assert!(!is_blamed(200 * ms, None, 500 * ms, Some(200 * ms)), "it usually takes longer");
        assert!(!is_blamed(500 * ms, None, 500 * ms, Some(500 * ms)), "as long as it usually takes");
        assert!(is_blamed(501 * ms, None, 500 * ms, Some(501 * ms)));
    }

    #[test]
    fn b_relative_values_round_down_and_never_reach_zero() {
        assert_eq!(to_millis(Duration::from_nanos(1_999_999)), 1);
        assert_eq!(to_millis(Duration::from_nanos(999_999)), 1);
        assert_eq!(to_millis(Duration::ZERO), 1);
        assert_eq!(to_millis(30_000 * MS), 30_000);
        assert_eq!(to_millis(Duration::MAX), u64::MAX);
    }

    #[test]
    fn b_relative_values_are_read_with_their_edges() {
        for (text, millis) in [
            ("1", Some(1)),
            (" 250 ", Some(250)),
            ("3600000", Some(3_600_000)),
            ("3600001", Some(3_600_000)),
            ("99999999999999999999999", Some(3_600_000)),
            ("0", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("", None),
            ("10ms", None),
        ] {
            assert_eq!(read_millis(text.as_bytes()), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn b_grpc_timeouts() {
        for (nanos, text) in [
            (1, "1n"),
            (99_999_999, "99999999n"),
            (100_000_000, "100000u"),
            (30_000_000_000, "30000000u"),
            (99_999_999_999, "99999999u"),
            (100_000_000_000, "100000m"),
            (100_000_000_000_000, "100000S"),
            (3_600_000_000_000, "3600000m"),
        ] {
            assert_eq!(GrpcTimeout::new(Duration::from_nanos(nanos)).to_string(), text, "{nanos}");
        }
        assert_eq!(GrpcTimeout::new(Duration::MAX).to_string(), "99999999H");
        for (text, left) in [
            ("1H", Some(LONGEST_READ)),
            ("2H", Some(LONGEST_READ)),
            ("99999999H", Some(LONGEST_READ)),
            ("5M", Some(Duration::from_secs(300))),
            ("7S", Some(Duration::from_secs(7))),
            ("250m", Some(250 * MS)),
            ("9u", Some(Duration::from_micros(9))),
            ("3n", Some(Duration::from_nanos(3))),
            ("0m", None),
            ("0H", None),
            ("123456789m", None),
            ("5", None),
            ("m", None),
            ("", None),
            ("-1m", None),
            ("5h", None),
        ] {
            assert_eq!(GrpcTimeout::read(text.as_bytes()), left, "{text:?}");
        }
    }

    #[test]
    fn b_values_never_grow_along_three_hops() {
        for start in [1, 4, 6, 20, 1_000, 30_000_u64] {
            let mut left = Duration::from_millis(start);
            for hop in 0..3 {
                let passed_on = onwards(left);
                if passed_on < LEAST {
                    break;
                }
                let received = read_millis(to_millis(passed_on).to_string().as_bytes()).expect("at least 1");
                assert!(received + KEPT_FOR_ANSWER <= left, "{start} at hop {hop}");
                left = received;
            }
        }
    }
}
