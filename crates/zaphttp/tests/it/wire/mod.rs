//! The frames: recorded, hostile, random.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is how they fail"
)]

mod allocations;
pub(crate) mod corpus;
mod encode;
mod hostile;
mod kit;
mod properties;
mod recorded;
mod rules;
