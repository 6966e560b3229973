//! The command as people run it: real processes, real sockets.

mod demo;
mod doctor;
mod explain;
mod gateway;
mod kit;
mod readme;
mod register;
mod serving;
mod status;
mod usage;
