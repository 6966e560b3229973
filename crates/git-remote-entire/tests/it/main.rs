//! The helper, against remotes in memory, stubs of Git, and real Git.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod connect;
mod fake;
mod lines;
mod outcome;
mod push;
mod real;
mod rows;
mod secrets;
mod signals;
mod smart_http;
mod stateless;
mod stdio;
mod threats;
