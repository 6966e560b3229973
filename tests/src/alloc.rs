//! Allocations, counted: for promises like "a pick allocates nothing".

pub use allocation_counter::AllocationInfo;

/// Runs `body` and tells what it allocated on this thread.
pub fn measure(body: impl FnOnce()) -> AllocationInfo {
    allocation_counter::measure(body)
}

/// Runs `body` and fails if it allocated.
///
/// # Panics
///
/// If it did, with the counts.
pub fn assert_none(what: &str, body: impl FnOnce()) {
    let info = measure(body);
    assert_eq!(info.count_total, 0, "{what} allocates: {info:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_counted_once() {
        let info = measure(|| drop(std::hint::black_box(vec![0_u8; 100])));
        assert_eq!((info.count_total, info.bytes_total), (1, 100));
        assert_none("adding", || assert_eq!(std::hint::black_box(1) + 1, 2));
    }
}
