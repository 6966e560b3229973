//! Being found: what this process tells the link about itself (discovery §5).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::hub::{self, Command};
use super::interfaces::{Interfaces, Policy};
use super::responders::{Announce, Name, Update};
use super::{DEFAULT_CHECK, DEFAULT_PORT};
use crate::{DiscoveryError, Metadata, ServiceType, check_node_id, escape};

/// The most bytes of a node id that is advertised: `id=` and the id share one TXT string.
const MAX_ADVERTISED_ID: usize = 252;

/// What is advertised in this process, so that nothing is twice.
static TAKEN: Mutex<BTreeSet<Name>> = Mutex::new(BTreeSet::new());

/// What to advertise: one node of one service type at one port.
///
/// ```no_run
/// # // Announces on the network, so it is compiled and not run.
/// # async fn expose() -> Result<(), peerage_discovery::DiscoveryError> {
/// use peerage_discovery::mdns::{Registration, advertise};
///
/// let registration = Registration::new(&"billing".parse()?, "billing-1", 9999)?;
/// let advertisement = advertise(registration)?;
/// advertisement.announced().await?;
/// // … serve …
/// advertisement.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a registration does nothing until it is advertised"]
pub struct Registration {
    pub(super) service: ServiceType,
    pub(super) node_id: String,
    pub(super) port: u16,
    pub(super) metadata: Metadata,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) policy: Policy,
    pub(super) probe: bool,
    pub(super) on_conflict: OnConflict,
    pub(super) mdns_port: u16,
    pub(super) check: Duration,
}

/// What to do when another host has our name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnConflict {
    /// Give up: two nodes are configured with one id, and a retry would hide it.
    #[default]
    Fail,
    /// Try once more under the name with four random hex digits. The node id stays the same, so readers still see a
    /// conflict as long as the other one lives.
    Suffix,
}

impl Registration {
    /// `node_id` is unique within the service type and the same after a restart. A subtype of `service` is
    /// advertised as well.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidNodeId`] for an id that is empty, longer than 252 bytes or holds a control
    /// character; [`DiscoveryError::InvalidPort`] for port 0.
    pub fn new(service: &ServiceType, node_id: impl Into<String>, port: u16) -> Result<Self, DiscoveryError> {
        let node_id = node_id.into();
        check_node_id(&node_id)?;
        if node_id.len() > MAX_ADVERTISED_ID {
            return Err(DiscoveryError::InvalidNodeId { rule: "is longer than 252 bytes" });
        }
        if port == 0 {
            return Err(DiscoveryError::InvalidPort);
        }
        Ok(Self {
            service: service.clone(),
            node_id,
            port,
            metadata: Metadata::default(),
            addresses: Vec::new(),
            policy: Policy::default(),
            probe: true,
            on_conflict: OnConflict::default(),
            mdns_port: DEFAULT_PORT,
            check: DEFAULT_CHECK,
        })
    }

    /// What others shall know, readable by everybody on the link. Default: nothing but the node id.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// A subtype (`_v2`) under which it is found as well.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidServiceType`] for a label that is none.
    pub fn subtype(mut self, subtype: &str) -> Result<Self, DiscoveryError> {
        self.service = format!("{subtype}._sub.{}", self.service.as_str()).parse()?;
        Ok(self)
    }

    /// Announces these addresses instead of those of the used interfaces. Each is announced only on an interface
    /// that has it in one of its networks.
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// Where to announce. Default [`Interfaces::Auto`].
    pub fn interfaces(mut self, interfaces: Interfaces) -> Self {
        self.policy.interfaces = interfaces;
        self
    }

    /// Announces on loopback besides. Default: only if no other interface is used.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.policy.loopback_too = allow;
        self
    }

    /// Whether to ask first if the name is free. Default yes; without it a peer is seen 0.8 s earlier, and two nodes
    /// with one id are not noticed here.
    pub fn probe(mut self, probe: bool) -> Self {
        self.probe = probe;
        self
    }

    /// What to do when another host has the name. Default [`OnConflict::Fail`].
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// The UDP port of mDNS. Default 5353; another one keeps tests apart from the world.
    pub fn mdns_port(mut self, port: u16) -> Self {
        self.mdns_port = port;
        self
    }
}

/// How an [`Advertisement`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdvertisementState {
    /// Asking whether the name is free.
    Probing,
    /// Others can find it.
    Announced {
        /// Names of the interfaces on which it is announced.
        interfaces: Vec<String>,
    },
    /// No interface can be used, or none has a network of the given addresses. Recovers by itself.
    NoInterface,
    /// Another host has the name; nothing is announced any more.
    Conflict {
        /// As far as it is known.
        other_host: String,
    },
    /// Closed.
    Closed,
}

/// Advertises a node until the result is closed or dropped. Needs no runtime.
///
/// # Errors
///
/// [`DiscoveryError::InvalidMetadata`], [`DiscoveryError::MetadataTooLarge`] and
/// [`DiscoveryError::SecretInMetadata`] for metadata that is not sent; [`DiscoveryError::AlreadyAdvertised`];
/// [`DiscoveryError::System`] if the system gives us no thread. A name that another host has is told later, by
/// [`Advertisement::state`].
pub fn advertise(registration: Registration) -> Result<Advertisement, DiscoveryError> {
    registration.metadata.check_announced(&registration.node_id)?;
    let name = Name {
        port: registration.mdns_port,
        service: registration.service.without_subtype(),
        node_id: registration.node_id.clone(),
    };
    if !taken(|names| names.insert(name.clone())) {
        return Err(DiscoveryError::AlreadyAdvertised { service: name.service, node_id: name.node_id });
    }
    let (sender, state) = watch::channel(AdvertisementState::Probing);
    let announce = Announce { name: name.clone(), registration, state: sender };
    if let Err(error) = hub::send(Command::Announce(Box::new(announce))) {
        taken(|names| names.remove(&name));
        return Err(error);
    }
    Ok(Advertisement { name, state, closed: false })
}

/// Waits until no goodbye is pending, for a process that is about to end; at most `timeout`.
///
/// # Cancel safety
///
/// Dropping the future does nothing else.
pub async fn shutdown(timeout: Duration) {
    let (done, settled) = oneshot::channel();
    hub::hint(Command::Settle(done, Instant::now() + timeout));
    // An error means that nobody is there who would have to say goodbye.
    let _settled = settled.await;
}

/// An advertised node. Dropping it says goodbye without waiting; [`close`](Self::close) waits until it is said.
pub struct Advertisement {
    name: Name,
    state: watch::Receiver<AdvertisementState>,
    closed: bool,
}

impl Advertisement {
    /// Its service type.
    pub fn service_type(&self) -> &ServiceType {
        &self.name.service
    }

    /// Its node id.
    pub fn node_id(&self) -> &str {
        &self.name.node_id
    }

    /// How it is now.
    pub fn state(&self) -> AdvertisementState {
        self.state.borrow().clone()
    }

    /// Waits for another state than the one that this returned last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> AdvertisementState {
        if self.state.changed().await.is_err() {
            return AdvertisementState::Closed;
        }
        self.state.borrow_and_update().clone()
    }

    /// Waits until others can find it.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::NameConflict`]; [`DiscoveryError::Stopped`] if it was closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does nothing else.
    pub async fn announced(&self) -> Result<(), DiscoveryError> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                AdvertisementState::Announced { .. } => return Ok(()),
                AdvertisementState::Conflict { other_host } => {
                    return Err(DiscoveryError::NameConflict { other_host: other_host.clone() });
                }
                AdvertisementState::Closed => return Err(DiscoveryError::Stopped),
                AdvertisementState::Probing | AdvertisementState::NoInterface => {}
            }
            if state.changed().await.is_err() {
                return Err(DiscoveryError::Stopped);
            }
        }
    }

    /// Resolves when the network refuses the name: another host has it. Never, if it is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does nothing else.
    pub fn refused(&self) -> impl Future<Output = DiscoveryError> + Send + 'static {
        let mut state = self.state.clone();
        async move {
            loop {
                if let AdvertisementState::Conflict { other_host } = &*state.borrow_and_update() {
                    return DiscoveryError::NameConflict { other_host: other_host.clone() };
                }
                if state.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Announces other metadata at once, without asking for the name again.
    ///
    /// # Errors
    ///
    /// As [`advertise`] for metadata; the old metadata stays announced then.
    pub fn update(&self, metadata: Metadata) -> Result<(), DiscoveryError> {
        metadata.check_announced(&self.name.node_id)?;
        hub::send(Command::Update(self.name.clone(), Update::Metadata(metadata)))
    }

    /// Announces another port at once.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidPort`] for 0.
    pub fn update_port(&self, port: u16) -> Result<(), DiscoveryError> {
        if port == 0 {
            return Err(DiscoveryError::InvalidPort);
        }
        hub::send(Command::Update(self.name.clone(), Update::Port(port)))
    }

    /// Says goodbye, twice, and waits until it is said (at most 300 ms).
    ///
    /// # Cancel safety
    ///
    /// Goodbye is said also if the future is dropped, as long as the process lives.
    pub async fn close(mut self) {
        let waiting = self.withdraw();
        drop(self);
        if let Some(waiting) = waiting {
            // An error means that there is nothing to say.
            let _over = waiting.await;
        }
    }

    fn withdraw(&mut self) -> Option<oneshot::Receiver<()>> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        let (done, waiting) = oneshot::channel();
        hub::hint(Command::Withdraw(self.name.clone(), done));
        Some(waiting)
    }
}

impl Drop for Advertisement {
    fn drop(&mut self) {
        // Nobody waits.
        let _nobody = self.withdraw();
    }
}

impl fmt::Debug for Advertisement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Advertisement")
            .field("service", &self.name.service)
            .field("node_id", &format_args!("{}", escape(&self.name.node_id)))
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Looks at or changes what this process advertises.
pub(super) fn taken<R>(look: impl FnOnce(&mut BTreeSet<Name>) -> R) -> R {
    look(&mut TAKEN.lock().unwrap_or_else(PoisonError::into_inner))
}
