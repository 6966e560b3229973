//! Multicast DNS on real sockets: on loopback and a port of its own where that is enough, else in a network of its
//! own (`netns`).

#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "rows that run side by side are no tests of their own to clippy"
)]

mod announcing;
mod bed;
mod browsing;
mod netns;
mod packets;
