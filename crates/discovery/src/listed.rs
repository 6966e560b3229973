//! What a list in the program and a list in a file have in common.
//!
//! Such a list is believed: nobody leaves it but by another list. Only a caller who could not reach a
//! peer puts it in doubt, until another caller could, or for 10 s (discovery §7).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use crate::{
    change::LeaveReason,
    counters::Ignored,
    discovery::{Report, Stopping},
    driver::Driver,
    peer::{Peer, PeerState, SuspectWhy},
    publisher::Publisher,
    table::Table,
};

/// The most reports that wait.
const REPORTS: usize = 1024;
/// How long a peer stays in doubt after the last report.
pub(crate) const DOUBT: Duration = Duration::from_secs(10);

/// A published list that can be doubted.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) publisher: Publisher,
    doubt: Duration,
    /// Made at the first report that says something new: most lists never have one.
    keeper: Mutex<Option<Keeper>>,
}

#[derive(Debug)]
struct Keeper {
    reports: mpsc::Sender<(Arc<str>, Report)>,
    task: JoinHandle<()>,
    driver: Driver,
}

impl Listed {
    pub(crate) fn new(publisher: Publisher, doubt: Duration) -> Self {
        Self { publisher, doubt, keeper: Mutex::new(None) }
    }

    /// Publishes `list` as one version, at once.
    pub(crate) fn set(&self, list: Vec<Peer>, now: Instant) {
        let full = self.publisher.edit(now, |table, now| set(table, list, now));
        if let Some(full @ 1..) = full {
            self.publisher.counters().ignored(Ignored::Limit, full as u64);
            tracing::warn!(peerage.service_type = %self.publisher.service_type(), dropped = full,
                "more peers than the limit of the list");
        }
        self.publisher.counters().full_list(now);
        self.publisher.publish();
    }

    pub(crate) fn report(&self, node_id: &str, report: Report) {
        let Some(peer) = self.publisher.get(node_id) else { return };
        let is_doubted = matches!(peer.state(), PeerState::Suspect { why: SuspectWhy::Unreachable, .. });
        if report == Report::Alive {
            peer.answered(Instant::now());
            // The way of nearly every report: no lock, no allocation.
            if !is_doubted {
                return;
            }
        }
        let mut keeper = self.lock();
        if keeper.is_none() && !self.publisher.has_ended() {
            *keeper = self.keep();
        }
        if let Some(Keeper { reports, .. }) = &*keeper {
            // A full queue drops the hint, as promised.
            let _dropped = reports.try_send((peer.shared_node_id(), report));
        }
    }

    /// Ends the list. The second time there is nothing left to wait for.
    pub(crate) fn stop(&self) -> Stopping {
        self.publisher.end(Instant::now());
        match self.lock().take() {
            None => Stopping::done(),
            Some(Keeper { reports, task, driver }) => {
                // The task ends with the channel.
                drop(reports);
                Stopping::new(async move {
                    let _ended = task.await;
                    driver.release().await;
                })
            }
        }
    }

    fn keep(&self) -> Option<Keeper> {
        let driver = Driver::get()
            .inspect_err(|error| tracing::warn!(%error, "reports about peers are not kept"))
            .ok()?;
        let (reports, inbox) = mpsc::channel(REPORTS);
        let task = driver.spawn(keep(self.publisher.clone(), Doubts::new(self.doubt), inbox));
        Some(Keeper { reports, task, driver })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

async fn keep(publisher: Publisher, mut doubts: Doubts, mut inbox: mpsc::Receiver<(Arc<str>, Report)>) {
    loop {
        let soonest = doubts.soonest();
        let over = async move {
            match soonest {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = inbox.recv() => {
                let Some((node_id, report)) = report else { return };
                publisher.edit_soon(Instant::now(), |table, now| doubts.report(table, node_id, report, now));
            }
            () = over => {
                publisher.edit_soon(Instant::now(), |table, now| doubts.tick(table, now));
            }
        }
    }
}

/// Makes `list` the whole list. A doubt about a peer outlives a list in which it is as before. Returns
/// how many did not fit.
fn set(table: &mut Table, list: Vec<Peer>, now: Instant) -> usize {
    let with_doubts = list.into_iter().map(|peer| match table.get(peer.node_id()) {
        Some(known) if known.differs_in_state_only(&peer) => peer.with_state(known.state()),
        _ => peer,
    });
    let list = with_doubts.collect();
    table.set(list, LeaveReason::Removed, now)
}

/// Until when each peer is in doubt. Pure.
#[derive(Debug)]
struct Doubts {
    lasting: Duration,
    /// Bounded by the list: reports about others are ignored, and each entry ends after `lasting`.
    until: BTreeMap<Arc<str>, Instant>,
}

impl Doubts {
    fn new(lasting: Duration) -> Self {
        Self { lasting, until: BTreeMap::new() }
    }

    fn report(&mut self, table: &mut Table, node_id: Arc<str>, report: Report, now: Instant) {
        match report {
            Report::Unreachable if table.get(&node_id).is_some() => {
                table.suspect(&node_id, SuspectWhy::Unreachable, now);
                self.until.insert(node_id, now + self.lasting);
            }
            Report::Unreachable => {}
            Report::Alive => {
                table.clear(&node_id, now);
                self.until.remove(&node_id);
            }
        }
    }

    fn tick(&mut self, table: &mut Table, now: Instant) {
        let (over, lasting) =
            std::mem::take(&mut self.until).into_iter().partition(|&(_, until)| until <= now);
        self.until = lasting;
        for (node_id, _) in <BTreeMap<_, _>>::into_iter(over) {
            table.clear(&node_id, now);
        }
    }

    fn soonest(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_type::ServiceType;

    fn table(node_ids: &[&str], now: Instant) -> (Table, ServiceType) {
        let service: ServiceType = "t".parse().unwrap();
        let mut table = Table::new(service.clone(), 1024);
        set(&mut table, node_ids.iter().map(|id| peer(id, &service)).collect(), now);
        (table, service)
    }

    fn peer(node_id: &str, service: &ServiceType) -> Peer {
        Peer::builder(node_id, service).endpoint("10.0.0.1:80").build().unwrap()
    }

    fn suspects(table: &Table) -> Vec<&str> {
        table.iter().filter(|peer| !peer.is_up()).map(Peer::node_id).collect()
    }

    #[test]
    fn d090_a_peer_is_in_doubt_for_10_s_after_the_last_unreachable_report() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let (mut table, _) = table(&["a", "b"], start);
        let mut doubts = Doubts::new(DOUBT);
        assert_eq!(doubts.soonest(), None);

        doubts.report(&mut table, "a".into(), Report::Unreachable, start);
        doubts.report(&mut table, "b".into(), Report::Unreachable, after(1));
        doubts.report(&mut table, "nobody".into(), Report::Unreachable, start);
        assert_eq!(suspects(&table), ["a", "b"]);
        assert_eq!(doubts.soonest(), Some(after(10)));
        doubts.report(&mut table, "a".into(), Report::Unreachable, after(5));
        let since = PeerState::Suspect { since: start, why: SuspectWhy::Unreachable };
        assert_eq!(table.get("a").map(Peer::state), Some(since), "a second report does not move `since`");
        assert_eq!(doubts.soonest(), Some(after(11)));

        doubts.tick(&mut table, after(11) - Duration::from_nanos(1));
        assert_eq!(suspects(&table), ["a", "b"]);
        doubts.tick(&mut table, after(11));
        assert_eq!(suspects(&table), ["a"]);
        doubts.tick(&mut table, after(15));
        assert_eq!((suspects(&table), doubts.soonest()), (vec![], None));
    }

    #[test]
    fn d090_alive_takes_the_doubt_back_at_once() {
        let start = Instant::now();
        let (mut table, _) = table(&["a"], start);
        let mut doubts = Doubts::new(DOUBT);
        doubts.report(&mut table, "a".into(), Report::Unreachable, start);
        doubts.report(&mut table, "a".into(), Report::Alive, start);
        assert_eq!((suspects(&table), doubts.soonest()), (vec![], None));
    }

    #[test]
    fn d090_a_doubt_outlives_a_list_in_which_the_peer_is_as_before() {
        let start = Instant::now();
        let (mut table, service) = table(&["a", "b"], start);
        let mut doubts = Doubts::new(DOUBT);
        for node_id in ["a", "b"] {
            doubts.report(&mut table, node_id.into(), Report::Unreachable, start);
        }
        let moved = peer("b", &service).to_builder().endpoints(["10.0.0.9:80".parse().unwrap()]);
        set(&mut table, vec![peer("a", &service), moved.build().unwrap()], start);
        assert_eq!(suspects(&table), ["a"], "b is elsewhere now, which nobody tried");
    }
}
