//! What the tests of this folder share: a UDP port of their own on loopback, a watch with a clock, other processes.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use peerage_discovery::mdns::{
    Advertisement, Interfaces, MdnsBuilder, MdnsDiscovery, Registration, advertise,
};
use peerage_discovery::{Change, Discovery, Metadata, ServiceType, Subscription};
use peerage_tests::netns::{Actor, Network, Role, Side};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::{Instant, timeout};

pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// More than anything here takes on a machine that has other things to do: a limit that only catches what hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Prints a time beside its limit. The limit holds on a machine that has nothing else to do, which
/// `PEERAGE_STRICT=1` says; elsewhere what took longer than [`LIMIT`] hung.
pub(crate) fn at_most(what: &str, took: Duration, limit: Duration) {
    println!("{what}: {took:?} (limit {limit:?})");
    let is_strict = std::env::var_os("PEERAGE_STRICT").is_some_and(|strict| strict == "1");
    assert!(took <= if is_strict { limit } else { LIMIT }, "{what}: {took:?}, limit {limit:?}");
}

/// One test that runs several side by side: they wait more than they work, and the harness has few threads.
/// `PEERAGE_ROW` runs only those whose names begin with it.
macro_rules! together {
    ($test:ident: $($row:ident),+ $(,)?) => {
        #[test]
        fn $test() {
            $crate::mdns::bed::side_by_side(&[$((stringify!($row), $row as fn())),+]);
        }
    };
}
pub(crate) use together;

pub(crate) fn side_by_side(rows: &[(&str, fn())]) {
    let only = std::env::var("PEERAGE_ROW").unwrap_or_default();
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let running: Vec<_> = rows
            .iter()
            .filter(|(name, _)| name.starts_with(&only))
            .map(|(name, row)| (*name, scope.spawn(row)))
            .collect();
        let ended = running.into_iter().map(|(name, row)| (name, row.join()));
        ended.filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| name).collect()
    });
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

/// A link of our own: loopback, and a UDP port that nobody else uses.
#[derive(Clone)]
pub(crate) struct Bed {
    pub(crate) port: u16,
    /// Keeps the port from other beds. On an address where nobody sends to.
    pub(crate) _kept: Option<Arc<UdpSocket>>,
    pub(crate) interfaces: Interfaces,
    pub(crate) service: ServiceType,
}

impl Bed {
    pub(crate) fn new() -> Self {
        // Another system may have no more than one address there.
        let kept = UdpSocket::bind("127.0.0.2:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).unwrap();
        let at = kept.local_addr().unwrap();
        // Only now: who asks for a free port gets another one, who asks for this very port may have it too.
        socket2::SockRef::from(&kept).set_reuse_address(true).unwrap();
        let _kept = at.ip().to_string().ends_with('2').then(|| Arc::new(kept));
        Self { _kept, ..Self::on(at.port(), Interfaces::LoopbackOnly) }
    }

    pub(crate) fn on(port: u16, interfaces: Interfaces) -> Self {
        Self { port, _kept: None, interfaces, service: "bed".parse().unwrap() }
    }

    /// As the program of a user would have it: the default policy and port. Only in a network of our own.
    pub(crate) fn auto() -> Self {
        Self::on(5353, Interfaces::Auto)
    }

    pub(crate) fn builder(&self) -> MdnsBuilder {
        MdnsDiscovery::builder(&self.service).port(self.port).interfaces(self.interfaces.clone())
    }

    pub(crate) fn browse(&self) -> MdnsDiscovery {
        let discovery = self.builder().build();
        discovery.start().unwrap();
        discovery
    }

    pub(crate) fn registration(&self, node_id: &str, port: u16) -> Registration {
        Registration::new(&self.service, node_id, port)
            .unwrap()
            .mdns_port(self.port)
            .interfaces(self.interfaces.clone())
    }

    pub(crate) fn advertise(&self, node_id: &str, port: u16) -> Advertisement {
        advertise(self.registration(node_id, port)).unwrap()
    }

    /// Another process that advertises; see [`role_peer`].
    pub(crate) fn peer(&self, node_id: &str, port: u16) -> Actor {
        self.peer_with(node_id, port, &[])
    }

    /// As [`peer`](Self::peer), with `noprobe` or `big`.
    pub(crate) fn peer_with(&self, node_id: &str, port: u16, how: &[&str]) -> Actor {
        let mut args = self.args();
        args.extend([node_id.to_owned(), port.to_string()]);
        args.extend(how.iter().map(ToString::to_string));
        Actor::start(PEER, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Another process that browses and says each change; see [`role_browser`].
    pub(crate) fn browser(&self) -> Actor {
        Actor::start(BROWSER, &self.args().iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn args(&self) -> Vec<String> {
        let interfaces = if self.interfaces == Interfaces::Auto { "auto" } else { "loopback" };
        vec![self.port.to_string(), interfaces.to_owned(), format!("{:#}", self.service)]
    }

    pub(crate) fn from_args(args: &[String]) -> Self {
        let [port, interfaces, service, ..] = args else { panic!("three arguments at least") };
        let interfaces = if interfaces == "auto" { Interfaces::Auto } else { Interfaces::LoopbackOnly };
        Self { service: service.parse().unwrap(), ..Self::on(port.parse().unwrap(), interfaces) }
    }

    /// A socket that sends to the group on loopback and hears what is sent there.
    pub(crate) fn socket(&self) -> UdpSocket {
        self.socket_on(Ipv4Addr::LOCALHOST)
    }

    /// As [`socket`](Self::socket), on the interface with this address.
    pub(crate) fn socket_on(&self, own: Ipv4Addr) -> UdpSocket {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port).into()).unwrap();
        socket.join_multicast_v4(&GROUP, &own).unwrap();
        socket.set_multicast_if_v4(&own).unwrap();
        socket.set_multicast_ttl_v4(255).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.into()
    }

    /// Another process on one of two hosts that advertises; see [`role_peer`].
    pub(crate) fn peer_on(&self, network: &Network, side: Side, node_id: &str, how: &[&str]) -> Actor {
        let mut args = self.args();
        args.extend([node_id.to_owned(), "7001".to_owned()]);
        args.extend(how.iter().map(ToString::to_string));
        network.start(side, PEER, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Whether this system lets a process have a second descriptor of its own sockets.
pub(crate) fn sockets_can_be_prepared() -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
        pidfd_open(getpid(), PidfdFlags::empty())
            .is_ok_and(|this| pidfd_getfd(this, 0, PidfdGetfdFlags::empty()).is_ok())
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The name of [`role_peer`] among the tests.
pub(crate) const PEER: &str = "mdns::bed::role_peer";

/// A process that advertises one node, and does what it is told.
#[test]
fn role_peer() {
    let Some(role) = Role::here(PEER) else { return };
    let bed = Bed::from_args(role.args());
    let [_, _, _, node_id, port, how @ ..] = role.args() else { panic!("five arguments at least") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut registration = bed.registration(node_id, port.parse().unwrap());
    if how.iter().any(|how| how == "noprobe") {
        registration = registration.probe(false);
    }
    if how.iter().any(|how| how == "big") {
        registration = registration.metadata(big_metadata());
    }
    // The port of the listener then; it listens as long as the process lives.
    let listener = how.iter().any(|how| how == "listen").then(|| {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        registration = Registration::new(&bed.service, node_id, port).unwrap().mdns_port(bed.port);
        listener
    });
    role.say("starting");
    let advertisement = advertise(registration).unwrap();
    match runtime.block_on(advertisement.announced()) {
        Ok(()) => role.say("announced"),
        Err(error) => role.say(&format!("failed {}", error.code())),
    }
    let mut advertisement = Some(advertisement);
    for words in role.told() {
        let _listening = &listener;
        match words.split_once(' ').unwrap_or((&words, "")) {
            ("close", _) => {
                let begin = Instant::now();
                runtime.block_on(advertisement.take().unwrap().close());
                role.say(&format!("closed {}", begin.elapsed().as_millis()));
            }
            ("drop", _) => {
                let begin = Instant::now();
                drop(advertisement.take());
                role.say(&format!("dropped {}", begin.elapsed().as_millis()));
            }
            ("exit", _) => {
                runtime.block_on(advertisement.take().unwrap().close());
                std::process::exit(0);
            }
            ("port", port) => advertisement.as_ref().unwrap().update_port(port.parse().unwrap()).unwrap(),
            ("break", _) => peerage_discovery::mdns::break_daemons(),
            ("set", pair) => {
                let metadata = Metadata::new([pair.split_once('=').unwrap()]).unwrap();
                advertisement.as_ref().unwrap().update(metadata).unwrap();
            }
            other => panic!("not understood: {other:?}"),
        }
    }
}

/// The name of [`role_crowd`] among the tests.
pub(crate) const CROWD: &str = "mdns::bed::role_crowd";

/// A process that plays many hosts: one daemon of the library for each peer, `c000` and so on. What one of them says is
/// not heard by the others: with 300 that would be 90,000 packets for each question, the work of 300 machines on one.
#[test]
fn role_crowd() {
    let Some(role) = Role::here(CROWD) else { return };
    let bed = Bed::from_args(role.args());
    let count: usize = role.args()[3].parse().unwrap();
    let daemons: Vec<mdns_sd::ServiceDaemon> = (0..count)
        .map(|i| {
            let daemon = mdns_sd::ServiceDaemon::new_with_port(bed.port).unwrap();
            if bed.interfaces == Interfaces::Auto {
                daemon
                    .disable_interface(vec![mdns_sd::IfKind::LoopbackV4, mdns_sd::IfKind::LoopbackV6])
                    .unwrap();
                daemon.set_multicast_loop_v4(false).unwrap();
                daemon.set_multicast_loop_v6(false).unwrap();
            }
            let id = format!("c{i:03}");
            let service = format!("{}.local.", bed.service);
            let mut info = mdns_sd::ServiceInfo::new(
                &service,
                &id,
                &format!("{id}.local."),
                (),
                7001,
                &[("id", id.as_str())][..],
            )
            .unwrap()
            .enable_addr_auto();
            info.set_requires_probe(false);
            daemon.register(info).unwrap();
            daemon
        })
        .collect();
    role.say("announced");
    assert_eq!(role.told().count(), 0);
    drop(daemons);
}

/// The name of [`role_browser`] among the tests.
pub(crate) const BROWSER: &str = "mdns::bed::role_browser";

/// A process that browses, and says what it sees until it is killed.
#[test]
fn role_browser() {
    let Some(role) = Role::here(BROWSER) else { return };
    let bed = Bed::from_args(role.args());
    run(async {
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        while let Some((_, words)) = changes.next(600 * SECOND).await {
            if !words.starts_with("status") {
                role.say(&words);
            }
        }
    });
}

/// With the id `Node A.1/ü`: 1,300 bytes on the wire. `id=` and the id take 15 with the length, `version=1` takes 10,
/// five long ones 250 each, and the last one the rest.
pub(crate) fn big_metadata() -> Metadata {
    let mut builder = Metadata::builder().pair("version", "1");
    for i in 0..5 {
        builder = builder.pair(format!("k{i}"), "v".repeat(246));
    }
    builder.pair("last", "w".repeat(25 - 6)).build().unwrap()
}

/// The changes of a discovery, with the time of each.
pub(crate) struct Changes {
    since: Instant,
    subscription: Subscription,
    /// `joined p1`, with milliseconds.
    pub(crate) log: Vec<(Duration, String)>,
}

impl Changes {
    pub(crate) fn of(discovery: &dyn Discovery) -> Self {
        Self { since: Instant::now(), subscription: discovery.subscribe(), log: Vec::new() }
    }

    /// The clock starts anew, and what was before is forgotten.
    pub(crate) fn restart(&mut self) {
        self.since = Instant::now();
        self.log.clear();
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The next change as words; `None` at the end of the stream or when `limit` has passed.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<(Duration, String)> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (_, change) = timeout(left, self.subscription.next()).await.ok()??;
            let words = match change {
                Change::Resync(snapshot) => {
                    for peer in snapshot.peers() {
                        self.log.push((self.since.elapsed(), format!("joined {}", peer.node_id())));
                    }
                    continue;
                }
                Change::Joined(peer) => format!("joined {}", peer.node_id()),
                Change::Updated { new, .. } => format!("updated {}", new.node_id()),
                Change::Suspected(peer) => format!("suspected {}", peer.node_id()),
                Change::Cleared(peer) => format!("cleared {}", peer.node_id()),
                Change::Left { peer, reason } => format!("left {} {reason}", peer.node_id()),
                Change::Conflict { node_id, .. } => format!("conflict {node_id}"),
                Change::Status(status) => format!("status {}", status.as_str()),
                other => format!("{other:?}"),
            };
            let at = self.since.elapsed();
            self.log.push((at, words.clone()));
            return Some((at, words));
        }
    }

    /// Waits for a change that begins with `words`, and says when it came.
    pub(crate) async fn wait_for(&mut self, words: &str, limit: Duration) -> Duration {
        let until = Instant::now() + limit;
        if let Some((at, _)) = self.log.iter().find(|(_, seen)| seen.starts_with(words)) {
            return *at;
        }
        loop {
            match self.next(until.saturating_duration_since(Instant::now())).await {
                Some((at, seen)) if seen.starts_with(words) => return at,
                Some(_) => {}
                None => panic!("no {words:?} within {limit:?}: {:#?}", self.log),
            }
        }
    }

    /// Reads on until the time is over, and gives back everything from the start.
    pub(crate) async fn read_for(&mut self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        while self.next(until.saturating_duration_since(Instant::now())).await.is_some() {}
        self.words()
    }

    pub(crate) fn words(&self) -> Vec<String> {
        self.log.iter().map(|(_, words)| words.clone()).collect()
    }

    pub(crate) fn assert_nobody_left(&self) {
        assert!(!self.log.iter().any(|(_, words)| words.starts_with("left")), "{:#?}", self.log);
    }
}

pub(crate) fn run<F: Future>(body: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
}
