//! Instants in an atomic.

use std::{sync::LazyLock, time::Duration};

use tokio::time::Instant;

/// Any instant will do: tests with a paused clock may lie before it.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds from [`EPOCH`] to `at`, negative before it.
pub(crate) fn to_nanos(at: Instant) -> i64 {
    let epoch = *EPOCH;
    match at.checked_duration_since(epoch) {
        Some(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        None => i64::try_from(epoch.duration_since(at).as_nanos()).map_or(-i64::MAX, |before| -before),
    }
}

/// The inverse of [`to_nanos`].
pub(crate) fn from_nanos(nanos: i64) -> Instant {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let at = if nanos < 0 { EPOCH.checked_sub(distance) } else { EPOCH.checked_add(distance) };
    at.unwrap_or(*EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_the_way_through_an_atomic() {
        let now = Instant::now();
        for at in [now, now + Duration::from_secs(3600), now - Duration::from_millis(1), *EPOCH] {
            assert_eq!(from_nanos(to_nanos(at)), at);
        }
    }
}
