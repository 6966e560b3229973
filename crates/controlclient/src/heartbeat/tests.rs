//! The machine by hand-computed values.

use std::time::Duration;

use super::{Settings, Start};

pub(super) fn settings() -> Settings {
    Settings {
        targets: 1,
        ttl_asked: None,
        interval: None,
        spread: None,
        heartbeat_deadline: None,
        register_deadline: Duration::from_secs(15),
        deregister_deadline: Duration::from_secs(2),
        start: Start { limit: Duration::from_secs(30), retries: true },
        check_served: None,
    }
}
