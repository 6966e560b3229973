//! The public face of the balancer.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod pick;
mod retry;
