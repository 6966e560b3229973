//! Which addresses may be dialled, and in which order (discovery §3, threats §6.9).
//!
//! An announcement is a request of a stranger to connect to an address of his choice. One policy, asked
//! by every source, says which addresses that can be: none that means "here", "everybody" or a metadata
//! service, and by mDNS none but those of the link that the announcement came from. Pure, but for
//! [`links`].

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Formatter},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{endpoint::Endpoint, error::DiscoveryError, peer::MAX_ENDPOINTS};

/// How long the first address stays first after a call to it was answered (S-128).
pub const STICKY: Duration = Duration::from_secs(10);

/// Where clouds hand out credentials to whoever asks. All but one are of the link-local or shared ranges.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Whose word an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceClass {
    /// Anybody on the link: multicast DNS.
    Mdns,
    /// Whoever may write to a registry: DNS, etcd, Consul, Kubernetes.
    Registry,
    /// Whoever runs this program: a static list, a file.
    Configured,
}

/// What becomes of addresses that are not on the link they were heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OnLink {
    /// They are refused.
    #[default]
    Require,
    /// They come last.
    Prefer,
    /// They come last, and addresses whose interface is not known are taken as well.
    Ignore,
}

/// Which family is dialled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Prefer {
    /// IPv4, as the reference does.
    #[default]
    V4First,
    /// IPv6.
    V6First,
}

/// Which addresses may be dialled. See the table in threats §6.9; each setter lifts one refusal of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPolicy {
    class: SourceClass,
    on_link: OnLink,
    prefer: Prefer,
    allow_loopback: bool,
    named: Vec<IpAddr>,
}

impl AddressPolicy {
    /// The policy of the table for sources of this class.
    pub fn new(class: SourceClass) -> Self {
        let on_link = match class {
            SourceClass::Mdns => OnLink::Require,
            SourceClass::Registry | SourceClass::Configured => OnLink::Ignore,
        };
        Self { class, on_link, prefer: Prefer::V4First, allow_loopback: false, named: Vec::new() }
    }

    /// What becomes of addresses off the link. Default: refused for mDNS, taken from everybody else.
    #[must_use]
    pub fn on_link(mut self, on_link: OnLink) -> Self {
        self.on_link = on_link;
        self
    }

    /// Which family comes first. Default: IPv4.
    #[must_use]
    pub fn prefer(mut self, prefer: Prefer) -> Self {
        self.prefer = prefer;
        self
    }

    /// Takes loopback addresses: by mDNS those that came in on a loopback interface, from a registry all.
    /// Lists and files may hold them anyway.
    #[must_use]
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

    /// Takes this very address although it is one of a metadata service, in 169.254/16, or off the link.
    #[must_use]
    pub fn allow_address(mut self, address: IpAddr) -> Self {
        self.named.push(address.to_canonical());
        self
    }

    /// Whether `address` may be dialled, and as what: IPv4-mapped addresses become IPv4, link-local ones get
    /// the scope of `link`, all others none. `link` is the interface it was heard on; registries and lists
    /// have none. Also the question for a dialer that has resolved a name.
    ///
    /// # Errors
    ///
    /// [`Refusal`], the row of the table that forbids it.
    pub fn judge(&self, address: SocketAddr, link: Option<&Link>) -> Result<SocketAddr, Refusal> {
        self.rank(address, link).map(|Ranked { address, .. }| address)
    }

    /// The endpoints among `heard`, in the order in which to dial them (discovery §3.4, §3.6). `former` is
    /// what the peer had before.
    pub fn select(
        &self,
        heard: &[Heard],
        port: u16,
        links: &[Link],
        former: Option<Former<'_>>,
        now: Instant,
    ) -> Selection {
        let mut ranked = BTreeSet::new();
        let mut refused = Vec::new();
        for &Heard { ip, link } in heard {
            let link = links.iter().find(|known| known.index == link);
            match self.rank(SocketAddr::new(ip, port), link) {
                Ok(usable) => {
                    ranked.insert(usable);
                }
                Err(refusal) => refused.push((ip, refusal)),
            }
        }
        let mut ranked: Vec<Ranked> = ranked.into_iter().collect();
        let recheck = former.and_then(|former| former.stay_first(&mut ranked, port, now));
        ranked.truncate(MAX_ENDPOINTS);
        let endpoints = ranked.into_iter().map(|Ranked { address, .. }| Endpoint::Ip(address)).collect();
        Selection { endpoints, refused, recheck }
    }

    /// An endpoint of a list, a file or a registry. Names are for the dialer to resolve, and to
    /// [`judge`](Self::judge) then.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidPort`], [`DiscoveryError::NoUsableAddress`].
    pub fn admit(&self, endpoint: Endpoint) -> Result<Endpoint, DiscoveryError> {
        if endpoint.port() == 0 {
            return Err(DiscoveryError::InvalidPort);
        }
        let Some(address) = endpoint.socket_addr() else { return Ok(endpoint) };
        let refused = |refusal| DiscoveryError::NoUsableAddress { why: format!("{address} {refusal}") };
        self.judge(address, None).map(Endpoint::Ip).map_err(refused)
    }

    fn rank(&self, address: SocketAddr, link: Option<&Link>) -> Result<Ranked, Refusal> {
        if address.port() == 0 {
            return Err(Refusal::PortZero);
        }
        let ip = address.ip().to_canonical();
        if is_never_dialled(ip) {
            return Err(Refusal::NotUnicast);
        }
        let is_named = self.named.contains(&ip);
        if is_metadata_service(ip) && !is_named {
            return Err(Refusal::MetadataService);
        }
        if ip.is_loopback() {
            return self.rank_loopback(address.port(), ip, link);
        }
        match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => self.rank_link_local(address, v6, link),
            IpAddr::V4(v4) if v4.is_link_local() => {
                let is_ours = link.is_some_and(Link::has_v4_link_local);
                let refused = match self.class {
                    SourceClass::Mdns => !is_ours,
                    SourceClass::Registry => true,
                    SourceClass::Configured => false,
                };
                if refused && !is_named {
                    return Err(Refusal::LinkLocal);
                }
                Ok(Ranked::new(Class::V4LinkLocal, self.prefer, ip, address.port(), 0))
            }
            _ => {
                let is_on_link = match (self.class, link) {
                    (SourceClass::Mdns, link) => link.is_some_and(|link| link.contains(ip)),
                    // Nobody told on which link it would be.
                    (SourceClass::Registry | SourceClass::Configured, _) => true,
                };
                if !is_on_link && self.on_link == OnLink::Require && !is_named {
                    return Err(Refusal::OffLink);
                }
                if link.is_none() && !is_on_link && self.on_link != OnLink::Ignore && !is_named {
                    return Err(Refusal::OffLink);
                }
                let class = match (is_on_link, ip.is_ipv4()) {
                    (true, true) => Class::V4,
                    (true, false) => Class::V6,
                    (false, true) => Class::V4OffLink,
                    (false, false) => Class::V6OffLink,
                };
                Ok(Ranked::new(class, self.prefer, ip, address.port(), 0))
            }
        }
    }

    fn rank_loopback(&self, port: u16, ip: IpAddr, link: Option<&Link>) -> Result<Ranked, Refusal> {
        let is_allowed = match self.class {
            // Announced by this host, that is: what comes in there was sent here.
            SourceClass::Mdns => self.allow_loopback && link.is_some_and(|link| link.is_loopback),
            SourceClass::Registry => self.allow_loopback,
            SourceClass::Configured => true,
        };
        if !is_allowed {
            return Err(Refusal::Loopback);
        }
        Ok(Ranked::new(Class::Loopback, self.prefer, ip, port, 0))
    }

    fn rank_link_local(
        &self,
        address: SocketAddr,
        ip: Ipv6Addr,
        link: Option<&Link>,
    ) -> Result<Ranked, Refusal> {
        let scope = match (self.class, link, address) {
            (SourceClass::Mdns, Some(link), _) => link.index,
            (SourceClass::Registry | SourceClass::Configured, _, SocketAddr::V6(v6)) => v6.scope_id(),
            _ => 0,
        };
        if scope == 0 {
            return Err(Refusal::NoScope);
        }
        Ok(Ranked::new(Class::V6LinkLocal, self.prefer, ip.into(), address.port(), scope))
    }
}

/// An address of an instance and the index of the interface on which its record came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a pair with names")]
pub struct Heard {
    /// The address.
    pub ip: IpAddr,
    /// The index of the interface.
    pub link: u32,
}

/// What a peer had before its addresses were heard anew.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the input of a pure function")]
pub struct Former<'a> {
    /// The endpoint that was dialled first.
    pub first: &'a Endpoint,
    /// When a call to the peer was last answered.
    pub last_alive: Option<Instant>,
    /// Whether it was reported as unreachable since.
    pub unreachable: bool,
}

impl Former<'_> {
    /// Moves the former first address to the front if it is to stay there. Returns until when, if not for
    /// as long as it is heard.
    fn stay_first(self, ranked: &mut Vec<Ranked>, port: u16, now: Instant) -> Option<Instant> {
        let address = self.first.socket_addr()?;
        let best = *ranked.first()?;
        let heard = ranked.iter().position(|known| known.address == address);
        if let Some(at) = heard
            && ranked.get(at)?.class == best.class
        {
            // No churn among equals.
            let first = ranked.remove(at);
            ranked.insert(0, first);
            return None;
        }
        // Another port is another process: the answers were not from this one.
        let until = self.last_alive? + STICKY;
        if self.unreachable || until <= now || address.port() != port {
            return None;
        }
        let first = match heard {
            Some(at) => ranked.remove(at),
            None => Ranked { address, ..best },
        };
        ranked.insert(0, first);
        Some(until)
    }
}

/// What an [`AddressPolicy`] made of the addresses of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// To be dialled in this order; at most 16. Without one it is no peer.
    pub endpoints: Vec<Endpoint>,
    /// What is not to be dialled, and why.
    pub refused: Vec<(IpAddr, Refusal)>,
    /// When to select anew, because the first is first only for having answered of late.
    pub recheck: Option<Instant>,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The port is 0.
    PortZero,
    /// Unspecified, multicast, broadcast, 0.0.0.0/8 or 240.0.0.0/4.
    NotUnicast,
    /// A cloud's metadata service.
    MetadataService,
    /// Loopback, and not said by this host.
    Loopback,
    /// In 169.254.0.0/16, and we are not there.
    LinkLocal,
    /// Link-local IPv6 without an interface.
    NoScope,
    /// In no network of the interface it was heard on.
    OffLink,
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortZero => "has port 0",
            Self::NotUnicast => "is no address of one host",
            Self::MetadataService => "is a metadata service",
            Self::Loopback => "is loopback",
            Self::LinkLocal => "is link-local",
            Self::NoScope => "is link-local without an interface",
            Self::OffLink => "is not on the link it was announced on",
        })
    }
}

/// A network interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the input of a pure function")]
pub struct Link {
    /// Its index, which is the scope of link-local addresses.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Whether what comes in there was sent by this host.
    pub is_loopback: bool,
    /// Its addresses with the lengths of their prefixes.
    pub networks: Vec<(IpAddr, u8)>,
}

impl Link {
    /// Whether `ip` lies in one of its networks; link-local IPv6 always does.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let shares_prefix = |(own, prefix): (IpAddr, u8)| match (own, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(prefix.min(32));
                (own.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(prefix.min(128));
                (own.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        };
        let is_link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        is_link_local || self.networks.iter().copied().any(shares_prefix)
    }

    fn has_v4_link_local(&self) -> bool {
        self.networks.iter().any(|(own, _)| matches!(own, IpAddr::V4(v4) if v4.is_link_local()))
    }
}

/// The interfaces of this host that have an address, by index.
///
/// # Errors
///
/// That of the system.
pub fn links() -> io::Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::new();
    for interface in if_addrs::get_if_addrs()? {
        let Some(index) = interface.index else { continue };
        let (ip, prefix) = match &interface.addr {
            if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        };
        match links.iter_mut().find(|link| link.index == index) {
            Some(link) => link.networks.push((ip, prefix)),
            None => links.push(Link {
                index,
                is_loopback: interface.is_loopback(),
                name: interface.name.into(),
                networks: vec![(ip, prefix)],
            }),
        }
    }
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The classes of discovery §3.4, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    V4,
    V6,
    V4LinkLocal,
    V6LinkLocal,
    V4OffLink,
    V6OffLink,
    Loopback,
}

/// Ordered by class, then by bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    /// The place of the class.
    place: u8,
    class: Class,
    address: SocketAddr,
}

impl Ranked {
    fn new(class: Class, prefer: Prefer, ip: IpAddr, port: u16, scope: u32) -> Self {
        let place = match (class, prefer) {
            (Class::V4, Prefer::V6First) => Class::V6 as u8,
            (Class::V6, Prefer::V6First) => Class::V4 as u8,
            _ => class as u8,
        };
        let address = match ip {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
        };
        Self { place, class, address }
    }
}

fn is_never_dialled(ip: IpAddr) -> bool {
    match ip {
        // 240/4 holds the limited broadcast address.
        IpAddr::V4(v4) => matches!(v4.octets(), [0 | 224.., ..]),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

fn is_metadata_service(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => METADATA_V6.contains(&v6),
    }
}

#[cfg(test)]
mod tests;
