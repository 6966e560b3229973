//! What a client does by itself, in one task: takes over what discovery tells, cuts calls to peers that left
//! long ago, dials ejected peers, checks peers if it is told to, sets gauges.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use peerage_balance::Outcome;
use peerage_discovery::{Change, LeaveReason, Peer, Subscription};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    checks::{Checker, Checks},
    members::Members,
    metrics::OBSERVED_EVERY,
};

/// How long the dial of an ejected peer may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How often ejected peers are dialled at most.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Says that nobody follows any more when it ends, such as with its runtime.
struct Following(Arc<Members>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.is_followed.store(false, Ordering::Release);
    }
}

/// Does all of it, until discovery stops.
pub(super) fn follow(
    members: Arc<Members>,
    checks: Option<Arc<Checks>>,
) -> impl Future<Output = ()> + Send + 'static {
    members.is_followed.store(true, Ordering::Release);
    // Outside the future, so that it also ends with one that never ran.
    let following = Following(members);
    async move {
        let members = &following.0;
        let mut news = News { changes: members.discovery.subscribe(), gone: Vec::new() };
        members.apply(&news.changes.borrow(), Vec::new());
        // They end with this future: nobody dials for a client that is gone.
        let mut probes = JoinSet::new();
        let mut checker = checks.map(Checker::new);
        let mut observe_at = OBSERVED_EVERY.map(|every| Instant::now() + every);
        // One that finds out nothing is due again at once.
        let mut probed = members.epoch;
        loop {
            let at = |due: u64| members.epoch + Duration::from_nanos(due);
            let probe_at = members.balancer().dial_probe_at().map(|due| at(due).max(probed));
            let let_go_at = members.let_go_at().map(at);
            let cut_at = members.cut_at().map(at);
            let check_at = checker.as_mut().and_then(|checker| checker.due(members)).map(at);
            let due = [probe_at, let_go_at, cut_at, check_at, observe_at].into_iter().flatten().min();
            tokio::select! {
                // In this order, so that a simulation repeats.
                biased;
                item = news.changes.next() => match item {
                    Some((version, change)) => news.take(members, version, change),
                    None => return,
                },
                () = members.ejected.notified() => {}
                () = sleep_until(due.unwrap_or(members.epoch)), if due.is_some() => {}
                Some(_) = probes.join_next() => {}
                () = ended(checker.as_mut(), members) => {}
            }
            if probe_at.is_some_and(|at| at <= Instant::now()) {
                probe(members, &mut probes);
                probed = Instant::now() + PROBE_EVERY;
            }
            members.let_go();
            members.cut();
            if let Some(checker) = &mut checker {
                checker.run(members);
            }
            if observe_at.is_some_and(|at| at <= Instant::now()) {
                members.observe();
                observe_at = OBSERVED_EVERY.map(|every| Instant::now() + every);
            }
        }
    }
}

/// A check has ended.
async fn ended(checker: Option<&mut Checker>, members: &Arc<Members>) {
    match checker {
        Some(checker) => checker.ended(members).await,
        None => std::future::pending().await,
    }
}

/// What discovery tells.
struct News {
    changes: Subscription,
    /// Those that left since the last version that was taken over.
    gone: Vec<(Peer, LeaveReason)>,
}

impl News {
    /// Takes in all changes that wait, then the list that they lead to.
    fn take(&mut self, members: &Members, version: u64, change: Change) {
        let mut read = version;
        self.note(change);
        while let Some(Some((version, change))) = self.changes.next().now_or_never() {
            read = version;
            self.note(change);
        }
        let snapshot = self.changes.borrow();
        // One that came this moment is taken with its changes, which wait already.
        if snapshot.version() <= read {
            members.apply(&snapshot, std::mem::take(&mut self.gone));
        }
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Left { peer, reason } => self.gone.push((peer, reason)),
            // What led to it was lost, and what was read is part of it.
            Change::Lagged(_) => self.gone.clear(),
            _ => {}
        }
    }
}

/// Dials the ejected peers that no call has tried for a while (B-3.3).
fn probe(members: &Arc<Members>, probes: &mut JoinSet<()>) {
    while let Some(mut lease) = members.balancer().dial_probe(members.now()) {
        let channel = lease.member().attached().dialled().cloned();
        let members = Arc::clone(members);
        probes.spawn(async move {
            // Not counted as sent: how long it takes to connect says nothing of how fast it answers.
            // A channel that cannot only connect leaves it to the next call.
            let outcome = match channel {
                Some(channel) => channel.connect(Instant::now() + PROBE_LIMIT).await,
                None => None,
            };
            members.balancer().head(&mut lease, outcome.unwrap_or(Outcome::Cancelled), members.now());
            members.tell();
        });
    }
}
