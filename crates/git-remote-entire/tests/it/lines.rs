//! The command loop: capabilities, options, list, and how it ends.

use git_remote_entire::ProtocolVersion::{V0, V1, V2};
use git_remote_entire::{Cancel, Helper, HelperError, Settings};
use tokio::io::{AsyncWriteExt, BufReader};

use crate::fake::{A40, B40, Fake, LONG, Reply, adv, packets, run, run_until_it_hangs, run_with, text};

#[tokio::test]
async fn each_version_has_its_capabilities() {
    for (row, version, expected) in [
        ("G-016", V0, "connect\noption\n\n"),
        ("G-017", V1, "connect\noption\n\n"),
        ("G-018", V2, "stateless-connect\npush\noption\n\n"),
    ] {
        let (result, output) = run(&Fake::default(), version, b"capabilities\n\n").await;
        result.unwrap();
        assert_eq!(output, expected.as_bytes(), "{row}");
    }
    let mut settings = Settings::new(V2);
    settings.offer_fetch = true;
    let (result, output) = run_with(&Fake::default(), settings, Cancel::new(), b"capabilities\r\n").await;
    result.unwrap();
    assert_eq!(output, b"stateless-connect\nfetch\npush\noption\n\n", "GB-H3");
}

#[tokio::test]
async fn g019_each_option_gets_one_line() {
    let (result, output) = run(&Fake::default(), V1, b"option dry-run true\noption weird true\n\n").await;
    result.unwrap();
    assert_eq!(output, b"ok\nunsupported\n");
}

#[tokio::test]
async fn g020_no_input_is_no_error() {
    let (result, output) = run(&Fake::default(), V2, b"").await;
    result.unwrap();
    assert!(output.is_empty());
}

#[tokio::test]
async fn g021_a_line_without_its_end_is_a_command() {
    let (result, output) = run(&Fake::default(), V2, b"capab").await;
    assert!(text(result).contains("unsupported command"));
    assert!(output.is_empty());
    for line in ["list other\n", "fetch a b\n", "connect\n", "push\n", "capabilities x\n", "import x\n"] {
        let (result, _) = run(&Fake::default(), V2, line.as_bytes()).await;
        assert!(text(result).contains("unsupported command"), "{line}");
    }
}

#[tokio::test]
async fn g022_a_post_that_hangs_ends_with_the_deadline_and_not_as_a_success() {
    let fake = Fake {
        upload: Some(adv("git-upload-pack", &[&format!("{A40} refs/heads/main\0multi_ack")])),
        ..Fake::default()
    }
    .replies([Reply::Hang]);
    let input =
        [b"connect git-upload-pack\n".to_vec(), packets(&[&format!("want {A40}"), "0000", "done"])].concat();
    let (result, _) = run_until_it_hangs(&fake, Settings::new(V1), &input).await;
    assert!(matches!(result, Err(HelperError::Cancelled)), "{result:?}");
}

#[tokio::test]
async fn g023_a_cancelled_helper_writes_nothing_and_ends_with_its_input() {
    let fake = Fake::default();
    let (mut git, input) = tokio::io::duplex(64);
    let cancel = Cancel::new();
    let mut output = Vec::new();
    let helper = Helper::new(&fake, Settings::new(V2), cancel.clone());
    let drive = async {
        // The helper, polled first, waits for a line by now.
        cancel.cancel();
        git.write_all(b"capabilities\n").await.unwrap();
        drop(git);
    };
    let run = async { tokio::join!(helper.run(BufReader::new(input), &mut output), drive).0 };
    tokio::time::timeout(LONG, run).await.unwrap().unwrap();
    assert!(output.is_empty());
}

#[tokio::test]
async fn a_list_is_whole_or_not_there() {
    let refs = adv(
        "git-upload-pack",
        &[
            &format!("{A40} HEAD\0symref=HEAD:refs/heads/main object-format=sha1"),
            &format!("{B40} refs/heads/main"),
        ],
    );
    let fake = Fake { upload: Some(refs.clone()), ..Fake::default() };
    let (result, output) = run(&fake, V2, b"list\n").await;
    result.unwrap();
    let expected = format!(":object-format sha1\n{B40} refs/heads/main\n@refs/heads/main HEAD\n\n");
    assert_eq!(String::from_utf8(output).unwrap(), expected);
    assert_eq!(fake.asked(), ["git-upload-pack"]);
    for end in [4, 40, refs.len() - 10, refs.len() - 4, refs.len() - 1] {
        let fake = Fake { upload: Some(refs[..end].to_vec()), ..Fake::default() };
        let (result, output) = run(&fake, V2, b"list\n").await;
        assert!(result.is_err(), "cut at {end}");
        assert!(output.is_empty(), "cut at {end}");
    }
}

#[tokio::test]
async fn any_chunking_of_the_input_gives_the_same_output() {
    let input = b"capabilities\noption dry-run true\r\nlist\n\noption cas a:b\nlist for-push\n";
    let fake = || Fake {
        upload: Some(adv("git-upload-pack", &[&format!("{A40} refs/heads/main\0x")])),
        receive: vec![adv("git-receive-pack", &[&format!("{A40} refs/heads/main\0x")])],
        ..Fake::default()
    };
    let (result, whole) = run(&fake(), V2, input).await;
    result.unwrap();
    for size in 1..20 {
        let remote = fake();
        let mut output = Vec::new();
        let reader = BufReader::with_capacity(size, &input[..]);
        Helper::new(&remote, Settings::new(V2), Cancel::new()).run(reader, &mut output).await.unwrap();
        assert_eq!(output, whole, "pieces of {size}");
    }
}
