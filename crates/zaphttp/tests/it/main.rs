//! The public face of the crate: a client, a server and what may stand between them.

mod exchange;
#[cfg(feature = "tls")]
mod tls;
mod wire;
