//! What this process serves, and whether others know.

use std::fmt;
use std::net::SocketAddr;
#[cfg(feature = "controlclient")]
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "controlclient")]
use peerage_controlclient::{Registration, RegistrationBuilder};
use peerage_discovery::mdns::{self, Advertisement, Interfaces, advertise};
use peerage_discovery::{DiscoveryError, Metadata, MetadataBuilder, ServiceType};
use peerage_zaphttp::ServerHandle;
use tokio::time::{Instant, sleep_until};

use crate::error::MeshError;

/// How long the gateway has to confirm that it let go.
#[cfg(feature = "controlclient")]
const DEREGISTER: Duration = Duration::from_secs(2);

/// Those who call need this long to hear that a peer leaves, and send it calls until then.
const HEARD_AFTER: Duration = Duration::from_secs(1);

/// What is told about a service: its name, and metadata that its callers can read.
#[derive(Clone, Debug)]
pub struct Announcement {
    service: ServiceType,
    metadata: MetadataBuilder,
}

impl Announcement {
    /// A service by its name, such as `billing`.
    ///
    /// # Errors
    ///
    /// [`MeshError::Discovery`] for a name that is none.
    pub fn new(service: &str) -> Result<Self, MeshError> {
        Ok(Self { service: service.parse()?, metadata: Metadata::builder() })
    }

    /// A pair of metadata; checked when it is announced. Never a secret: the whole network reads it.
    #[must_use]
    pub fn pair(mut self, key: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        self.metadata = self.metadata.pair(key, value);
        self
    }

    /// Whether it can be announced under this node id: [`Served::announce`] asks the same.
    ///
    /// # Errors
    ///
    /// [`MeshError::Discovery`]: metadata over the limits, or named like a secret.
    pub fn check(&self, node_id: &str) -> Result<(), MeshError> {
        Ok(self.metadata.clone().build()?.check_announced(node_id)?)
    }
}

/// A server that runs. Dropping it cuts off what runs and says goodbye; [`close`](Self::close) is the polite
/// way.
pub struct Served {
    server: ServerHandle,
    address: SocketAddr,
    node_id: String,
    interfaces: Interfaces,
    announced: Mutex<Option<Advertisement>>,
    #[cfg(feature = "controlclient")]
    registered: Mutex<Vec<Arc<Registration>>>,
}

impl Served {
    pub(crate) fn new(
        server: ServerHandle,
        address: SocketAddr,
        node_id: String,
        interfaces: Interfaces,
    ) -> Self {
        Self {
            server,
            address,
            node_id,
            interfaces,
            announced: Mutex::default(),
            #[cfg(feature = "controlclient")]
            registered: Mutex::default(),
        }
    }

    /// The address it listens on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are open.
    pub fn connection_count(&self) -> usize {
        self.server.connection_count()
    }

    /// Announces the service by mDNS, in place of what was announced before. Returns at once; others see it
    /// within 1.3 s.
    ///
    /// # Errors
    ///
    /// [`MeshError::Discovery`]: metadata over the limits or named like a secret, or the same service and
    /// node id announced twice in this process.
    pub fn announce(&self, announcement: &Announcement) -> Result<(), MeshError> {
        let mut announced = self.lock();
        // The old one first: one process announces a service and node id once.
        *announced = None;
        let mut registration =
            mdns::Registration::new(&announcement.service, &self.node_id, self.address.port())?
                .metadata(announcement.metadata.clone().build()?)
                .interfaces(self.interfaces.clone());
        let ip = self.address.ip();
        if ip.is_loopback() {
            registration = registration.interfaces(Interfaces::LoopbackOnly);
        } else if !ip.is_unspecified() {
            registration = registration.addresses([ip]);
        }
        *announced = Some(advertise(registration)?);
        Ok(())
    }

    /// Registers at a gateway and stays registered until [`withdraw`](Self::withdraw) or
    /// [`close`](Self::close), or until this and what is returned here are dropped. [`Mesh::registration`](crate::Mesh::registration) makes
    /// the description. Called again it adds a registration.
    ///
    /// Returns when the gateway holds the registration; how long that may take is the description's to say.
    ///
    /// # Errors
    ///
    /// [`MeshError::Register`]: a description that makes no sense, a gateway that refuses it or does not
    /// answer in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the registration.
    #[cfg(feature = "controlclient")]
    pub async fn register(&self, registration: RegistrationBuilder) -> Result<Arc<Registration>, MeshError> {
        let registration = Arc::new(registration.start().await?);
        self.registrations().push(registration.clone());
        Ok(registration)
    }

    /// Deregisters, says goodbye, and goes on serving. Others see it go within 1.6 s.
    ///
    /// # Cancel safety
    ///
    /// Both are done even if the future is dropped.
    pub async fn withdraw(&self) {
        let announced = self.lock().take();
        // First: a gateway that is told later sends calls to a peer that is leaving.
        #[cfg(feature = "controlclient")]
        {
            let registered = std::mem::take(&mut *self.registrations());
            let until = Instant::now() + DEREGISTER;
            for registration in registered {
                registration.shutdown(until.saturating_duration_since(Instant::now())).await;
            }
        }
        if let Some(announced) = announced {
            announced.close().await;
        }
    }

    /// Resolves when the network refuses the announcement: another host uses the same node id.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn refused(&self) -> DiscoveryError {
        let refused = self.lock().as_ref().map(Advertisement::refused);
        match refused {
            Some(refused) => refused.await,
            None => std::future::pending().await,
        }
    }

    /// Leaves in the order that loses no call (balancing §9.4): deregisters and says goodbye, serves on for a
    /// second, in which those who call hear of it, then stops accepting and lets running calls finish for at
    /// most `limit`. Returns how many connections were cut.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the server draining; dropping `self` ends it.
    pub async fn close(&self, limit: Duration) -> usize {
        let heard_by = Instant::now() + HEARD_AFTER;
        if self.is_known() {
            self.withdraw().await;
            sleep_until(heard_by).await;
        }
        self.server.shutdown(limit).await.cut
    }

    /// Whether anybody was told.
    fn is_known(&self) -> bool {
        #[cfg(feature = "controlclient")]
        if !self.registrations().is_empty() {
            return true;
        }
        self.lock().is_some()
    }

    #[cfg(feature = "controlclient")]
    fn registrations(&self) -> MutexGuard<'_, Vec<Arc<Registration>>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Advertisement>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("address", &self.address)
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}
