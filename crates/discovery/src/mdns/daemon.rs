//! The library's daemon: opened with our settings, its events as streams.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use mdns_sd::{
    DaemonEvent, DaemonStatus, IfKind, IfPredicate, InterfaceId, Receiver, ResolvedService, ScopedIp,
    ServiceDaemon, ServiceEvent,
};

use super::machine::Record;
use super::sockets::{Inodes, can_bind, inodes, prepare};
use crate::Heard;

/// Events of one of the library's channels.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Which interface addresses a daemon may use.
pub(super) type Allows = Arc<dyn Fn(&if_addrs::Interface) -> bool + Send + Sync>;

/// Why there is no daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// The port cannot be bound in either family.
    NoSocket,
    /// The system gives no thread or descriptor.
    NoDaemon,
}

/// A running daemon of the library: one thread, two sockets.
pub(super) struct Daemon {
    pub(super) handle: ServiceDaemon,
    pub(super) monitor: Events<DaemonEvent>,
}

impl Daemon {
    /// Opens a daemon that uses what `allows` allows, and looks at the interfaces every `check`.
    pub(super) fn open(port: u16, check: Duration, allows: Allows) -> Result<Self, OpenError> {
        // The library opens its sockets later and keeps a failure to itself.
        if !can_bind(port) {
            return Err(OpenError::NoSocket);
        }
        let handle = ServiceDaemon::new_with_port(port).map_err(|_| OpenError::NoDaemon)?;
        let check = u32::try_from(check.as_secs()).unwrap_or(u32::MAX).max(1);
        // All interfaces are on by default; this switches off what we do not use, now and whenever the library
        // looks again.
        let refused = IfPredicate::new(move |interface| !allows(interface));
        let monitor = handle
            .disable_interface(IfKind::Predicate(refused))
            .and_then(|()| handle.set_ip_check_interval(check))
            .and_then(|()| handle.monitor())
            .map_err(|_| OpenError::NoDaemon)?;
        Ok(Self { handle, monitor: events(monitor) })
    }

    /// As [`open`](Self::open), for one that hears the answers of everybody.
    pub(super) fn open_to_listen(port: u16, check: Duration, allows: Allows) -> Result<Self, OpenError> {
        let before = inodes();
        let Self { handle, monitor } = Self::open(port, check, allows)?;
        let answer = events(handle.status().map_err(|_| OpenError::NoDaemon)?);
        let opening = Some(Opening { answer, port, before });
        Ok(Self { handle, monitor: Box::pin(Monitor { events: monitor, opening }) })
    }
}

/// The news of a daemon. Its first answer means that its sockets are open, and they are made ready then.
struct Monitor {
    events: Events<DaemonEvent>,
    opening: Option<Opening>,
}

struct Opening {
    answer: Events<DaemonStatus>,
    port: u16,
    /// Sockets that this process had before.
    before: Inodes,
}

impl Stream for Monitor {
    type Item = DaemonEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DaemonEvent>> {
        if let Some(opening) = &mut self.opening
            && opening.answer.as_mut().poll_next(cx).is_ready()
        {
            prepare(opening.port, &opening.before);
            self.opening = None;
        }
        self.events.as_mut().poll_next(cx)
    }
}

pub(super) fn events<T: Send + 'static>(receiver: Receiver<T>) -> Events<T> {
    Box::pin(receiver.into_stream())
}

/// What one of the library's events means to the machine.
#[derive(Debug)]
pub(super) enum BrowseEvent {
    Resolved(Record),
    Removed(String),
    Stopped,
    /// A type that `_services._dns-sd._udp` tells of, or an instance that is not resolved yet.
    Found(String),
    Nothing,
}

impl From<ServiceEvent> for BrowseEvent {
    fn from(event: ServiceEvent) -> Self {
        match event {
            ServiceEvent::ServiceResolved(service) => Self::Resolved(record_of(*service)),
            ServiceEvent::ServiceRemoved(_, full_name) => Self::Removed(full_name),
            ServiceEvent::SearchStopped(_) => Self::Stopped,
            ServiceEvent::ServiceFound(_, name) => Self::Found(name),
            _ => Self::Nothing,
        }
    }
}

fn record_of(service: ResolvedService) -> Record {
    let addresses = service
        .addresses
        .iter()
        .flat_map(|scoped| {
            let ip = scoped.to_ip_addr();
            let links: &[InterfaceId] = match scoped {
                ScopedIp::V4(v4) => v4.interface_ids(),
                ScopedIp::V6(v6) => std::slice::from_ref(v6.scope_id()),
                _ => &[],
            };
            links.iter().map(move |link| Heard { ip, link: link.index })
        })
        .collect();
    let txt = service
        .txt_properties
        .iter()
        .map(|pair| (pair.key().to_owned(), pair.val().map(<[u8]>::to_vec)))
        .collect();
    Record { full_name: service.fullname, host: service.host, port: service.port, addresses, txt }
}
