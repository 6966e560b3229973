//! The public face, against node servers on loopback.

#![expect(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is how they fail"
)]

mod kit;
mod plain;
