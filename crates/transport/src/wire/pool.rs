//! Idle connections, last in first out.

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolKey {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Oldest first. A few: one proxy speaks to the replicas of one repository.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    key: PoolKey,
    conn: Conn,
    since: Instant,
}

impl Pool {
    pub(crate) fn put(&self, key: PoolKey, conn: Conn) {
        if conn.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // All origins: redirects can lead to any number of them, each only once.
        idle.retain(|idle| !idle.conn.is_closed() && now.duration_since(idle.since) <= KEPT);
        if idle.iter().filter(|idle| idle.key == key).count() < MAX_IDLE {
            idle.push(Idle { key, conn, since: now });
        }
    }

    /// The connection that became idle last, if that is no longer ago than `limit`, with the key that it was put
    /// with; older ones are closed.
    pub(crate) fn take(
        &self,
        is_tls: bool,
        host: &str,
        port: u16,
        limit: Duration,
    ) -> Option<(PoolKey, Conn)> {
        let is_meant = |key: &PoolKey| key.is_tls == is_tls && key.host == host && key.port == port;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|idle| {
            !is_meant(&idle.key) || (!idle.conn.is_closed() && now.duration_since(idle.since) <= limit)
        });
        let last = idle.iter().rposition(|idle| is_meant(&idle.key))?;
        let Idle { key, conn, .. } = idle.remove(last);
        Some((key, conn))
    }
}
