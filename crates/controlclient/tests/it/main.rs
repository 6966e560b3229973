//! The client against the development gateway, and against servers that are none.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy takes for library code"
)]

mod alive;
mod beyond;
mod closing;
mod hostile;
mod kit;
mod options;
mod proto_dir;
mod security;
mod starting;
mod steered;
mod token;
#[cfg(target_os = "linux")]
mod wiped;
mod wire;
