//! The one hash whose result never changes (B-0.3).

/// XXH64 with seed 0: the same in every process and release, unlike the standard hasher.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_xxh64_vectors() {
        assert_eq!(hash64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash64(b"abc"), 0x44BC_2CF5_AD77_0999);
        // Hashes of keys that the sticky policy will need; longer than one lane of four.
        assert_eq!(hash64(b"alice"), 0x73A3_EA48_5F2E_6049);
        assert_eq!(hash64(b"bob"), 0x9287_8A3B_42BA_D03B);
        assert_eq!(hash64(b"repo/42"), 0x1D66_47BD_9231_59FA);
    }
}
