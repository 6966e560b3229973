//! Announcements of people who mean no good.

use super::*;
use crate::{Ignored, Metadata};

#[test]
fn sv_m24_s123_d081_sm_a_flood_fills_the_table_and_evicts_nobody() {
    let mut script = Script::new();
    let real: Vec<String> = (0..5).map(|i| format!("real-{i}")).collect();
    for label in &real {
        script.resolved(record(label));
        script.world.push((record(label), 60));
    }
    script.until(10_000);
    for i in 0..5_000 {
        script.resolved(record(&format!("forged-{i}")));
    }
    script.until(10_050);
    assert_eq!(script.ids().len(), 1_024, "SV-M24: no more than the limit");
    assert_eq!(script.ignored(Ignored::Limit), 5_000 - (1_024 - 5));
    for label in &real {
        assert!(script.peer(label).is_some(), "{label} stays");
    }
    // The full table asks who is there; five seconds later those that do not answer make room.
    script.until(15_100);
    assert_eq!(script.ids(), real);
    script.resolved(record("newcomer"));
    script.until(15_200);
    assert!(script.peer("newcomer").is_some());
}

/// Five real peers that were there for two browses, then a flood that fills the table and loses events, so that silence
/// proves nothing for the next minute.
fn flooded() -> (Script, Vec<String>) {
    let mut script = Script::new();
    let real: Vec<String> = (0..5).map(|i| format!("real-{i}")).collect();
    for label in &real {
        script.resolved(record(label));
        script.world.push((record(label), 60));
    }
    script.until(5_000);
    script.input(Input::Refresh);
    script.until(8_000);
    for wave in 0..3 {
        for i in 0..2_000 {
            script.resolved(record(&format!("forged-{wave}-{i}")));
        }
        script.lose();
        script.until(script.ms() + 600);
    }
    assert_eq!(script.ids().len(), 1_024);
    assert!(script.shared.machine.is_frozen(script.now));
    script.news();
    (script, real)
}

#[test]
fn d081_sm_after_a_flood_a_newcomer_is_listed_within_five_seconds() {
    // When it comes after the end of the flood: while a browse is young, and when one is old.
    for wait in [0, 100, 900, 3_000, 20_000] {
        let (mut script, real) = flooded();
        script.until(script.ms() + wait);
        script.resolved(record("newcomer"));
        script.world.push((record("newcomer"), 60));
        script.until(script.ms() + 4_000);
        assert!(script.peer("newcomer").is_some(), "{wait} ms after the flood");
        assert_eq!(script.ids().len(), 1_024);
        assert!(real.iter().all(|label| script.peer(label).is_some()), "{wait}: real ones stay");
        let news = script.news();
        assert!(news.iter().any(|line| line.contains("left forged-") && line.contains("silent")), "{news:?}");
    }
}

#[test]
fn s123_a_full_table_gives_sixteen_places_away_in_a_browse_and_never_that_of_a_peer_that_is_heard() {
    let (mut script, real) = flooded();
    // The browse after the flood is two seconds old, and the flood goes on.
    script.input(Input::Refresh);
    script.until(script.ms() + 3_000);
    script.news();
    for i in 0..2_000 {
        script.resolved(record(&format!("again-{i}")));
    }
    script.until(script.ms() + 10);
    let count = |script: &Script, of: &str| script.ids().iter().filter(|id| id.starts_with(of)).count();
    assert_eq!(count(&script, "again-"), 16);
    assert!(real.iter().all(|label| script.peer(label).is_some()), "heard in every browse");
    // None of them is heard in the next one, but they were there before, and the youngest go first.
    for second in 0..20 {
        script.until(script.ms() + 1_000);
        script.world.retain(|(r, _)| !r.full_name.starts_with("real"));
        for i in 0..200 {
            script.resolved(record(&format!("more-{second}-{i}")));
        }
    }
    assert!(real.iter().all(|label| script.peer(label).is_some()), "silent, but not new");
    assert!(count(&script, "forged-") >= 1_019 - 32, "the flood takes its own places");
}

#[test]
fn s123_those_who_were_there_first_keep_their_places_while_a_flood_makes_them_unheard() {
    let mut script = Script::with(|o| o.max_peers = 40);
    for i in 0..5 {
        script.resolved(record(&format!("real-{i}")));
    }
    script.until(3_000);
    // Everybody else is forged and heard in this browse; the real ones came in the first, and their answers are lost.
    script.lose();
    script.until(3_100);
    for i in 0..2_000 {
        script.resolved(record(&format!("forged-{i}")));
        script.until(3_100 + i);
    }
    assert!((0..5).all(|i| script.peer(&format!("real-{i}")).is_some()), "{:?}", script.news());
    assert_eq!(script.ids().len(), 40);
}

#[test]
fn s123_a_peer_that_somebody_reached_keeps_its_place_in_a_full_table() {
    let mut script = Script::with(|o| o.max_peers = 3);
    script.resolved(record("a"));
    script.resolved(record("b"));
    script.resolved(record("c"));
    script.report("c", Report::Alive);
    script.until(2_000);
    script.input(Input::Refresh);
    script.until(4_000);
    script.resolved(record("n"));
    script.until(4_010);
    assert_eq!(script.ids(), ["a", "c", "n"], "the youngest of those that are silent and were never reached");
}

#[test]
fn s123_announcements_without_txt_are_bounded_as_well() {
    let mut script = Script::with(|o| o.max_peers = 10);
    for i in 0..1_000 {
        script.resolved(Record { txt: Vec::new(), ..record(&format!("n{i}")) });
    }
    assert_eq!(script.ignored(Ignored::Limit), 990);
    script.until(1_000);
    assert_eq!(script.ids().len(), 10);
}

#[test]
fn s124_claims_to_a_node_id_are_kept_one_at_a_time() {
    let mut script = Script::new();
    script.world.push((record("p1"), 50));
    script.resolved(record("p1"));
    for i in 0..1_000 {
        script.resolved(Record { txt: txt(&[("id", Some(b"p1"))]), ..record(&format!("c{i}")) });
    }
    script.until(20_000);
    assert_eq!(script.news(), ["0 joined p1", "0 conflict p1"]);
    assert_eq!(script.verified.len(), 1);
}

#[test]
fn d082_sm_a_forged_goodbye_each_second_takes_nobody_away() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.world.push((record("p1"), 50));
    for second in 1..30 {
        script.later(second * 1_000, Input::Removed(full("p1")));
    }
    for ms in (10..31_000).step_by(10) {
        script.until(ms);
        assert!(script.peer("p1").is_some(), "listed at {ms}");
    }
    assert!(!script.news().iter().any(|n| n.contains("left")));
    assert!(script.browses.len() <= 32, "one fresh browse a second at most: {:?}", script.browses);
}

#[test]
fn d082_sm_even_a_peer_that_misses_browses_stays_while_it_answers_calls() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    for second in 1..30 {
        script.later(second * 1_000, Input::Removed(full("p1")));
        script.later(second * 1_000 - 500, Input::Report("p1".into(), Report::Alive));
    }
    script.until(30_000);
    assert_eq!(script.news(), ["0 joined p1", "1000 suspected p1 withdrawn"]);
}

#[test]
fn sv_m16_an_announcement_twice_a_second_is_no_event() {
    let mut script = Script::new();
    for i in 0..200 {
        script.later(i * 500, Input::Resolved(record("p1")));
    }
    script.until(100_000);
    assert_eq!(script.news(), ["0 joined p1"], "SV-M16");
}

#[test]
fn sv_m20_sv_m21_sv_m34_txt_is_cut_kept_and_shown_escaped() {
    let many: Vec<(String, Option<Vec<u8>>)> =
        (0..100).map(|i| (format!("k{i}"), Some(vec![b'v'; 70]))).collect();
    let mut script = Script::new();
    script.resolved(Record { txt: many, ..record("many") });
    let hostile = txt(&[
        ("id", Some(b"odd")),
        ("role", Some(b"<script>")),
        ("path", Some(b"../../etc")),
        ("raw", Some(&[0xff, 0x00, 0x1b])),
        ("nul", Some(&[b'%'; 200])),
    ]);
    script.resolved(Record { txt: hostile, ..record("odd") });
    script.until(10);

    let many = script.peer("many").expect("SV-M20: the peer stays");
    assert_eq!(many.metadata().len(), 64, "SV-M20: the first 64 pairs");
    assert_eq!(many.metadata().get_str("k63").map(str::len), Some(70));
    assert_eq!(many.metadata().get("k64"), None);

    let odd = script.peer("odd").unwrap();
    assert_eq!(odd.metadata().get("raw"), Some([0xff, 0x00, 0x1b].as_slice()), "SV-M21: bytes are kept");
    assert_eq!(odd.metadata().get_str("raw"), None);
    assert_eq!(odd.metadata().get_str("role"), Some("<script>"), "SV-M34: stored as it is");
    for key in ["role", "path", "nul", "raw"] {
        assert_eq!(odd.metadata().token(key), None, "SV-M34: {key} is no token");
    }
    let shown = format!("{odd:?}");
    assert!(!shown.contains('\u{1b}') && !shown.contains('\0'), "shown escaped: {shown}");
}

#[test]
fn d085_names_of_others_are_shown_escaped() {
    // Not a control character, so it is a node id, and still deceives a reader.
    let bidi = "a\u{202e}b";
    let mut script = Script::new();
    script.resolved(Record { txt: txt(&[("id", Some(bidi.as_bytes()))]), ..record("x\u{1b}[2J") });
    script.until(10);
    let peer = script.peer(bidi).unwrap();
    for text in [format!("{peer}"), format!("{peer:?}")] {
        assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}'), "{text:?}");
    }
    assert!(peer.origin().contains('\u{1b}'), "the origin is kept raw and shown escaped");
}

#[test]
fn s126_txt_strings_split_at_the_first_equals_sign() {
    let (metadata, cut): (Metadata, usize) = super::super::txt_pairs([
        b"id=p1".as_slice(),
        b"flag",
        b"=ignored",
        b"",
        b"eq=a=b",
        b"ID=second",
        b"empty=",
        b"bin=\xff\x00",
    ]);
    let pairs: Vec<(&str, Option<&[u8]>)> = metadata.iter().collect();
    assert_eq!(
        pairs,
        [
            ("id", Some(b"p1".as_slice())),
            ("flag", None),
            ("eq", Some(b"a=b")),
            ("empty", Some(b"")),
            ("bin", Some(b"\xff\x00")),
        ]
    );
    assert_eq!(cut, 0);
}
