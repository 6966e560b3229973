//! Rules 1 to 7: who gets into the table, and as whom.

use super::*;
use crate::Ignored;

#[test]
fn sv_m_records_are_judged_as_in_the_table() {
    // Row, the announcement, and what is listed: node id and addresses, or nothing.
    let mut long = record("p1");
    long.txt = txt(&[("id", Some(&[b'i'; 255]))]);
    let id = |value: &[u8]| {
        let mut r = record("label");
        r.txt = txt(&[("id", Some(value))]);
        r
    };
    let at = |addresses: &[&str]| Record { addresses: heard(addresses), ..record("p1") };
    let named =
        |label: &str| Record { full_name: full(label), txt: txt(&[("v", Some(b"1"))]), ..record("x") };
    let no_port = Record { port: 0, ..record("p1") };
    let listed = |id: &str, addresses: &[&str]| {
        Some((id.to_owned(), addresses.iter().map(ToString::to_string).collect::<Vec<_>>()))
    };
    let normal = &["10.0.0.11:9999"];
    let rows = [
        ("SV-M01", record("p1"), listed("p1", normal)),
        ("SV-M02", no_port, None),
        ("SV-M03", at(&[]), None),
        ("SV-M03", at(&["0.0.0.0"]), None),
        ("SV-M03", at(&["224.0.0.1"]), None),
        ("SV-M03", at(&["255.255.255.255"]), None),
        ("SV-M04", at(&["127.0.0.1"]), None),
        ("SV-M05", at(&["169.254.169.254"]), None),
        ("SV-M06", at(&["8.8.8.8"]), None),
        ("SV-M07", at(&["10.0.0.11", "172.17.0.1"]), listed("p1", normal)),
        ("SV-M08", at(&["fe80::5"]), listed("p1", &["[fe80::5%2]:9999"])),
        ("SV-M09", at(&["::ffff:10.0.0.11"]), listed("p1", normal)),
        ("SV-M17", Record { txt: Vec::new(), ..record("p1") }, listed("p1", normal)),
        ("SV-M17", named("p1"), listed("p1", normal)),
        ("SV-M18", id(b""), listed("label", normal)),
        ("SV-M18", Record { txt: txt(&[("", Some(b"x"))]), ..record("p1") }, listed("p1", normal)),
        ("SV-M18", Record { txt: txt(&[("id", None)]), ..record("p1") }, listed("p1", normal)),
        (
            "SV-M18",
            Record { txt: txt(&[("ID", Some(b"p1")), ("id", Some(b"p2"))]), ..record("label") },
            listed("p1", normal),
        ),
        ("SV-M19", id(b"\x1b[2J"), None),
        ("SV-M19", id(b"a\nb"), None),
        ("SV-M19", id(b"a\0b"), None),
        ("SV-M19", long, listed(&"i".repeat(255), normal)),
        ("SV-M22", named("Office. Printer é"), listed("Office. Printer é", normal)),
        ("SV-M22", named(&"n".repeat(63)), listed(&"n".repeat(63), normal)),
    ];
    for (row, announcement, expected) in rows {
        let mut script = Script::new();
        script.resolved(announcement);
        script.until(500);
        let got = script.publisher.peers().first().map(|p| {
            (p.node_id().to_owned(), p.addresses().iter().map(ToString::to_string).collect::<Vec<_>>())
        });
        assert_eq!(got, expected, "{row}");
    }
}

#[test]
fn sv_m06_an_off_link_address_is_taken_without_the_on_link_rule() {
    for (rule, expected) in [(OnLink::Prefer, 1), (OnLink::Ignore, 1), (OnLink::Require, 0)] {
        let mut script = Script::with(|o| o.gate.addresses = o.gate.addresses.clone().on_link(rule));
        script.resolved(Record { addresses: heard(&["8.8.8.8"]), ..record("p1") });
        script.until(10);
        assert_eq!(script.ids().len(), expected, "SV-M06 under {rule:?}");
    }
}

#[test]
fn d080_s130_what_points_off_the_link_is_never_listed_and_counted() {
    let mut script = Script::new();
    script.resolved(Record { addresses: heard(&["8.8.8.8"]), ..record("forged") });
    script.until(5_000);
    assert!(script.ids().is_empty());
    assert_eq!(script.ignored(Ignored::OffLink), 1);
    assert_eq!(script.ignored(Ignored::NoUsableAddress), 1);
}

#[test]
fn d066_an_off_link_bridge_address_does_not_come_first() {
    let mut script = Script::new();
    // As reference peers announce it: the address of a bridge of their host as well.
    script.resolved(Record { addresses: heard(&["172.17.0.1", "10.0.0.7"]), ..record("ref") });
    script.until(10);
    assert_eq!(script.addresses("ref"), ["10.0.0.7:9999"]);
}

#[test]
fn d058_s121_port_0_is_ignored_and_ends_a_peer() {
    let mut script = Script::new();
    script.resolved(Record { port: 0, ..record("client") });
    assert_eq!(script.news(), [""; 0]);
    assert_eq!(script.ignored(Ignored::PortZero), 1);

    script.resolved(record("p1"));
    assert_eq!(script.news(), ["5 joined p1"]);
    script.resolved(Record { port: 0, ..record("p1") });
    assert_eq!(script.news(), ["10 left p1 removed"]);
}

#[test]
fn d064_the_label_is_the_node_id_of_an_instance_without_one() {
    let mut script = Script::new();
    let label = "Avahi Peer.2 é";
    script.resolved(Record { full_name: full(label), txt: txt(&[("", None)]), ..record("x") });
    assert_eq!(script.news(), [format!("0 joined {label}")]);
    script.until(5_000);
    script.removed(label);
    script.until(6_000);
    assert_eq!(
        script.news(),
        [format!("5000 suspected {label} withdrawn"), format!("5302 left {label} goodbye")],
        "it leaves on its goodbye"
    );
}

#[test]
fn the_second_identity_key_counts_when_the_first_is_missing_or_unusable() {
    let mut script = Script::new();
    script.resolved(Record { txt: txt(&[("server_id", Some(b"s1"))]), ..record("a") });
    script.resolved(Record {
        txt: txt(&[("id", Some(b"\xff\xfe")), ("server_id", Some(b"s2"))]),
        ..record("b")
    });
    script.resolved(Record { txt: txt(&[("server_id", Some(b"s3")), ("id", Some(b"i3"))]), ..record("c") });
    script.until(10);
    assert_eq!(script.ids(), ["i3", "s1", "s2"]);
}

#[test]
fn d067_txt_that_comes_150_ms_late_is_waited_for() {
    let mut script = Script::new();
    let late = Record { txt: txt(&[("id", Some(b"real"))]), ..record("label") };
    script.resolved(Record { txt: Vec::new(), ..late.clone() });
    script.later(150, Input::Resolved(late));
    script.until(1_000);
    assert_eq!(script.news(), ["150 joined real"], "and no identity by label in between");
}

#[test]
fn d068_without_txt_the_label_counts_after_300_ms() {
    let mut script = Script::new();
    script.resolved(Record { txt: Vec::new(), ..record("label") });
    script.until(1_000);
    assert_eq!(script.news(), ["300 joined label"]);
}

#[test]
fn d069_a_known_peer_may_be_without_txt_for_two_seconds() {
    let mut script = Script::new();
    let known = Record { txt: txt(&[("id", Some(b"p1")), ("v", Some(b"1"))]), ..record("label") };
    script.resolved(known.clone());
    assert_eq!(script.news(), ["0 joined p1"]);
    script.later(100, Input::Resolved(Record { txt: Vec::new(), ..known.clone() }));
    script.later(1_100, Input::Resolved(known.clone()));
    script.until(5_000);
    assert_eq!(script.news(), [""; 0]);

    script.resolved(Record { txt: Vec::new(), ..known });
    script.until(10_000);
    assert_eq!(
        script.news(),
        ["7005 left p1 renamed", "7005 joined label"],
        "after two seconds it is believed"
    );
}

#[test]
fn d041_sm_news_of_a_peer_are_an_update() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    assert_eq!(script.news(), ["0 joined p1"]);
    script.resolved(Record { txt: txt(&[("id", Some(b"p1")), ("v", Some(b"2"))]), ..record("p1") });
    assert_eq!(script.news(), ["5 updated p1"]);
    script.resolved(Record { port: 7, txt: txt(&[("id", Some(b"p1")), ("v", Some(b"2"))]), ..record("p1") });
    assert_eq!(script.news(), ["10 updated p1"]);
    assert_eq!(script.addresses("p1"), ["10.0.0.11:7"]);
    assert_eq!(script.peer("p1").unwrap().metadata().get_str("v"), Some("2"));
}

#[test]
fn d006_evidence_alone_publishes_nothing() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.until(1_000);
    let (version, seen) = (script.publisher.snapshot().version(), script.peer("p1").unwrap().last_seen());
    script.resolved(record("p1"));
    script.until(2_000);
    assert_eq!(script.publisher.snapshot().version(), version);
    assert_eq!(script.peer("p1").unwrap().last_seen(), seen + Duration::from_secs(1));
}

#[test]
fn d048_sm_a_restart_with_another_port_is_an_update() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.later(700, Input::Resolved(Record { port: 8888, ..record("p1") }));
    script.until(2_000);
    assert_eq!(script.news(), ["0 joined p1", "700 updated p1"]);
}

#[test]
fn d078_another_node_id_under_the_same_name_is_another_peer() {
    let mut script = Script::new();
    script.resolved(Record { txt: txt(&[("id", Some(b"old"))]), ..record("label") });
    script.until(1_000);
    let version = script.publisher.snapshot().version();
    script.resolved(Record { txt: txt(&[("id", Some(b"new"))]), ..record("label") });
    script.until(2_000);
    assert_eq!(script.news(), ["0 joined old", "1000 left old renamed", "1000 joined new"]);
    assert_eq!(script.publisher.snapshot().version(), version + 1, "in one version");
}

#[test]
fn s125_sv_m10_d083_our_id_from_elsewhere_is_a_conflict_and_not_listed() {
    let mut script = Script::new();
    script.input(own("me"));
    script.resolved(Record { txt: txt(&[("id", Some(b"me"))]), ..record("other") });
    assert_eq!(script.news(), ["0 conflict me"], "SV-M10");
    // Our instance name alone is not we: the host must be ours, too.
    script.until(2_000);
    script.resolved(Record { host: "evil.local.".into(), ..record("me") });
    assert_eq!(script.news(), ["2000 conflict me"]);
    for _ in 0..100 {
        script.resolved(Record { host: "evil.local.".into(), ..record("me") });
    }
    assert_eq!(script.news(), [""; 0], "told once a second at most");
    assert!(script.ids().is_empty());
}

#[test]
fn sv_m11_our_own_announcement_is_skipped() {
    let mut script = Script::new();
    script.input(own("me"));
    script.resolved(Record { full_name: full("ME"), ..record("me") });
    script.until(1_000);
    assert_eq!(script.news(), [""; 0], "SV-M11");
    assert_eq!(script.ignored(Ignored::Own), 1);
}

#[test]
fn a_peer_whose_id_becomes_ours_leaves() {
    let mut script = Script::new();
    script.resolved(record("me"));
    script.resolved(Record { txt: txt(&[("id", Some(b"us"))]), ..record("other") });
    assert_eq!(script.news(), ["0 joined me", "0 joined us"]);
    script.input(own("me"));
    script.input(own("us"));
    assert_eq!(script.news(), ["5 left me replaced", "5 left us replaced", "5 conflict us"]);
}

#[test]
fn sv_m12_s124_d077_a_claimed_node_id_stays_with_the_incumbent_that_answers() {
    let mut script = Script::new();
    script.world.push((record("p1"), 30));
    script.resolved(record("p1"));
    let claimant =
        Record { addresses: heard(&["10.0.0.66"]), txt: txt(&[("id", Some(b"p1"))]), ..record("p9") };
    script.later(100, Input::Resolved(claimant.clone()));
    script.later(200, Input::Resolved(claimant));
    script.until(10_000);
    assert_eq!(script.news(), ["0 joined p1", "100 conflict p1"], "SV-M12");
    assert_eq!(script.addresses("p1"), ["10.0.0.11:9999"]);
    assert_eq!(script.verified, [(100, full("p1"))], "the incumbent is asked at once, once");
}

#[test]
fn d077_a_claimed_node_id_goes_to_the_claimant_when_the_incumbent_is_silent() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    let claimant =
        Record { addresses: heard(&["10.0.0.66"]), txt: txt(&[("id", Some(b"p1"))]), ..record("p9") };
    script.later(100, Input::Resolved(claimant));
    script.until(2_000);
    let version = script.publisher.snapshot().version();
    script.until(5_000);
    assert_eq!(
        script.news(),
        ["0 joined p1", "100 conflict p1", "2100 left p1 replaced", "2100 joined p1"],
        "within two seconds"
    );
    assert_eq!(script.addresses("p1"), ["10.0.0.66:9999"]);
    assert_eq!(script.publisher.snapshot().version(), version + 1, "in one version");
}

#[test]
fn d043_sm_the_first_of_two_hosts_with_one_id_keeps_it_until_it_leaves() {
    let mut script = Script::new();
    let first = Record { full_name: full("n"), ..record("n") };
    let second = Record { full_name: full("n (2)"), host: "n-2.local.".into(), ..record("n") };
    script.world.push((first.clone(), 30));
    script.resolved(first);
    script.later(50, Input::Resolved(second.clone()));
    script.until(1_000);
    assert_eq!(script.news(), ["0 joined n", "50 conflict n"]);
    // The newcomer is withdrawn, as it noticed the conflict; then the first one goes, and the second comes again.
    script.removed("n (2)");
    script.world.clear();
    script.until(5_000);
    script.removed("n");
    script.until(10_000);
    assert_eq!(script.log, ["5000 suspected n withdrawn", "5302 left n goodbye"]);
    script.resolved(second);
    script.until(10_100);
    assert_eq!(script.ids(), ["n"]);
}

#[test]
fn excluded_ids_are_never_listed() {
    let mut script = Script::with(|o| {
        o.gate.exclude.insert("p1".into());
    });
    script.resolved(record("p1"));
    script.resolved(record("p2"));
    script.until(1_000);
    assert_eq!(script.ids(), ["p2"]);
}

#[test]
fn d014_sm_the_first_address_stays_first_among_equals() {
    let mut script = Script::new();
    script.resolved(Record { addresses: heard(&["10.0.0.7"]), ..record("p1") });
    script.until(1_000);
    script.resolved(Record { addresses: heard(&["10.0.0.3", "10.0.0.7"]), ..record("p1") });
    script.until(2_000);
    assert_eq!(script.addresses("p1"), ["10.0.0.7:9999", "10.0.0.3:9999"]);
}

#[test]
fn d015_sv_m13_s128_an_address_that_answers_stays_first_for_ten_seconds() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.until(1_000);
    script.report("p1", Report::Alive);
    script.until(4_000);
    script.resolved(Record { addresses: heard(&["10.0.0.66"]), ..record("p1") });
    script.until(10_990);
    assert_eq!(script.addresses("p1"), ["10.0.0.11:9999", "10.0.0.66:9999"], "SV-M13");
    script.until(11_020);
    assert_eq!(script.addresses("p1"), ["10.0.0.66:9999"]);
}

#[test]
fn s128_an_unreachable_report_ends_the_stay_of_an_old_address() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.report("p1", Report::Alive);
    script.resolved(Record { addresses: heard(&["10.0.0.66"]), ..record("p1") });
    script.until(1_000);
    assert_eq!(script.addresses("p1"), ["10.0.0.11:9999", "10.0.0.66:9999"]);
    script.report("p1", Report::Unreachable);
    script.until(1_010);
    assert_eq!(script.addresses("p1"), ["10.0.0.66:9999"]);
}
