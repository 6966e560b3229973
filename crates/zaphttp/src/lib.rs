//! HTTP semantics in ZAP frames over TCP, Unix sockets and post-quantum TLS 1.3: client and server

#[cfg(feature = "tls")]
pub mod tls;
pub mod wire;
