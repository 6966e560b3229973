//! The public face, against node servers on loopback and replicas that are scripts.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is how they fail"
)]

mod cold;
mod corpus;
mod cost;
mod failover;
#[cfg(target_os = "linux")]
mod idle;
mod kit;
mod model;
mod plain;
mod push;
mod real;
mod streams;
mod threats;
mod trusted;
#[cfg(feature = "reqwest")]
mod wires;
mod world;
