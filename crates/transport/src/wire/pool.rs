//! Idle connections, last in first out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::http1::Conn;

/// Most idle connections to one origin: a fetch uses one, a program that uses a proxy from many tasks a few.
const MAX_IDLE: usize = 32;

/// How long a connection is kept at most; no request takes one that idled longer (`exchange`).
const KEPT: Duration = Duration::from_secs(5);

/// What a connection was made for. Everything else about it (roots, proxies, ALPN) is the same for all
/// connections of a pool, which belongs to one proxy (S-040).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<PoolKey, Vec<(Conn, Instant)>>>,
}

impl Pool {
    pub(crate) fn put(&self, key: PoolKey, conn: Conn) {
        if conn.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // All origins: redirects can lead to any number of them, each only once.
        idle.retain(|_, of_origin| {
            of_origin.retain(|(conn, since)| !conn.is_closed() && now.duration_since(*since) <= KEPT);
            !of_origin.is_empty()
        });
        let of_origin = idle.entry(key).or_default();
        if of_origin.len() < MAX_IDLE {
            of_origin.push((conn, now));
        }
    }

    /// The connection that became idle last, if that is no longer ago than `limit`; older ones are closed.
    pub(crate) fn take(&self, key: &PoolKey, limit: Duration) -> Option<Conn> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let of_origin = idle.get_mut(key)?;
        of_origin.retain(|(conn, since)| !conn.is_closed() && now.duration_since(*since) <= limit);
        let found = of_origin.pop().map(|(conn, _)| conn);
        if of_origin.is_empty() {
            idle.remove(key);
        }
        found
    }
}
