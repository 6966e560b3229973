//! The one hash whose result never changes (B-0.3).

use xxhash_rust::xxh64::xxh64;

/// XXH64 with seed 0: the same in every process and release, unlike the standard hasher.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// The same with a seed.
pub(crate) fn hash64_seeded(bytes: &[u8], seed: u64) -> u64 {
    xxh64(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_xxh64_vectors() {
        assert_eq!(hash64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash64(b"abc"), 0x44BC_2CF5_AD77_0999);
    }
}
