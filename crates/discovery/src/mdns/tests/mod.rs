//! The rules of §6 on a virtual clock: events in, changes of the published table out.

mod admission;
mod hostile;
mod leaving;
mod model;
mod silence;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream as _;
use tokio::time::Instant;

use super::browse::{Action, Browse, Losses};
use super::browsers::{Shared, WatchId, Wishes};
use super::interfaces::{IfTable, Iface, Verdict};
use super::machine::{Gate, Input, Machine, Options, Output, Own, Record, Resync};
use crate::{
    AddressPolicy, Change, Heard, Link, OnLink, Peer, PeerState, Publisher, Report, ServiceType, SourceClass,
    Subscription, WINDOW,
};

/// The link of the vectors: 10.0.0.0/24 and fe80::/64, scope 2.
const LINK: u32 = 2;

/// A table with the library played by a script, on a clock of its own.
struct Script {
    start: Instant,
    now: Instant,
    shared: Shared,
    publisher: Publisher,
    changes: Subscription,
    browse: Browse,
    losses: Losses,
    steps: BTreeMap<(Instant, u64), Step>,
    step_count: u64,
    /// Who answers a browse, and after how many milliseconds.
    world: Vec<(Record, u64)>,
    /// Whether the library says that it has stopped.
    says_stopped: bool,
    /// What happened, with the milliseconds since the start: `0 joined p1`.
    log: Vec<String>,
    /// When browses began.
    browses: Vec<u64>,
    /// When the library was asked for all that it knows.
    peeks: Vec<u64>,
    /// What it would tell then.
    hidden: Vec<Record>,
    /// Full names that the library was told to verify, and when.
    verified: Vec<(u64, String)>,
}

#[derive(Clone)]
enum Step {
    Input(Input),
    Stopped,
    DaemonUp,
    /// The look into the socket shows lost packets.
    Lossy,
    /// The library's verdict about an instance that does not answer; void when a browse begins before.
    Verdict(String),
}

impl Script {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            gate: Gate {
                identity_keys: vec!["id".into(), "server_id".into()],
                exclude: Default::default(),
                addresses: AddressPolicy::new(SourceClass::Mdns),
            },
            resync: Resync::Never,
            confirm_window: Duration::from_millis(300),
            max_peers: 1024,
        };
        change(&mut options);
        let start = Instant::now();
        let machine = Machine::new(service(), options.clone(), Arc::new(lan()), Arc::new([]), 7);
        let publisher = Publisher::with_limit(&service(), options.max_peers);
        publisher.begin().unwrap();
        let mut shared = Shared::new(machine, options);
        shared.join(WatchId(0), &publisher, start);
        let mut script = Self {
            start,
            now: start,
            changes: publisher.subscribe(),
            shared,
            publisher,
            browse: Browse::new(),
            losses: Losses::default(),
            steps: BTreeMap::new(),
            step_count: 0,
            world: Vec::new(),
            says_stopped: true,
            log: Vec::new(),
            browses: Vec::new(),
            peeks: Vec::new(),
            hidden: Vec::new(),
            verified: Vec::new(),
        };
        let action = script.browse.daemon_up(start);
        script.act(action);
        script
    }

    /// Milliseconds since the start.
    fn ms(&self) -> u64 {
        u64::try_from(self.now.duration_since(self.start).as_millis()).unwrap()
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Something happens now.
    fn input(&mut self, input: Input) {
        let mut unpublished = Vec::new();
        let wishes = self.shared.input(input, self.now, &mut unpublished);
        self.grant(wishes);
    }

    fn resolved(&mut self, record: Record) {
        self.input(Input::Resolved(record));
    }

    fn removed(&mut self, label: &str) {
        self.input(Input::Removed(full(label)));
    }

    fn report(&mut self, node_id: &str, report: Report) {
        self.input(Input::Report(node_id.into(), report));
    }

    /// This happens when the clock reads `ms`.
    fn later(&mut self, ms: u64, input: Input) {
        self.schedule(self.at(ms), Step::Input(input));
    }

    /// The subscription is lost; another daemon follows.
    fn lose(&mut self) {
        self.input(Input::Lost);
        self.input(Input::Down);
        self.browse.daemon_down();
        let up = self.now + self.losses.note(self.now);
        self.schedule(up, Step::DaemonUp);
    }

    /// Lets time pass until the clock reads `ms`.
    fn until(&mut self, ms: u64) {
        let target = self.at(ms);
        loop {
            let due = [
                self.steps.keys().next().map(|(at, _)| *at),
                self.shared.machine.deadline(),
                self.browse.deadline(),
                self.publisher.due(),
            ];
            let Some(next) = due.into_iter().flatten().min().filter(|at| *at <= target) else { break };
            self.now = next.max(self.now);
            self.turn();
        }
        self.now = target;
    }

    fn turn(&mut self) {
        if let Some((&key, _)) = self.steps.first_key_value()
            && key.0 <= self.now
        {
            match self.steps.remove(&key).unwrap() {
                Step::Input(input) => self.input(input),
                Step::Lossy => self.shared.machine.lost_packets(self.now),
                Step::Verdict(full_name) => self.input(Input::Removed(full_name)),
                Step::Stopped => {
                    let action = self.browse.stopped(self.now);
                    action.into_iter().for_each(|action| self.act(action));
                }
                Step::DaemonUp => {
                    let action = self.browse.daemon_up(self.now);
                    self.act(action);
                }
            }
        }
        if self.shared.machine.deadline().is_some_and(|at| at <= self.now) {
            self.input(Input::Tick);
        }
        if let Some(action) = self.browse.tick(self.now) {
            self.act(action);
        }
        self.publisher.flush(self.now);
        self.read();
    }

    fn grant(&mut self, wishes: Wishes) {
        for full_name in wishes.verify {
            self.verified.push((self.ms(), full_name.clone()));
            let answers = self.world.iter().any(|(r, _)| r.full_name == full_name);
            if !answers {
                self.schedule(self.now + Duration::from_secs(2), Step::Verdict(full_name));
            }
        }
        if wishes.peek {
            self.peeks.push(self.ms());
            for record in self.hidden.clone() {
                self.schedule(self.now + Duration::from_millis(2), Step::Input(Input::Resolved(record)));
            }
        }
        for _ in wishes.fresh {
            let action = self.browse.request(self.now);
            action.into_iter().for_each(|action| self.act(action));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Stop if self.says_stopped => {
                self.schedule(self.now + Duration::from_millis(1), Step::Stopped);
            }
            Action::Stop => {}
            Action::Browse { generation } => {
                self.browses.push(self.ms());
                self.steps.retain(|_, step| !matches!(step, Step::Verdict(_)));
                self.input(Input::Began { generation });
                for (record, delay) in self.world.clone() {
                    self.schedule(
                        self.now + Duration::from_millis(delay),
                        Step::Input(Input::Resolved(record)),
                    );
                }
            }
        }
    }

    fn schedule(&mut self, at: Instant, step: Step) {
        self.step_count += 1;
        self.steps.insert((at, self.step_count), step);
    }

    /// Writes down what was published; the time is that of the event, not of the end of its window.
    fn read(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let ms = self.ms().saturating_sub(u64::try_from(WINDOW.as_millis()).unwrap());
        while let Poll::Ready(Some((_, change))) = Pin::new(&mut self.changes).poll_next(&mut cx) {
            let text = match change {
                Change::Joined(peer) => format!("joined {}", peer.node_id()),
                Change::Updated { new, .. } => format!("updated {}", new.node_id()),
                Change::Suspected(peer) => match peer.state() {
                    PeerState::Suspect { why, .. } => format!("suspected {} {why}", peer.node_id()),
                    PeerState::Up => unreachable!("a suspected peer is in doubt"),
                },
                Change::Cleared(peer) => format!("cleared {}", peer.node_id()),
                Change::Left { peer, reason } => format!("left {} {reason}", peer.node_id()),
                Change::Conflict { node_id, .. } => format!("conflict {node_id}"),
                Change::Resync(_) | Change::Status(_) => continue,
                Change::Lagged(_) => "lagged".to_owned(),
            };
            self.log.push(format!("{ms} {text}"));
        }
    }

    /// What happened since the last call.
    fn news(&mut self) -> Vec<String> {
        // Close the window that may be open.
        let ms = self.ms();
        self.until(ms + 5);
        std::mem::take(&mut self.log)
    }

    fn peer(&self, node_id: &str) -> Option<Peer> {
        self.publisher.get(node_id)
    }

    fn addresses(&self, node_id: &str) -> Vec<String> {
        let peer = self.peer(node_id).unwrap_or_else(|| panic!("{node_id} is listed"));
        peer.addresses().iter().map(ToString::to_string).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.publisher.peers().iter().map(|p| p.node_id().to_owned()).collect()
    }

    fn ignored(&self, why: crate::Ignored) -> u64 {
        self.publisher.counters().ignored_so_far(why)
    }
}

fn service() -> ServiceType {
    "h".parse().unwrap()
}

fn full(label: &str) -> String {
    format!("{label}._h._tcp.local.")
}

/// The correct peer of the vectors: port 9999, 10.0.0.11, TXT `id=<label>`.
fn record(label: &str) -> Record {
    Record {
        full_name: full(label),
        host: format!("{label}.local."),
        port: 9999,
        addresses: heard(&["10.0.0.11"]),
        txt: vec![("id".into(), Some(label.as_bytes().to_vec()))],
    }
}

fn heard(addresses: &[&str]) -> Vec<Heard> {
    addresses.iter().map(|a| Heard { ip: a.parse().unwrap(), link: LINK }).collect()
}

fn txt(pairs: &[(&str, Option<&[u8]>)]) -> Vec<(String, Option<Vec<u8>>)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), v.map(<[u8]>::to_vec))).collect()
}

fn iface(index: u32, name: &str, networks: &[(&str, u8)], verdict: Verdict) -> Iface {
    let networks = networks.iter().map(|(ip, prefix)| (ip.parse::<IpAddr>().unwrap(), *prefix)).collect();
    Iface { link: Link { index, name: name.into(), is_loopback: name == "lo", networks }, verdict }
}

fn table(all: Vec<Iface>) -> IfTable {
    let links = all.iter().filter(|i| i.verdict.is_used()).map(|i| i.link.clone()).collect();
    IfTable { all, links }
}

fn lan() -> IfTable {
    table(vec![
        iface(1, "lo", &[("127.0.0.1", 8)], Verdict::Loopback),
        iface(LINK, "eth0", &[("10.0.0.1", 24), ("fe80::1", 64)], Verdict::Used),
    ])
}

fn no_network() -> IfTable {
    table(vec![iface(1, "lo", &[("127.0.0.1", 8)], Verdict::Loopback)])
}

fn own(node_id: &str) -> Input {
    Input::Own(Arc::new([Own {
        node_id: node_id.into(),
        full_name: full(node_id).into(),
        host: format!("{node_id}.local.").into(),
    }]))
}
