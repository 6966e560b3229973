//! The public face of the crate: a client, a server and what may stand between them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is how they fail"
)]

mod cost;
mod exchange;
mod faults;
mod fuzzed;
mod hostile;
mod kit;
mod pool;
mod reuse;
mod shutdown;
mod stream;
mod time;
#[cfg(feature = "tls")]
mod tls;
mod wire;
