//! A file a subcommand.

pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod expose;
pub(crate) mod gateway;
pub(crate) mod peers;
pub(crate) mod proxy;
pub(crate) mod register;
pub(crate) mod status;
mod watch;
