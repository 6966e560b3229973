//! The public face of the crate: a client, a server and what may stand between them.

mod exchange;
mod wire;
