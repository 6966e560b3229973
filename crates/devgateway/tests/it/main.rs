//! The gateway as a client sees it: real connections, messages of our own making.

mod checks;
mod faults;
mod kit;
mod leases;
mod listing;
mod security;
mod signing;
mod slots;
mod transcript;
mod wire;
