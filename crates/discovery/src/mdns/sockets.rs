//! The library's sockets, seen from outside: whether a port can be had, what they have lost, and the two settings that
//! the library does not make.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Numbers by which the system knows sockets.
pub(super) type Inodes = HashSet<String>;

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

/// The sockets of this process.
pub(super) fn inodes() -> Inodes {
    descriptors().map(|(_, inode)| inode).collect()
}

/// What became of the packets to the sockets of this process at a UDP port. Nothing where the system does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queues {
    /// Packets that were lost, because they came faster than they were read.
    pub(super) lost: u64,
    /// Bytes that nobody has read yet, with what the system counts for each packet.
    pub(super) unread: u64,
}

impl Queues {
    pub(super) fn at(port: u16) -> Self {
        let own = inodes();
        let mut sum = Self::default();
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
                    let unread = words.get(4).and_then(|queues| queues.rsplit_once(':'));
                    sum.unread += unread.and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
                    sum.lost += words.get(12).and_then(|drops| drops.parse::<u64>().ok()).unwrap_or(0);
                }
            }
        }
        sum
    }
}

/// Descriptor and inode of each socket of this process.
fn descriptors() -> impl Iterator<Item = (i32, String)> {
    let links = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    links.filter_map(|link| {
        let number = link.file_name().to_str()?.parse().ok()?;
        Some((number, inode_of(&link.path())?))
    })
}

fn inode_of(link: &std::path::Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
}

#[cfg(target_os = "linux")]
pub(super) use self::linux::prepare;

/// Nothing: only Linux hands out a second descriptor of a socket by its number.
#[cfg(not(target_os = "linux"))]
pub(super) fn prepare(_port: u16, _before: &Inodes) {}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    use rustix::io::Errno;
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    use socket2::{SockFilter, SockRef, Type};

    use super::{Inodes, descriptors, inode_of};

    /// What a socket holds that nobody has read. The system counts 832 bytes for a packet and doubles what is asked
    /// for; its default takes 255 packets, and one question to 300 hosts brings more within a tenth of a second. This is
    /// for 512, and is what Linux grants to anybody by default (`net.core.rmem_max`). More would only make the line
    /// longer that answers stand in during a flood.
    const RECEIVE: usize = 208 << 10;

    /// Opcode and response code, in the second word of a DNS header.
    const OPCODE_AND_RCODE: u32 = 0x780f;
    /// Drops a packet with another opcode or an error (RFC 6762 §18.3, §18.11), which the library would believe. A
    /// packet that is too short for the word is dropped as well. The first byte is that of the UDP header.
    const FILTER: [SockFilter; 4] = [
        // Load the half-word at 8 + 2.
        SockFilter::new(0x28, 0, 0, 10),
        // Any of these bits: skip one.
        SockFilter::new(0x45, 1, 0, OPCODE_AND_RCODE),
        // Keep all of it.
        SockFilter::new(0x06, 0, 0, u32::MAX),
        // Keep nothing.
        SockFilter::new(0x06, 0, 0, 0),
    ];

    /// Makes the UDP sockets at a port that are not in `before` lose less and believe less. Best effort: where the
    /// system refuses, they work as the library made them.
    pub(in super::super) fn prepare(port: u16, before: &Inodes) {
        // The library has two descriptors of each.
        let new: HashMap<String, i32> = descriptors()
            .filter(|(_, inode)| !before.contains(inode))
            .map(|(number, inode)| (inode, number))
            .collect();
        if let Err(error) = prepare_each(&new, port) {
            tracing::debug!(%error, port, "the sockets of mDNS stay as they are");
        }
    }

    /// The library gives none of its sockets away, so a second descriptor is asked of the system. It shares the
    /// socket, and is closed at the end.
    fn prepare_each(sockets: &HashMap<String, i32>, port: u16) -> io::Result<()> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        for (inode, number) in sockets {
            let second = match pidfd_getfd(&this, *number, PidfdGetfdFlags::empty()) {
                // Closed meanwhile.
                Err(Errno::BADF) => continue,
                second => second?,
            };
            let socket = SockRef::from(&second);
            let is_at_port = socket.r#type().is_ok_and(|kind| kind == Type::DGRAM)
                && socket.local_addr()?.as_socket().is_some_and(|local| local.port() == port);
            // The number may be another's by now.
            let link = PathBuf::from(format!("/proc/self/fd/{}", second.as_raw_fd()));
            if !is_at_port || inode_of(&link).as_ref() != Some(inode) {
                continue;
            }
            if socket.recv_buffer_size()? < 2 * RECEIVE {
                socket.set_recv_buffer_size(RECEIVE)?;
            }
            socket.attach_filter(&FILTER)?;
        }
        Ok(())
    }
}
