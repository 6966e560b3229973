//! Being found (discovery §5), on loopback.

use std::net::UdpSocket;
use std::time::Duration;

use peerage_discovery::mdns::{advertise, shutdown};
use peerage_discovery::{Discovery, DiscoveryError, Metadata};
use tokio::time::Instant;

use super::bed::{Bed, Changes, LIMIT, MS, SECOND, at_most, big_metadata, run, together};
use super::packets::{self, PTR, SRV, TXT};

together! {
    rows_on_loopback:
    d040_d046_a_node_is_found_with_its_id_port_and_all_of_its_metadata,
    d041_news_are_seen_at_once_and_nobody_sees_a_leave,
    d042_close_drop_and_the_end_of_a_process_are_noticed_and_said_twice,
    d044_one_that_leaves_takes_no_neighbour_with_it,
    d044_one_service_type_that_is_closed_leaves_the_other_alone,
    d045_s133_what_may_not_be_announced_is_refused_before_the_wire,
    a_node_is_advertised_once_in_a_process_and_may_come_again,
    d047_who_only_browses_answers_nothing,
    d048_a_restart_after_a_kill_is_an_update,
    d049_without_probing_a_node_is_seen_at_once,
    d043_two_processes_with_one_node_id_are_a_conflict,
    a_conflict_is_forgotten_also_while_another_node_is_advertised,
}

fn d040_d046_a_node_is_found_with_its_id_port_and_all_of_its_metadata() {
    run(async {
        let bed = Bed::new();
        let node_id = "Node A.1/ü";
        let metadata = big_metadata();
        let discovery = bed.browse();
        let _peer = bed.peer_with(node_id, 7001, &["big"]);
        let found = discovery.wait_ready(1, Instant::now() + LIMIT).await.unwrap();

        let peer = &found.peers()[0];
        assert_eq!(peer.node_id(), node_id);
        assert_eq!(peer.address().to_string(), "127.0.0.1:7001");
        assert_eq!(
            peer.metadata().iter().next(),
            Some(("id", Some(node_id.as_bytes()))),
            "the id comes first"
        );
        let others: Vec<_> = peer.metadata().iter().skip(1).collect();
        assert_eq!(others, metadata.iter().collect::<Vec<_>>(), "D-046: all of it, in order");
        // The hash was computed with another implementation of XXH64.
        let label = "node-a-1-c5931b30";
        assert_eq!(peer.origin(), format!("{label}._bed._tcp.local. on {label}.local."));
    });
}

fn d041_news_are_seen_at_once_and_nobody_sees_a_leave() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut announcer = bed.peer("n1", 7001);
        announcer.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;
        for round in 0..3 {
            changes.restart();
            announcer.tell(&format!("set round={round}"));
            let took = changes.wait_for("updated n1", LIMIT).await;
            at_most("D-041, metadata", took, 100 * MS);
        }
        changes.restart();
        announcer.tell("port 7002");
        let took = changes.wait_for("updated n1", LIMIT).await;
        at_most("D-041, a port", took, 100 * MS);
        let peer = discovery.get("n1").unwrap();
        assert_eq!(peer.address().port(), 7002);
        assert_eq!(peer.metadata().get_str("round"), Some("2"));
        changes.read_for(2 * SECOND).await;
        changes.assert_nobody_left();
    });
}

fn d042_close_drop_and_the_end_of_a_process_are_noticed_and_said_twice() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let wire = bed.socket();
        let mut closes = bed.peer("closes", 7001);
        let mut drops = bed.peer("drops", 7002);
        let mut exits = bed.peer("exits", 7003);
        for process in [&mut closes, &mut drops, &mut exits] {
            process.wait_for("announced");
        }
        for id in ["closes", "drops", "exits"] {
            changes.wait_for(&format!("joined {id}"), LIMIT).await;
        }
        // No other browse shall be in the way of the measurement.
        changes.read_for(1_200 * MS).await;

        changes.restart();
        goodbyes(&wire);
        closes.tell("close");
        let closed = closes.wait_for("closed");
        at_most("D-042, close", millis(&closed), 600 * MS);
        assert_eq!(goodbyes(&wire), 2, "said twice before close is over");
        noticed(&mut changes, "closes").await;

        changes.read_for(1_200 * MS).await;
        changes.restart();
        drops.tell("drop");
        let dropped = drops.wait_for("dropped");
        at_most("D-042, a drop, which does not wait", millis(&dropped), 50 * MS);
        noticed(&mut changes, "drops").await;
        said_twice(&wire);

        changes.read_for(1_200 * MS).await;
        changes.restart();
        exits.tell("exit");
        noticed(&mut changes, "exits").await;
        said_twice(&wire);
        assert_eq!(discovery.peer_count(), 0);
    });

    fn millis(words: &str) -> Duration {
        Duration::from_millis(words.split_once(' ').unwrap().1.parse().unwrap())
    }

    /// The second goodbye may be on its way when the first was noticed.
    fn said_twice(wire: &UdpSocket) {
        let begin = Instant::now();
        let mut count = 0;
        while count < 2 {
            assert!(begin.elapsed() < LIMIT, "{count} goodbyes");
            count += goodbyes(wire);
            std::thread::yield_now();
        }
        assert_eq!(count, 2);
    }

    async fn noticed(changes: &mut Changes, id: &str) {
        let took = changes.wait_for(&format!("left {id}"), LIMIT).await;
        at_most(&format!("T-03, the goodbye of {id}"), took, 1_600 * MS);
        assert!(changes.words().contains(&format!("left {id} goodbye")), "{:?}", changes.words());
    }

    /// The goodbyes on the wire since the last look: packets whose records all have a TTL of 0.
    fn goodbyes(wire: &UdpSocket) -> usize {
        let mut count = 0;
        for packet in heard(wire).iter().filter(|p| p.is_goodbye()) {
            let kinds: Vec<u16> = packet.answers.iter().map(|(kind, _)| *kind).collect();
            assert!(kinds.starts_with(&[PTR, SRV, TXT]), "{kinds:?}");
            count += 1;
        }
        count
    }
}

fn d044_one_that_leaves_takes_no_neighbour_with_it() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        // Three processes on one host. The rest of the row, two types in one process, is a test of its own.
        let mut leaver = bed.peer("leaver", 7001);
        let mut neighbour = bed.peer("neighbour", 7002);
        let mut third = bed.peer("third", 7003);
        for process in [&mut leaver, &mut neighbour, &mut third] {
            process.wait_for("announced");
        }
        for id in ["leaver", "neighbour", "third"] {
            changes.wait_for(&format!("joined {id}"), LIMIT).await;
        }
        changes.read_for(1_200 * MS).await;
        changes.restart();
        leaver.tell("close");
        changes.wait_for("left leaver", LIMIT).await;
        let words = changes.read_for(2 * SECOND).await;
        assert_eq!(words, ["suspected leaver", "left leaver goodbye"]);
    });
}

fn d044_one_service_type_that_is_closed_leaves_the_other_alone() {
    run(async {
        let bed = Bed::new();
        let other = Bed { service: "other".parse().unwrap(), ..bed.clone() };
        let wire = bed.socket();
        let (one, two) = (bed.advertise("n1", 7001), other.advertise("n1", 7001));
        one.announced().await.unwrap();
        two.announced().await.unwrap();
        let mut browser = bed.browser();
        browser.wait_for("joined n1");
        heard(&wire);
        two.close().await;
        assert_eq!(heard(&wire).iter().filter(|p| p.is_goodbye()).count(), 2, "of the other type");
        one.update_port(7009).unwrap();
        // The first thing that the browser sees of it.
        assert_eq!(browser.next(LIMIT).as_deref(), Some("updated n1"));
        assert_eq!(browser.next(2 * SECOND), None);
    });
}

fn d045_s133_what_may_not_be_announced_is_refused_before_the_wire() {
    let bed = Bed::new();
    let wire = bed.socket();
    let code = |metadata: Metadata| {
        advertise(bed.registration("n1", 7001).metadata(metadata)).map_err(|error| error.code()).unwrap_err()
    };
    assert_eq!(
        peerage_discovery::Registration::new(&bed.service, "n1", 0).unwrap_err(),
        DiscoveryError::InvalidPort
    );
    assert_eq!(code(Metadata::new([("k", "v".repeat(254))]).unwrap()), "invalid_metadata");
    let pairs: Vec<_> = (0..6).map(|i| (format!("k{i}"), "v".repeat(220))).collect();
    assert_eq!(code(Metadata::new(pairs).unwrap()), "metadata_too_large");
    assert_eq!(code(Metadata::new([("api_token", "x")]).unwrap()), "secret_in_metadata");
    assert_eq!(code(Metadata::new([("id", "x")]).unwrap()), "invalid_metadata");
    for node_id in ["", "a\nb", &"n".repeat(253)] {
        let refused = peerage_discovery::Registration::new(&bed.service, node_id, 1).unwrap_err();
        assert_eq!(refused.code(), "invalid_node_id");
    }
    assert!(peerage_discovery::Registration::new(&bed.service, "n".repeat(252), 1).is_ok());
    assert_eq!(heard(&wire).len(), 0, "nothing was sent");
}

fn a_node_is_advertised_once_in_a_process_and_may_come_again() {
    run(async {
        let bed = Bed::new();
        let first = bed.advertise("n1", 7001);
        let again = advertise(bed.registration("n1", 7002)).unwrap_err();
        assert_eq!(again.code(), "already_advertised");
        let refused = first.update(Metadata::new([("password", "x")]).unwrap()).unwrap_err();
        assert_eq!(refused.code(), "secret_in_metadata");
        assert_eq!(first.update_port(0).unwrap_err(), DiscoveryError::InvalidPort);
        first.close().await;
        let second = bed.advertise("n1", 7002);
        second.announced().await.unwrap();
        drop(second);
        shutdown(SECOND).await;
    });
}

fn d047_who_only_browses_answers_nothing() {
    run(async {
        let bed = Bed::new();
        let wire = bed.socket();
        let discovery = bed.browse();
        packets::ask(&bed, &wire);
        let mut changes = Changes::of(&discovery);
        changes.read_for(1_500 * MS).await;
        let packets = heard(&wire);
        assert!(packets.iter().any(|p| !p.is_response), "the questions are heard");
        assert!(!packets.iter().any(|p| p.is_response), "and no answer: {packets:?}");
    });
}

fn d048_a_restart_after_a_kill_is_an_update() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut first = bed.peer("n1", 7001);
        first.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;
        first.kill();
        changes.restart();
        let mut second = bed.peer("n1", 7002);
        second.wait_for("announced");
        let took = changes.wait_for("updated n1", LIMIT).await;
        at_most("D-048, the new port", took, 1_400 * MS);
        assert_eq!(discovery.get("n1").unwrap().address().port(), 7002);
        assert_eq!(changes.words(), ["updated n1"], "never two peers");
    });
}

fn d049_without_probing_a_node_is_seen_at_once() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        changes.wait_for("status ready", LIMIT).await;
        changes.read_for(300 * MS).await;
        let wire = bed.socket();
        let mut peer = bed.peer_with("n1", 7001, &["noprobe"]);
        peer.wait_for("starting");
        changes.restart();
        let took = changes.wait_for("joined n1", LIMIT).await;
        at_most("D-049", took, 50 * MS);
        let heard = heard(&wire);
        assert!(heard.iter().any(|packet| packet.is_response), "the announcement");
        assert!(!heard.iter().any(|packet| packet.is_probe), "right away");
    });
}

fn d043_two_processes_with_one_node_id_are_a_conflict() {
    run(async {
        let bed = Bed::new();
        let discovery = bed.browse();
        let mut changes = Changes::of(&discovery);
        let mut first = bed.peer("n1", 7001);
        first.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;

        let mut second = bed.peer("n1", 7002);
        assert_eq!(second.wait_for("failed"), "failed name_conflict");
        changes.read_for(3 * SECOND).await;
        changes.assert_nobody_left();
        assert_eq!(discovery.get("n1").unwrap().address().port(), 7001, "the first keeps it");

        // The first goes, and the second comes again.
        second.finish();
        changes.restart();
        first.tell("close");
        changes.wait_for("left n1", LIMIT).await;
        let mut again = bed.peer("n1", 7002);
        again.wait_for("announced");
        changes.wait_for("joined n1", LIMIT).await;
        assert_eq!(discovery.get("n1").unwrap().address().port(), 7002);
    });
}

fn a_conflict_is_forgotten_also_while_another_node_is_advertised() {
    run(async {
        let bed = Bed::new();
        let stays = bed.advertise("stays", 7000);
        stays.announced().await.unwrap();
        let mut first = bed.peer("n1", 7001);
        first.wait_for("announced");
        let second = bed.advertise("n1", 7002);
        assert_eq!(second.announced().await.unwrap_err().code(), "name_conflict");
        second.close().await;
        first.tell("close");
        first.wait_for("closed");
        // The library would use the changed name again, as long as its daemon lives.
        let again = bed.advertise("n1", 7002);
        again.announced().await.unwrap();
        let mut browser = bed.browser();
        browser.wait_for("joined n1");
        let found = browser.heard().join(" ");
        assert!(found.contains("joined stays") || browser.wait_for("joined stays").len() > 1);
    });
}

/// Every packet that has come in since the last look.
fn heard(wire: &UdpSocket) -> Vec<packets::Seen> {
    let mut buffer = [0; 9_000];
    let mut all = Vec::new();
    wire.set_nonblocking(true).unwrap();
    while let Ok(len) = wire.recv(&mut buffer) {
        all.extend(packets::parse(&buffer[..len]));
    }
    wire.set_nonblocking(false).unwrap();
    all
}
