//! Random numbers that a test can repeat (B-0.2).

use std::{
    cell::Cell,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64, also a good mixer of one given number.
#[must_use]
#[inline]
pub const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// SplitMix64, shared by threads.
///
/// With a given seed its state is one counter, so that the numbers are the same whoever draws them. Otherwise
/// each thread has a counter of its own, and no thread waits for another.
pub struct Generator {
    /// `None` for that of the thread.
    state: Option<AtomicU64>,
}

thread_local! {
    /// 0 until the first draw in the thread. A counter that comes to 0 is seeded anew, which does no harm.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

impl Generator {
    /// The generator whose numbers follow from `seed`.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { state: Some(AtomicU64::new(seed)) }
    }

    /// A generator whose numbers nobody can know before.
    #[must_use]
    pub const fn from_system() -> Self {
        Self { state: None }
    }

    /// The next number.
    #[inline]
    pub fn next_u64(&self) -> u64 {
        let before = match &self.state {
            // Relaxed: only the numbers depend on it, no other memory does.
            Some(state) => state.fetch_add(STEP, Ordering::Relaxed),
            None => OWN.with(|own| {
                let before = if own.get() == 0 { system_seed() } else { own.get() };
                own.set(before.wrapping_add(STEP));
                before
            }),
        };
        mix(before.wrapping_add(STEP))
    }
}

/// The keys of the standard hasher come from the system's generator, once per thread.
#[cold]
fn system_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").finish_non_exhaustive()
    }
}

/// The index below `n` that a draw `z` stands for; 0 if `n` is 0. `n` counts up to 2³².
#[must_use]
#[inline]
pub fn index_below(z: u64, n: usize) -> usize {
    scale(z >> 32, n)
}

/// Two distinct indexes below `n` from one draw; `(0, 0)` if `n` is below 2.
#[must_use]
#[inline]
pub fn two_below(z: u64, n: usize) -> (usize, usize) {
    if n < 2 {
        return (0, 0);
    }
    let a = scale(z >> 32, n);
    let b = scale(z & 0xFFFF_FFFF, n - 1);
    (a, if b >= a { b + 1 } else { b })
}

/// A number strictly between 0 and 1.
#[must_use]
#[inline]
pub fn unit(z: u64) -> f64 {
    // The largest draws would round up to 1.
    (((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).min(1.0 - f64::EPSILON / 2.0)
}

/// `half · n / 2³²`, for a `half` below 2³².
#[inline]
fn scale(half: u64, n: usize) -> usize {
    // Below `n`, so it fits whatever `usize` is.
    ((u128::from(half) * n as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_splitmix_vectors() {
        let generator = Generator::seeded(0);
        assert_eq!(generator.next_u64(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(generator.next_u64(), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(generator.next_u64(), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn b_0_2_without_a_seed_no_two_threads_and_no_two_draws_are_alike() {
        let draws = || (0..1_000).map(|_| Generator::from_system().next_u64());
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(move || draws().collect::<Vec<_>>())).collect();
        let drawn = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        // Of 4,000 numbers of 64 bits two are alike by chance in one of 10¹² runs.
        assert_eq!(drawn.collect::<std::collections::HashSet<_>>().len(), 4_000);
    }

    #[test]
    fn b_pair_vectors() {
        let generator = Generator::seeded(42);
        let pairs = [2, 3, 10, 10, 10, 1000].map(|n| two_below(generator.next_u64(), n));
        assert_eq!(pairs, [(1, 0), (0, 2), (2, 0), (3, 0), (0, 2), (868, 236)]);
    }

    #[test]
    fn b_indexes_and_units_stay_inside() {
        for z in [0, 1, u64::MAX, 1 << 32, (1 << 32) - 1, 1 << 63] {
            for n in [1, 2, 3, 1000, u32::MAX as usize] {
                assert!(index_below(z, n) < n, "{z} {n}");
            }
            for n in [2, 3, 1000] {
                let (a, b) = two_below(z, n);
                assert!(a < n && b < n && a != b, "{z} {n}: {a} {b}");
            }
            assert!(unit(z) > 0.0 && unit(z) < 1.0, "{z}");
        }
        assert_eq!((index_below(7, 0), two_below(7, 0), two_below(7, 1)), (0, (0, 0), (0, 0)));
    }
}
