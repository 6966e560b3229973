//! Finding and losing peers (discovery §6), on loopback.

use std::net::Ipv4Addr;
use std::time::Duration;

use peerage_discovery::mdns::{Interfaces, MdnsDiscovery, Resync, browse_types_on};
use peerage_discovery::{Discovery, DiscoveryError, OnLink, Report, ServiceType, Status};
use peerage_tests::{Leaks, skipped};
use tokio::time::Instant;

use super::bed::{self, Bed, Changes, LIMIT, MS, SECOND, at_most, run, together};
use super::packets::{self, Response};

together! {
    rows_on_loopback:
    d050_d051_t01_a_peer_is_found_whoever_was_first,
    d053_t04_a_killed_peer_that_is_reported_leaves_within_two_and_a_half_seconds,
    d054_complaints_about_a_living_peer_cost_nothing,
    d058_d067_d068_what_responders_announce_in_pieces,
    sv_m22_sv_m23_and_the_packets_that_the_library_must_survive,
    d084_random_packets_do_no_harm,
    d060_sm_packets_of_the_reference_are_understood,
    d020_d026_the_life_of_a_discovery,
    d020_eight_threads_may_stop_it,
    d059_readers_with_other_options_and_other_processes_see_the_same_peer,
    d083_our_own_id_announced_by_another_host_is_a_conflict,
    all_service_types_of_the_link_can_be_listed,
    d003_a_subtype_is_announced_and_found,
    d024_too_few_peers_are_told_with_the_reason,
    nothing_here_needs_a_runtime,
    d102_a_look_on_a_machine_with_loopback_alone_finds_nothing_wrong,
}

fn d050_d051_t01_a_peer_is_found_whoever_was_first() {
    run(async {
        let bed = Bed::new();
        let mut peer = bed.peer("n1", 7001);
        peer.wait_for("starting");
        // The client is up, then the server.
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let took = changes.wait_for("joined n1", LIMIT).await;
        at_most("D-051, with probing", took, 1_300 * MS);
        discovery.stop().await;

        // The server is up, then the client. An answer repeats a record once a second at most.
        peer.wait_for("announced");
        let mut times = Vec::new();
        for _ in 0..4 {
            // The limit of one answer a second shall not be in the way of the median.
            Changes::of(&bed.builder().build()).read_for(1_150 * MS).await;
            let begin = Instant::now();
            let discovery = bed.browse();
            discovery.wait_ready(1, begin + LIMIT).await.unwrap();
            times.push(begin.elapsed());
            discovery.stop().await;
        }
        times.sort();
        at_most("T-01, the second of four", times[1], 100 * MS);
        at_most("T-01, the last of four", times[3], 1_300 * MS);
    });
}

fn d053_t04_a_killed_peer_that_is_reported_leaves_within_two_and_a_half_seconds() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer("n1", 7001);
        peer.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;
        peer.kill();
        changes.restart();
        discovery.report("n1", Report::Unreachable);
        let doubt = changes.wait_for("suspected n1", LIMIT).await;
        let took = changes.wait_for("left n1 unreachable", LIMIT).await;
        at_most("T-04, a reported kill", took, 2_500 * MS);
        at_most("T-04, its doubt", doubt, 100 * MS);
    });
}

fn d054_complaints_about_a_living_peer_cost_nothing() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer("n1", 7001);
        peer.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;
        // Its addresses of the other family come a moment later.
        changes.read_for(200 * MS).await;
        changes.restart();
        for _ in 0..20 {
            discovery.report("n1", Report::Unreachable);
        }
        let words = changes.read_for(3 * SECOND).await;
        // The answer to the verification may bring an address of the other family, which is an update.
        let count = |what: &str| words.iter().filter(|words| words.starts_with(what)).count();
        assert!(count("suspected") <= 1 && count("left") == 0, "{words:?}");
        assert!(discovery.get("n1").unwrap().is_up());
    });
}

fn d058_d067_d068_what_responders_announce_in_pieces() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        packets::wait_for_question(&wire);
        changes.wait_for("status ready", LIMIT).await;
        changes.restart();

        // D-058: a client of the reference announces itself with port 0.
        Response::whole(&bed, "client", 0, &[b"id=client"]).send(&bed, &wire);
        // D-067: TXT comes later.
        let head = |label: &str| {
            let begin = Response::new().ptr(&bed, label.as_bytes());
            begin.srv(&bed, label.as_bytes(), 7, "h").a("h", Ipv4Addr::LOCALHOST)
        };
        head("late").send(&bed, &wire);
        // D-068: it never comes.
        head("never").send(&bed, &wire);
        // Right behind it: that 150 ms are early enough is a matter of the table's own clock (its d067, d068).
        Response::new().txt(&bed, b"late", &[b"id=real"]).send(&bed, &wire);
        let joined = changes.wait_for("joined never", LIMIT).await;
        assert!(joined >= 290 * MS, "{joined:?}");
        changes.wait_for("joined real", LIMIT).await;
        let mut listed: Vec<_> = discovery.peers().iter().map(|peer| peer.node_id().to_owned()).collect();
        listed.sort();
        assert_eq!(listed, ["never", "real"]);
        let ignored = discovery.metrics();
        let ports = ignored.iter().find(|m| m.label == Some(("why", "port_zero"))).unwrap();
        assert!(ports.value >= 1, "D-058");
    });
}

fn sv_m22_sv_m23_and_the_packets_that_the_library_must_survive() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        packets::wait_for_question(&wire);
        changes.wait_for("status ready", LIMIT).await;
        Response::whole(&bed, "steady", 7, &[b"id=steady"]).send(&bed, &wire);
        changes.wait_for("joined steady", LIMIT).await;
        changes.restart();

        let good = Response::whole(&bed, "x", 7, &[b"id=x"]).bytes();
        let mut bad: Vec<(&str, Vec<u8>)> = vec![
            ("SV-M26", Vec::new()),
            ("SV-M26", good[..11].to_vec()),
            ("SV-M26", [good.as_slice(), &vec![0; 9_001 - good.len()]].concat()),
            ("SV-M27", vec![0, 0, 0x84, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ];
        // Names that point to themselves, forwards, past the end; labels of reserved lengths.
        for (row, name) in [
            ("SV-M28", vec![0xc0, 12]),
            ("SV-M28", vec![0xc0, 40]),
            ("SV-M28", vec![0xff, 0xff]),
            ("SV-M29", vec![0x40, b'a', 0]),
            ("SV-M29", vec![0xbf, b'a', 0]),
        ] {
            let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
            packet.extend(name);
            packet.extend([0, 12, 0, 1, 0, 0, 0, 120, 0, 2, 0xc0, 12]);
            bad.push((row, packet));
        }
        let mut jumps = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        for i in 0..1_000_u16 {
            jumps.extend((0xc000 | (12 + 2 * (i + 1))).to_be_bytes());
        }
        bad.push(("SV-M28", jumps));
        // Records with too little in them.
        let service = format!("_{}", bed.service.base());
        let name: [&[u8]; 4] = [b"short", service.as_bytes(), b"_tcp", b"local"];
        for (kind, data) in [(packets::A, 3), (packets::AAAA, 15), (packets::SRV, 5)] {
            bad.push(("SV-M30", Response::new().record(&name, kind, &vec![1; data]).bytes()));
        }
        let own = packets::encode_name(&name);
        bad.push(("SV-M31", Response::new().record(&name, 5, &own).bytes()));
        bad.push(("SV-M31", Response::with_ttl(1).record(&name, 5, &own).bytes()));
        // Another opcode, and an error: what they announce is not to be believed.
        for flags in [[0x8c, 0x00], [0x84, 0x03]] {
            let mut packet = Response::whole(&bed, "errs", 7, &[b"id=errs"]).bytes();
            packet[2..4].copy_from_slice(&flags);
            bad.push(("SV-M32", packet));
        }
        for (_, packet) in &bad {
            packets::send(&bed, &wire, packet);
        }
        // SV-M22: names that are odd and right. SV-M23: another service, which nobody asked for.
        let odd = "Office. Printer é";
        Response::whole(&bed, odd, 7, &[b"v=1"]).send(&bed, &wire);
        Response::whole(&bed, &"n".repeat(63), 7, &[b"v=1"]).send(&bed, &wire);
        let other = Bed { service: "other".parse().unwrap(), ..bed.clone() };
        Response::whole(&other, "unasked", 7, &[b"id=unasked"]).send(&bed, &wire);
        changes.wait_for(&format!("joined {odd}"), LIMIT).await;
        changes.wait_for(&format!("joined {}", "n".repeat(63)), LIMIT).await;
        changes.read_for(300 * MS).await;
        let mut others = changes.words();
        others.retain(|words| !words.contains("nnn") && !words.contains(odd));
        if !bed::sockets_can_be_prepared() {
            skipped(
                "SV-M32",
                "the system gives no second descriptor of a socket, and the library believes errors",
            );
            others.retain(|words| words != "joined errs");
        }
        assert_eq!(others, [""; 0], "nothing else came of {} packets", bad.len());
        assert!(discovery.get("steady").is_some());
        assert_eq!(discovery.status(), Status::Ready, "SV-M25 and the like: the daemon lives");
    });
}

fn d084_random_packets_do_no_harm() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut peer = bed.peer("n1", 7001);
        peer.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;
        changes.restart();
        let good = Response::whole(&bed, "x", 0, &[b"id=x"]).bytes();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for i in 0..20_000_usize {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = usize::try_from(seed % good.len() as u64).unwrap();
            let mut packet = good.clone();
            match i % 3 {
                0 => packet.truncate(at),
                1 => packet[at] = seed.to_be_bytes()[0],
                _ => packet.iter_mut().skip(at).for_each(|byte| *byte ^= seed.to_be_bytes()[1]),
            }
            packets::send(&bed, &wire, &packet);
        }
        let words = changes.read_for(SECOND).await;
        assert!(!words.iter().any(|words| words.starts_with("left n1")), "{words:?}");
        assert!(discovery.get("n1").is_some());
    });
}

fn d060_sm_packets_of_the_reference_are_understood() {
    run(async {
        let recorded = include_str!("../../vectors/mdns.json");
        let recorded: serde_json::Value = serde_json::from_str(recorded).unwrap();
        let bed = Bed { service: "zaptest".parse().unwrap(), ..Bed::new() };
        let wire = bed.socket();
        // The announcers were on 192.0.2.0/24.
        let discovery = bed.builder().on_link(OnLink::Ignore).build();
        discovery.start().unwrap();
        let mut changes = Changes::of(&discovery);
        packets::wait_for_question(&wire);
        changes.wait_for("status ready", LIMIT).await;
        changes.restart();
        let packets: Vec<(f64, Vec<u8>)> = recorded["packets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (p["t"].as_f64().unwrap(), unhex(p["payload_hex"].as_str().unwrap())))
            .collect();
        for (_, packet) in packets.iter().filter(|(t, _)| *t < 10.0) {
            packets::send(&bed, &wire, packet);
        }
        changes.wait_for("joined go-1", LIMIT).await;
        changes.wait_for("joined go-2", LIMIT).await;
        let peer = discovery.get("go-1").unwrap();
        assert_eq!(peer.address().to_string(), "192.0.2.2:9999");
        assert_eq!(peer.addresses()[1].to_string(), "[fd00::2]:9999");
        assert_eq!(peer.metadata().get_str("zone"), Some("a"));
        assert_eq!(discovery.get("go-2").unwrap().address().port(), 9998);

        // One of them says goodbye, and its host name goes with it, which the other shares.
        changes.restart();
        let goodbye = packets.iter().find(|(t, _)| *t > 10.0).unwrap();
        packets::send(&bed, &wire, &goodbye.1);
        let took = changes.wait_for("left go-1 goodbye", LIMIT).await;
        at_most("D-061, the goodbye of a reference peer", took, 1_700 * MS);
    });
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2).unwrap(), 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn d020_d026_the_life_of_a_discovery() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let discovery = bed.builder().build();
        assert_eq!(discovery.status(), Status::Idle);
        assert_eq!((discovery.snapshot().version(), discovery.peer_count()), (0, 0));
        discovery.start().unwrap();
        assert_eq!(discovery.start(), Err(DiscoveryError::AlreadyStarted));
        let mut changes = Changes::of(&discovery);
        packets::wait_for_question(&wire);
        changes.wait_for("status ready", LIMIT).await;
        Response::whole(&bed, "n1", 7, &[b"id=n1"]).send(&bed, &wire);
        changes.wait_for("joined n1", LIMIT).await;
        changes.restart();
        let waiting = discovery.wait_ready(2, Instant::now() + 30 * SECOND);
        let stopping = async {
            // Three times, from anywhere.
            let first = discovery.stop();
            discovery.stop().await;
            first.await;
            discovery.stop().await;
        };
        let (waited, ()) = tokio::join!(waiting, stopping);
        assert_eq!(waited.unwrap_err(), DiscoveryError::Stopped);
        assert_eq!(changes.read_for(SECOND).await, ["left n1 stopped"]);
        assert_eq!(discovery.status(), Status::Stopped);
        assert!(discovery.snapshot().peers().is_empty());
        assert_eq!(discovery.start(), Err(DiscoveryError::Stopped));
    });
}

fn d020_eight_threads_may_stop_it() {
    let bed = Bed::new();
    let discovery = bed.browse();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| run(discovery.stop()));
        }
    });
    assert_eq!(discovery.status(), Status::Stopped);
}

#[test]
fn d030_d031_t13_a_thousand_readers_share_one_thread_and_one_socket_pair() {
    let test = "mdns::browsing::d030_d031_t13_a_thousand_readers_share_one_thread_and_one_socket_pair";
    peerage_tests::alone::run(test, &[], || {
        let bed = Bed::new();
        let wire = bed.socket();
        run(async {
            let inside = Leaks::now();
            let all: Vec<MdnsDiscovery> = (0..1_000).map(|_| bed.browse()).collect();
            let mut peer = bed.peer("n1", 7001);
            peer.wait_for("announced");
            for discovery in &all {
                discovery.wait_ready(1, Instant::now() + LIMIT).await.unwrap();
            }
            let now = Leaks::now();
            // The actor costs two pipes and the thread that reads one of them.
            let (threads, descriptors) =
                (now.threads() - inside.threads() - 1, now.descriptors() - inside.descriptors() - 2);
            println!("T-13: browsing costs {threads} threads and {descriptors} descriptors (limits 2 and 8)");
            assert!(threads <= 2 && descriptors <= 8, "{threads} {descriptors}");

            let here = bed.advertise("n2", 7002);
            here.announced().await.unwrap();
            let now = Leaks::now();
            let (threads, descriptors) =
                (now.threads() - inside.threads() - 1, now.descriptors() - inside.descriptors() - 2);
            println!("T-13: advertising as well {threads} and {descriptors} (limits 3 and 14)");
            assert!(threads <= 3 && descriptors <= 14, "{threads} {descriptors}");

            let questions = questions_in(&wire);
            // At 0 and 1 s (more if this took longer), none for each reader.
            assert!(questions <= 8, "one stream of questions for all: {questions}");
            peer.kill();
            // Without `stop`.
            let begin = Instant::now();
            drop(all);
            drop(here);
            inside.gone(LIMIT).await;
            at_most("D-031, everything gone", begin.elapsed(), 2 * SECOND);
        });
    });
}

fn questions_in(wire: &std::net::UdpSocket) -> usize {
    let mut buffer = [0; 9_000];
    wire.set_nonblocking(true).unwrap();
    let mut count = 0;
    while let Ok(len) = wire.recv(&mut buffer) {
        // Questions for a PTR; those of a probe are for anything.
        count += usize::from(packets::parse(&buffer[..len]).is_some_and(|p| p.asks_ptr));
    }
    count
}

fn d059_readers_with_other_options_and_other_processes_see_the_same_peer() {
    run(async {
        let bed = Bed::new();
        let one = bed.browse();
        let two = bed.builder().resync(Resync::Every(10 * SECOND)).build();
        two.start().unwrap();
        let mut elsewhere = bed.browser();
        let mut peer = bed.peer("n1", 7001);
        peer.wait_for("announced");
        for discovery in [&one, &two] {
            discovery.wait_ready(1, Instant::now() + LIMIT).await.unwrap();
        }
        elsewhere.wait_for("joined n1");
        // One that comes later is told what is known, at once.
        let begin = Instant::now();
        let late = bed.browse();
        late.wait_ready(1, begin + LIMIT).await.unwrap();
        at_most("D-059, known already", begin.elapsed(), 100 * MS);
    });
}

#[test]
fn more_than_64_types_are_refused() {
    let test = "mdns::browsing::more_than_64_types_are_refused";
    peerage_tests::alone::run(test, &[], || {
        let bed = Bed::new();
        let browse = |i: usize| {
            let service: ServiceType = format!("type-{i}").parse().unwrap();
            let discovery = Bed { service, ..bed.clone() }.builder().build();
            discovery.start().map(|()| discovery)
        };
        let mut all: Vec<MdnsDiscovery> = (0..64).map(|i| browse(i).unwrap()).collect();
        assert_eq!(browse(64).unwrap_err(), DiscoveryError::TooManyServices { limit: 64 });
        assert!(browse(3).is_ok(), "a type that is browsed already is no further one");
        all.pop();
        assert!(browse(64).is_ok(), "one that is dropped makes room");
    });
}

fn d083_our_own_id_announced_by_another_host_is_a_conflict() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let here = bed.advertise("me", 7001);
        here.announced().await.unwrap();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        packets::wait_for_question(&wire);
        changes.wait_for("status ready", LIMIT).await;
        changes.restart();
        Response::whole(&bed, "evil", 6666, &[b"id=me"]).send(&bed, &wire);
        changes.wait_for("conflict me", LIMIT).await;
        changes.read_for(500 * MS).await;
        assert_eq!(changes.words(), ["conflict me"], "and it is not listed");
        // We are still found by others, with our port.
        let mut browser = bed.browser();
        browser.wait_for("joined me");
        here.close().await;
    });
}

#[test]
fn s129_d086_sv_m33_a_daemon_that_ends_comes_back_with_everything() {
    let test = "mdns::browsing::s129_d086_sv_m33_a_daemon_that_ends_comes_back_with_everything";
    // Alone, because it ends every daemon of the process.
    peerage_tests::alone::run(test, &[], || {
        run(async {
            let bed = Bed::new();
            let discovery = bed.browse();
            let mut changes = Changes::of(&discovery);
            let mut peer = bed.peer("n1", 7001);
            peer.wait_for("announced");
            changes.wait_for("joined n1", LIMIT).await;
            let here = bed.advertise("here", 7002);
            here.announced().await.unwrap();
            changes.restart();
            peerage_discovery::mdns::break_daemons();
            let degraded = changes.wait_for("status degraded", LIMIT).await;
            assert!(discovery.get("n1").is_some(), "the list is kept");
            let ready = changes.wait_for("status ready", LIMIT).await;
            at_most("D-086, noticed", degraded, SECOND);
            at_most("D-086, back", ready, 2 * SECOND);
            changes.assert_nobody_left();
            let mut browser = bed.browser();
            browser.wait_for("joined here");
        });
    });
}

fn all_service_types_of_the_link_can_be_listed() {
    run(async {
        let bed = Bed::new();
        let other = Bed { service: "other".parse().unwrap(), ..bed.clone() };
        let (one, two) = (bed.advertise("n1", 7001), other.advertise("n1", 7001));
        one.announced().await.unwrap();
        two.announced().await.unwrap();
        let types = browse_types_on(Interfaces::LoopbackOnly, bed.port, 700 * MS).await.unwrap();
        let names: Vec<String> = types.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["_bed._tcp", "_other._tcp"]);
    });
}

fn d003_a_subtype_is_announced_and_found() {
    run(async {
        let bed = Bed::new();
        let special = Bed { service: "_v2._sub._bed._tcp".parse().unwrap(), ..bed.clone() };
        let _plain = bed.peer("plain", 7001);
        let mut v2 = special.peer("special", 7002);
        v2.wait_for("announced");
        let (all, only_v2) = (bed.browse(), special.browse());
        all.wait_ready(2, Instant::now() + LIMIT).await.unwrap();
        let found = only_v2.wait_ready(1, Instant::now() + LIMIT).await.unwrap();
        assert_eq!(found.peers().iter().map(|p| p.node_id()).collect::<Vec<_>>(), ["special"]);
    });
}

fn d024_too_few_peers_are_told_with_the_reason() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        packets::wait_for_question(&wire);
        changes.wait_for("status ready", LIMIT).await;
        Response::whole(&bed, "client", 0, &[b"id=client"]).send(&bed, &wire);
        let ignored = || {
            let metrics = discovery.metrics();
            metrics.iter().find(|metric| metric.label == Some(("why", "port_zero"))).map_or(0, |m| m.value)
        };
        let sent = Instant::now();
        while ignored() == 0 {
            assert!(sent.elapsed() < LIMIT, "it is not seen");
            changes.read_for(10 * MS).await;
        }
        let begin = Instant::now();
        let error = discovery.wait_ready(2, begin + 500 * MS).await.unwrap_err();
        assert!(begin.elapsed() >= 500 * MS, "{:?}", begin.elapsed());
        at_most("D-024, the wait", begin.elapsed(), 700 * MS);
        let text = error.to_string();
        assert!(text.contains("0 of 2 peers of _bed._tcp") && text.contains("port 0"), "{text}");
    });
}

fn nothing_here_needs_a_runtime() {
    let bed = Bed::new();
    let discovery = bed.browse();
    let here = bed.advertise("n1", 7001);
    let mut peer = bed.peer("n2", 7002);
    peer.wait_for("announced");
    let soon = Instant::now() + LIMIT;
    let found = futures_executor_block_on(discovery.wait_ready(1, soon)).unwrap();
    assert_eq!(found.peers()[0].node_id(), "n2");
    futures_executor_block_on(here.close());
    futures_executor_block_on(discovery.stop());
}

/// An executor that is no runtime.
fn futures_executor_block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(10)),
        }
    }
}

fn d102_a_look_on_a_machine_with_loopback_alone_finds_nothing_wrong() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let begin = Instant::now();
        let diagnosis = discovery.diagnose().await;
        at_most("D-102", begin.elapsed(), 3 * SECOND);
        let text = diagnosis.to_string();
        assert!(text.contains("interface lo: used; our own announcement came back"), "{text}");
        assert!(text.contains("loopback: only programs of this machine"), "{text}");
        assert!(diagnosis.hints.is_empty(), "{text}");
    });
}
