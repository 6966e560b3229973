//! The listening side: one library daemon per interface policy, one browse per type, our own fan-out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mdns_sd::{DaemonEvent, ServiceDaemon, ServiceEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::browse::{Action, Browse, Losses};
use super::daemon::{BrowseEvent, Daemon, Events, OpenError, events};
use super::interfaces::{IfWatch, Policy};
use super::machine::{Input, MANY_PEERS, Machine, Options, Output, Own, VERIFY_WINDOW};
use super::responders::Responders;
use super::sockets::Queues;
use crate::{FreshBrowse, Publisher, Report, ServiceType, Status, Trouble};

/// One reader of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WatchId(pub(super) u64);

/// What makes two readers share a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DaemonKey {
    pub(super) policy: Policy,
    pub(super) port: u16,
    pub(super) check: Duration,
}

/// A reader with its settings.
pub(super) struct Watch {
    pub(super) id: WatchId,
    pub(super) daemon: DaemonKey,
    pub(super) service: ServiceType,
    pub(super) options: Options,
    pub(super) publisher: Publisher,
}

/// Somebody wants to know which service types there are.
pub(super) struct TypesRequest {
    pub(super) daemon: DaemonKey,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Vec<String>>,
}

/// The question for all types (RFC 6763 §9).
pub(super) const ALL_TYPES: &str = "_services._dns-sd._udp.local.";
/// How often a command is repeated that the library's full queue did not take, and how long after.
const AGAIN_LIMIT: u8 = 10;
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// Events taken at a turn, so that timers and commands have theirs.
const EVENTS_PER_TURN: usize = 512;
/// With more bytes unread than a handful of packets, the library does not keep up.
const BEHIND: u64 = 16 << 10;
/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Browsers {
    daemons: HashMap<DaemonKey, BrowseDaemon>,
    readers: HashMap<WatchId, (DaemonKey, String)>,
    /// Daemons that were told to end.
    ending: Vec<Ending>,
    /// Who waits for something that is over.
    ended: Vec<oneshot::Sender<()>>,
    /// Tables whose window is open.
    unpublished: Vec<Publisher>,
}

struct Ending {
    monitor: Events<DaemonEvent>,
    until: Instant,
    waiting: Vec<oneshot::Sender<()>>,
}

/// A daemon with everything that is browsed on it.
struct BrowseDaemon {
    port: u16,
    check: Duration,
    interfaces: Arc<IfWatch>,
    daemon: Option<Daemon>,
    retry: Option<Instant>,
    trouble: Option<(Trouble, Instant)>,
    losses: Losses,
    /// Deaths in a row, for the back-off of 6.7.
    deaths: u32,
    opened: Instant,
    types: HashMap<String, TypeBrowse>,
    asked: VecDeque<Asked>,
    ask_again: Option<Instant>,
    all_types: Vec<TypesBrowse>,
    /// The daemon went, and the tables were not told yet.
    is_deaf: bool,
}

/// A command that the library has not taken yet.
struct Asked {
    what: Ask,
    tries: u8,
}

enum Ask {
    Stop(String),
    Browse(String, u64),
    /// Browse again without a stop: the library tells all that its cache holds.
    Peek(String),
    Verify(String),
}

struct TypeBrowse {
    service: ServiceType,
    browse: Browse,
    current: Option<Events<ServiceEvent>>,
    /// Read until the library has stopped it.
    old: Option<Events<ServiceEvent>>,
    /// Packets that our sockets had lost when the last browse began.
    drops: u64,
    tables: Vec<Shared>,
}

/// One table for all readers with the same options.
pub(super) struct Shared {
    pub(super) machine: Machine,
    options: Options,
    readers: Vec<(WatchId, Publisher)>,
    began: bool,
}

struct TypesBrowse {
    events: Option<Events<ServiceEvent>>,
    found: Vec<String>,
    until: Instant,
    reply: Option<oneshot::Sender<Vec<String>>>,
}

impl Browsers {
    pub(super) fn watch(&mut self, watch: Watch, responders: &Responders, now: Instant) {
        let Watch { id, daemon: key, service, options, publisher } = watch;
        let domain = domain_of(&service);
        self.readers.insert(id, (key.clone(), domain.clone()));
        let daemon = self.daemons.entry(key.clone()).or_insert_with(|| BrowseDaemon::new(&key, now));
        let interfaces = daemon.interfaces.now();
        let browse = daemon.types.entry(domain.clone()).or_insert_with(|| TypeBrowse {
            service: service.clone(),
            browse: Browse::new(),
            current: None,
            old: None,
            drops: 0,
            tables: Vec::new(),
        });
        let is_new = browse.tables.is_empty();
        let shared = match browse.tables.iter_mut().position(|s| s.options == options) {
            Some(at) => at,
            None => {
                let own = responders.own(key.port, &service.without_subtype());
                let machine =
                    Machine::new(service.without_subtype(), options.clone(), interfaces, own, seed(now));
                browse.tables.push(Shared::new(machine, options));
                browse.tables.len() - 1
            }
        };
        if let Some(shared) = browse.tables.get_mut(shared) {
            shared.join(id, &publisher, now);
        }
        self.unpublished.push(publisher);
        if is_new {
            daemon.start(&domain, now);
        } else {
            // A table with other options knows nothing yet; the next browse tells it.
            let pending = browse.tables.iter().any(|s| !s.began);
            if pending {
                daemon.fresh(&domain, FreshBrowse::Asked, now);
            }
        }
        self.publish_status(&key, now);
    }

    pub(super) fn unwatch(&mut self, id: WatchId, done: oneshot::Sender<()>, now: Instant) {
        let Some((key, domain)) = self.readers.remove(&id) else {
            self.ended.push(done);
            return;
        };
        let Some(daemon) = self.daemons.get_mut(&key) else { return };
        if let Some(browse) = daemon.types.get_mut(&domain) {
            for shared in &mut browse.tables {
                shared.readers.retain(|(reader, _)| *reader != id);
            }
            browse.tables.retain(|shared| !shared.readers.is_empty());
            if browse.tables.is_empty() {
                daemon.types.remove(&domain);
                daemon.ask(Ask::Stop(domain), now);
            }
        }
        self.end_if_unused(&key, Some(done), now);
    }

    fn end_if_unused(&mut self, key: &DaemonKey, done: Option<oneshot::Sender<()>>, now: Instant) {
        let unused = self.daemons.get(key).is_some_and(|d| d.types.is_empty() && d.all_types.is_empty());
        let mut waiting: Vec<_> = done.into_iter().collect();
        if unused
            && let Some(daemon) = self.daemons.remove(key)
            && let Some(Daemon { handle, monitor }) = daemon.daemon
            && handle.shutdown().is_ok()
        {
            let waiting = std::mem::take(&mut waiting);
            self.ending.push(Ending { monitor, until: now + END_LIMIT, waiting });
        }
        self.ended.append(&mut waiting);
    }

    /// Who is to be told that it is over.
    pub(super) fn take_ended(&mut self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.ended)
    }

    pub(super) fn report(&mut self, id: WatchId, node_id: String, report: Report, now: Instant) {
        self.feed(id, Input::Report(node_id, report), now);
    }

    pub(super) fn refresh(&mut self, id: WatchId, now: Instant) {
        self.feed(id, Input::Refresh, now);
    }

    fn feed(&mut self, id: WatchId, input: Input, now: Instant) {
        let Some((key, domain)) = self.readers.get(&id) else { return };
        let (key, domain) = (key.clone(), domain.clone());
        let Some(daemon) = self.daemons.get_mut(&key) else { return };
        let Some(browse) = daemon.types.get_mut(&domain) else { return };
        let Some(shared) = browse.tables.iter_mut().find(|s| s.readers.iter().any(|(r, _)| *r == id)) else {
            return;
        };
        let wishes = shared.input(input, now, &mut self.unpublished);
        daemon.grant(&domain, wishes, now);
    }

    pub(super) fn types(&mut self, request: TypesRequest, now: Instant) {
        let TypesRequest { daemon: key, until, reply } = request;
        let daemon = self.daemons.entry(key.clone()).or_insert_with(|| BrowseDaemon::new(&key, now));
        daemon.open(now);
        // One browse per name and daemon: a second would take over the channel of the first.
        let running = daemon.all_types.iter().any(|t| t.events.is_some());
        let stream = (!running)
            .then(|| daemon.daemon.as_ref().and_then(|d| d.handle.browse(ALL_TYPES).ok()))
            .flatten()
            .map(events);
        let found = daemon.all_types.iter().find(|t| t.events.is_some()).map(|t| t.found.clone());
        daemon.all_types.push(TypesBrowse {
            events: stream,
            found: found.unwrap_or_default(),
            until,
            reply: Some(reply),
        });
    }

    /// Our own advertisements of a type changed.
    pub(super) fn own_changed(&mut self, port: u16, service: &ServiceType, own: &Arc<[Own]>, now: Instant) {
        for daemon in self.daemons.values_mut().filter(|d| d.port == port) {
            let domains: Vec<String> = daemon
                .types
                .iter()
                .filter(|(_, t)| t.service.as_str() == service.as_str())
                .map(|(domain, _)| domain.clone())
                .collect();
            for domain in domains {
                daemon.input_all(&domain, &Input::Own(Arc::clone(own)), now, &mut self.unpublished);
            }
        }
    }

    /// Every two seconds.
    pub(super) fn look(&mut self, slept: bool, now: Instant) {
        let keys: Vec<DaemonKey> = self.daemons.keys().cloned().collect();
        for key in keys {
            let Some(daemon) = self.daemons.get_mut(&key) else { continue };
            daemon.interfaces_now(now, &mut self.unpublished);
            if slept {
                let domains: Vec<String> = daemon.types.keys().cloned().collect();
                for domain in domains {
                    daemon.fresh(&domain, FreshBrowse::Recovery, now);
                }
            }
            self.publish_status(&key, now);
        }
    }

    /// Takes what the library has to say. `true` if there is more.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        self.ending.retain_mut(|ending| {
            let over = loop {
                match ending.monitor.as_mut().poll_next(cx) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => break true,
                    Poll::Pending => break ending.until <= now,
                }
            };
            if over {
                self.ended.append(&mut ending.waiting);
            }
            !over
        });
        let mut busy = false;
        let keys: Vec<DaemonKey> = self.daemons.keys().cloned().collect();
        for key in keys {
            let Some(daemon) = self.daemons.get_mut(&key) else { continue };
            let was_up = daemon.daemon.is_some();
            busy |= daemon.drain(cx, &mut self.unpublished);
            if was_up != daemon.daemon.is_some() {
                self.publish_status(&key, now);
            }
        }
        busy
    }

    /// What is due by time alone. `true` if there are new events to look at.
    pub(super) fn pass_time(&mut self, now: Instant) -> bool {
        let mut more = false;
        let keys: Vec<DaemonKey> = self.daemons.keys().cloned().collect();
        for key in keys {
            let Some(daemon) = self.daemons.get_mut(&key) else { continue };
            if daemon.pass_time(now, &mut self.unpublished) {
                more = true;
                self.publish_status(&key, now);
            }
            self.end_if_unused(&key, None, now);
        }
        self.unpublished.retain(|publisher| {
            publisher.flush(now);
            publisher.due().is_some()
        });
        more
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let daemons = self.daemons.values().filter_map(BrowseDaemon::deadline);
        let windows = self.unpublished.iter().filter_map(Publisher::due);
        let ends = self.ending.iter().map(|e| e.until);
        daemons.chain(windows).chain(ends).min()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.daemons.is_empty() && self.ending.is_empty()
    }

    pub(super) fn break_daemons(&self) {
        for daemon in self.daemons.values().filter_map(|d| d.daemon.as_ref()) {
            let _ignored = daemon.handle.shutdown();
        }
    }

    fn publish_status(&mut self, key: &DaemonKey, now: Instant) {
        let Some(daemon) = self.daemons.get(key) else { return };
        let no_interface = daemon.interfaces.now().links.is_empty();
        for shared in daemon.types.values().flat_map(|t| &t.tables) {
            let status = daemon.status(shared, no_interface, now);
            for (_, publisher) in &shared.readers {
                publisher.edit(now, |table, now| {
                    let same = match (table.status(), &status) {
                        (Status::Degraded { what: old, .. }, Status::Degraded { what: new, .. }) => {
                            old == new
                        }
                        (old, new) => old == new,
                    };
                    if !same {
                        table.set_status(status.clone(), now);
                    }
                });
                if publisher.due().is_some() {
                    self.unpublished.push(publisher.clone());
                }
            }
        }
    }
}

impl BrowseDaemon {
    fn new(key: &DaemonKey, now: Instant) -> Self {
        Self {
            port: key.port,
            check: key.check,
            interfaces: Arc::new(IfWatch::new(key.policy.clone())),
            daemon: None,
            retry: None,
            trouble: None,
            losses: Losses::default(),
            deaths: 0,
            opened: now,
            types: HashMap::new(),
            asked: VecDeque::new(),
            ask_again: None,
            all_types: Vec::new(),
            is_deaf: false,
        }
    }

    /// Makes sure that the daemon runs, unless it is waited for.
    fn open(&mut self, now: Instant) {
        if self.daemon.is_some() || self.retry.is_some_and(|at| now < at) {
            return;
        }
        let watch = Arc::clone(&self.interfaces);
        match Daemon::open_to_listen(self.port, self.check, Arc::new(move |i| watch.allows(i))) {
            Ok(daemon) => {
                self.daemon = Some(daemon);
                self.retry = None;
                self.trouble = None;
                self.opened = now;
                let domains: Vec<String> = self.types.keys().cloned().collect();
                for domain in domains {
                    self.begin(&domain, now);
                }
            }
            Err(error) => {
                let what = match error {
                    OpenError::NoSocket => Trouble::NoSocket,
                    OpenError::NoDaemon => Trouble::DaemonLost,
                };
                self.trouble.get_or_insert((what, now));
                self.retry = Some(now + self.death_pause());
                self.count(|c| c.source_failed());
            }
        }
    }

    /// 1 s, doubling to 30 s (6.7).
    fn death_pause(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.deaths.min(5)).min(Duration::from_secs(30));
        self.deaths += 1;
        pause
    }

    fn start(&mut self, domain: &str, now: Instant) {
        if self.daemon.is_some() {
            self.begin(domain, now);
        } else {
            self.open(now);
        }
    }

    fn begin(&mut self, domain: &str, now: Instant) {
        let Some(browse) = self.types.get_mut(domain) else { return };
        let action = browse.browse.daemon_up(now);
        self.act(domain, action, now);
    }

    /// Somebody wants a fresh browse.
    fn fresh(&mut self, domain: &str, cause: FreshBrowse, now: Instant) {
        let Some(browse) = self.types.get_mut(domain) else { return };
        for publisher in browse.publishers() {
            publisher.counters().fresh_browse(cause);
        }
        if let Some(action) = browse.browse.request(now) {
            self.act(domain, action, now);
        }
    }

    fn act(&mut self, domain: &str, action: Action, now: Instant) {
        let ask = match action {
            Action::Stop => Ask::Stop(domain.to_owned()),
            Action::Browse { generation } => Ask::Browse(domain.to_owned(), generation),
        };
        self.ask(ask, now);
    }

    fn ask(&mut self, what: Ask, now: Instant) {
        self.asked.push_back(Asked { what, tries: 0 });
        if self.ask_again.is_none() {
            self.ask_again = Some(now);
        }
    }

    /// Hands waiting commands to the library. Returns the browses that began, and whether there are new events to
    /// look at.
    fn hand_over(&mut self, now: Instant) -> (Vec<(String, u64)>, bool) {
        let (mut began, mut opened) = (Vec::new(), false);
        if self.ask_again.is_none_or(|at| now < at) {
            return (began, opened);
        }
        self.ask_again = None;
        while let Some(mut asked) = self.asked.pop_front() {
            let Some(Daemon { handle, .. }) = &self.daemon else {
                self.asked.clear();
                break;
            };
            match asked.what.hand_to(handle) {
                Ok(stream) => {
                    let (domain, generation) = match asked.what {
                        Ask::Browse(domain, generation) => (domain, Some(generation)),
                        Ask::Peek(domain) => (domain, None),
                        Ask::Stop(_) | Ask::Verify(_) => continue,
                    };
                    let Some(browse) = self.types.get_mut(&domain) else { continue };
                    if let Some(generation) = generation {
                        browse.current = stream;
                        // Only now: dropped earlier, the library would not clear its cache (6.6).
                        browse.old = None;
                        browse.drops = Queues::at(self.port).lost;
                        began.push((domain, generation));
                    } else {
                        browse.old = std::mem::replace(&mut browse.current, stream);
                    }
                    opened = true;
                }
                Err(mdns_sd::Error::Again) if asked.tries < AGAIN_LIMIT => {
                    asked.tries += 1;
                    self.asked.push_front(asked);
                    self.ask_again = Some(now + AGAIN_AFTER);
                    break;
                }
                Err(error) => {
                    debug!(%error, "the mDNS daemon does not take commands");
                    self.lose(true, now);
                    break;
                }
            }
        }
        (began, opened)
    }

    /// What the tables want of the daemon.
    fn grant(&mut self, domain: &str, wishes: Wishes, now: Instant) {
        for full_name in wishes.verify {
            self.ask(Ask::Verify(full_name), now);
        }
        for cause in wishes.fresh {
            self.fresh(domain, cause, now);
        }
        if wishes.peek {
            self.peek(domain, now);
        }
    }

    /// Silence is about to take somebody away.
    fn peek(&mut self, domain: &str, now: Instant) {
        let Some(browse) = self.types.get_mut(domain) else { return };
        let queues = Queues::at(self.port);
        // An answer that nobody has read yet is as good as lost, for now.
        let is_lossy = queues.lost > browse.drops || queues.unread > BEHIND;
        let mut listed = 0;
        for shared in &mut browse.tables {
            listed = listed.max(shared.machine.listed_count());
            if is_lossy {
                shared.machine.lost_packets(now);
            }
        }
        if is_lossy {
            debug!(peerage.service_type = domain, "packets were lost: silence proves nothing");
        }
        // Two events for each instance: with more, the burst could overflow the library's channel.
        if listed <= MANY_PEERS && browse.browse.is_running() {
            self.ask(Ask::Peek(domain.to_owned()), now);
        }
    }

    fn input_all(&mut self, domain: &str, input: &Input, now: Instant, unpublished: &mut Vec<Publisher>) {
        let Some(browse) = self.types.get_mut(domain) else { return };
        let mut all = Wishes::default();
        for shared in &mut browse.tables {
            let wishes = shared.input(input.clone(), now, unpublished);
            all.merge(wishes);
        }
        self.grant(domain, all, now);
    }

    fn interfaces_now(&mut self, now: Instant, unpublished: &mut Vec<Publisher>) {
        let table = self.interfaces.now();
        let domains: Vec<String> = self.types.keys().cloned().collect();
        for domain in domains {
            self.input_all(&domain, &Input::Interfaces(Arc::clone(&table)), now, unpublished);
        }
    }

    fn drain(&mut self, cx: &mut Context<'_>, unpublished: &mut Vec<Publisher>) -> bool {
        let mut busy = false;
        let domains: Vec<String> = self.types.keys().cloned().collect();
        for domain in domains {
            busy |= self.drain_type(&domain, cx, unpublished);
        }
        self.drain_all_types(cx);
        // The daemon's own news are of no interest here, only whether it lives.
        while let Some(daemon) = &mut self.daemon {
            match daemon.monitor.as_mut().poll_next(cx) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => self.lose(true, Instant::now()),
                Poll::Pending => break,
            }
        }
        busy
    }

    fn drain_type(&mut self, domain: &str, cx: &mut Context<'_>, unpublished: &mut Vec<Publisher>) -> bool {
        for _ in 0..EVENTS_PER_TURN {
            let Some(browse) = self.types.get_mut(domain) else { return false };
            let is_stopping = browse.browse.is_stopping();
            let now = Instant::now();
            // What was said before a look into the cache comes first.
            let old = browse.old.as_mut().map(|old| old.as_mut().poll_next(cx));
            if let Some(Poll::Ready(None)) = old {
                browse.old = None;
            }
            let next = match (old, browse.current.as_mut()) {
                // Its end is no news.
                (Some(Poll::Ready(Some(ServiceEvent::SearchStopped(_)))), _) => continue,
                (Some(event @ Poll::Ready(Some(_))), _) => event,
                (_, Some(stream)) => stream.as_mut().poll_next(cx),
                (_, None) => return false,
            };
            let event = match next {
                Poll::Pending => return false,
                Poll::Ready(Some(event)) => BrowseEvent::from(event),
                // An end after our stop is as good as the word.
                Poll::Ready(None) if is_stopping => BrowseEvent::Stopped,
                Poll::Ready(None) => {
                    self.overflow(domain, now, unpublished);
                    return false;
                }
            };
            match event {
                BrowseEvent::Resolved(record) => {
                    browse.count_event();
                    self.input_all(domain, &Input::Resolved(record), now, unpublished);
                }
                BrowseEvent::Removed(full_name) => {
                    browse.count_event();
                    // Whether it was withdrawn or its interface is gone is seen in the interfaces of this moment.
                    self.interfaces_now(now, unpublished);
                    self.input_all(domain, &Input::Removed(full_name), now, unpublished);
                }
                BrowseEvent::Stopped => {
                    let Some(browse) = self.types.get_mut(domain) else { return false };
                    match browse.browse.stopped(now) {
                        Some(action) => {
                            browse.old = browse.current.take();
                            self.act(domain, action, now);
                        }
                        // Nobody asked for it: the daemon ends.
                        None => self.lose(true, now),
                    }
                    return true;
                }
                BrowseEvent::Found(_) | BrowseEvent::Nothing => {}
            }
        }
        true
    }

    fn drain_all_types(&mut self, cx: &mut Context<'_>) {
        let mut found = Vec::new();
        for request in &mut self.all_types {
            let Some(stream) = request.events.as_mut() else { continue };
            while let Poll::Ready(Some(event)) = stream.as_mut().poll_next(cx) {
                if let BrowseEvent::Found(name) = BrowseEvent::from(event) {
                    found.push(name);
                }
            }
        }
        for name in found {
            for request in &mut self.all_types {
                if request.found.len() < crate::MAX_PEERS && !request.found.contains(&name) {
                    request.found.push(name.clone());
                }
            }
        }
    }

    /// Events of a type were lost: the daemon is thrown away, for browsing again on it would replay its whole cache
    /// as one burst and overflow again.
    fn overflow(&mut self, domain: &str, now: Instant, unpublished: &mut Vec<Publisher>) {
        let died = self.daemon.as_ref().is_none_or(|d| !is_alive(&d.handle));
        if !died {
            warn!(peerage.service_type = domain, "announcements came too fast, some were lost");
            if let Some(browse) = self.types.get(domain) {
                for publisher in browse.publishers() {
                    publisher.counters().browse_restarted();
                }
            }
            self.input_all(domain, &Input::Lost, now, unpublished);
        }
        self.lose(died, now);
    }

    /// The daemon is of no use any more; another one comes after a pause.
    fn lose(&mut self, died: bool, now: Instant) {
        let Some(daemon) = self.daemon.take() else { return };
        let _ignored = daemon.handle.shutdown();
        self.asked.clear();
        self.ask_again = None;
        for browse in self.types.values_mut() {
            browse.browse.daemon_down();
            browse.current = None;
            browse.old = None;
        }
        self.is_deaf = true;
        for request in &mut self.all_types {
            request.events = None;
        }
        let pause = if died {
            /// A daemon that ran this long starts with a clean record.
            const FORGIVEN: Duration = Duration::from_secs(60);
            if now.duration_since(self.opened) > FORGIVEN {
                self.deaths = 0;
            }
            self.trouble.get_or_insert((Trouble::DaemonLost, now));
            self.count(|c| c.daemon_restarted());
            self.death_pause()
        } else {
            self.losses.note(now)
        };
        self.retry = Some(now + pause);
    }

    fn count(&self, count: impl Fn(&crate::Counters)) {
        for publisher in self.types.values().flat_map(TypeBrowse::publishers) {
            count(publisher.counters());
        }
    }

    /// What is due by time alone. `true` if the status may have changed.
    fn pass_time(&mut self, now: Instant, unpublished: &mut Vec<Publisher>) -> bool {
        let mut changed = false;
        let domains: Vec<String> = self.types.keys().cloned().collect();
        if std::mem::take(&mut self.is_deaf) {
            for domain in &domains {
                self.input_all(domain, &Input::Down, now, unpublished);
            }
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.open(now);
            changed = true;
        }
        for domain in &domains {
            let Some(browse) = self.types.get_mut(domain) else { continue };
            if browse.tables.iter().any(|s| s.machine.deadline().is_some_and(|at| at <= now)) {
                self.input_all(domain, &Input::Tick, now, unpublished);
                changed = true;
            }
            let Some(browse) = self.types.get_mut(domain) else { continue };
            if let Some(action) = browse.browse.tick(now) {
                if matches!(action, Action::Browse { .. }) {
                    browse.old = browse.current.take();
                }
                self.act(domain, action, now);
            }
        }
        let (began, opened) = self.hand_over(now);
        changed |= opened;
        for (domain, generation) in began {
            self.input_all(&domain, &Input::Began { generation }, now, unpublished);
            if let Some(browse) = self.types.get_mut(&domain) {
                for shared in &mut browse.tables {
                    shared.began = true;
                    for (_, publisher) in &shared.readers {
                        publisher.counters().full_list(now);
                    }
                }
            }
            changed = true;
        }
        let had = self.all_types.len();
        for request in self.all_types.iter_mut().filter(|r| r.until <= now) {
            if let Some(reply) = request.reply.take() {
                let _gone = reply.send(std::mem::take(&mut request.found));
            }
        }
        self.all_types.retain(|r| r.until > now);
        if had > 0 && self.all_types.is_empty() {
            self.ask(Ask::Stop(ALL_TYPES.to_owned()), now);
        }
        changed
    }

    fn deadline(&self) -> Option<Instant> {
        let tables = self
            .types
            .values()
            .flat_map(|t| t.tables.iter().filter_map(|s| s.machine.deadline()).chain(t.browse.deadline()));
        let requests = self.all_types.iter().map(|r| r.until);
        tables.chain(requests).chain(self.retry).chain(self.ask_again).min()
    }

    fn status(&self, shared: &Shared, no_interface: bool, now: Instant) -> Status {
        if let Some((what, since)) = &self.trouble {
            return Status::Degraded { what: what.clone(), since: *since, next_try: self.retry };
        }
        if no_interface {
            return Status::NoInterface;
        }
        if shared.machine.is_frozen(now) {
            return Status::degraded(Trouble::EventOverflow, now);
        }
        if shared.machine.listed_count() > MANY_PEERS {
            return Status::degraded(Trouble::ManyForMdns, now);
        }
        if shared.began { Status::Ready } else { Status::Starting }
    }
}

impl Ask {
    fn hand_to(&self, daemon: &ServiceDaemon) -> Result<Option<Events<ServiceEvent>>, mdns_sd::Error> {
        match self {
            Self::Stop(domain) => daemon.stop_browse(domain).map(|()| None),
            Self::Browse(domain, _) | Self::Peek(domain) => {
                daemon.browse(domain).map(|receiver| Some(events(receiver)))
            }
            Self::Verify(full_name) => daemon.verify(full_name.clone(), VERIFY_WINDOW).map(|()| None),
        }
    }
}

impl TypeBrowse {
    fn publishers(&self) -> impl Iterator<Item = &Publisher> {
        self.tables.iter().flat_map(|s| s.readers.iter().map(|(_, publisher)| publisher))
    }

    fn count_event(&self) {
        for publisher in self.publishers() {
            publisher.counters().event();
        }
    }
}

/// What tables want of the daemon after an event.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) verify: Vec<String>,
    pub(super) fresh: Vec<FreshBrowse>,
    pub(super) peek: bool,
}

impl Wishes {
    fn merge(&mut self, other: Self) {
        self.verify.extend(other.verify);
        self.fresh.extend(other.fresh);
        self.peek |= other.peek;
    }
}

impl Shared {
    pub(super) fn new(machine: Machine, options: Options) -> Self {
        Self { machine, options, readers: Vec::new(), began: false }
    }

    /// Adds a reader and tells it what is known already.
    pub(super) fn join(&mut self, id: WatchId, publisher: &Publisher, now: Instant) {
        self.welcome(publisher, now);
        self.readers.push((id, publisher.clone()));
    }

    /// Feeds the machine and applies what follows to every reader's table.
    pub(super) fn input(&mut self, input: Input, now: Instant, unpublished: &mut Vec<Publisher>) -> Wishes {
        let mut outputs = Vec::new();
        self.machine.input(input, now, &mut outputs);
        let mut wishes = Wishes::default();
        let mut edits = false;
        for output in &outputs {
            match output {
                Output::Fresh(cause) => wishes.fresh.push(*cause),
                Output::Verify(full_name) => wishes.verify.push(full_name.clone()),
                Output::Peek => wishes.peek = true,
                _ => edits = true,
            }
        }
        if edits {
            for (_, publisher) in &self.readers {
                let was_open = publisher.due().is_some();
                apply(publisher, &outputs, now);
                if !was_open && publisher.due().is_some() {
                    unpublished.push(publisher.clone());
                }
            }
        }
        wishes
    }

    fn welcome(&self, publisher: &Publisher, now: Instant) {
        let Some((_, other)) = self.readers.first() else { return };
        let mut known = Vec::new();
        other.edit(now, |table, _| known.extend(table.iter().cloned()));
        publisher.edit(now, |table, now| {
            for peer in known {
                table.put(peer, now);
            }
        });
    }
}

fn apply(publisher: &Publisher, outputs: &[Output], now: Instant) {
    let counters = publisher.counters();
    publisher.edit(now, |table, now| {
        for output in outputs {
            match output {
                Output::Put(peer) => {
                    table.put(peer.clone(), now);
                }
                Output::Replace(peer) => {
                    table.replace(peer.clone(), now);
                }
                Output::Heard(node_id) => {
                    if let Some(peer) = table.get(node_id) {
                        peer.heard(now);
                    }
                }
                Output::Suspect(node_id, why) => {
                    table.suspect(node_id, *why, now);
                }
                Output::Clear(node_id) => {
                    table.clear(node_id, now);
                }
                Output::Leave(node_id, reason) => {
                    table.remove(node_id, *reason, now);
                }
                Output::Conflict { node_id, kept, refused } => {
                    table.conflict(Arc::clone(node_id), kept.clone(), refused.clone(), now);
                }
                Output::Ignored(why) => counters.ignored(*why, 1),
                Output::Fresh(_) | Output::Verify(_) | Output::Peek => {}
            }
        }
    });
}

/// The name to browse: `_v2._sub._billing._tcp.local.`.
pub(super) fn domain_of(service: &ServiceType) -> String {
    match service.subtype() {
        Some(subtype) => format!("{subtype}._sub.{}.local.", service.as_str()),
        None => format!("{}.local.", service.as_str()),
    }
}

fn is_alive(daemon: &ServiceDaemon) -> bool {
    !matches!(daemon.get_metrics(), Err(mdns_sd::Error::DaemonShutdown))
}

/// Spreads the timers of many processes; nothing secret.
fn seed(now: Instant) -> u64 {
    let moment =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    moment ^ u64::from(std::process::id()) << 32 ^ u64::try_from(now.elapsed().as_nanos()).unwrap_or(0)
}
