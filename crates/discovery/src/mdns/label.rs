//! The names we announce under: one label per node and service type, the host name made of it.

use xxhash_rust::xxh64::xxh64;

/// Longest readable part of a label; with `-` and eight hex digits it stays within the 63 bytes of a DNS label.
const STEM_LEN: usize = 54;

/// The instance label of a node (discovery §5 rule 1).
///
/// Lower case, no dots, at most 63 bytes: other shapes make the library lose announcements or ask for wrong names.
/// The same after a restart, and different for each service type of one node.
pub(crate) fn instance_label(service_type: &str, node_id: &str) -> String {
    let mut stem = String::with_capacity(STEM_LEN + 9);
    for c in node_id.chars().flat_map(char::to_lowercase) {
        let c = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
        // A run of dashes is one, and none stands at the start.
        if c != '-' || !(stem.is_empty() || stem.ends_with('-')) {
            stem.push(c);
        }
    }
    stem.truncate(stem.trim_end_matches('-').len());
    stem.truncate(STEM_LEN);
    if stem.is_empty() {
        stem.push('n');
    }
    let hash = xxh64(format!("{service_type}/{node_id}").as_bytes(), 0) & 0xffff_ffff;
    format!("{stem}-{hash:08x}")
}

/// The host name of an instance: its own, never the name of the machine, because a goodbye also withdraws
/// the address records (discovery §5 rule 2).
pub(crate) fn host_name(label: &str) -> String {
    format!("{label}.local.")
}

/// The full name of an instance, as DNS-SD builds it.
pub(crate) fn full_name(label: &str, service_type: &str) -> String {
    format!("{label}.{service_type}.local.")
}

/// The label in a full name: what stands before `.<type>.local.`, compared without case.
///
/// The library writes dots and backslashes of a label as they came; labels of others may hold both.
pub(crate) fn label_of<'n>(full_name: &'n str, service_type: &str) -> &'n str {
    let name = full_name.strip_suffix('.').unwrap_or(full_name);
    let tail_len = service_type.len() + ".local".len() + 1;
    let Some(cut) = name.len().checked_sub(tail_len) else {
        return name;
    };
    match (name.get(..cut), name.get(cut..)) {
        (Some(label), Some(tail))
            if tail.starts_with('.')
                && tail
                    .get(1..)
                    .and_then(|t| t.get(..service_type.len()))
                    .is_some_and(|t| t.eq_ignore_ascii_case(service_type)) =>
        {
            label
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d040_a_label_is_readable_bounded_and_carries_the_hash_of_type_and_id() {
        // The hashes were computed with another implementation of XXH64 (seed 0), lower 32 bits.
        let cases = [
            ("_ta._tcp", "Node A.1/ü", "node-a-1-dbf02d97"),
            ("_ta._tcp", "---", "n-b6bab065"),
            ("_ta._tcp", "日本", "n-ed11b24c"),
            ("_ta._tcp", "a--b__c", "a-b-c-6877f0c8"),
            ("_billing._tcp", "billing-1", "billing-1-fe74c949"),
        ];
        for (ty, id, label) in cases {
            assert_eq!(instance_label(ty, id), label, "{ty}/{id}");
        }
        let long = instance_label("_ta._tcp", &"x".repeat(255));
        assert_eq!(long.len(), 63, "the longest label fits a DNS label");
        assert_ne!(
            instance_label("_a._tcp", "n"),
            instance_label("_b._tcp", "n"),
            "one node has another label for each type"
        );
        assert_ne!(
            instance_label("_a._tcp", "A"),
            instance_label("_a._tcp", "a"),
            "ids that differ in case only do not meet"
        );
    }

    #[test]
    fn d064_the_label_of_a_full_name_may_hold_dots_blanks_and_any_letter() {
        let cases = [
            ("p1._h._tcp.local.", "p1"),
            ("Avahi Peer.2 é._h._tcp.local.", "Avahi Peer.2 é"),
            ("P1._H._TCP.Local.", "P1"),
            ("p1._other._tcp.local.", "p1._other._tcp.local"),
            ("é", "é"),
        ];
        for (full, label) in cases {
            assert_eq!(label_of(full, "_h._tcp"), label, "{full}");
        }
    }
}
