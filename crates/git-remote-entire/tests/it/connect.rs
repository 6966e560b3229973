//! `connect`: protocol v0 and v1.

use git_remote_entire::{HelperError, ProtocolVersion::V1, Settings};

use crate::fake::{A40, B40, Fake, ID, Reply, Z40, adv, packets, run, run_until_it_hangs, text};

fn uploads() -> Fake {
    Fake {
        upload: Some(adv("git-upload-pack", &[&format!("{A40} refs/heads/main\0multi_ack")])),
        ..Fake::default()
    }
}

fn receives(name: &str) -> Fake {
    Fake {
        receive: vec![adv("git-receive-pack", &[&format!("{A40} {name}\0report-status delete-refs")])],
        ..Fake::default()
    }
}

fn fetch(lines: &[&str]) -> Vec<u8> {
    [b"connect git-upload-pack\n", packets(lines).as_slice()].concat()
}

fn push(head: &[&str], pack: &[u8]) -> Vec<u8> {
    [b"connect git-receive-pack\n", packets(head).as_slice(), pack].concat()
}

/// What was written behind the advertisement.
fn behind(output: &[u8], fake: &Fake) -> Vec<u8> {
    let advertisement = fake.upload.as_ref().unwrap();
    let announcement = packets(&["# service=git-upload-pack\n", "0000"]);
    let shown = advertisement.strip_prefix(announcement.as_slice()).unwrap();
    output.strip_prefix(b"\n").unwrap().strip_prefix(shown).unwrap().to_vec()
}

#[tokio::test]
async fn g044_wants_and_done_are_one_post_and_its_answer_is_copied() {
    let fake = uploads().replies([Reply::Body(b"0008NAK\nPACK...".to_vec())]);
    let want = format!("want {A40} multi_ack\n");
    let (result, output) = run(&fake, V1, &fetch(&[&want, "0000", "done\n"])).await;
    result.unwrap();
    assert_eq!(behind(&output, &fake), b"0008NAK\nPACK...");
    let posts = fake.posts();
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0].body, packets(&[&want, "0000", "done\n"]));
    assert!(posts[0].headers.get("git-protocol").is_none());
}

#[tokio::test]
async fn haves_add_up_and_wants_are_repeated() {
    let fake = uploads().replies([
        Reply::Body(packets(&["NAK\n"])),
        Reply::Body(packets(&["NAK\n"])),
        Reply::Body(b"0008NAK\nPACK".to_vec()),
    ]);
    let (want, have) =
        (format!("want {A40} agent=git/2\n"), |n: u8| format!("have {}\n", n.to_string().repeat(40)));
    let input = fetch(&[&want, "0000", &have(1), "0000", &have(2), "0000", "done\n"]);
    let (result, output) = run(&fake, V1, &input).await;
    result.unwrap();
    let want = format!("want {A40} agent=git/2+{ID}\n");
    let bodies: Vec<_> = fake.posts().into_iter().map(|post| post.body).collect();
    assert_eq!(bodies[0], packets(&[&want, "0000", &have(1), "0000"]));
    assert_eq!(bodies[1], packets(&[&want, "0000", &have(1), &have(2), "0000"]));
    assert_eq!(bodies[2], packets(&[&want, "0000", &have(1), &have(2), "done\n"]));
    assert_eq!(behind(&output, &fake), b"0008NAK\n0008NAK\n0008NAK\nPACK");
}

#[tokio::test]
async fn g157_a_round_ends_with_one_nak_whoever_says_it() {
    let (nak, ack) = (packets(&["NAK\n"]), packets(&[&format!("ACK {A40}\n")]));
    let common = packets(&[&format!("ACK {A40} common\n")]);
    let ready = packets(&[&format!("ACK {A40} common\n"), &format!("ACK {A40} ready\n")]);
    for (answer, added) in [
        (Vec::new(), true),
        (common.clone(), true),
        (ready.clone(), true),
        ([common, nak.clone()].concat(), false),
        ([ready, nak.clone()].concat(), false),
        (nak, false),
        (ack.clone(), false),
        ([ack, b"PACK".to_vec()].concat(), false),
    ] {
        let fake = uploads().replies([Reply::Body(answer.clone())]);
        let input = fetch(&[&format!("want {A40}\n"), "0000", &format!("have {B40}\n"), "0000"]);
        let (result, output) = run(&fake, V1, &input).await;
        result.unwrap();
        let nak = if added { b"0008NAK\n".as_slice() } else { b"" };
        assert_eq!(behind(&output, &fake), [&answer, nak].concat(), "{answer:?}");
    }
}

#[tokio::test]
async fn g158_the_shallow_section_is_taken_off_and_nothing_else() {
    let section =
        packets(&[&format!("shallow {A40}"), &format!("shallow {B40}"), &format!("unshallow {Z40}"), "0000"]);
    let long = packets(&[&"x".repeat(65_516)]);
    for (answer, expected) in [
        ([section.clone(), long.clone()].concat(), long.clone()),
        ([b"0000".to_vec(), long.clone()].concat(), long.clone()),
        (b"0008NAK\nPACK".to_vec(), b"0008NAK\nPACK".to_vec()),
        (b"PACKraw".to_vec(), b"PACKraw".to_vec()),
        (section.clone(), Vec::new()),
        (packets(&[&format!("shallow {A40}")]), Vec::new()),
    ] {
        let fake = uploads().replies([Reply::Body(section.clone()), Reply::Body(answer)]);
        let (result, output) =
            run(&fake, V1, &fetch(&[&format!("want {A40}\n"), "deepen 3\n", "0000", "done\n"])).await;
        result.unwrap();
        assert_eq!(behind(&output, &fake), [section.clone(), expected].concat());
        let probe = &fake.posts()[0].body;
        assert_eq!(*probe, packets(&[&format!("want {A40}\n"), "deepen 3\n", "0000"]));
    }
}

#[tokio::test]
async fn g159_a_round_that_ends_inside_the_shallow_section_is_an_empty_one() {
    let section = packets(&[&format!("shallow {A40}"), "0000"]);
    for end in [1, 4, 20, section.len() - 4] {
        let fake = uploads().replies([Reply::Body(section.clone()), Reply::Body(section[..end].to_vec())]);
        let input =
            fetch(&[&format!("want {A40}\n"), "deepen 3\n", "0000", &format!("have {B40}\n"), "0000"]);
        let (result, output) = run(&fake, V1, &input).await;
        if end >= 20 {
            result.unwrap();
            assert_eq!(behind(&output, &fake), [section.as_slice(), b"0008NAK\n"].concat(), "cut at {end}");
        }
    }
    let fake = uploads().replies([Reply::Body(packets(&["NAK\n"]))]);
    let input = fetch(&[&format!("want {A40}\n"), &format!("shallow {B40}\n"), "0000", "0000"]);
    run(&fake, V1, &input).await.0.unwrap();
    assert_eq!(fake.posts().len(), 1, "what is shallow here is no deepening: no probe");
}

#[tokio::test]
async fn git_that_needs_nothing_gets_no_error_and_a_broken_request_does() {
    for (input, good) in
        [(b"".as_slice(), true), (b"0000", true), (b"00", true), (b"0032want", false), (b"zzzz", false)]
    {
        let (result, _) = run(&uploads(), V1, &[b"connect git-upload-pack\n", input].concat()).await;
        assert_eq!(result.is_ok(), good, "{input:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_none_is_a_fallback_and_a_failing_server_an_error_with_nothing_written() {
    let (result, output) = run(&Fake::default(), V1, b"connect git-upload-archive\n").await;
    result.unwrap();
    assert_eq!(output, b"fallback\n");
    for service in ["git-upload-pack", "git-receive-pack"] {
        let (result, output) = run(&Fake::default(), V1, format!("connect {service}\n").as_bytes()).await;
        assert!(text(result).contains("HTTP 503"), "GB-H11");
        assert!(output.is_empty(), "GB-H11");
    }
}

#[tokio::test]
async fn a_push_is_posted_with_its_size() {
    let report = packets(&["unpack ok\n", "ok refs/heads/x\n", "0000"]);
    let delete = format!("{A40} {Z40} refs/heads/feature-branch\0report-status");
    let update = format!("{A40} {B40} refs/heads/main\0report-status");
    for (row, command, pack) in [
        ("G-045", &delete, b"".as_slice()),
        ("G-047", &delete, b""),
        ("G-046", &update, b"PACK and twenty bytes..."),
    ] {
        let fake = receives("refs/heads/main").replies([Reply::Body(report.clone())]);
        let (result, output) = run(&fake, V1, &push(&[command, "0000"], pack)).await;
        result.unwrap();
        assert!(output.ends_with(&report), "{row}");
        let post = &fake.posts()[0];
        assert_eq!(post.body, [packets(&[command, "0000"]).as_slice(), pack].concat(), "{row}");
        let size = command.len() + 4 + 4 + pack.len();
        assert_eq!(post.headers["x-entire-push-size"], size.to_string(), "{row}");
    }
}

#[tokio::test]
async fn g048_a_request_that_is_cut_is_not_posted() {
    let fake = receives("refs/heads/main");
    let (result, _) = run(&fake, V1, &push(&[&format!("{A40} {B40} refs/heads/main")], b"")).await;
    assert!(matches!(result, Err(HelperError::Request { .. })));
    assert!(fake.posts().is_empty());
}

#[tokio::test]
async fn g049_nothing_asked_is_nothing_posted() {
    let fake = receives("refs/heads/main");
    let (result, _) = run(&fake, V1, &push(&[], b"")).await;
    result.unwrap();
    assert!(fake.posts().is_empty());
}

#[tokio::test]
async fn a_push_that_fails_reports_no_success() {
    for (row, reply, unknown) in [
        ("G-050", Reply::Fail("502 Bad Gateway"), false),
        ("G-052", Reply::Fail("server error (HTTP 502)"), false),
        ("G-054", Reply::Fail("connection reset"), false),
        ("G-051", Reply::Broken(b"000eunpack".to_vec()), true),
    ] {
        let fake = receives("refs/heads/main").replies([reply]);
        let command = format!("{A40} {B40} refs/heads/main");
        let (result, output) = run(&fake, V1, &push(&[&command, "0000"], b"PACK")).await;
        let output = String::from_utf8_lossy(&output).into_owned();
        assert!(!output.contains("ok refs/") && !output.contains("unpack ok"), "{row}: {output}");
        let is_unknown = matches!(result, Err(HelperError::OutcomeUnknown { .. }));
        assert_eq!(is_unknown, unknown, "{row}: {result:?}");
        let text = text(result);
        assert_eq!(text.contains("push outcome unknown") && text.contains("lags"), unknown, "{row}: {text}");
    }
}

#[tokio::test]
async fn g053_a_post_without_an_answer_ends_with_the_deadline() {
    for (taken, phrase) in [(false, "interrupted"), (true, "push outcome unknown")] {
        let mut fake = receives("refs/heads/main").replies([Reply::Hang]);
        fake.takes_all = taken;
        let input = push(&[&format!("{A40} {B40} refs/heads/main"), "0000"], b"PACK");
        let (result, _) = run_until_it_hangs(&fake, Settings::new(V1), &input).await;
        assert!(text(result).starts_with(phrase), "G-169: taken {taken}");
    }
}

#[tokio::test]
async fn one_post_holds_what_the_client_asked_for_and_nothing_else() {
    let z64 = "0".repeat(64);
    let a64 = "a".repeat(64);
    for (row, commands, pack, absent) in [
        ("G-055", vec![format!("{A40} {B40} refs/heads/main\0x")], true, "refs/heads/other"),
        ("G-056", vec![format!("{A40} {Z40} refs/heads/main\0x")], false, "PACK"),
        ("G-057", vec![format!("{a64} {z64} refs/heads/main\0object-format=sha256")], false, "PACK"),
        (
            "G-059",
            vec![format!("{A40} {B40} refs/heads/main\0x"), format!("{A40} {B40} refs/heads/two")],
            true,
            "refs/heads/other",
        ),
    ] {
        let fake = Fake {
            receive: vec![adv(
                "git-receive-pack",
                &[&format!("{A40} refs/heads/main\0x"), &format!("{A40} refs/heads/other")],
            )],
            ..Fake::default()
        }
        .replies([Reply::Body(packets(&["unpack ok\n", "0000"]))]);
        let lines: Vec<&str> = commands.iter().map(String::as_str).chain(["0000"]).collect();
        let (result, _) = run(&fake, V1, &push(&lines, if pack { b"PACK" } else { b"" })).await;
        result.unwrap();
        let posts = fake.posts();
        assert_eq!(posts.len(), 1, "{row}");
        let body = String::from_utf8_lossy(&posts[0].body).into_owned();
        for command in &commands {
            assert!(body.contains(command), "{row}");
        }
        assert!(!body.contains(absent), "{row}");
    }
}

#[tokio::test]
async fn g058_an_empty_answer_is_no_success_on_stdout() {
    let fake = receives("refs/heads/main").replies([Reply::Body(Vec::new())]);
    let input = push(&[&format!("{A40} {B40} refs/heads/main"), "0000"], b"PACK");
    let (result, output) = run(&fake, V1, &input).await;
    result.unwrap();
    assert!(!String::from_utf8_lossy(&output).contains("ok "));
}
