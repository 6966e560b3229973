//! HTTP semantics in ZAP frames over TCP, Unix sockets and post-quantum TLS 1.3: client and server

pub mod wire;
