//! The running gateway: a look in, waiters, faults.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tonic::Code;

use crate::builder::DevGatewayBuilder;
use crate::faults::BlackHole;
use crate::memory::Connector;
use crate::rpc::{Call, Rpc};
use crate::serve::{Owned, Server};
use crate::shared::{Cause, Event, Shared};
use crate::view::{RegistrationView, ServiceView};

/// An in-memory control plane that serves until it is dropped or shut down.
pub struct DevGateway {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: Server,
    /// None with a manual clock.
    janitor: Option<Owned>,
    wait_limit: Duration,
}

/// What was waited for did not happen in time.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the gateway did not see it within {limit:?}")]
pub struct WaitElapsed {
    /// How long was waited.
    pub limit: Duration,
}

/// What happens at the gateway from the call of [`DevGateway::events`] on.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next one. Those that came faster than they were taken are left out, the oldest first.
    ///
    /// None: the gateway is gone.
    ///
    /// # Cancel safety
    ///
    /// No event is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl DevGateway {
    /// Settings first.
    pub fn builder() -> DevGatewayBuilder {
        DevGatewayBuilder::new()
    }

    pub(crate) fn new(
        addr: SocketAddr,
        shared: Arc<Shared>,
        server: Server,
        janitor: Option<Owned>,
        wait_limit: Duration,
    ) -> Self {
        Self { addr, shared, server, janitor, wait_limit }
    }

    /// Where it listens; the same after a restart.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connects without a socket; it outlives restarts.
    pub fn connector(&self) -> Connector {
        self.server.connector()
    }

    // --- looking in ---

    /// Everything that is registered, sorted by id.
    pub fn registrations(&self) -> Vec<RegistrationView> {
        self.shared.state().registrations()
    }

    /// Every slot, sorted by namespace and version as texts.
    pub fn services(&self) -> Vec<ServiceView> {
        self.shared.state().services()
    }

    /// Per namespace the number that `stable` stands for.
    pub fn stable(&self) -> BTreeMap<String, u32> {
        self.shared.state().stable().clone()
    }

    /// The latest 32,768 calls that reached an RPC, oldest first. It outlives restarts.
    pub fn log(&self) -> Vec<Call> {
        self.shared.log().calls()
    }

    /// How many calls of `rpc` there were since the start.
    pub fn count(&self, rpc: Rpc) -> u64 {
        self.shared.count(rpc)
    }

    /// Connections that are open, those in a black hole included.
    pub fn connections(&self) -> usize {
        self.server.connections().count()
    }

    /// Time since the Unix epoch on the gateway's clock.
    pub fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    /// Follows what happens.
    pub fn events(&self) -> Events {
        Events(self.shared.events())
    }

    // --- waiting ---

    /// Waits until `holds` says so. It is asked now, and after each call, eviction and restart.
    ///
    /// # Errors
    ///
    /// [`WaitElapsed`] after the limit of the builder, 30 s by default.
    ///
    /// # Cancel safety
    ///
    /// Nothing depends on it.
    pub async fn wait_until(&self, mut holds: impl FnMut(&Self) -> bool) -> Result<(), WaitElapsed> {
        let mut changes = self.shared.changes();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                if holds(self) {
                    return;
                }
                // The sender lives as long as `self`.
                changes.changed().await.expect("the gateway is there");
            }
        };
        let limit = self.wait_limit;
        tokio::time::timeout(limit, waiting).await.map_err(|_| WaitElapsed { limit })
    }

    /// Waits until `slot`, such as `greeter/v1`, has a replica.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_until`].
    ///
    /// # Cancel safety
    ///
    /// Nothing depends on it.
    pub async fn wait_for(&self, slot: &str) -> Result<(), WaitElapsed> {
        let is_it = |service: &ServiceView| {
            slot.split_once('/') == Some((service.namespace.as_str(), service.version.as_str()))
        };
        self.wait_until(|gateway| gateway.services().iter().any(is_it)).await
    }

    /// Waits until the registration has had `count` heartbeats in all.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_until`]; also when it is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing depends on it.
    pub async fn wait_for_beats(&self, id: &str, count: u64) -> Result<(), WaitElapsed> {
        let enough = |gateway: &Self| {
            let held = gateway.shared.state().registration(id);
            held.is_some_and(|registration| registration.beats >= count)
        };
        self.wait_until(enough).await
    }

    /// Waits until `rpc` was called `count` times since the start.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_until`].
    ///
    /// # Cancel safety
    ///
    /// Nothing depends on it.
    pub async fn wait_for_calls(&self, rpc: Rpc, count: u64) -> Result<(), WaitElapsed> {
        self.wait_until(|gateway| gateway.count(rpc) >= count).await
    }

    // --- time and faults ---

    /// Moves a manual clock and lets the janitor make the rounds that fall into that time. Without effect on a
    /// real one.
    pub fn advance(&self, by: Duration) {
        self.shared.advance(by);
    }

    /// Closes every connection, forgets registrations, slots, stable numbers and deprecations, and serves the
    /// same port again after `gap`.
    ///
    /// # Errors
    ///
    /// The port could not be had again.
    ///
    /// # Cancel safety
    ///
    /// *Not* cancel-safe: the gateway stays stopped; [`Self::start`] mends it.
    pub async fn restart(&self, gap: Duration) -> io::Result<()> {
        self.stop().await?;
        tokio::time::sleep(gap).await;
        self.start().await
    }

    /// The first half of a restart. Connections are refused until [`Self::start`]; the port
    /// stays bound, so that it is no free one.
    ///
    /// # Errors
    ///
    /// The port could not be kept.
    ///
    /// # Cancel safety
    ///
    /// *Not* cancel-safe: it may be half stopped; call it again.
    pub async fn stop(&self) -> io::Result<()> {
        self.server.stop(self.addr).await?;
        self.shared.forget();
        Ok(())
    }

    /// The second half of a restart.
    ///
    /// # Errors
    ///
    /// The port could not be had again.
    ///
    /// # Cancel safety
    ///
    /// Safe: it serves, or it does not.
    pub async fn start(&self) -> io::Result<()> {
        self.server.resume(self.addr).await
    }

    /// Forgets a registration as the janitor would. False: there was none.
    pub fn evict(&self, id: &str) -> bool {
        let was_there = self.shared.deregister(id, Cause::Evicted);
        self.shared.changed();
        was_there
    }

    /// Swallows what comes over connections, and answers nothing on them, ever.
    pub fn black_hole(&self, which: BlackHole) {
        self.server.connections().swallow(which);
    }

    /// New connections work again. Those that were swallowed stay dead: their bytes are gone.
    pub fn lift_black_hole(&self) {
        self.server.connections().lift();
    }

    /// Answers of `rpc` are held back for so long after it was carried out; zero ends that.
    pub fn delay(&self, rpc: Rpc, by: Duration) {
        let mut faults = self.shared.faults();
        match by {
            Duration::ZERO => faults.delays.remove(&rpc),
            by => faults.delays.insert(rpc, by),
        };
    }

    /// The next `count` calls of `rpc` are carried out and never answered.
    pub fn lose_answer(&self, rpc: Rpc, count: u64) {
        self.shared.faults().lose(rpc, count);
    }

    /// The next `count` calls of `rpc` are not carried out but refused so.
    pub fn fail_next(&self, rpc: Rpc, count: u64, code: Code, text: &str) {
        self.shared.faults().fail(rpc, count, code, text);
    }

    /// Sends GOAWAY on every connection: calls in flight are finished, new ones need another connection.
    pub fn goaway(&self) {
        self.server.connections().go_away();
    }

    /// Echoes and uses this TTL, in seconds, whatever is asked for; none ends that.
    pub fn ttl_override(&self, seconds: Option<u32>) {
        self.shared.faults().ttl_override = seconds;
    }

    /// Closes every connection and the port.
    ///
    /// # Cancel safety
    ///
    /// What was not closed yet is closed as the gateway is dropped with the future.
    pub async fn shutdown(mut self) {
        self.janitor.take();
        self.server.close().await;
    }
}

impl fmt::Debug for DevGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevGateway")
            .field("addr", &self.addr)
            .field("registrations", &self.registrations().len())
            .finish_non_exhaustive()
    }
}
