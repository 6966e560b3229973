//! The public face, against node servers on loopback and replicas that are scripts.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is how they fail"
)]

mod cold;
mod failover;
mod kit;
mod model;
mod plain;
mod push;
mod streams;
mod trusted;
mod world;
