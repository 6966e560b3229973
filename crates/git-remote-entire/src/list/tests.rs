use super::*;

const A40: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B40: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const Z40: &str = "0000000000000000000000000000000000000000";
const LIMITS: Limits = Limits { refs: 10, bytes: 20_000 };

fn advertisement(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        pktline::put(&mut out, line).unwrap();
    }
    [&out, pktline::FLUSH].concat()
}

async fn listed(advertisement: &[u8]) -> (Result<String, HelperError>, Vec<String>) {
    let mut out = Spool::new(None);
    let mut left_out = Vec::new();
    let mut input = advertisement;
    let result = list(&mut input, Service::UploadPack, LIMITS, &mut out, |name| {
        left_out.push(String::from_utf8_lossy(name).into_owned());
    })
    .await;
    let text = result.map(|()| {
        let body = out.finish().unwrap();
        String::from_utf8(body.in_memory().unwrap().to_vec()).unwrap()
    });
    (text, left_out)
}

async fn of(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    listed(&advertisement(&lines)).await.0.unwrap()
}

#[tokio::test]
async fn g031_refs_come_in_order_and_head_last_as_a_symref() {
    let text = of(&[
        &format!("{A40} HEAD\0 symref=HEAD:main object-format=sha1\n"),
        &format!("{A40} main\n"),
        &format!("{B40} refs/heads/foo\n"),
    ])
    .await;
    assert_eq!(text, format!(":object-format sha1\n{A40} main\n{B40} refs/heads/foo\n@main HEAD\n\n"));
}

#[tokio::test]
async fn g032_without_head_there_is_no_head_line() {
    let text =
        of(&[&format!("{A40} main\0report-status object-format=sha1"), &format!("{B40} refs/heads/foo")])
            .await;
    assert_eq!(text, format!(":object-format sha1\n{A40} main\n{B40} refs/heads/foo\n\n"));
}

#[tokio::test]
async fn g033_a_detached_head_is_an_object_id() {
    let text = of(&[&format!("{A40} HEAD\0object-format=sha1"), &format!("{A40} main")]).await;
    assert_eq!(text, format!(":object-format sha1\n{A40} main\n{A40} HEAD\n\n"));
}

#[tokio::test]
async fn g034_every_symref_is_written_as_one() {
    let text = of(&[
        &format!(
            "{A40} HEAD\0symref=HEAD:main symref=refs/remotes/origin/HEAD:refs/remotes/origin/main \
             object-format=sha1"
        ),
        &format!("{A40} main"),
        &format!("{A40} refs/remotes/origin/HEAD"),
        &format!("{A40} refs/remotes/origin/main"),
    ])
    .await;
    assert_eq!(
        text,
        format!(
            ":object-format sha1\n{A40} main\n@refs/remotes/origin/main refs/remotes/origin/HEAD\n\
             {A40} refs/remotes/origin/main\n@main HEAD\n\n"
        )
    );
}

#[tokio::test]
async fn g035_an_empty_repository_still_tells_where_head_will_be() {
    let text = of(&[&format!("{Z40} capabilities^{{}}\0symref=HEAD:main object-format=sha1")]).await;
    assert_eq!(text, ":object-format sha1\n@main HEAD\n\n");
}

#[tokio::test]
async fn g160_lines_that_are_no_refs_are_not_listed_and_err_is_an_error() {
    let text = of(&[
        "version 1",
        &format!("{A40} main\0report-status"),
        &format!("{A40} refs/tags/v1^{{}}"),
        &format!("{B40} .have"),
        &format!("shallow {B40}"),
        "nothing",
    ])
    .await;
    assert_eq!(text, format!("{A40} main\n{A40} refs/tags/v1^{{}}\n\n"));
    let (error, _) = listed(&advertisement(&[b"ERR no \x1b[2Jaccess\n".to_vec()])).await;
    assert_eq!(error.unwrap_err().to_string(), "remote: no \\u{1b}[2Jaccess");
}

#[tokio::test]
async fn g161_another_service_than_the_one_asked_for_is_an_error() {
    for (text, phrase) in [
        (b"001f# service=git-receive-pack\n0000".as_slice(), "git-receive-pack"),
        (b"001e# service=git-upload-pack\n0005x", "no flush"),
        (b"0009hello0000", "does not begin"),
        (b"0000", "does not begin"),
        (b"", "does not begin"),
        (b"<html>", "no sequence of pkt-lines"),
        (b"000fERR nope!\n\n0000", "remote: nope!"),
    ] {
        let mut input = text;
        let error = announcement(&mut input, Service::UploadPack).await.unwrap_err();
        assert!(error.to_string().contains(phrase), "{text:?}: {error}");
    }
    let mut input: &[u8] = b"001d# service=git-upload-pack0000rest";
    announcement(&mut input, Service::UploadPack).await.unwrap();
    assert_eq!(input, b"rest");
}

#[tokio::test]
async fn a_name_that_could_write_lines_fails_the_whole_list() {
    let refs = |name: &[u8]| [A40.as_bytes(), b" ", name].concat();
    for (row, lines) in [
        ("SV-W04", vec![refs(b"refs/heads/a\nfetch 00 refs/heads/b")]),
        ("SV-W05", vec![refs(b"refs/heads/first"), refs(b"refs/heads/a\0b")]),
        ("SV-W05", vec![refs(b"refs/heads/a b")]),
        ("SV-W06", vec![refs(b"main\0symref=HEAD:main\nx")]),
        ("SV-W06", vec![refs(b"main\0agent=a\tb")]),
        ("SV-W06", vec![refs(b"main\0symref=HEAD:a..b")]),
        ("S-181", vec![refs(b"refs/heads/\x7f")]),
        ("S-181", vec![[b"@evil", b" ".as_slice(), b"refs/heads/x"].concat()]),
        ("S-181", vec![[b"?".repeat(40).as_slice(), b" refs/heads/x"].concat()]),
    ] {
        let (result, _) = listed(&advertisement(&lines)).await;
        assert!(matches!(result, Err(HelperError::Advertisement { .. })), "{row}: {result:?}");
    }
}

#[tokio::test]
async fn sv_w05_a_name_that_git_refuses_is_left_out_and_a_long_one_passes() {
    let bad = [
        "a..b", "a@{b", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", "a\\b", "a.lock", "a.lock/b", ".a", "a/.b",
        "a.", "a//b", "/a", "a/", "@",
    ];
    for name in bad {
        assert!(!is_ref_name(name.as_bytes()), "{name}");
    }
    let long = format!("refs/heads/{}", "x".repeat(4_989));
    let text = [
        format!("{A40} refs/heads/a..b"),
        format!("{A40} {long}"),
        format!("{A40} refs/heads/@"),
        format!("{A40} refs/tags/v1^{{}}^{{}}"),
    ]
    .map(String::into_bytes);
    let (listed, left_out) = listed(&advertisement(&text)).await;
    assert_eq!(listed.unwrap(), format!("{A40} {long}\n{A40} refs/heads/@\n\n"));
    assert_eq!(left_out, ["refs/heads/a..b", "refs/tags/v1^{}^{}"]);
}

#[tokio::test]
async fn sv_w08_a_stream_that_is_cut_is_an_error() {
    let whole = advertisement(&[format!("{A40} main\0x").into_bytes(), format!("{B40} b").into_bytes()]);
    for end in 0..whole.len() {
        let (result, _) = listed(&whole[..end]).await;
        assert!(matches!(result, Err(HelperError::Advertisement { .. })), "cut at {end}");
    }
    assert!(listed(&whole).await.0.is_ok());
}

#[tokio::test]
async fn sv_w09_more_refs_and_more_bytes_than_the_limit_are_an_error() {
    let refs = |count: usize, len: usize| {
        let lines: Vec<_> =
            (0..count).map(|n| format!("{A40} r{n:0width$}", width = len).into_bytes()).collect();
        advertisement(&lines)
    };
    assert!(listed(&refs(10, 4)).await.0.is_ok());
    let (error, _) = listed(&refs(11, 4)).await;
    assert!(matches!(error, Err(HelperError::TooLong { limit: 10, .. })), "{error:?}");
    // 4 digits, 40 of the id, a blank, an r: 46 and the number make 2,000 each.
    assert!(listed(&refs(10, 1954)).await.0.is_ok());
    let (error, _) = listed(&refs(10, 1955)).await;
    assert!(matches!(error, Err(HelperError::TooLong { limit: 20_000, .. })), "{error:?}");
}
