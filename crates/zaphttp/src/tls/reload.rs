//! One thread for the process looks at all followed files, once a second; none while there are none.
//!
//! A thread and not a task, so that files on a slow disk never hold up a worker, and settings can be
//! loaded outside of a runtime. It costs no request anything: who connects takes what was found last.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::cluster::Source;

/// Well below the 5 s after which a renewed certificate must be in use (SV-P24).
const INTERVAL: Duration = Duration::from_secs(1);

static FOLLOWED: Mutex<Followed> = Mutex::new(Followed { sources: Vec::new(), running: false });

struct Followed {
    sources: Vec<Weak<Source>>,
    running: bool,
}

/// Looks at the files of `source` once a second as long as it lives.
pub(super) fn follow(source: &Arc<Source>) {
    let mut followed = FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner);
    followed.sources.push(Arc::downgrade(source));
    if !followed.running {
        match thread::Builder::new().name("peerage-tls".to_owned()).spawn(run) {
            Ok(_) => followed.running = true,
            // The next `follow` tries again; until then `ClusterTls::reload` is the way.
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot follow TLS files"),
        }
    }
}

fn run() {
    loop {
        thread::park_timeout(INTERVAL);
        let mut followed = FOLLOWED.lock().unwrap_or_else(PoisonError::into_inner);
        followed.sources.retain(|source| source.strong_count() > 0);
        if followed.sources.is_empty() {
            followed.running = false;
            followed.sources.shrink_to_fit();
            return;
        }
        let sources = followed.sources.clone();
        drop(followed);
        for source in sources.iter().filter_map(Weak::upgrade) {
            source.check();
        }
    }
}
