//! The command as people run it: real processes, real sockets.

mod demo;
mod kit;
mod readme;
mod serving;
mod usage;
