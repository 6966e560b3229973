//! The announcing side: one library daemon for all advertisements of this process, apart from those that browse, so
//! that those can be thrown away without a goodbye (discovery §6.2).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use mdns_sd::{
    DaemonEvent, DaemonStatus, IfKind, IfPredicate, ServiceDaemon, ServiceInfo, TxtProperty, UnregisterStatus,
};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::announce::{AdvertisementState as State, OnConflict, Registration, taken};
use super::browsers::domain_of;
use super::daemon::{Daemon, Events, events};
use super::interfaces::{IfWatch, Policy};
use super::label::{full_name, host_name, instance_label};
use super::machine::Own;
use crate::{Metadata, ServiceType, escape};

/// What tells one advertisement of a process from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) port: u16,
    pub(super) service: ServiceType,
    pub(super) node_id: String,
}

/// A new advertisement.
pub(super) struct Announce {
    pub(super) name: Name,
    pub(super) registration: Registration,
    pub(super) state: watch::Sender<State>,
}

/// News of a running one.
pub(super) enum Update {
    Metadata(Metadata),
    Port(u16),
}

/// The library repeats a goodbye 120 ms after it said it; looked for from here on.
const GOODBYE_REPEATED: Duration = Duration::from_millis(125);
/// A goodbye takes 130 ms. A daemon that has not said it after this long is not waited for.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// A command that the library's full queue did not take is repeated after this.
const AGAIN_AFTER: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(super) struct Responders {
    by_port: HashMap<u16, Responder>,
    ending: Vec<(Events<DaemonEvent>, Instant)>,
    /// Whose advertisements came or went since somebody looked.
    changed: Vec<(u16, ServiceType)>,
}

type Policies = Arc<RwLock<Vec<Arc<IfWatch>>>>;

struct Responder {
    daemon: Option<Daemon>,
    check: Duration,
    retry: Option<Instant>,
    deaths: u32,
    opened: Instant,
    /// Those of all services: the daemon uses what any of them allows.
    policies: Policies,
    services: HashMap<Name, Service>,
    /// Full names that the library renamed; it would do so again as long as this daemon lives.
    renamed: HashSet<String>,
    /// A stream was opened that nobody has polled yet.
    has_news: bool,
}

struct Service {
    registration: Registration,
    label: String,
    full_name: String,
    host: String,
    interfaces: Arc<IfWatch>,
    state: watch::Sender<State>,
    /// The name was asked for and is ours: it is not asked for again.
    is_ours: bool,
    /// To be handed to the library, at this time.
    due: Option<Instant>,
    has_suffix: bool,
    /// The used interfaces when it was handed over last.
    used: Vec<String>,
    goodbye: Option<Goodbye>,
}

/// The steps of a goodbye: said, repeated, proved to be repeated.
struct Goodbye {
    /// Given up then.
    until: Instant,
    /// Answered when it was said for the first time.
    said: Option<Events<UnregisterStatus>>,
    /// When to look whether it was repeated.
    look: Option<Instant>,
    /// The look. The daemon looks at commands before it sends what is due, so the second answer proves that the
    /// repetition was sent.
    asked: Option<Events<DaemonStatus>>,
    answers: u8,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Responders {
    pub(super) fn announce(&mut self, announce: Announce, now: Instant) {
        let Announce { name, registration, state } = announce;
        let responder = self.by_port.entry(name.port).or_insert_with(|| Responder::new(&registration, now));
        let interfaces = responder.interfaces(&registration.policy);
        let label = instance_label(name.service.as_str(), &name.node_id);
        let service = Service::new(registration, label, interfaces, state, now);
        if responder.renamed.remove(&service.full_name) {
            responder.forget_names();
        }
        // The last words of a predecessor with this name go with it.
        if let Some(old) = responder.services.remove(&name) {
            service.inherit(old);
        }
        self.changed.push((name.port, name.service.clone()));
        responder.services.insert(name, service);
        responder.open(now);
    }

    pub(super) fn update(&mut self, name: &Name, update: Update, now: Instant) {
        let Some(service) = self.by_port.get_mut(&name.port).and_then(|r| r.services.get_mut(name)) else {
            return;
        };
        match update {
            Update::Metadata(metadata) => service.registration.metadata = metadata,
            Update::Port(port) => service.registration.port = port,
        }
        // Before the name is ours, the first announcement brings the news.
        if service.is_ours && service.goodbye.is_none() {
            service.due = Some(now);
        }
    }

    pub(super) fn withdraw(&mut self, name: &Name, done: oneshot::Sender<()>, now: Instant) {
        let Some(responder) = self.by_port.get_mut(&name.port) else {
            taken(|names| names.remove(name));
            return;
        };
        if let Some(service) = responder.services.get_mut(name) {
            let full_name = service.full_name.clone();
            match &mut service.goodbye {
                Some(goodbye) => goodbye.waiting.push(done),
                none => {
                    service.due = None;
                    let said = responder.daemon.as_ref().and_then(|d| d.handle.unregister(&full_name).ok());
                    responder.has_news = true;
                    *none = Some(Goodbye {
                        // Without a daemon there is nothing to wait for.
                        until: if said.is_some() { now + GOODBYE_LIMIT } else { now },
                        said: said.map(events),
                        look: None,
                        asked: None,
                        answers: 0,
                        waiting: vec![done],
                    });
                }
            }
            // From now on the name may be advertised again.
            taken(|names| names.remove(name));
        }
    }

    /// Every two seconds: interfaces come and go.
    pub(super) fn look(&mut self, now: Instant) {
        for responder in self.by_port.values_mut() {
            for service in responder.services.values_mut().filter(|s| s.goodbye.is_none()) {
                service.interfaces_changed(now);
            }
        }
    }

    pub(super) fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        self.ending.retain_mut(|(monitor, until)| {
            loop {
                match monitor.as_mut().poll_next(cx) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return false,
                    Poll::Pending => return *until > now,
                }
            }
        });
        for (port, responder) in &mut self.by_port {
            for service in responder.drain(cx, now) {
                self.changed.push((*port, service));
            }
        }
        false
    }

    /// What is due by time alone. `true` if there are new events to look at.
    pub(super) fn pass_time(&mut self, now: Instant) -> bool {
        let mut more = false;
        let mut unused = Vec::new();
        for (port, responder) in &mut self.by_port {
            for service in responder.pass_time(now) {
                more = true;
                self.changed.push((*port, service));
            }
            more |= std::mem::take(&mut responder.has_news);
            if responder.services.is_empty() {
                unused.push(*port);
            }
        }
        for port in unused {
            if let Some(Responder { daemon: Some(Daemon { handle, monitor }), .. }) =
                self.by_port.remove(&port)
                && handle.shutdown().is_ok()
            {
                self.ending.push((monitor, now + END_LIMIT));
                more = true;
            }
        }
        more
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let ends = self.ending.iter().map(|(_, until)| *until);
        self.by_port.values().filter_map(Responder::deadline).chain(ends).min()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.by_port.is_empty() && self.ending.is_empty() && self.changed.is_empty()
    }

    /// Whether no goodbye is pending.
    pub(super) fn is_settled(&self) -> bool {
        self.by_port.values().flat_map(|r| r.services.values()).all(|s| s.goodbye.is_none())
    }

    /// The advertisements of a type, as others see them.
    pub(super) fn own(&self, port: u16, service: &ServiceType) -> Arc<[Own]> {
        let services = self.by_port.get(&port).into_iter().flat_map(|r| &r.services);
        services
            .filter(|(name, s)| {
                name.service.as_str() == service.as_str()
                    && !matches!(*s.state.borrow(), State::Conflict { .. })
            })
            .map(|(name, s)| Own {
                node_id: name.node_id.as_str().into(),
                full_name: s.full_name.as_str().into(),
                host: s.host.as_str().into(),
            })
            .collect()
    }

    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(super) fn take_changed(&mut self) -> Vec<(u16, ServiceType)> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn break_daemons(&self) {
        for daemon in self.by_port.values().filter_map(|r| r.daemon.as_ref()) {
            let _ignored = daemon.handle.shutdown();
        }
    }
}

impl Responder {
    fn new(registration: &Registration, now: Instant) -> Self {
        Self {
            daemon: None,
            check: registration.check,
            retry: None,
            deaths: 0,
            opened: now,
            policies: Policies::default(),
            services: HashMap::new(),
            renamed: HashSet::new(),
            has_news: false,
        }
    }

    /// The watch over the interfaces of a policy, shared by all services that have it.
    fn interfaces(&mut self, policy: &Policy) -> Arc<IfWatch> {
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = policies.iter().find(|w| w.policy() == policy) {
            return Arc::clone(known);
        }
        let watch = Arc::new(IfWatch::new(policy.clone()));
        policies.push(Arc::clone(&watch));
        drop(policies);
        if let Some(daemon) = &self.daemon {
            // A setting makes the library look at the interfaces again, now.
            let _ignored = daemon.handle.disable_interface(self.refused());
        }
        watch
    }

    /// The interfaces that no service wants.
    fn refused(&self) -> IfKind {
        let policies = Arc::clone(&self.policies);
        IfKind::Predicate(IfPredicate::new(move |i| !allowed(&policies, i)))
    }

    fn open(&mut self, now: Instant) {
        if self.daemon.is_some() || self.retry.is_some_and(|at| now < at) {
            return;
        }
        let port = self.services.keys().next().map_or(super::DEFAULT_PORT, |name| name.port);
        let policies = Arc::clone(&self.policies);
        match Daemon::open(port, self.check, Arc::new(move |i| allowed(&policies, i))) {
            Ok(daemon) => {
                self.daemon = Some(daemon);
                self.has_news = true;
                self.retry = None;
                self.opened = now;
                self.renamed.clear();
                for service in self.services.values_mut().filter(|s| s.goodbye.is_none()) {
                    service.due = Some(now);
                }
            }
            Err(error) => {
                debug!(?error, "cannot announce");
                self.retry = Some(now + self.death_pause());
            }
        }
    }

    /// 1 s, doubling to 30 s (6.7).
    fn death_pause(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.deaths.min(5)).min(Duration::from_secs(30));
        self.deaths += 1;
        pause
    }

    /// Makes the library forget names that it changed: it keeps them per interface, so all are taken away and given
    /// back. Others are probed anew meanwhile, without a goodbye.
    fn forget_names(&mut self) {
        self.renamed.clear();
        if let Some(daemon) = &self.daemon {
            let _ignored = daemon
                .handle
                .disable_interface(IfKind::All)
                .and_then(|()| daemon.handle.enable_interface(IfKind::All))
                .and_then(|()| daemon.handle.disable_interface(self.refused()));
        }
    }

    fn drain(&mut self, cx: &mut Context<'_>, now: Instant) -> Vec<ServiceType> {
        let mut changed = Vec::new();
        while let Some(daemon) = &mut self.daemon {
            match daemon.monitor.as_mut().poll_next(cx) {
                Poll::Ready(Some(DaemonEvent::Announce(full_name, _))) => self.announced(&full_name),
                Poll::Ready(Some(DaemonEvent::NameChange(change))) => {
                    changed.extend(self.conflict(&change.original, &change.intf_name, now));
                }
                Poll::Ready(Some(DaemonEvent::Error(error))) => {
                    warn!(%error, "the mDNS daemon cannot announce")
                }
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => {
                    /// A daemon that ran this long starts with a clean record.
                    const FORGIVEN: Duration = Duration::from_secs(60);
                    if now.duration_since(self.opened) > FORGIVEN {
                        self.deaths = 0;
                    }
                    self.daemon = None;
                    self.retry = Some(now + self.death_pause());
                }
                Poll::Pending => break,
            }
        }
        for service in self.services.values_mut() {
            if let Some(goodbye) = &mut service.goodbye {
                goodbye.drain(cx, now);
            }
        }
        changed
    }

    fn announced(&mut self, full_name: &str) {
        let service = self.services.values_mut().find(|s| s.full_name.eq_ignore_ascii_case(full_name));
        if let Some(service) = service
            && service.goodbye.is_none()
        {
            service.is_ours = true;
            service.used = service.reach();
            let interfaces = service.used.clone();
            service.set_state(State::Announced { interfaces });
        }
    }

    /// The library changed one of our names, because another host has it.
    fn conflict(&mut self, original: &str, interface: &str, now: Instant) -> Option<ServiceType> {
        let (name, service) = self.services.iter_mut().find(|(_, s)| {
            s.full_name.eq_ignore_ascii_case(original) || s.host.eq_ignore_ascii_case(original)
        })?;
        if service.goodbye.is_some() || matches!(*service.state.borrow(), State::Conflict { .. }) {
            return None;
        }
        warn!(
            peerage.service_type = %name.service,
            peerage.node_id = %escape(&name.node_id),
            interface,
            "another host announces this node id"
        );
        if let Some(daemon) = &self.daemon {
            // The answer is of no interest.
            let _answer = daemon.handle.unregister(&service.full_name);
        }
        self.renamed.insert(service.full_name.clone());
        if service.registration.on_conflict == OnConflict::Suffix && !service.has_suffix {
            service.has_suffix = true;
            let label = instance_label(name.service.as_str(), &name.node_id);
            service.rename(format!("{label}-{:04x}", suffix(now)));
            service.due = Some(now);
            service.set_state(State::Probing);
        } else {
            service.due = None;
            service.set_state(State::Conflict { other_host: format!("another host on {interface}") });
        }
        Some(name.service.clone())
    }

    fn pass_time(&mut self, now: Instant) -> Vec<ServiceType> {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.open(now);
        }
        if let Some(Daemon { handle, .. }) = &self.daemon {
            for service in self.services.values_mut().filter(|s| s.due.is_some_and(|at| at <= now)) {
                service.due = service.register(handle).map(|()| None).unwrap_or(Some(now + AGAIN_AFTER));
            }
            for service in self.services.values_mut() {
                self.has_news |= service.ask_about_goodbye(handle, now);
            }
        }
        let over: Vec<Name> = self
            .services
            .iter()
            .filter(|(_, s)| s.goodbye.as_ref().is_some_and(|g| g.is_over(now)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &over {
            if let Some(service) = self.services.remove(name) {
                service.set_state(State::Closed);
                for done in service.goodbye.into_iter().flat_map(|g| g.waiting) {
                    let _gone = done.send(());
                }
            }
        }
        over.into_iter().map(|name| name.service).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let services = self.services.values().filter_map(|s| {
            let goodbye = s.goodbye.as_ref().map(Goodbye::deadline);
            let due = s.due.filter(|_| self.daemon.is_some());
            [goodbye, due].into_iter().flatten().min()
        });
        services.chain(self.retry).min()
    }
}

impl Service {
    fn new(
        registration: Registration,
        label: String,
        interfaces: Arc<IfWatch>,
        state: watch::Sender<State>,
        now: Instant,
    ) -> Self {
        let mut service = Self {
            registration,
            label: String::new(),
            full_name: String::new(),
            host: String::new(),
            interfaces,
            state,
            is_ours: false,
            due: Some(now),
            has_suffix: false,
            used: Vec::new(),
            goodbye: None,
        };
        service.rename(label);
        service
    }

    fn rename(&mut self, label: String) {
        self.full_name = full_name(&label, self.registration.service.as_str());
        self.host = host_name(&label);
        self.label = label;
        self.is_ours = false;
    }

    /// Takes over from an advertisement of the same name whose goodbye was being said.
    fn inherit(&self, old: Self) {
        old.set_state(State::Closed);
        for done in old.goodbye.into_iter().flat_map(|g| g.waiting) {
            let _gone = done.send(());
        }
    }

    fn set_state(&self, state: State) {
        self.state.send_if_modified(|current| {
            let is_new = *current != state;
            *current = state;
            is_new
        });
    }

    /// Names of the interfaces that can announce it.
    fn reach(&self) -> Vec<String> {
        let explicit = &self.registration.addresses;
        self.interfaces
            .now()
            .links
            .iter()
            .filter(|link| explicit.is_empty() || explicit.iter().any(|ip| link.contains(*ip)))
            .map(|link| link.name.to_string())
            .collect()
    }

    fn interfaces_changed(&mut self, now: Instant) {
        if matches!(*self.state.borrow(), State::Conflict { .. }) {
            return;
        }
        let used = self.reach();
        if used == self.used {
            return;
        }
        // The library announces on new interfaces by itself, but only addresses that it found itself.
        if !self.registration.addresses.is_empty() && !used.is_empty() {
            self.due = Some(now);
        }
        let state = if used.is_empty() {
            State::NoInterface
        } else if self.is_ours && !self.used.is_empty() || !self.registration.probe {
            State::Announced { interfaces: used.clone() }
        } else {
            State::Probing
        };
        self.used = used;
        self.set_state(state);
    }

    fn register(&mut self, daemon: &ServiceDaemon) -> Result<(), mdns_sd::Error> {
        let mut info = self.info()?;
        info.set_requires_probe(self.registration.probe && !self.is_ours);
        daemon.register(info)?;
        self.used = self.reach();
        if self.used.is_empty() {
            self.set_state(State::NoInterface);
        }
        Ok(())
    }

    fn info(&self) -> Result<ServiceInfo, mdns_sd::Error> {
        let registration = &self.registration;
        let mut txt = vec![TxtProperty::from(("id", registration.node_id.as_bytes()))];
        txt.extend(registration.metadata.iter().map(|(key, value)| match value {
            Some(value) => TxtProperty::from((key, value)),
            None => TxtProperty::from(key),
        }));
        let addresses: &[IpAddr] = &registration.addresses;
        let mut info = ServiceInfo::new(
            &domain_of(&registration.service),
            &self.label,
            &self.host,
            addresses,
            registration.port,
            txt,
        )?;
        if addresses.is_empty() {
            info = info.enable_addr_auto();
        }
        let watch = Arc::clone(&self.interfaces);
        info.set_interfaces(vec![IfKind::Predicate(IfPredicate::new(move |i| watch.allows(i)))]);
        Ok(info)
    }

    /// `true` if it was asked.
    fn ask_about_goodbye(&mut self, daemon: &ServiceDaemon, now: Instant) -> bool {
        if let Some(goodbye) = &mut self.goodbye
            && goodbye.asked.is_none()
            && goodbye.look.is_some_and(|at| at <= now)
            && goodbye.answers < 2
        {
            goodbye.asked = daemon.status().ok().map(events);
            return goodbye.asked.is_some();
        }
        false
    }
}

impl Goodbye {
    fn drain(&mut self, cx: &mut Context<'_>, now: Instant) {
        if let Some(said) = &mut self.said
            && let Poll::Ready(answer) = said.as_mut().poll_next(cx)
        {
            self.said = None;
            match answer {
                Some(UnregisterStatus::OK) => self.look = Some(now + GOODBYE_REPEATED),
                // It was never announced, or the daemon is gone.
                _ => self.until = now,
            }
        }
        if let Some(asked) = &mut self.asked
            && let Poll::Ready(answer) = asked.as_mut().poll_next(cx)
        {
            self.asked = None;
            self.answers += 1;
            if answer.is_none() {
                self.until = now;
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.answers >= 2 || self.until <= now
    }

    fn deadline(&self) -> Instant {
        match self.look {
            Some(look) if self.asked.is_none() => look.min(self.until),
            _ => self.until,
        }
    }
}

fn allowed(policies: &Policies, interface: &if_addrs::Interface) -> bool {
    policies.read().unwrap_or_else(PoisonError::into_inner).iter().any(|watch| watch.allows(interface))
}

/// Four hex digits that nobody else has at this moment.
fn suffix(now: Instant) -> u16 {
    let seed = (std::process::id(), now.elapsed(), std::time::SystemTime::now());
    let hash = xxhash_rust::xxh64::xxh64(format!("{seed:?}").as_bytes(), 0);
    u16::try_from(hash & 0xffff).unwrap_or_default()
}
