//! What needs two hosts, a host without a network, or long times: in networks of our own, with the settings that a
//! program of a user would have. `cargo xtask netns` runs these; each prints its figures.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use peerage_discovery::mdns::Resync;
use peerage_discovery::{Discovery, Grade, Report, Status};
use peerage_tests::netns::{Actor, Layout, Network, Side, figure};
use tokio::time::Instant;

use super::bed::{Bed, CROWD, Changes, LIMIT, MS, SECOND, run};
use super::packets::{self, Response};

/// Limits of time hold for optimised code.
const BUILD: &str = if cfg!(debug_assertions) { "debug build" } else { "release build" };

/// How much longer other code may take.
const SLOWER: u32 = if cfg!(debug_assertions) { 3 } else { 1 };

const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A name among the tests.
fn name(test: &str) -> String {
    format!("mdns::netns::{test}")
}

fn enter(test: &str, layout: Layout) -> Option<Network> {
    Network::enter(&name(test), layout)
}

/// Many hosts on side B.
fn crowd(bed: &Bed, network: &Network, count: usize) -> Actor {
    let mut args = bed.args();
    args.push(count.to_string());
    network.start(Side::B, CROWD, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn d017_netns_a_link_with_nothing_but_link_local_addresses() {
    let Some(network) =
        enter("d017_netns_a_link_with_nothing_but_link_local_addresses", Layout::PairLinkLocal)
    else {
        return;
    };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let _peer = bed.peer_on(&network, Side::B, "n1", &["listen"]);
        let found = discovery.wait_ready(1, Instant::now() + 5 * SECOND).await.unwrap();
        let address = found.peers()[0].address().socket_addr().unwrap();
        assert!(matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0), "{address}");
        TcpStream::connect_timeout(&address, 5 * SECOND).expect("it can be dialled as it is");
    });
}

#[test]
fn t01_t03_t04_d050_d051_d053_netns_figures_between_two_hosts() {
    let Some(network) = enter("t01_t03_t04_d050_d051_d053_netns_figures_between_two_hosts", Layout::Pair)
    else {
        return;
    };
    run(async {
        let bed = Bed::auto();
        let (mut up_first, mut up_later, mut goodbye, mut reported) = (vec![], vec![], vec![], vec![]);
        for round in 0..5 {
            let id = format!("n{round}");
            let discovery = bed.browse();
            let mut changes = Changes::of(&discovery);
            changes.wait_for("status ready", SECOND).await;
            // The client is up, then the server.
            let mut peer = bed.peer_on(&network, Side::B, &id, &[]);
            peer.wait_for("starting");
            changes.restart();
            up_later.push(changes.wait_for(&format!("joined {id}"), 5 * SECOND).await);
            peer.wait_for("announced");
            discovery.stop().await;
            // The server is up, then the client.
            for _ in 0..5 {
                Changes::of(&bed.builder().build()).read_for(1_150 * MS).await;
                let begin = Instant::now();
                let discovery = bed.browse();
                discovery.wait_ready(1, begin + 5 * SECOND).await.unwrap();
                up_first.push(begin.elapsed());
                discovery.stop().await;
            }
            // Goodbye, and a kill that somebody notices.
            let discovery = bed.browse();
            let mut changes = Changes::of(&discovery);
            changes.wait_for(&format!("joined {id}"), 5 * SECOND).await;
            let mut doomed = bed.peer_on(&network, Side::B, "doomed", &[]);
            doomed.wait_for("announced");
            changes.wait_for("joined doomed", 5 * SECOND).await;
            changes.read_for(1_200 * MS).await;
            changes.restart();
            peer.tell("close");
            goodbye.push(changes.wait_for(&format!("left {id} goodbye"), 5 * SECOND).await);
            changes.read_for(1_200 * MS).await;
            doomed.kill();
            changes.restart();
            discovery.report("doomed", Report::Unreachable);
            reported.push(changes.wait_for("left doomed unreachable", 5 * SECOND).await);
            discovery.stop().await;
        }
        for times in [&mut up_first, &mut up_later, &mut goodbye, &mut reported] {
            times.sort();
        }
        let middle = |times: &[Duration]| times[times.len() / 2];
        let last = |times: &[Duration]| times[times.len() - 1];
        figure(&format!(
            "T-01 pair, server first: p50 {:?}, worst of 25 {:?}",
            middle(&up_first),
            last(&up_first)
        ));
        figure(&format!(
            "D-051 pair, client first: p50 {:?}, worst {:?}",
            middle(&up_later),
            last(&up_later)
        ));
        figure(&format!(
            "T-03 pair, goodbye: p50 {:?}, worst {:?} (limit 1.6 s)",
            middle(&goodbye),
            last(&goodbye)
        ));
        figure(&format!(
            "T-04 pair, reported kill: p50 {:?}, worst {:?} (limit 2.5 s)",
            middle(&reported),
            last(&reported)
        ));
        assert!(middle(&up_first) <= 300 * MS && last(&up_first) <= 3 * 1_300 * MS);
        assert!(last(&up_later) <= 3 * 1_300 * MS);
        assert!(last(&goodbye) <= 3 * 1_600 * MS);
        assert!(last(&reported) <= 3 * 2_500 * MS);
    });
}

#[test]
fn t01_d050_netns_a_host_without_a_network_uses_loopback_by_itself() {
    let test = name("t01_d050_netns_a_host_without_a_network_uses_loopback_by_itself");
    let Some(network) = Network::enter_always(&test, Layout::Loopback) else { return };
    run(async {
        let bed = Bed::auto();
        let mut peer = bed.peer_on(&network, Side::A, "n1", &[]);
        peer.wait_for("announced");
        let begin = Instant::now();
        let discovery = bed.browse();
        let found = discovery.wait_ready(1, begin + LIMIT).await.unwrap();
        figure(&format!("D-050 loopback alone, policy Auto: {:?} (limit 1.3 s)", begin.elapsed()));
        assert_eq!(found.peers()[0].address().to_string(), "127.0.0.1:7001");
        assert_eq!(*found.status(), Status::Ready);
    });
}

#[test]
fn d052_t04_netns_a_kill_that_nobody_notices() {
    let Some(network) = enter("d052_t04_netns_a_kill_that_nobody_notices", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut others = crowd(&bed, &network, 10);
        others.wait_for("announced");
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        discovery.wait_ready(11, Instant::now() + 10 * SECOND).await.unwrap();
        changes.wait_for("joined n1", 5 * SECOND).await;
        peer.kill();
        changes.restart();
        let took = changes.wait_for("left n1", 80 * SECOND).await;
        figure(&format!("T-04 idle kill among 11 peers: {took:?} (limit 40 s)"));
        assert_eq!(changes.words(), ["left n1 silent"]);
        assert!(took <= 40 * SECOND);
    });
}

#[test]
fn d043_netns_two_hosts_with_one_node_id() {
    let Some(network) = enter("d043_netns_two_hosts_with_one_node_id", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut first = bed.peer_on(&network, Side::B, "n1", &[]);
        first.wait_for("announced");
        changes.wait_for("joined n1", 5 * SECOND).await;
        let mut second = bed.peer_on(&network, Side::A, "n1", &[]);
        assert_eq!(second.wait_for("failed"), "failed name_conflict");
        changes.read_for(4 * SECOND).await;
        changes.assert_nobody_left();
        assert_eq!(discovery.get("n1").unwrap().address().to_string(), "10.77.0.2:7001");
        drop(second);
        first.tell("close");
        changes.wait_for("left n1", 10 * SECOND).await;
        let mut again = bed.peer_on(&network, Side::A, "n1", &[]);
        again.wait_for("announced");
        changes.restart();
        discovery.wait_ready(1, Instant::now() + 5 * SECOND).await.unwrap();
        assert_eq!(discovery.get("n1").unwrap().address().to_string(), "10.77.0.1:7001");
    });
}

#[test]
fn d055_netns_a_cable_that_is_pulled_for_four_seconds() {
    let Some(network) = enter("d055_netns_a_cable_that_is_pulled_for_four_seconds", Layout::Pair) else {
        return;
    };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        changes.wait_for("joined n1", 5 * SECOND).await;
        changes.restart();
        network.ip(Side::A, "link set va down");
        let lost = changes.wait_for("suspected n1", 10 * SECOND).await;
        changes.read_for((4 * SECOND).saturating_sub(lost)).await;
        // Down takes addresses of IPv6 away.
        network.ip(Side::A, "link set va up");
        network.ip(Side::A, "addr add fd77::1/64 dev va nodad");
        network.ip(Side::A, "addr add fe80::a/64 dev va nodad");
        changes.restart();
        let back = changes.wait_for("cleared n1", 10 * SECOND).await;
        figure(&format!(
            "D-055 link down: doubted after {lost:?} (limit 3 s), cleared {back:?} after up (limit 3.5 s)"
        ));
        assert!(lost <= 3 * SECOND && back <= 3_500 * MS);
        changes.assert_nobody_left();
    });
}

#[test]
fn d055b_netns_a_cable_that_is_pulled_for_good() {
    let Some(network) = enter("d055b_netns_a_cable_that_is_pulled_for_good", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        // Without loopback to fall back to.
        let discovery = bed.builder().interfaces(peerage_discovery::Interfaces::All).build();
        discovery.start().unwrap();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        changes.wait_for("joined n1", 5 * SECOND).await;
        changes.restart();
        network.ip(Side::A, "link set va down");
        changes.wait_for("status no_interface", 10 * SECOND).await;
        let left = changes.wait_for("left n1 silent", 60 * SECOND).await;
        figure(&format!("D-055b link down for good: left after {left:?} (30 to 34 s)"));
        assert!(left >= 30 * SECOND && left <= 34 * SECOND);
        assert_eq!(discovery.status(), Status::NoInterface);
    });
}

#[test]
fn d056_netns_an_address_that_changes() {
    let Some(network) = enter("d056_netns_an_address_that_changes", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        changes.wait_for("joined n1", 5 * SECOND).await;
        changes.read_for(2 * SECOND).await;
        changes.restart();
        network.ip(Side::B, "addr add 10.77.0.9/24 dev vb");
        network.ip(Side::B, "addr del 10.77.0.2/24 dev vb");
        network.ip(Side::B, "addr add 10.77.0.9/24 dev vb");
        let gone = loop {
            changes.next(10 * SECOND).await.expect("a change");
            let peer = discovery.get("n1").expect("it never leaves");
            let v4: Vec<String> =
                peer.addresses().iter().map(ToString::to_string).filter(|a| a.starts_with("10.")).collect();
            if v4 == ["10.77.0.9:7001"] {
                break changes.elapsed();
            }
        };
        figure(&format!("D-056 address change: seen after {gone:?} (limit 4 s)"));
        assert!(gone <= 4 * SECOND);
        changes.assert_nobody_left();
    });
}

#[test]
fn d057_netns_an_interface_that_appears_later() {
    let Some(network) = enter("d057_netns_an_interface_that_appears_later", Layout::Pair) else { return };
    run(async {
        network.ip(Side::A, "link set va down");
        network.ip(Side::A, "link set lo down");
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        changes.wait_for("status no_interface", 5 * SECOND).await;
        network.ip(Side::A, "link set lo up");
        let on_lo = changes.wait_for("status ready", 10 * SECOND).await;
        let mut local = bed.peer_on(&network, Side::A, "local", &[]);
        local.wait_for("announced");
        changes.wait_for("joined local", 5 * SECOND).await;
        assert!(discovery.get("local").unwrap().address().is_loopback());

        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        changes.restart();
        network.ip(Side::A, "link set va up");
        let took = changes.wait_for("joined n1", 10 * SECOND).await;
        figure(&format!(
            "D-057 loopback up: ready {on_lo:?}; veth up: peer found after {took:?} (limit 4.5 s)"
        ));
        assert!(took <= 4_500 * MS);
        // The peer of this machine comes over to the real interface.
        changes.read_for(6 * SECOND).await;
        assert_eq!(discovery.get("local").unwrap().address().to_string(), "10.77.0.1:7001");
        changes.assert_nobody_left();
    });
}

#[test]
fn d080_sv_m04_netns_forged_answers_that_point_elsewhere() {
    let Some(network) = enter("d080_sv_m04_netns_forged_answers_that_point_elsewhere", Layout::Pair) else {
        return;
    };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        discovery.wait_ready(1, Instant::now() + 5 * SECOND).await.unwrap();
        // From an ephemeral port of this link: somewhere else, loopback, a metadata service.
        let wire = std::net::UdpSocket::bind((A, 0)).unwrap();
        socket2::SockRef::from(&wire).set_multicast_if_v4(&A).unwrap();
        for (label, ip) in [("far", [8, 8, 8, 8]), ("loop", [127, 0, 0, 1]), ("cloud", [169, 254, 169, 254])]
        {
            let host = format!("{label}-host");
            Response::new()
                .ptr(&bed, label.as_bytes())
                .srv(&bed, label.as_bytes(), 80, &host)
                .txt(&bed, label.as_bytes(), &[format!("id={label}").as_bytes()])
                .a(&host, Ipv4Addr::from(ip))
                .send(&bed, &wire);
        }
        let mut changes = Changes::of(&discovery);
        changes.read_for(2 * SECOND).await;
        let ids: Vec<String> = discovery.peers().iter().map(|p| p.node_id().to_owned()).collect();
        assert_eq!(ids, ["n1"]);
        let count = |why| discovery.metrics().iter().find(|m| m.label == Some(("why", why))).unwrap().value;
        assert!(count("off_link") >= 1 && count("no_usable_address") >= 3);
    });
}

#[test]
fn d081_t09_netns_a_flood_of_forged_instances() {
    let Some(network) = enter("d081_t09_netns_a_flood_of_forged_instances", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut real = crowd(&bed, &network, 5);
        real.wait_for("announced");
        discovery.wait_ready(5, Instant::now() + 10 * SECOND).await.unwrap();
        changes.read_for(SECOND).await;
        changes.restart();
        let wire = bed.socket_on(A);
        let before = resident();
        let forge = |i: usize| {
            let label = format!("forged-{i}");
            Response::new()
                .ptr(&bed, label.as_bytes())
                .srv(&bed, label.as_bytes(), 80, &label)
                .txt(&bed, label.as_bytes(), &[format!("id={label}").as_bytes()])
                .a(&label, Ipv4Addr::new(10, 77, 0, 66))
                .send(&bed, &wire);
        };
        let left = |changes: &Changes| -> Vec<String> {
            changes.words().into_iter().filter(|words| words.starts_with("left c")).collect()
        };
        let real_are_there = || (0..5).all(|i| discovery.get(&format!("c{i:03}")).is_some());
        (0..5_000).for_each(forge);
        // Then 100,000 in ten seconds.
        let begin = Instant::now();
        let mut most = 0;
        for hundred in 0..1_000 {
            (0..100).for_each(|i| forge(10_000 + hundred * 100 + i));
            let slot = begin + u32::try_from(hundred + 1).unwrap() * 10 * MS;
            changes.read_for(slot.saturating_duration_since(Instant::now())).await;
            assert!(real_are_there(), "{:?}", left(&changes));
            most = most.max(discovery.peers().len());
            assert!(most <= 1_024);
        }
        let grown = resident().saturating_sub(before);
        // Recovery: a newcomer is listed.
        let begin = Instant::now();
        let mut newcomer = bed.peer_on(&network, Side::B, "newcomer", &[]);
        newcomer.wait_for("announced");
        while discovery.get("newcomer").is_none() {
            assert!(begin.elapsed() <= SLOWER * 5 * SECOND, "{} peers", discovery.peers().len());
            changes.read_for(50 * MS).await;
            assert!(real_are_there(), "{:?}", left(&changes));
        }
        figure(&format!(
            "T-09 flood: at most {most} listed, resident memory + {} KiB, newcomer listed {:?} after the end (limit 5 s)",
            grown / 1024,
            begin.elapsed()
        ));
        // 32 MiB for the table; the rest is what the library holds of what it read.
        assert!(grown <= 64 << 20, "{grown}");
    });
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn d082_s127_netns_a_forged_goodbye_each_second() {
    let Some(network) = enter("d082_s127_netns_a_forged_goodbye_each_second", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        for reports in [true, false] {
            let discovery = bed.browse();
            let mut changes = Changes::of(&discovery);
            let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
            peer.wait_for("announced");
            changes.wait_for("joined n1", 5 * SECOND).await;
            changes.restart();
            let wire = bed.socket_on(A);
            let origin = discovery.get("n1").unwrap().origin().to_owned();
            let label = origin.split('.').next().unwrap().to_owned();
            let (mut there, mut samples) = (0, 0);
            for _ in 0..30 {
                Response::with_ttl(0)
                    .ptr(&bed, label.as_bytes())
                    .srv(&bed, label.as_bytes(), 7001, &label)
                    .a(&label, Ipv4Addr::new(10, 77, 0, 2))
                    .send(&bed, &wire);
                if reports {
                    discovery.report("n1", Report::Alive);
                }
                for _ in 0..20 {
                    changes.read_for(50 * MS).await;
                    samples += 1;
                    there += usize::from(discovery.get("n1").is_some());
                }
            }
            figure(&format!(
                "D-082 forged goodbyes, calls {reports}: present in {there} of {samples} samples"
            ));
            if reports {
                changes.assert_nobody_left();
            }
            assert!(there * 100 >= samples * 99, "{:#?}", changes.log);
            discovery.stop().await;
        }
    });
}

#[test]
fn d084_netns_a_million_packets_of_rubbish() {
    let Some(network) = enter("d084_netns_a_million_packets_of_rubbish", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        changes.wait_for("joined n1", 5 * SECOND).await;
        changes.restart();
        let wire = bed.socket_on(A);
        let good = Response::whole(&bed, "x", 0, &[b"id=x"]).bytes();
        let before = resident();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..200 {
            for i in 0..5_000_usize {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = usize::try_from(seed % good.len() as u64).unwrap();
                let mut packet = good.clone();
                match i % 4 {
                    0 => packet.truncate(at),
                    1 => packet[at] = seed.to_be_bytes()[0],
                    2 => packet.iter_mut().skip(at).for_each(|byte| *byte ^= seed.to_be_bytes()[1]),
                    _ => packet.resize(9_000, seed.to_be_bytes()[2]),
                }
                packets::send(&bed, &wire, &packet);
            }
            changes.read_for(MS).await;
            let is_there = discovery.get("n1").is_some();
            assert!(is_there, "round {round}: {:#?}", changes.log.iter().rev().take(20).collect::<Vec<_>>());
        }
        changes.read_for(8 * SECOND).await;
        let grown = resident().saturating_sub(before);
        figure(&format!("D-084 10^6 packets of rubbish: resident memory + {} KiB", grown / 1024));
        assert!(discovery.get("n1").is_some_and(|peer| peer.is_up()));
        assert!(grown < 64 << 20);
    });
}

#[test]
fn d102_netns_a_look_into_three_networks() {
    let Some(network) = enter("d102_netns_a_look_into_three_networks", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        let look = async || {
            let discovery = bed.browse();
            let begin = Instant::now();
            let diagnosis = discovery.diagnose().await;
            let took = begin.elapsed();
            assert!(took < 3 * SECOND, "{took:?}");
            discovery.stop().await;
            diagnosis
        };
        let healthy = look().await;
        let text = healthy.to_string();
        assert!(text.contains("heard from 10.77.0.2") && healthy.hints.is_empty(), "{text}");
        assert!(text.contains("interface va: used; our own announcement came back"), "{text}");

        network.ip(Side::B, "link set vb multicast off");
        network.ip(Side::B, "link set vb down");
        network.ip(Side::B, "link set vb up");
        network.command(Side::B, "ip").args(["link", "set", "vb", "promisc", "off"]).status().unwrap();
        drop(peer);
        let filtered = look().await;
        let text = filtered.to_string();
        assert!(text.contains("no other host was heard") && text.contains("`static:` or `dns:`"), "{text}");

        network.ip(Side::A, "link set va down");
        network.ip(Side::A, "link set lo down");
        let nothing = look().await;
        assert_eq!(nothing.verdict(), Grade::Bad, "{nothing}");
        assert!(nothing.to_string().contains("no interface is used"), "{nothing}");
    });
}

#[test]
fn t02_netns_a_hundred_and_three_hundred_hosts() {
    let Some(network) = enter("t02_netns_a_hundred_and_three_hundred_hosts", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        for (count, limit) in [(100, 250 * MS), (300, 1_500 * MS)] {
            let mut hosts = crowd(&bed, &network, count);
            hosts.wait_within("announced", 30 * SECOND);
            Changes::of(&bed.builder().build()).read_for(3 * SECOND).await;
            let begin = Instant::now();
            let discovery = bed.browse();
            discovery.wait_ready(count, begin + 30 * SECOND).await.unwrap();
            let took = begin.elapsed();
            figure(&format!("T-02 all of {count} hosts: {took:?} (limit {limit:?})"));
            assert!(took <= SLOWER * limit, "{took:?}");
            discovery.stop().await;
            drop(hosts);
            // Their records are still in nobody's cache: each browse begins anew.
        }
    });
}

#[test]
fn t05_t07_t12_netns_three_hundred_hosts_for_two_minutes() {
    let Some(network) = enter("t05_t07_t12_netns_three_hundred_hosts_for_two_minutes", Layout::Pair) else {
        return;
    };
    run(async {
        let bed = Bed::auto();
        let before = resident();
        let mut hosts = crowd(&bed, &network, 300);
        hosts.wait_within("announced", 30 * SECOND);
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        discovery.wait_ready(300, Instant::now() + 30 * SECOND).await.unwrap();
        changes.read_for(5 * SECOND).await;
        changes.restart();
        let (cpu, library, begin) = (cpu_time(), cpu_time_of_library(), Instant::now());
        changes.read_for(130 * SECOND).await;
        let percent = |time: Duration| time.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
        let (share, library) = (percent(cpu_time() - cpu), percent(cpu_time_of_library() - library));
        let left = changes.log.iter().filter(|(_, words)| words.starts_with("left")).count();
        figure(&format!(
            "T-05 300 hosts, 130 s: {left} left; T-07 {share:.2} % of a core, {library:.2} of it in the library \
             ({BUILD}, limit 0.4 %); T-12 + {} KiB resident",
            (resident() - before) / 1024
        ));
        assert_eq!(left, 0, "{:#?}", changes.log);
    });
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    cpu_time_in("/proc/self/stat")
}

/// The same of the library's threads alone.
fn cpu_time_of_library() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let name = |thread: &Path| std::fs::read_to_string(thread.join("comm")).unwrap();
    threads
        .filter(|thread| name(thread).starts_with("mDNS"))
        .map(|thread| cpu_time_in(thread.join("stat")))
        .sum()
}

fn cpu_time_in(file: impl AsRef<Path>) -> Duration {
    let stat = std::fs::read_to_string(file).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // 100 ticks a second on every Linux.
    Duration::from_millis(ticks * 10)
}

#[test]
fn t06_netns_ten_percent_of_all_packets_lost() {
    let Some(network) = enter("t06_netns_ten_percent_of_all_packets_lost", Layout::Pair) else { return };
    if !network.tc(Side::B, "qdisc add dev vb root netem loss 10%")
        || !network.tc(Side::A, "qdisc add dev va root netem loss 10%")
    {
        peerage_tests::skipped("netns_t06", "this kernel has no netem");
        return;
    }
    run(async {
        let bed = Bed::auto();
        let mut hosts = crowd(&bed, &network, 20);
        hosts.wait_for("announced");
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        discovery.wait_ready(20, Instant::now() + 30 * SECOND).await.unwrap();
        changes.restart();
        changes.read_for(180 * SECOND).await;
        let count = |what: &str| changes.log.iter().filter(|(_, words)| words.starts_with(what)).count();
        figure(&format!(
            "T-06 loss 10 %, 20 peers, 180 s: {} left, {} doubted",
            count("left"),
            count("suspected")
        ));
        assert_eq!(count("left"), 0, "{:#?}", changes.log);
    });
}

#[test]
fn t07_t14_netns_fifty_hosts_and_an_idle_browser() {
    let Some(network) = enter("t07_t14_netns_fifty_hosts_and_an_idle_browser", Layout::Pair) else { return };
    run(async {
        let bed = Bed::auto();
        let mut hosts = crowd(&bed, &network, 50);
        hosts.wait_for("announced");
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        discovery.wait_ready(50, Instant::now() + 30 * SECOND).await.unwrap();
        changes.read_for(20 * SECOND).await;
        let sent = || {
            let text = std::fs::read_to_string("/proc/self/net/dev").unwrap();
            let line = text.lines().find(|line| line.trim_start().starts_with("va:")).unwrap().to_owned();
            line.split_once(':').unwrap().1.split_whitespace().nth(9).unwrap().parse::<u64>().unwrap()
        };
        changes.restart();
        let (before, cpu, begin) = (sent(), cpu_time(), Instant::now());
        changes.read_for(120 * SECOND).await;
        let packets = (sent() - before) / 2;
        let share = (cpu_time() - cpu).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
        figure(&format!(
            "T-14 50 peers: {packets} packets a minute (limit 40); T-07 {share:.2} % of a core ({BUILD})"
        ));
        assert!(packets <= 40, "{packets}");
        changes.assert_nobody_left();
    });
}

#[test]
fn netns_the_resync_of_five_seconds_finds_a_kill_soon() {
    let Some(network) = enter("netns_the_resync_of_five_seconds_finds_a_kill_soon", Layout::Pair) else {
        return;
    };
    run(async {
        let bed = Bed::auto();
        let discovery = bed.builder().resync(Resync::Every(5 * SECOND)).build();
        discovery.start().unwrap();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer_on(&network, Side::B, "n1", &[]);
        peer.wait_for("announced");
        changes.wait_for("joined n1", 5 * SECOND).await;
        peer.kill();
        changes.restart();
        let took = changes.wait_for("left n1 silent", 30 * SECOND).await;
        figure(&format!("resync 5 s: an idle kill noticed after {took:?}"));
        assert!(took <= 12 * SECOND);
    });
}
