//! TLS: who is accepted, who is refused and why, and what is reloaded.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails the test")]

mod foreign;
mod openssl;
mod peers;
mod reload;
mod rules;
mod service;
mod support;
