//! Browse and advertise by multicast DNS (discovery §5 and §6).
//!
//! [`MdnsDiscovery`] listens, [`advertise`] makes a node findable; neither implies the other. Both work without a
//! runtime: one thread of this crate and one thread of the `mdns-sd` library for each direction do all the work,
//! however many types and readers there are.
//!
//! # Map
//! `hub` is the task that speaks with the library's daemons (`daemon`, `sockets`): `browsers` for those that listen,
//! `responders` for the one that announces. `browse` says when a type is asked afresh, `machine` turns events into
//! peers; both are pure. `announce` holds the public half of advertising, `diagnose` the look into what is wrong.

mod announce;
mod browse;
mod browsers;
mod daemon;
mod diagnose;
mod hub;
mod interfaces;
mod label;
mod machine;
mod responders;
mod sockets;
#[cfg(test)]
mod tests;
mod txt;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use self::announce::{Advertisement, AdvertisementState, OnConflict, Registration, advertise, shutdown};
pub use self::interfaces::Interfaces;
pub use self::machine::Resync;
#[doc(hidden)]
pub use self::txt::txt_pairs;

use self::browsers::{DaemonKey, TypesRequest, Watch, WatchId};
use self::hub::Command;
use self::interfaces::Policy;
use self::machine::{Gate, Options};
use crate::driver::Driver;
use crate::{
    AddressPolicy, Diagnosis, Discovery, DiscoveryError, MAX_PEERS, Metric, OnLink, Peer, Prefer, Publisher,
    Report, ServiceType, Snapshot, SourceClass, SourceId, Status, Stopping, Subscription,
};

/// The UDP port of mDNS.
const DEFAULT_PORT: u16 = 5353;
/// How often the library looks for changed interfaces; its own default of 5 s notices them late.
const DEFAULT_CHECK: Duration = Duration::from_secs(2);
/// See [`MdnsBuilder::confirm_window`].
const DEFAULT_CONFIRM: Duration = Duration::from_millis(300);
/// The most service types that one process browses.
const MAX_TYPES: usize = 64;

/// Readers are told apart by number.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
/// How many readers each browsed type has.
static TYPES: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// The peers of one service type on this link.
///
/// Finds instances that any DNS-SD responder announces, and takes nobody away on the word of one packet: who seems
/// to be gone is asked for first. Values of one service type share everything, so there may be many.
///
/// ```no_run
/// # // Listens on the network, so it is compiled and not run.
/// # async fn peers() -> Result<(), peerage_discovery::DiscoveryError> {
/// use std::time::Duration;
/// use peerage_discovery::{Discovery, mdns::MdnsDiscovery};
///
/// let billing = MdnsDiscovery::builder(&"billing".parse()?).build();
/// billing.start()?;
/// let soon = tokio::time::Instant::now() + Duration::from_secs(3);
/// for peer in billing.wait_ready(1, soon).await?.peers() {
///     println!("{peer}");
/// }
/// # Ok(()) }
/// ```
pub struct MdnsDiscovery {
    service: ServiceType,
    daemon: DaemonKey,
    options: Options,
    publisher: Publisher,
    id: WatchId,
    /// Held while started.
    driver: Mutex<Option<Driver>>,
}

/// Settings of an [`MdnsDiscovery`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MdnsBuilder {
    service: ServiceType,
    policy: Policy,
    on_link: OnLink,
    prefer: Prefer,
    named: Vec<IpAddr>,
    identity_keys: Vec<String>,
    exclude: BTreeSet<String>,
    resync: Resync,
    confirm_window: Duration,
    check: Duration,
    port: u16,
    max_peers: usize,
}

impl MdnsDiscovery {
    /// For the instances of `service`; of its subtype, if it has one.
    pub fn builder(service: &ServiceType) -> MdnsBuilder {
        MdnsBuilder {
            service: service.clone(),
            policy: Policy::default(),
            on_link: OnLink::default(),
            prefer: Prefer::default(),
            named: Vec::new(),
            identity_keys: vec!["id".to_owned(), "server_id".to_owned()],
            exclude: BTreeSet::new(),
            resync: Resync::default(),
            confirm_window: DEFAULT_CONFIRM,
            check: DEFAULT_CHECK,
            port: DEFAULT_PORT,
            max_peers: MAX_PEERS,
        }
    }

    fn end(&self) -> Option<(oneshot::Receiver<()>, Option<Driver>)> {
        if !self.publisher.end(Instant::now()) {
            return None;
        }
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if driver.is_some() {
            forget_type(self.service.as_str());
        }
        let (done, gone) = oneshot::channel();
        hub::hint(Command::Unwatch(self.id, done));
        Some((gone, driver))
    }
}

impl MdnsBuilder {
    /// Which interfaces to listen on. Default [`Interfaces::Auto`].
    pub fn interfaces(mut self, interfaces: Interfaces) -> Self {
        self.policy.interfaces = interfaces;
        self
    }

    /// Listens on loopback besides, and takes the addresses that come in there. Default: only if no other interface
    /// is used. Peers of this machine may then be seen twice.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.policy.loopback_too = allow;
        self
    }

    /// What becomes of addresses that are not on the link they were heard on. Default [`OnLink::Require`].
    pub fn on_link(mut self, on_link: OnLink) -> Self {
        self.on_link = on_link;
        self
    }

    /// Which family is dialled first. Default [`Prefer::V4First`].
    pub fn prefer(mut self, prefer: Prefer) -> Self {
        self.prefer = prefer;
        self
    }

    /// Takes this very address although the policy would refuse it (S-122).
    pub fn allow_address(mut self, address: IpAddr) -> Self {
        self.named.push(address);
        self
    }

    /// The TXT keys that may hold the node id, the best first. Default `id`, `server_id`. Without any of them the
    /// instance's label is its node id.
    pub fn identity_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.identity_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Never lists this node id: for a client that belongs to an advertised node.
    pub fn exclude(mut self, node_id: impl Into<String>) -> Self {
        self.exclude.insert(node_id.into());
        self
    }

    /// How often everybody is asked again. Default [`Resync::Adaptive`].
    pub fn resync(mut self, resync: Resync) -> Self {
        self.resync = resync;
        self
    }

    /// How long a withdrawn peer has to answer when everybody is asked, plus 1 ms for each peer. Default 300 ms.
    pub fn confirm_window(mut self, window: Duration) -> Self {
        self.confirm_window = window;
        self
    }

    /// How often to look for changed interfaces, in whole seconds. Default 2 s, at least 1 s.
    pub fn interface_check(mut self, every: Duration) -> Self {
        self.check = every.max(Duration::from_secs(1));
        self
    }

    /// The UDP port of mDNS. Default 5353; another one keeps tests apart from the world.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The most peers that are listed. Default and limit 1,024.
    pub fn max_peers(mut self, most: usize) -> Self {
        self.max_peers = most.min(MAX_PEERS);
        self
    }

    /// Makes the discovery; it does nothing until it is started.
    pub fn build(self) -> MdnsDiscovery {
        let mut addresses = AddressPolicy::new(SourceClass::Mdns).on_link(self.on_link).prefer(self.prefer);
        for address in self.named {
            addresses = addresses.allow_address(address);
        }
        MdnsDiscovery {
            publisher: Publisher::with_limit(&self.service.without_subtype(), self.max_peers),
            service: self.service,
            daemon: DaemonKey { policy: self.policy, port: self.port, check: self.check },
            options: Options {
                gate: Gate { identity_keys: self.identity_keys, exclude: self.exclude, addresses },
                resync: self.resync,
                confirm_window: self.confirm_window,
                max_peers: self.max_peers,
            },
            // Relaxed: only the numbers' being different matters.
            id: WatchId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            driver: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Discovery for MdnsDiscovery {
    fn service_type(&self) -> &ServiceType {
        &self.service
    }

    fn source(&self) -> SourceId {
        SourceId::Mdns
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        let driver = Driver::get()?;
        // Held over the whole start, so that a stop at the same time sees all of it or nothing.
        let mut held = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        note_type(self.service.as_str())?;
        let begun = self.publisher.begin().and_then(|()| {
            self.publisher.edit(Instant::now(), |table, now| table.set_status(Status::Starting, now));
            self.publisher.publish();
            hub::send(Command::Watch(Box::new(Watch {
                id: self.id,
                daemon: self.daemon.clone(),
                service: self.service.clone(),
                options: self.options.clone(),
                publisher: self.publisher.clone(),
            })))
        });
        match begun {
            Ok(()) => *held = Some(driver),
            Err(_) => forget_type(self.service.as_str()),
        }
        begun
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    fn peers(&self) -> Arc<[Peer]> {
        self.publisher.peers()
    }

    fn peer_count(&self) -> usize {
        self.publisher.peer_count()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        hub::hint(Command::Report(self.id, node_id.to_owned(), report));
    }

    fn refresh(&self) {
        hub::hint(Command::Refresh(self.id));
    }

    fn explain(&self) -> String {
        self.publisher.explain()
    }

    fn metrics(&self) -> Vec<Metric> {
        self.publisher.metrics(Instant::now())
    }

    fn stop(&self) -> Stopping {
        let Some((gone, driver)) = self.end() else { return Stopping::done() };
        Stopping::new(async move {
            // An error means that nothing was there to stop.
            let _over = gone.await;
            if let Some(driver) = driver {
                driver.release().await;
            }
        })
    }

    async fn diagnose(&self) -> Diagnosis {
        let found = Diagnosis::of(&self.service, &self.snapshot(), &self.explain());
        diagnose::diagnose(found, &self.daemon).await
    }
}

impl Drop for MdnsDiscovery {
    fn drop(&mut self) {
        // Without waiting.
        let _gone = self.end();
    }
}

impl fmt::Debug for MdnsDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MdnsDiscovery")
            .field("service", &self.service)
            .field("daemon", &self.daemon)
            .field("publisher", &self.publisher)
            .finish_non_exhaustive()
    }
}

/// The service types that are announced on this link, as far as they answer within `wait` (about 1 s is enough).
///
/// # Errors
///
/// [`DiscoveryError::System`] if the system gives us no thread.
///
/// # Cancel safety
///
/// Dropping the future ends the look.
pub async fn browse_types(
    interfaces: Interfaces,
    wait: Duration,
) -> Result<Vec<ServiceType>, DiscoveryError> {
    browse_types_on(interfaces, DEFAULT_PORT, wait).await
}

/// As [`browse_types`] on another UDP port, for tests.
///
/// # Errors
///
/// As [`browse_types`].
///
/// # Cancel safety
///
/// As [`browse_types`].
#[doc(hidden)]
pub async fn browse_types_on(
    interfaces: Interfaces,
    port: u16,
    wait: Duration,
) -> Result<Vec<ServiceType>, DiscoveryError> {
    let policy = Policy { interfaces, loopback_too: false };
    let (reply, found) = oneshot::channel();
    hub::send(Command::Types(TypesRequest {
        daemon: DaemonKey { policy, port, check: DEFAULT_CHECK },
        until: Instant::now() + wait,
        reply,
    }))?;
    let names = found.await.unwrap_or_default();
    // What breaks the rules for names cannot be browsed either.
    let mut types: Vec<ServiceType> = names.iter().filter_map(|name| name.parse().ok()).collect();
    types.sort();
    types.dedup();
    Ok(types)
}

/// Ends the library's daemons behind our back: a test shows that they come back.
#[doc(hidden)]
pub fn break_daemons() {
    hub::hint(Command::Break);
}

fn note_type(service: &str) -> Result<(), DiscoveryError> {
    let mut types = TYPES.lock().unwrap_or_else(PoisonError::into_inner);
    if !types.contains_key(service) && types.len() >= MAX_TYPES {
        return Err(DiscoveryError::TooManyServices { limit: MAX_TYPES });
    }
    *types.entry(service.to_owned()).or_default() += 1;
    Ok(())
}

fn forget_type(service: &str) {
    let mut types = TYPES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(readers) = types.get_mut(service) {
        *readers -= 1;
        if *readers == 0 {
            types.remove(service);
        }
    }
}
