//! Faults of the answers, switchable while running. Those of connections are in `serve`.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};

use crate::rpc::Rpc;

/// Which connections a black hole swallows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum BlackHole {
    /// Those that are open now: their bytes are taken and never answered, for good. New ones work.
    Existing,
    /// Those, and new ones until it is lifted.
    All,
}

/// What is switched on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) delays: BTreeMap<Rpc, Duration>,
    lose: BTreeMap<Rpc, u64>,
    fail: BTreeMap<Rpc, (u64, Code, String)>,
    pub(crate) ttl_override: Option<u32>,
}

impl Faults {
    pub(crate) fn lose(&mut self, rpc: Rpc, count: u64) {
        self.lose.insert(rpc, count);
    }

    pub(crate) fn fail(&mut self, rpc: Rpc, count: u64, code: Code, text: &str) {
        self.fail.insert(rpc, (count, code, text.to_owned()));
    }

    /// The status of a call that must not be carried out.
    pub(crate) fn take_failure(&mut self, rpc: Rpc) -> Option<Status> {
        let (left, code, text) = self.fail.get_mut(&rpc)?;
        let status = (*left > 0).then(|| Status::new(*code, text.clone()));
        *left = left.saturating_sub(1);
        status
    }

    /// Whether the answer of a call that was carried out gets lost.
    pub(crate) fn take_loss(&mut self, rpc: Rpc) -> bool {
        match self.lose.get_mut(&rpc) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}
