//! The client against real peers on loopback.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod auth;
mod build;
mod call;
mod checks;
mod checks_grpc;
mod cost;
mod dialers;
mod estimate;
mod faults;
mod hedge;
mod kit;
mod life;
mod limits;
mod mdns;
mod members;
mod metrics;
mod pick;
mod queue;
mod race;
mod redirects;
mod retry;
mod secrets;
mod serving;
mod time;
mod tls;
mod views;
