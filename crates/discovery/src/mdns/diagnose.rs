//! A look into what could be wrong with multicast DNS here (discovery §15).

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mdns_sd::{ScopedIp, ServiceEvent, ServiceInfo};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::browsers::DaemonKey;
use super::daemon::{Daemon, events};
use super::interfaces::{IfTable, IfWatch, Verdict};
use super::label::{host_name, instance_label};
use super::sockets::can_bind;
use crate::driver::Driver;
use crate::{Diagnosis, Grade};

/// The type that is announced for the look.
const PROBE_TYPE: &str = "_peerage-probe._tcp";
/// How long our own announcement may take to come back, and others to answer.
const PROBE_TIME: Duration = Duration::from_millis(1_500);
/// How often the second socket is looked at; the thread has no reactor.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a goodbye and the end of the daemon may take.
const END_TIME: Duration = Duration::from_millis(700);

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

const HINT_NO_MULTICAST: &str = "multicast does not pass this network, or nobody else is there: if peers should be, \
     name them with `static:` or `dns:`";
const HINT_NO_INTERFACE: &str = "bring a network interface up, or choose one with `?iface=`";

/// Adds to `found` what can be seen of the interfaces, the sockets and the link. Takes less than 3 s.
pub(super) async fn diagnose(found: Diagnosis, key: &DaemonKey) -> Diagnosis {
    let (reply, done) = oneshot::channel();
    let kept = found.clone();
    let key = key.clone();
    let look = async move {
        // Nobody may be waiting any more.
        let _gone = reply.send(look(found, &key).await);
    };
    // On our own thread: the caller may have no runtime.
    match Driver::get() {
        Ok(driver) => {
            let keep = driver.clone();
            driver.spawn(async move {
                look.await;
                drop(keep);
            });
        }
        Err(error) => {
            let mut found = kept;
            found.find(Grade::Bad, "thread", error.to_string());
            return found;
        }
    }
    done.await.unwrap_or(kept)
}

async fn look(mut found: Diagnosis, key: &DaemonKey) -> Diagnosis {
    let interfaces = Arc::new(IfWatch::new(key.policy.clone()));
    let table = interfaces.now();
    let is_bound = can_bind(key.port);
    let probed = if is_bound && !table.links.is_empty() { probe(key, &interfaces).await } else { None };
    tell_interfaces(&mut found, &table, probed.as_ref());
    if is_bound {
        found.find(Grade::Good, "sockets", format!("UDP port {} can be opened", key.port));
    } else {
        found.find(Grade::Bad, "sockets", format!("UDP port {} cannot be opened", key.port));
        found.hint(format!("another program holds UDP port {} for itself", key.port));
    }
    if table.links.is_empty() {
        found.find(Grade::Bad, "link", "no interface is used");
        found.hint(HINT_NO_INTERFACE);
    } else if let Some(Probed { others, .. }) = &probed {
        let is_loopback = table.links.iter().all(|link| link.is_loopback);
        match (others.len(), is_loopback) {
            (0, true) => {
                found.find(Grade::Good, "link", "loopback: only programs of this machine can be found")
            }
            (0, false) => {
                found.find(Grade::Warning, "link", "no other host was heard");
                found.hint(HINT_NO_MULTICAST);
            }
            (_, _) => {
                let hosts: Vec<String> = others.iter().take(8).map(ToString::to_string).collect();
                found.find(Grade::Good, "link", format!("heard from {}", hosts.join(", ")));
            }
        }
    } else if is_bound {
        found.find(Grade::Bad, "link", "the multicast daemon cannot be started");
    }
    let holders = holders_of(key.port);
    if !holders.is_empty() {
        let holders = holders.into_iter().collect::<Vec<_>>().join(", ");
        found.find(Grade::Good, format!("UDP port {}", key.port), format!("also held by {holders}"));
    }
    found
}

fn tell_interfaces(found: &mut Diagnosis, table: &IfTable, probed: Option<&Probed>) {
    for iface in &table.all {
        let subject = format!("interface {}", iface.link.name);
        let verdict = iface.verdict.as_str();
        let came_back = probed.map(|p| p.came_back.contains(&iface.link.index));
        match (iface.verdict.is_used(), came_back) {
            (true, Some(false)) => {
                found.find(Grade::Bad, subject, format!("{verdict}; our own announcement did not come back"));
                found.hint(HINT_NO_MULTICAST);
            }
            (true, Some(true)) => {
                let grade = if iface.verdict == Verdict::Fallback { Grade::Warning } else { Grade::Good };
                found.find(grade, subject, format!("{verdict}; our own announcement came back"));
            }
            (_, _) => found.find(Grade::Good, subject, verdict),
        }
    }
    if table.all.is_empty() {
        found.find(Grade::Bad, "interfaces", "there is none with an address");
    }
}

/// What an announcement for the test showed.
struct Probed {
    /// Indexes of the interfaces on which it came back.
    came_back: BTreeSet<u32>,
    /// Other hosts that were heard.
    others: BTreeSet<IpAddr>,
}

/// Announces our probe type, asks for all types, and listens.
async fn probe(key: &DaemonKey, interfaces: &Arc<IfWatch>) -> Option<Probed> {
    let watch = Arc::clone(interfaces);
    let Daemon { handle, mut monitor } =
        Daemon::open(key.port, key.check, Arc::new(move |i| watch.allows(i))).ok()?;
    let table = interfaces.now();
    let ears = ears(key.port, &table);
    let domain = format!("{PROBE_TYPE}.local.");
    let label = instance_label(PROBE_TYPE, &format!("{}-{:?}", std::process::id(), Instant::now()));
    let mut info =
        ServiceInfo::new(&domain, &label, &host_name(&label), (), 9, Vec::new()).ok()?.enable_addr_auto();
    info.set_requires_probe(false);
    let full_name = info.get_fullname().to_owned();
    let mut stream = events(handle.browse(&domain).ok()?);
    // Everybody who announces anything answers this.
    let all = handle.browse(super::browsers::ALL_TYPES).ok()?;
    handle.register(info).ok()?;

    let mut probed = Probed { came_back: BTreeSet::new(), others: BTreeSet::new() };
    let until = Instant::now() + PROBE_TIME;
    loop {
        let next_look = until.min(Instant::now() + LOOK_EVERY);
        let event = timeout_at(next_look, poll_fn(|cx| stream.as_mut().poll_next(cx))).await;
        if let Ok(Some(ServiceEvent::ServiceResolved(service))) = event
            && service.fullname == full_name
        {
            probed.came_back.extend(service.addresses.iter().flat_map(indexes));
        }
        probed.others.extend(ears.iter().flat_map(|ear| heard(ear, &table)));
        let all_back = table.links.iter().all(|link| probed.came_back.contains(&link.index));
        if Instant::now() >= until || (all_back && !probed.others.is_empty()) {
            break;
        }
    }
    drop(all);
    let ending = Instant::now() + END_TIME;
    if let Ok(answer) = handle.unregister(&full_name) {
        // The daemon repeats the goodbye after 120 ms; a second one comes with its end.
        let _said = timeout_at(ending, answer.recv_async()).await;
    }
    if handle.shutdown().is_ok() {
        // The end of its monitor is the end of its sockets.
        let ended = poll_fn(|cx| {
            loop {
                match monitor.as_mut().poll_next(cx) {
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _ended = timeout_at(ending, ended).await;
    }
    Some(probed)
}

fn indexes(address: &ScopedIp) -> Vec<u32> {
    match address {
        ScopedIp::V4(v4) => v4.interface_ids().iter().map(|id| id.index).collect(),
        ScopedIp::V6(v6) => vec![v6.scope_id().index],
        _ => Vec::new(),
    }
}

/// Sockets that hear the group, to see who speaks; the library does not tell.
fn ears(port: u16, table: &IfTable) -> Vec<UdpSocket> {
    let open = |domain, any: SocketAddr| {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&any.into())?;
        std::io::Result::Ok(socket)
    };
    let v4 = open(Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let v6 = open(Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    for link in &table.links {
        // An interface that refuses tells nothing about the others.
        for (own, _) in &link.networks {
            if let (IpAddr::V4(own), Ok(v4)) = (own, &v4) {
                let _refused = v4.join_multicast_v4(&GROUP_V4, own);
            }
        }
        if let Ok(v6) = &v6 {
            let _refused = v6.join_multicast_v6(&GROUP_V6, link.index);
        }
    }
    [v4, v6].into_iter().flatten().map(UdpSocket::from).collect()
}

/// Who else spoke since the last look.
fn heard(ear: &UdpSocket, table: &IfTable) -> Vec<IpAddr> {
    /// More packets at one look say nothing new.
    const MOST: usize = 256;
    let mut others = Vec::new();
    let mut buffer = [0; 16];
    for _ in 0..MOST {
        let from: SocketAddr = match ear.recv_from(&mut buffer) {
            Ok((_, from)) => from,
            // Longer than the buffer, on systems that make an error of it.
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let is_ours = table.all.iter().flat_map(|i| &i.link.networks).any(|(own, _)| *own == from.ip());
        if !is_ours {
            others.push(from.ip());
        }
    }
    others
}

/// Other programs that hold a UDP port, as far as `/proc` shows it to us.
fn holders_of(port: u16) -> BTreeSet<String> {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let is_port = words
                .nth(1)
                .and_then(|local| local.rsplit_once(':'))
                .is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port));
            if is_port && let Some(inode) = words.nth(7) {
                inodes.insert(format!("socket:[{inode}]"));
            }
        }
    }
    let mut holders = BTreeSet::new();
    if inodes.is_empty() {
        return holders;
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|link| inodes.contains(link.to_string_lossy().as_ref()));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.insert(format!("{} ({pid})", name.trim()));
        }
    }
    holders
}
