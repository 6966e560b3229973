//! The library's daemon: opened with our settings, its events as streams.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use mdns_sd::{
    DaemonEvent, IfKind, IfPredicate, InterfaceId, Receiver, ResolvedService, ScopedIp, ServiceDaemon,
    ServiceEvent,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::machine::Record;
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
}

pub(super) fn events<T: Send + 'static>(receiver: Receiver<T>) -> Events<T> {
    Box::pin(receiver.into_stream())
}

/// Whether a socket for the port can be had in at least one family.
pub(super) fn can_bind(port: u16) -> bool {
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        .into_iter()
        .any(|ip| try_bind(SocketAddr::new(ip, port)).is_ok())
}

fn try_bind(addr: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())
}

/// How many packets the sockets of this process at a UDP port have lost, because they came faster than they were read.
/// 0 where the system does not tell.
pub(super) fn drops(port: u16) -> u64 {
    let links = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let own: HashSet<String> = links
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut lost = 0;
    for table in ["/proc/self/net/udp", "/proc/self/net/udp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            // sl local remote st queues timer retransmits uid timeout inode references pointer drops
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_port = words
                .get(1)
                .and_then(|local| local.rsplit_once(':'))
                .is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port));
            if is_port && words.get(9).is_some_and(|inode| own.contains(*inode)) {
                lost += words.get(12).and_then(|drops| drops.parse::<u64>().ok()).unwrap_or(0);
            }
        }
    }
    lost
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
