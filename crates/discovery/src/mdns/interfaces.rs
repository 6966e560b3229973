//! Which network interfaces we use, and what we know about them now (discovery §6.3).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use if_addrs::{IfAddr, Interface};
use tokio::time::Instant;

use crate::Link;

/// Names of interfaces that belong to containers, bridges and virtual machines of this host.
const VIRTUAL: [&str; 8] = ["docker*", "br-*", "virbr*", "veth*", "cni*", "flannel*", "cali*", "podman*"];

/// Looking at the system's interfaces more often than this tells nothing new.
const MIN_AGE: Duration = Duration::from_millis(100);

/// Which interfaces mDNS uses.
///
/// Point-to-point interfaces and those that are down are never used. Patterns are names, in which `*` stands for
/// any characters, or addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interfaces {
    /// Every interface that is not loopback and does not belong to containers or virtual machines of this host
    /// (`docker*`, `br-*`, `virbr*`, `veth*`, `cni*`, `flannel*`, `cali*`, `podman*`). If that leaves none: loopback
    /// alone, so that a machine without a network still works. Looked at again with every change.
    #[default]
    Auto,
    /// Every interface but loopback.
    All,
    /// Nothing leaves this machine.
    LoopbackOnly,
    /// Those that match one of the patterns. Loopback only if a pattern names it without a leading `*`.
    Only(Vec<String>),
    /// Those that match none of the patterns, without loopback.
    Except(Vec<String>),
}

/// The policy with what belongs to it: the key of a shared browse daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Policy {
    pub(crate) interfaces: Interfaces,
    /// Loopback in addition to what the policy chooses.
    pub(crate) loopback_too: bool,
}

/// Why an interface is used or not; the words of `diagnose`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Used,
    Fallback,
    Down,
    PointToPoint,
    Loopback,
    Virtual,
    NotChosen,
}

impl Verdict {
    pub(crate) fn is_used(self) -> bool {
        matches!(self, Self::Used | Self::Fallback)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Fallback => "used, because no other interface is",
            Self::Down => "excluded: it is down",
            Self::PointToPoint => "excluded: point-to-point",
            Self::Loopback => "excluded: loopback is used only when nothing else is",
            Self::Virtual => "excluded: belongs to containers or virtual machines",
            Self::NotChosen => "excluded by the interface policy",
        }
    }
}

/// One interface with all its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Iface {
    pub(crate) link: Link,
    pub(crate) verdict: Verdict,
}

/// All interfaces of the host as one policy sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IfTable {
    /// Every interface that has an address, by index.
    pub(crate) all: Vec<Iface>,
    /// Those that are used.
    pub(crate) links: Vec<Link>,
}

impl IfTable {
    /// Applies `policy` to what the system lists (one entry per address).
    pub(crate) fn select(policy: &Policy, listed: &[Interface]) -> Self {
        let mut all: Vec<Iface> = Vec::new();
        for entry in listed {
            let index = entry.index.unwrap_or(0);
            let network = match &entry.addr {
                IfAddr::V4(a) => (IpAddr::V4(a.ip), a.prefixlen),
                IfAddr::V6(a) => (IpAddr::V6(a.ip), a.prefixlen),
            };
            if let Some(known) = all.iter_mut().find(|i| i.link.index == index) {
                known.link.networks.push(network);
                continue;
            }
            all.push(Iface {
                link: Link {
                    index,
                    name: entry.name.as_str().into(),
                    is_loopback: entry.is_loopback(),
                    networks: vec![network],
                },
                verdict: if !entry.is_oper_up() {
                    Verdict::Down
                } else if entry.is_p2p() {
                    Verdict::PointToPoint
                } else {
                    Verdict::Used
                },
            });
        }
        for iface in &mut all {
            iface.link.networks.sort_unstable();
            if iface.verdict.is_used() {
                iface.verdict = policy.verdict(&iface.link);
            }
        }
        if policy.interfaces == Interfaces::Auto && !all.iter().any(|i| i.verdict.is_used()) {
            for iface in all.iter_mut().filter(|i| i.verdict == Verdict::Loopback) {
                iface.verdict = Verdict::Fallback;
            }
        }
        all.sort_by_key(|i| i.link.index);
        let links = all.iter().filter(|i| i.verdict.is_used()).map(|i| i.link.clone()).collect();
        Self { all, links }
    }

    /// The interface of that index, if it is used.
    pub(crate) fn get(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Whether records that came in on loopback may be dialled there.
    pub(crate) fn loopback_allowed(&self) -> bool {
        self.links.iter().any(|link| link.is_loopback)
    }
}

impl Policy {
    fn verdict(&self, link: &Link) -> Verdict {
        let named = |patterns: &[String]| {
            patterns.iter().any(|p| (!link.is_loopback || !p.starts_with('*')) && matches(link, p))
        };
        let chosen = match &self.interfaces {
            Interfaces::Only(patterns) if named(patterns) => true,
            Interfaces::LoopbackOnly => link.is_loopback,
            _ if link.is_loopback => return self.loopback_or(Verdict::Loopback),
            Interfaces::Auto if VIRTUAL.iter().any(|p| matches_name(p, &link.name)) => {
                return Verdict::Virtual;
            }
            Interfaces::Auto | Interfaces::All => true,
            Interfaces::Only(_) => false,
            Interfaces::Except(patterns) => !named(patterns),
        };
        if chosen { Verdict::Used } else { Verdict::NotChosen }
    }

    fn loopback_or(&self, otherwise: Verdict) -> Verdict {
        if self.loopback_too { Verdict::Used } else { otherwise }
    }
}

/// Whether a pattern is the address of an interface, or fits its name.
fn matches(link: &Link, pattern: &str) -> bool {
    match pattern.parse::<IpAddr>() {
        Ok(ip) => link.networks.iter().any(|(own, _)| *own == ip),
        Err(_) => matches_name(pattern, &link.name),
    }
}

/// `*` stands for any characters, everything else for itself.
fn matches_name(pattern: &str, name: &str) -> bool {
    let mut chars = pattern.chars();
    match chars.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = chars.as_str().trim_start_matches('*');
            rest.is_empty()
                || name
                    .char_indices()
                    .any(|(at, _)| name.get(at..).is_some_and(|tail| matches_name(rest, tail)))
        }
        Some(c) => name.strip_prefix(c).is_some_and(|tail| matches_name(chars.as_str(), tail)),
    }
}

/// The system's interfaces under one policy, looked at not more often than tells something new.
///
/// Shared by our thread and by the library's, which asks for each interface whether it is to be used.
#[derive(Debug)]
pub(crate) struct IfWatch {
    policy: Policy,
    last: Mutex<Option<(Instant, Arc<IfTable>)>>,
}

impl IfWatch {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, last: Mutex::new(None) }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The interfaces now; at most 100 ms old. The value is the same one as long as nothing changes.
    pub(crate) fn now(&self) -> Arc<IfTable> {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, table)) = &*last
            && now.duration_since(*at) < MIN_AGE
        {
            return Arc::clone(table);
        }
        let listed = if_addrs::get_if_addrs().unwrap_or_default();
        let fresh = IfTable::select(&self.policy, &listed);
        let table = match last.take() {
            Some((_, old)) if *old == fresh => old,
            _ => Arc::new(fresh),
        };
        *last = Some((now, Arc::clone(&table)));
        table
    }

    /// Whether the library shall use this address of this interface.
    pub(crate) fn allows(&self, interface: &Interface) -> bool {
        self.now()
            .get(interface.index.unwrap_or(0))
            .is_some_and(|link| link.networks.iter().any(|(ip, _)| *ip == interface.ip()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use if_addrs::{IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn v4(name: &str, index: u32, ip: [u8; 4], prefixlen: u8) -> Interface {
        Interface {
            name: name.into(),
            addr: IfAddr::V4(Ifv4Addr {
                ip: Ipv4Addr::from(ip),
                netmask: Ipv4Addr::from(u32::MAX << (32 - u32::from(prefixlen))),
                prefixlen,
                broadcast: None,
            }),
            index: Some(index),
            oper_status: IfOperStatus::Up,
            is_p2p: false,
        }
    }

    fn v6(name: &str, index: u32, ip: Ipv6Addr) -> Interface {
        Interface {
            name: name.into(),
            addr: IfAddr::V6(Ifv6Addr {
                ip,
                netmask: Ipv6Addr::from(u128::MAX << 64),
                prefixlen: 64,
                broadcast: None,
            }),
            index: Some(index),
            oper_status: IfOperStatus::Up,
            is_p2p: false,
        }
    }

    fn used(interfaces: Interfaces, loopback_too: bool, listed: &[Interface]) -> Vec<String> {
        let policy = Policy { interfaces, loopback_too };
        IfTable::select(&policy, listed).links.iter().map(|link| link.name.to_string()).collect()
    }

    fn host() -> Vec<Interface> {
        let mut down = v4("eth9", 9, [10, 9, 0, 1], 24);
        down.oper_status = IfOperStatus::Down;
        let mut p2p = v4("tun0", 8, [10, 8, 0, 1], 24);
        p2p.is_p2p = true;
        vec![
            v4("lo", 1, [127, 0, 0, 1], 8),
            v4("eth0", 2, [10, 0, 0, 5], 24),
            v6("eth0", 2, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5)),
            v4("docker0", 3, [172, 17, 0, 1], 16),
            v4("br-12ab", 4, [172, 18, 0, 1], 16),
            v4("wlan0", 5, [192, 168, 1, 5], 24),
            p2p,
            down,
        ]
    }

    #[test]
    fn d057_auto_takes_the_real_interfaces_and_loopback_only_when_there_is_none() {
        assert_eq!(used(Interfaces::Auto, false, &host()), ["eth0", "wlan0"]);
        assert_eq!(used(Interfaces::Auto, false, &host()[..1]), ["lo"], "alone, loopback is used");
        assert_eq!(
            used(
                Interfaces::Auto,
                false,
                &[v4("lo", 1, [127, 0, 0, 1], 8), v4("docker0", 3, [172, 17, 0, 1], 16)]
            ),
            ["lo"],
            "a bridge of this host does not count"
        );
        assert!(used(Interfaces::Auto, false, &[]).is_empty());
        assert_eq!(used(Interfaces::Auto, true, &host()), ["lo", "eth0", "wlan0"]);
    }

    #[test]
    fn policies_choose_by_name_pattern_and_address() {
        let only = |p: &[&str]| Interfaces::Only(p.iter().map(ToString::to_string).collect());
        let except = |p: &[&str]| Interfaces::Except(p.iter().map(ToString::to_string).collect());
        assert_eq!(used(Interfaces::All, false, &host()), ["eth0", "docker0", "br-12ab", "wlan0"]);
        assert_eq!(used(Interfaces::LoopbackOnly, false, &host()), ["lo"]);
        assert_eq!(used(only(&["eth*"]), false, &host()), ["eth0"]);
        assert_eq!(used(only(&["eth*"]), true, &host()), ["lo", "eth0"], "loopback when asked for");
        assert_eq!(used(only(&["192.168.1.5"]), false, &host()), ["wlan0"]);
        assert_eq!(used(only(&["lo"]), false, &host()), ["lo"]);
        assert_eq!(
            used(only(&["*0"]), false, &host()),
            ["eth0", "docker0", "wlan0"],
            "a leading star does not reach loopback"
        );
        assert_eq!(used(except(&["docker*", "br-*"]), false, &host()), ["eth0", "wlan0"]);
        assert!(used(only(&["eth9", "tun0"]), false, &host()).is_empty());
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("*", "anything", true),
            ("*0", "eth0", true),
            ("*0", "eth1", false),
            ("*0", "eth00", true),
            ("e*h*", "eth0", true),
            ("e*h*0", "eth0", true),
            ("e*x*0", "eth0", false),
            ("", "eth0", false),
        ] {
            assert_eq!(matches_name(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
