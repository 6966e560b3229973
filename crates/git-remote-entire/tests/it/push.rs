//! `push`: with a stub that plays `git send-pack`.

use git_remote_entire::{Cancel, HelperError, ProtocolVersion::V2, Settings};
use tempfile::TempDir;

use crate::fake::{A40, B40, Fake, ID, LONG, Reply, adv, packets, run_with, text};

/// A program that plays `git`: a shell script.
pub(crate) struct Stub {
    directory: TempDir,
}

impl Stub {
    pub(crate) fn new(script: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("git");
        let log = directory.path().join("arguments");
        peerage_tests::script(&path, &format!("echo \"$@\" >> '{}'\n{script}", log.display()));
        Self { directory }
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::new(V2);
        settings.git = self.directory.path().join("git");
        settings
    }

    pub(crate) fn arguments(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("arguments")).unwrap_or_default()
    }

    /// What the script kept in the file `input` beside it.
    pub(crate) fn input(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("input")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The request of one command, wrapped, and the flush that ends it; as arguments of `printf`.
fn request() -> String {
    let inner = packets(&[&format!("{A40} {B40} refs/heads/main agent=git/1"), "0000"]);
    let inner = String::from_utf8(inner).unwrap();
    format!("printf '{:04x}%s0000' '{inner}'", inner.len() + 4)
}

pub(crate) fn receives(count: usize) -> Fake {
    let lines = |extra: bool| {
        let mut lines = vec![format!("{A40} refs/heads/main\0report-status")];
        lines.extend(extra.then(|| format!("{B40} refs/heads/hook")));
        lines
    };
    let refs = |extra| adv("git-receive-pack", &lines(extra).iter().map(String::as_str).collect::<Vec<_>>());
    Fake { receive: (0..count).map(|number| refs(number > 0)).collect(), ..Fake::default() }
}

fn report() -> Reply {
    Reply::Body(packets(&["unpack ok\n", "ok refs/heads/main\n", "0000"]))
}

pub(crate) async fn push(fake: &Fake, stub: &Stub, input: &[u8]) -> (Result<(), HelperError>, String) {
    let run = run_with(fake, stub.settings(), Cancel::new(), input);
    let (result, output) = tokio::time::timeout(LONG, run).await.unwrap();
    (result, String::from_utf8(output).unwrap())
}

#[tokio::test]
async fn g060_a_refusal_that_git_reports_is_shown_and_an_error() {
    let stub = Stub::new(&format!(
        "{}; cat >/dev/null; printf '0000error main remote rejected: branch protection violation\\n'; exit 1",
        request()
    ));
    let fake = receives(1).replies([report()]);
    let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
    assert_eq!(output, "error main remote rejected: branch protection violation\n\n");
    let text = text(result);
    assert!(text.contains("send-pack exited") && !text.contains("unknown"), "{text}");
}

#[tokio::test]
async fn g061_a_push_is_one_post_of_the_size_that_it_says() {
    let stub = Stub::new(&format!("{}; cat >/dev/null; printf '0000ok main\\n'", request()));
    let fake = receives(1).replies([report()]);
    let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
    result.unwrap();
    assert_eq!(output, "ok main\n\n");
    let posts = fake.posts();
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0].headers["x-entire-push-size"], posts[0].body.len().to_string());
    let arguments = stub.arguments();
    let expected = "send-pack --stateless-rpc --helper-status --stdin --thin https://n1/et/p/r\n";
    assert_eq!(arguments, expected, "GB-H1");
}

#[tokio::test]
async fn g062_a_push_shows_git_what_it_was_shown_before() {
    let stub = Stub::new(&format!("{}; cat >/dev/null; printf '0000ok main\\n'", request()));
    let fake = receives(2).replies([report()]);
    let (result, output) = push(&fake, &stub, b"list for-push\npush main:main\n\n").await;
    result.unwrap();
    assert_eq!(fake.asked(), ["git-receive-pack"]);
    assert!(!output.contains("hook"));
}

#[tokio::test]
async fn g063_a_dry_run_posts_nothing() {
    let stub = Stub::new("printf '0000'; cat >/dev/null; printf 'ok main\\n'");
    let fake = receives(1);
    let (result, output) = push(&fake, &stub, b"option dry-run true\npush main:main\n\n").await;
    result.unwrap();
    assert_eq!(output, "ok\nok main\n\n");
    assert!(fake.posts().is_empty());
    assert!(stub.arguments().contains("--dry-run"));
}

#[tokio::test]
async fn g065_what_git_refuses_itself_is_shown_and_an_error() {
    let stub = Stub::new("printf '0000'; cat >/dev/null; printf 'error main non-fast-forward\\n'; exit 1");
    let fake = receives(1);
    let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
    assert_eq!(output, "error main non-fast-forward\n\n");
    assert!(text(result).contains("send-pack exited"));
    assert!(fake.posts().is_empty());
}

#[tokio::test]
async fn a_report_that_git_did_not_read_to_its_end_leaves_the_outcome_unknown() {
    for (row, tail, reply) in [
        ("G-170", "cat >/dev/null; exit 0", report()),
        ("G-170", "cat >/dev/null; printf '00'; exit 0", report()),
        ("G-170", "cat >/dev/null; printf 'ok main\\n'; exit 0", report()),
        ("G-171", "cat >/dev/null; printf '0000'; exit 1", report()),
        ("broken", "cat >/dev/null; printf '0000error main x\\n'; exit 1", Reply::Broken(b"000eun".to_vec())),
    ] {
        let stub = Stub::new(&format!("{}; {tail}", request()));
        let fake = receives(1).replies([reply]);
        let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
        assert!(!output.contains("ok main"), "{row}: {output}");
        let text = text(result);
        assert!(text.contains("push outcome unknown") && text.contains("lags"), "{row}: {text}");
        assert_eq!(fake.posts().len(), 1, "{row}");
    }
}

#[tokio::test]
async fn g172_a_late_error_behind_a_complete_report_is_none() {
    let stub = Stub::new(&format!("{}; cat >/dev/null; printf '0000ok main\\n'; exit 0", request()));
    let body = packets(&["unpack ok\n", "ok refs/heads/main\n", "0000"]);
    let fake = receives(1).replies([Reply::Broken(body)]);
    let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
    result.unwrap();
    assert_eq!(output, "ok main\n\n");
}

#[tokio::test]
async fn a_post_that_fails_shows_no_status_at_all() {
    let stub = Stub::new(&format!("{}; cat >/dev/null; printf '0000ok main\\n'", request()));
    let fake = receives(1).replies([Reply::Fail("server error (HTTP 413)")]);
    let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
    assert_eq!(output, "");
    assert_eq!(text(result), "server error (HTTP 413)");
}

#[tokio::test]
async fn what_send_pack_prints_instead_of_a_request_is_an_error_without_a_post() {
    for tail in ["printf 'zzzz'", "printf '0064short'", "printf '00'", "exit 1", "printf '0000'; exit 1"] {
        let stub = Stub::new(tail);
        let fake = receives(1);
        let (result, output) = push(&fake, &stub, b"push main:main\n\n").await;
        let text = text(result);
        assert!(
            text.contains("reading send-pack request") || text.contains("send-pack exited"),
            "{tail}: {text}"
        );
        assert!(!output.contains("ok"), "{tail}");
        assert!(fake.posts().is_empty(), "{tail}");
    }
    let mut settings = Settings::new(V2);
    settings.git = "/nonexistent/git".into();
    let (result, _) = run_with(&receives(1), settings, Cancel::new(), b"push main:main\n\n").await;
    assert!(text(result).contains("cannot run send-pack"));
}

#[tokio::test]
async fn a_batch_holds_pushes_only_and_they_reach_git_in_order() {
    let stub = Stub::new("head -c 49 > \"$0.refspecs\"; cat >/dev/null & printf '0000'; printf 'ok main\\n'");
    let (result, _) =
        push(&receives(1), &stub, b"push +refs/heads/a:refs/heads/a\npush :refs/heads/b\nlist\n").await;
    assert!(text(result).contains("unsupported command \"list\""));
    assert_eq!(stub.arguments(), "", "nothing was started");
    let input = b"push +refs/heads/a:refs/heads/a\npush :refs/heads/b\n";
    let (result, _) = push(&receives(1), &stub, input).await;
    result.unwrap();
    let refspecs = std::fs::read(stub.directory.path().join("git.refspecs")).unwrap();
    assert_eq!(refspecs, packets(&["+refs/heads/a:refs/heads/a\n", ":refs/heads/b\n", "0000"])[..49]);
}

#[tokio::test]
async fn the_identity_is_added_to_what_send_pack_wants_to_send() {
    let inner = format!("{A40} {B40} refs/heads/main\\000report-status agent=git/1");
    let len = A40.len() + B40.len() + "  refs/heads/main\0report-status agent=git/1".len() + 4;
    let stub = Stub::new(&format!(
        "printf '{:04x}{len:04x}{inner}00000000'; cat >/dev/null; printf '0000ok main\\n'",
        len + 8
    ));
    let fake = receives(1).replies([report()]);
    push(&fake, &stub, b"push main:main\n\n").await.0.unwrap();
    let expected = format!("{A40} {B40} refs/heads/main\0report-status agent=git/1+{ID}");
    assert_eq!(fake.posts()[0].body, packets(&[&expected, "0000"]));
}
