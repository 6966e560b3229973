//! TXT records as byte strings: for packets that come without the library, and for the fuzz target.

use crate::Metadata;

/// Splits the strings of a TXT record at the first `=`, as RFC 6763 §6.4 wants it: without `=` a flag. The keys are
/// checked by [`Metadata::received`].
pub fn txt_pairs<'t>(strings: impl IntoIterator<Item = &'t [u8]>) -> (Metadata, usize) {
    Metadata::received(strings.into_iter().map(|string| match string.iter().position(|byte| *byte == b'=') {
        Some(at) => (string.get(..at).unwrap_or_default(), string.get(at + 1..)),
        None => (string, None),
    }))
}
