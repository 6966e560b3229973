//! The client against real peers on loopback.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod auth;
mod build;
mod call;
mod cost;
mod kit;
mod members;
mod pick;
