//! Networks of our own: a host without a network, or two hosts joined by a cable, made of network namespaces.
//!
//! A test that wants one starts its own binary again inside. It needs no root where unprivileged user namespaces are
//! allowed; where nothing is allowed the test is skipped, and says so in a line that begins with `SKIPPED`.
//!
//! ```no_run
//! use peerage_tests::netns::{Layout, Network, Side};
//!
//! // #[test]
//! fn d055_netns_a_cable_that_is_pulled() {
//!     let Some(network) = Network::enter("d055_netns_a_cable_that_is_pulled", Layout::Pair) else { return };
//!     let mut peer = network.start(Side::B, "role_peer", &["p1"]);
//!     peer.wait_for("announced");
//!     network.ip(Side::B, "link set vb down");
//! }
//! // #[test]
//! fn role_peer() {
//!     let Some(role) = peerage_tests::netns::Role::here("role_peer") else { return };
//!     // …announce role.args()…
//!     role.say("announced");
//! }
//! ```

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::time::Instant;

use crate::skipped;

/// The environment variable without which long tests in namespaces are skipped.
pub const WANTED: &str = "PEERAGE_NETNS";
const MARK: &str = "PEERAGE_NETNS_TEST";
const PID_OF_B: &str = "PEERAGE_NETNS_B";
const ROLE: &str = "PEERAGE_NETNS_ROLE";
const ARGS: &str = "PEERAGE_NETNS_ARGS";
/// What a role says stands in a line behind this, as the test harness prints lines, too.
const SAYS: &str = "@ ";
/// What keeps the names of a role's arguments apart in an environment variable.
const BETWEEN: char = '\u{1f}';

/// What the network looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests name them")]
pub enum Layout {
    /// One host with nothing but loopback.
    Loopback,
    /// Host A with the interface `va` (10.77.0.1/24, fd77::1/64, fe80::a) and host B with `vb` (10.77.0.2/24,
    /// fd77::2/64, fe80::b).
    Pair,
    /// As [`Pair`](Self::Pair) with IPv6 link-local addresses and nothing else.
    PairLinkLocal,
}

/// One of two hosts; a lone one is A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a cable has two ends")]
pub enum Side {
    /// Where the test itself runs.
    A,
    /// The other one.
    B,
}

/// A network that the calling test is in.
#[derive(Debug)]
pub struct Network {
    pid_of_b: Option<u32>,
}

impl Network {
    /// Starts the calling test again in a network of its own and waits for it; `None` then, and also when it is
    /// skipped: because namespaces are forbidden, or because `PEERAGE_NETNS` is not set. Inside: the network.
    ///
    /// `test` is the full name of the calling test, as `cargo test -- --list` prints it.
    ///
    /// # Panics
    ///
    /// If the test fails inside, with everything it printed.
    pub fn enter(test: &str, layout: Layout) -> Option<Self> {
        if !Self::is_here(test) && std::env::var_os(WANTED).is_none() {
            skipped(test, &format!("it is slow, and {WANTED} is not set (cargo xtask netns)"));
            return None;
        }
        Self::enter_always(test, layout)
    }

    /// As [`enter`](Self::enter), for a test that is quick enough to run always.
    ///
    /// # Panics
    ///
    /// As [`enter`](Self::enter).
    pub fn enter_always(test: &str, layout: Layout) -> Option<Self> {
        if Self::is_here(test) {
            let pid_of_b = std::env::var(PID_OF_B).ok().map(|pid| pid.parse().expect("a process id"));
            return Some(Self { pid_of_b });
        }
        let Some(unshare) = unshare() else {
            skipped(test, "network namespaces are forbidden here, or unshare, nsenter or ip are missing");
            return None;
        };
        let binary = std::env::current_exe().expect("a test binary knows its path");
        let output = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-eu", "-c", script(layout), "sh"])
            .arg(binary)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(MARK, test)
            .output()
            .expect("unshare was there a moment ago");
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{test} fails in its network ({}):\n{text}", output.status);
        assert!(text.contains("1 passed"), "{test} is not the name of a test:\n{text}");
        // Figures that the test printed are to be seen outside as well.
        for line in text.lines().filter(|line| line.starts_with("FIGURE ")) {
            print(line);
        }
        None
    }

    fn is_here(test: &str) -> bool {
        std::env::var_os(MARK).is_some_and(|mark| mark == test)
    }

    /// Runs `ip` with these words on one of the hosts.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn ip(&self, side: Side, words: &str) {
        let status = self.command(side, "ip").args(words.split_whitespace()).status().expect("ip can be run");
        assert!(status.success(), "ip {words}: {status}");
    }

    /// Runs `tc` with these words; `false` if it fails, as not every kernel has every discipline.
    pub fn tc(&self, side: Side, words: &str) -> bool {
        let status = self.command(side, "tc").args(words.split_whitespace()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// A program on one of the hosts.
    ///
    /// # Panics
    ///
    /// If there is no host B.
    pub fn command(&self, side: Side, program: impl AsRef<OsStr>) -> Command {
        match side {
            Side::A => Command::new(program),
            Side::B => {
                let pid = self.pid_of_b.expect("this network has two hosts");
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
                command
            }
        }
    }

    /// Starts a process on one of the hosts that plays `role`: the test of that name in this binary, which begins
    /// with [`Role::here`].
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(&self, side: Side, role: &str, args: &[&str]) -> Actor {
        let binary = std::env::current_exe().expect("a test binary knows its path");
        Actor::new(self.command(side, binary), role, args)
    }
}

/// A process that plays a role. Killed when dropped.
#[derive(Debug)]
pub struct Actor {
    role: String,
    child: Child,
    stdin: Option<ChildStdin>,
    says: Receiver<String>,
    heard: Vec<String>,
}

impl Actor {
    /// Starts a role in this network, for tests that need no other.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(role: &str, args: &[&str]) -> Self {
        let binary = std::env::current_exe().expect("a test binary knows its path");
        Self::new(Command::new(binary), role, args)
    }

    fn new(mut command: Command, role: &str, args: &[&str]) -> Self {
        let mut child = command
            .args(["--exact", role, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGS, args.join(&BETWEEN.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test binary can be started again");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, says) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(words) = line.strip_prefix(SAYS)
                    && sender.send(words.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { role: role.to_owned(), child, stdin, says, heard: Vec::new() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something: one line.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn tell(&mut self, words: &str) {
        let stdin = self.stdin.as_mut().expect("it was not told the end yet");
        writeln!(stdin, "{words}").expect("it still listens");
    }

    /// The next thing it says, within `limit`.
    pub fn next(&mut self, limit: Duration) -> Option<String> {
        let words = self.says.recv_timeout(limit).ok()?;
        self.heard.push(words.clone());
        Some(words)
    }

    /// Everything that it said so far, as far as it was waited for.
    pub fn heard(&self) -> &[String] {
        &self.heard
    }

    /// Waits until it says something that begins with `words`, up to 10 s.
    ///
    /// # Panics
    ///
    /// If it does not, with what it said.
    pub fn wait_for(&mut self, words: &str) -> String {
        self.wait_within(words, Duration::from_secs(10))
    }

    /// As [`wait_for`](Self::wait_for) with another limit.
    ///
    /// # Panics
    ///
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_within(&mut self, words: &str, limit: Duration) -> String {
        let until = Instant::now() + limit;
        loop {
            match self.says.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(said) => {
                    self.heard.push(said.clone());
                    if said.starts_with(words) {
                        return said;
                    }
                }
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => "did not say",
                        RecvTimeoutError::Disconnected => "ended without saying",
                    };
                    panic!("{} {why} {words:?} within {limit:?}; it said {:#?}", self.role, self.heard);
                }
            }
        }
    }

    /// Ends it without a warning (SIGKILL).
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn kill(mut self) {
        self.end();
    }

    /// Tells it the end of its input and waits until it has ended.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().expect("it can be waited for");
        assert!(status.success(), "{}: {status}", self.role);
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        self.child.wait().expect("it can be waited for");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// The process that plays a role, seen from inside.
#[derive(Debug)]
pub struct Role {
    args: Vec<String>,
}

impl Role {
    /// The role if this process plays it, else `None`: then the test of that name has nothing to do.
    pub fn here(role: &str) -> Option<Self> {
        std::env::var(ROLE).ok().filter(|name| name == role)?;
        let args = std::env::var(ARGS).unwrap_or_default();
        Some(Self { args: args.split(BETWEEN).map(str::to_owned).collect() })
    }

    /// What it was started with.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Says something to the test: one line.
    pub fn say(&self, words: &str) {
        // The harness has begun a line of its own.
        print(&format!("\n{SAYS}{words}"));
    }

    /// What it is told, line by line, until the end.
    pub fn told(&self) -> impl Iterator<Item = String> {
        std::io::stdin().lines().map_while(Result::ok)
    }
}

/// Writes a figure down that a test measured; shown outside of the network as well.
pub fn figure(words: &str) {
    print(&format!("\nFIGURE {words}"));
}

#[expect(clippy::print_stdout, reason = "this is how tests and the processes they start speak")]
fn print(line: &str) {
    println!("{line}");
}

/// The words behind `unshare` that work here.
fn unshare() -> Option<&'static [&'static str]> {
    const AS_ANYBODY: &[&str] = &["--user", "--map-root-user", "--net", "--"];
    const AS_ROOT: &[&str] = &["--net", "--"];
    let works = |words: &[&str]| {
        Command::new("unshare")
            .args(words)
            .args(["sh", "-c", "ip link set lo up && nsenter --net=/proc/self/ns/net true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    [AS_ANYBODY, AS_ROOT].into_iter().find(|words| works(words))
}

fn script(layout: Layout) -> &'static str {
    match layout {
        Layout::Loopback => r#"ip link set lo up; exec "$@""#,
        // The kernel takes up to a second to see that the cable is plugged in.
        // The namespace of B lives as long as a process that does nothing. Addresses are given by hand, for those
        // that the kernel makes are checked for a second or two before they can be used.
        Layout::Pair => {
            r#"
            ip link set lo up
            unshare --net sleep 900 & b=$!
            trap 'kill $b' EXIT
            while [ "$(readlink /proc/$b/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
            ip link add va type veth peer name vb netns $b
            ip link set va addrgenmode none
            ip addr add 10.77.0.1/24 dev va
            ip addr add fd77::1/64 dev va nodad
            ip addr add fe80::a/64 dev va nodad
            ip link set va up multicast on
            nsenter --net=/proc/$b/ns/net sh -eu -c '
                ip link set lo up
                ip link set vb addrgenmode none
                ip addr add 10.77.0.2/24 dev vb
                ip addr add fd77::2/64 dev vb nodad
                ip addr add fe80::b/64 dev vb nodad
                ip link set vb up multicast on'
            until ip -o link show va | grep -q "state UP"; do sleep 0.01; done
            until nsenter --net=/proc/$b/ns/net ip -o link show vb | grep -q "state UP"; do sleep 0.01; done
            PEERAGE_NETNS_B=$b "$@""#
        }
        Layout::PairLinkLocal => {
            r#"
            ip link set lo up
            unshare --net sleep 900 & b=$!
            trap 'kill $b' EXIT
            while [ "$(readlink /proc/$b/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
            ip link add va type veth peer name vb netns $b
            ip link set va addrgenmode none
            ip addr add fe80::a/64 dev va nodad
            ip link set va up multicast on
            nsenter --net=/proc/$b/ns/net sh -eu -c '
                ip link set lo up
                ip link set vb addrgenmode none
                ip addr add fe80::b/64 dev vb nodad
                ip link set vb up multicast on'
            until ip -o link show va | grep -q "state UP"; do sleep 0.01; done
            until nsenter --net=/proc/$b/ns/net ip -o link show vb | grep -q "state UP"; do sleep 0.01; done
            PEERAGE_NETNS_B=$b "$@""#
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_lone_host_has_loopback_and_nothing_else() {
        let test = "netns::tests::a_lone_host_has_loopback_and_nothing_else";
        let Some(network) = Network::enter_always(test, Layout::Loopback) else { return };
        let listed = network.command(Side::A, "ip").args(["-o", "link"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 1);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(socket.recv(&mut [0; 4]).unwrap(), 1);
    }

    #[test]
    fn two_hosts_reach_each_other_and_the_cable_can_be_pulled() {
        let test = "netns::tests::two_hosts_reach_each_other_and_the_cable_can_be_pulled";
        let Some(network) = Network::enter_always(test, Layout::Pair) else { return };
        let mut echo = network.start(Side::B, "netns::tests::role_echo", &["10.77.0.2:7000"]);
        echo.wait_for("listening");
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(b"hello", "10.77.0.2:7000").unwrap();
        assert_eq!(echo.wait_for("got"), "got 5 bytes");
        assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 5);
        network.ip(Side::B, "link set vb down");
        let listed = network.command(Side::A, "ip").args(["-o", "link", "show", "va"]).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("NO-CARRIER") || listed.contains("LOWERLAYERDOWN"), "{listed}");
        echo.tell("end");
        echo.finish();
    }

    #[test]
    fn role_echo() {
        let Some(role) = Role::here("netns::tests::role_echo") else { return };
        let socket = UdpSocket::bind(&role.args()[0]).unwrap();
        role.say("listening");
        let mut buffer = [0; 64];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        role.say(&format!("got {len} bytes"));
        socket.send_to(&buffer[..len], from).unwrap();
        assert_eq!(role.told().next().as_deref(), Some("end"));
    }
}
