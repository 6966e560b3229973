//! `stateless-connect`: protocol v2.

use git_remote_entire::{ProtocolVersion::V2, Service, Settings};

use crate::fake::{A40, B40, Fake, ID, Reply, adv, packets, run, run_with, text};

fn v2(lines: &[&str]) -> Vec<u8> {
    packets(&[&["version 2\n", "agent=test\n"], lines, &["0000"]].concat())
}

fn connect(requests: &[&[u8]]) -> Vec<u8> {
    [b"stateless-connect git-upload-pack\n", requests.concat().as_slice()].concat()
}

#[tokio::test]
async fn g036_a_request_goes_out_and_its_answer_comes_back_with_a_sign() {
    let fake = Fake { v2: Some(v2(&["ls-refs=unborn\n"])), ..Fake::default() };
    let answer = packets(&[&format!("{A40} refs/heads/main\n"), "0000"]);
    let fake = fake.replies([Reply::Body(answer.clone())]);
    let request = packets(&["command=ls-refs\n", "0001", "peel\n", "0000"]);
    let (result, output) = run(&fake, V2, &connect(&[&request])).await;
    result.unwrap();
    assert_eq!(fake.asked(), ["v2"]);
    let posts = fake.posts();
    assert_eq!(posts.len(), 1);
    assert_eq!((posts[0].service, &posts[0].body), (Service::UploadPack, &request));
    assert_eq!(posts[0].headers["git-protocol"], "version=2");
    assert_eq!(output, [b"\n", v2(&["ls-refs=unborn\n"]).as_slice(), &answer, b"0002"].concat());
}

#[tokio::test]
async fn g037_the_agent_of_a_request_gets_the_identity() {
    let fake = Fake { v2: Some(v2(&[])), ..Fake::default() }.replies([Reply::Body(b"0000".to_vec())]);
    let request = |agent: &str| packets(&["command=ls-refs\n", agent, "0001", "0000"]);
    let (result, _) = run(&fake, V2, &connect(&[&request("agent=git/2.54.0\n")])).await;
    result.unwrap();
    assert_eq!(fake.posts()[0].body, request(&format!("agent=git/2.54.0 {ID}\n")));
}

#[tokio::test]
async fn g038_a_lookup_by_name_is_not_offered() {
    let fake =
        Fake { v2: Some(v2(&["fetch=shallow wait-for-done ref-in-want filter\n"])), ..Fake::default() };
    let (result, output) = run(&fake, V2, &connect(&[])).await;
    result.unwrap();
    assert_eq!(output, [b"\n".as_slice(), &v2(&["fetch=shallow wait-for-done filter\n"])].concat());
    assert!(fake.posts().is_empty());
}

#[tokio::test]
async fn g039_an_empty_answer_about_bundles_becomes_a_flush() {
    let fake = Fake { v2: Some(v2(&["bundle-uri\n"])), ..Fake::default() };
    let fake = fake.replies([Reply::Body(Vec::new()), Reply::Body(Vec::new())]);
    let bundles = packets(&["command=bundle-uri\n", "0001", "0000"]);
    let refs = packets(&["command=ls-refs\n", "0001", "0000"]);
    let (result, output) = run(&fake, V2, &connect(&[&bundles, &refs])).await;
    result.unwrap();
    assert_eq!(output, [b"\n", v2(&["bundle-uri\n"]).as_slice(), b"00000002", b"0002"].concat());
}

#[tokio::test]
async fn g040_another_service_is_a_fallback_without_a_request() {
    let fake = Fake::default();
    let (result, output) = run(&fake, V2, b"stateless-connect git-archive\n").await;
    result.unwrap();
    assert_eq!(output, b"fallback\n");
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn g041_a_push_is_served_as_by_connect() {
    let fake = Fake {
        receive: vec![adv("git-receive-pack", &[&format!("{A40} refs/heads/main\0report-status")])],
        ..Fake::default()
    }
    .replies([Reply::Body(packets(&["unpack ok\n", "0000"]))]);
    let command = format!("{A40} {B40} refs/heads/main\0report-status");
    let request = packets(&[&command, "0000"]);
    let input = [b"stateless-connect git-receive-pack\n", request.as_slice(), b"PACK"].concat();
    let (result, output) = run(&fake, V2, &input).await;
    result.unwrap();
    assert!(output.starts_with(b"\n"));
    assert!(String::from_utf8_lossy(&output).contains("unpack ok"));
    assert!(fake.posts()[0].headers.contains_key("x-entire-push-size"));
}

#[tokio::test]
async fn g042_a_server_without_v2_is_a_fallback() {
    let long = adv(
        "git-upload-pack",
        &vec![format!("{A40} refs/heads/main"); 2000].iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for v2 in [packets(&["version 1\n", "0000"]), long, Vec::new(), b"<html>".to_vec()] {
        let fake = Fake { v2: Some(v2), ..Fake::default() };
        let (result, output) = run(&fake, V2, &connect(&[])).await;
        result.unwrap();
        assert_eq!(output, b"fallback\n");
        assert!(fake.posts().is_empty());
    }
}

#[tokio::test]
async fn g043_a_probe_that_fails_is_an_error_and_nothing_is_written() {
    let (result, output) = run(&Fake::default(), V2, &connect(&[])).await;
    assert!(text(result).contains("HTTP 503"), "GB-H11");
    assert!(output.is_empty());
}

#[tokio::test]
async fn g162_an_announcement_before_v2_is_accepted_and_not_written() {
    let fake = Fake {
        v2: Some([packets(&["# service=git-upload-pack\n", "0000"]), v2(&[])].concat()),
        ..Fake::default()
    };
    let (result, output) = run(&fake, V2, &connect(&[])).await;
    result.unwrap();
    assert_eq!(output, [b"\n".as_slice(), &v2(&[])].concat());
}

#[tokio::test]
async fn an_answer_that_breaks_or_is_cut_inside_a_packet_has_no_end_sign() {
    let request = packets(&["command=fetch\n", "0001", "0000"]);
    for (row, reply) in [
        ("SV-W08", Reply::Broken(packets(&["packfile\n"]))),
        ("SV-W08", Reply::Body(b"000dpackf".to_vec())),
        ("SV-W08", Reply::Body(b"000dpackfile\n00".to_vec())),
        ("SV-W07", Reply::Body(b"000dpackfile\nzzzz".to_vec())),
        ("S-183", Reply::Body(b"000dpackfile\n0002".to_vec())),
        ("S-183", Reply::Body(b"<html></html>".to_vec())),
    ] {
        let fake = Fake { v2: Some(v2(&[])), ..Fake::default() }.replies([reply.clone()]);
        let (result, output) = run(&fake, V2, &connect(&[&request])).await;
        assert!(result.is_err(), "{row} {reply:?}");
        assert!(!output.ends_with(b"0002") || output.ends_with(b"\n0002"), "{row} {reply:?}");
    }
    let (result, output) =
        run(&Fake { v2: Some(v2(&[])), ..Fake::default() }, V2, &connect(&[b"0014command=ls-refs\n"])).await;
    assert!(result.is_err(), "input that ends inside a request");
    assert!(!output.ends_with(b"0002"));
}

#[tokio::test]
async fn an_advertisement_longer_than_the_limit_is_an_error() {
    let line = format!("x={}\n", "y".repeat(1000));
    for (limit, good) in [(1040, true), (1039, false)] {
        let mut settings = Settings::new(V2);
        settings.max_v2_advertisement = limit;
        let fake = Fake { v2: Some(v2(&[&line])), ..Fake::default() };
        // Two lines of 14 and 15 bytes, one of 1,007 and a flush.
        assert_eq!(fake.v2.as_ref().unwrap().len(), 1040);
        let (result, output) =
            run_with(&fake, settings, git_remote_entire::Cancel::new(), &connect(&[])).await;
        assert_eq!(result.is_ok(), good, "GB-H12");
        assert_eq!(output.is_empty(), !good);
    }
}
