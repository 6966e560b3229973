//! The crate from outside: one binary, because linking is what costs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[cfg(feature = "mdns")]
mod corpus;
mod costs;
mod file;
mod filtered;
mod fixed;
mod lifecycle;
#[cfg(feature = "mdns")]
mod mdns;
mod merge;
mod stream;
mod table;
mod threads;
