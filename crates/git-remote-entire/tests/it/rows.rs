//! Rows that need real Git and are about neither outcome nor matrix.

use std::path::{Path, PathBuf};
use std::time::Duration;

use peerage_tests::{Canary, GitClient, GitServer, Reply, Step, Watchdog, script};

use crate::fake::LONG;
use crate::real::{REPO, client, served, tip};

/// A repository of the client with one commit on `main` and the server as `origin`.
pub(crate) async fn work(client: &GitClient, server: &GitServer) -> PathBuf {
    let work = client.home().join("work");
    client.good(client.home(), &["init", "-q", "-b", "main", "work"]).await;
    client.good(&work, &["remote", "add", "origin", &server.url(REPO)]).await;
    client.commits(&work, "main", "first", 1).await;
    work
}

#[tokio::test(flavor = "multi_thread")]
async fn g149_each_setting_of_the_version_fetches_a_new_commit() {
    let (server, bare, client) = served(1, true, 2).await;
    client.good(client.home(), &["clone", "-q", &server.url(REPO), "w"]).await;
    let work = client.home().join("w");
    for (row, version) in [("GB-H8", "0"), ("GB-H8", "1"), ("GB-H8", "2")] {
        client.commits(&bare, "main", version, 1).await;
        client.good(&work, &["-c", &format!("protocol.version={version}"), "fetch", "-q"]).await;
        assert_eq!(tip(&client, &work, "origin/main").await, tip(&client, &bare, "main").await, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g151_push_options_reach_the_server_as_they_were_typed() {
    for version in ["0", "2"] {
        let (server, bare, client) = served(1, true, 0).await;
        let work = work(&client, &server).await;
        let hook = "for n in 0 1 2; do eval \"printf '%s\\n' \\\"\\$GIT_PUSH_OPTION_$n\\\"\"; done > \"$PWD/options\"; cat >/dev/null";
        script(&bare.join("hooks/pre-receive"), hook);
        let set = format!("protocol.version={version}");
        client
            .good(
                &work,
                &["-c", &set, "push", "-q", "-o", "a\"b", "-o", "é x", "-o", "sp ace", "origin", "main"],
            )
            .await;
        let options = std::fs::read_to_string(bare.join("options")).unwrap();
        assert_eq!(options, "a\"b\né x\nsp ace\n", "version {version}");
        // A delete-only push with an option (G-152), which in version 0 is `connect`.
        client.good(&work, &["-c", &set, "push", "-q", "origin", "main:gone"]).await;
        client.good(&work, &["-c", &set, "push", "-q", "-o", "bye", "origin", ":gone"]).await;
        let options = std::fs::read_to_string(bare.join("options")).unwrap();
        assert_eq!(options, "bye\n\n\n", "version {version}");
        assert_eq!(tip(&client, &bare, "gone").await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g150_g153_a_signed_push_brings_its_certificate_also_where_it_only_deletes() {
    for (row, version) in [("GB-H5", "0"), ("GB-H5", "2")] {
        let (server, bare, client) = served(1, true, 0).await;
        let work = work(&client, &server).await;
        client.good(&bare, &["config", "receive.certNonceSeed", "seed"]).await;
        let gpg = client.home().join("gpg");
        script(
            &gpg,
            "cat >/dev/null; echo '[GNUPG:] SIG_CREATED ' >&2; printf -- '-----BEGIN PGP SIGNATURE-----\\n\\nx\\n-----END PGP SIGNATURE-----\\n'",
        );
        client.good(&work, &["config", "gpg.program", gpg.to_str().unwrap()]).await;
        script(
            &bare.join("hooks/pre-receive"),
            "git cat-file blob \"$GIT_PUSH_CERT\" > \"$PWD/certificate\"; cat >/dev/null",
        );
        let set = format!("protocol.version={version}");
        for refspec in ["main:signed", ":signed"] {
            client.good(&work, &["-c", &set, "push", "-q", "--signed=true", "origin", refspec]).await;
            let certificate = std::fs::read_to_string(bare.join("certificate")).unwrap();
            assert!(certificate.contains(" refs/heads/signed\n"), "{row} {version}: {certificate}");
            assert!(certificate.contains("BEGIN PGP SIGNATURE"), "{row} {version}");
        }
        assert_eq!(tip(&client, &bare, "signed").await, "", "{row} {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g154_progress_is_shown_when_asked_for_and_quiet_is_quiet() {
    let (server, _, client) = served(1, true, 0).await;
    let work = work(&client, &server).await;
    client.commits(&work, "main", "more", 1000).await;
    let ran = client.run(&work, &["push", "--progress", "origin", "main"]).await;
    assert!(ran.success && ran.stderr.contains("Writing objects: 100%"), "GB-H6: {}", ran.stderr);
    client.commits(&work, "main", "quiet", 1000).await;
    let ran = client.run(&work, &["push", "-q", "origin", "main"]).await;
    assert!(ran.success);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "GB-H6");
}

#[tokio::test(flavor = "multi_thread")]
async fn g155_a_client_that_is_far_ahead_fetches() {
    let _dog = Watchdog::new("GB-H2", Duration::from_secs(600));
    let (server, bare, client) = served(1, true, 10).await;
    client.good(client.home(), &["clone", "-q", &server.url(REPO), "base"]).await;
    client.commits(&bare, "main", "server", 20).await;
    let base = client.home().join("base");
    for ahead in [5, 14, 30, 40, 100, 300, 5000] {
        let made = client.home().join(format!("ahead-{ahead}"));
        copy(&client, &base, &made).await;
        client.commits(&made, "main", "client", ahead).await;
        for (version, depth) in [("0", None), ("0", Some("--depth=5")), ("1", None), ("2", None)] {
            // On the wire versions 0 and 1 are one; the long dialogues are had with all three.
            if version == "1" && ahead != 300 {
                continue;
            }
            let shown = format!("{ahead} ahead, version {version}, {depth:?}");
            let work = client.home().join("work");
            copy(&client, &made, &work).await;
            let set = format!("protocol.version={version}");
            let mut arguments = vec!["-c", set.as_str(), "fetch", "-q", "origin"];
            arguments.extend(depth);
            let posts = server.nodes.seen().count();
            let ran = client.run(&work, &arguments).await;
            assert!(ran.success, "GB-H2 {shown}: {}", ran.stderr);
            let here = tip(&client, &work, "origin/main").await;
            assert_eq!(here, tip(&client, &bare, "main").await, "{shown}");
            if ahead == 300 && version == "0" && depth.is_none() {
                let rounds = server
                    .nodes
                    .seen()
                    .look(|seen| seen[posts..].iter().filter(|seen| seen.head.method == "POST").count());
                assert!(rounds > 5, "{}: {shown}: {rounds} POSTs", "GB-H2");
            }
            std::fs::remove_dir_all(&work).unwrap();
        }
    }
}

async fn copy(client: &GitClient, from: &Path, to: &Path) {
    let copied = client.command("cp").arg("-r").args([from, to]).output().await.unwrap();
    assert!(copied.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn g156_a_shallow_clone_deepens_and_becomes_whole() {
    for version in ["0", "1", "2"] {
        let (server, bare, client) = served(1, true, 30).await;
        let set = format!("protocol.version={version}");
        client.good(client.home(), &["-c", &set, "clone", "-q", "--depth=3", &server.url(REPO), "w"]).await;
        let work = client.home().join("w");
        client.commits(&bare, "main", "more", 5).await;
        client.commits(&work, "local", "local", 60).await;
        client.good(&work, &["-c", &set, "fetch", "-q", "--depth=5"]).await;
        assert_eq!(client.good(&work, &["rev-list", "--count", "origin/main"]).await, "5");
        client.good(&work, &["-c", &set, "fetch", "-q", "--unshallow"]).await;
        assert_eq!(client.good(&work, &["rev-list", "--count", "origin/main"]).await, "35");
        client.good(&work, &["fsck", "--no-dangling"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g064_a_dry_run_with_real_git_posts_nothing() {
    let (server, _, client) = served(1, true, 0).await;
    let work = work(&client, &server).await;
    client.good(&work, &["push", "-q", "origin", "main"]).await;
    client.commits(&work, "main", "second", 1).await;
    let pushes = server.nodes.push_count();
    let ran =
        speak(&client, &work, &server, "option dry-run true\npush refs/heads/main:refs/heads/main\n\n").await;
    assert_eq!(ran, "ok\nok refs/heads/main\n\n");
    assert_eq!(server.nodes.push_count(), pushes);
}

/// Talks to the helper as Git does; what it answered.
async fn speak(client: &GitClient, work: &Path, server: &GitServer, lines: &str) -> String {
    use tokio::io::AsyncWriteExt as _;
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    command.args(["origin", &server.url(REPO)]).current_dir(work).env("GIT_DIR", work.join(".git"));
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(LONG, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn g175_debug_output_changes_nothing_on_stdout() {
    let (server, bare, mut client) = served(1, true, 0).await;
    let work = work(&client, &server).await;
    client.good(&work, &["push", "-q", "origin", "main"]).await;
    let lines = "capabilities\nlist\nlist for-push\npush refs/heads/main:refs/heads/other\n\n";
    let quiet = speak(&client, &work, &server, lines).await;
    client.good(&bare, &["update-ref", "-d", "refs/heads/other"]).await;
    client.set("ENTIRE_DEBUG", "1");
    assert_eq!(speak(&client, &work, &server, lines).await, quiet);
    assert!(quiet.contains("ok refs/heads/other\n"), "{quiet}");
}

/// A client without a token, with a credential helper that answers `answers`, line by line, and keeps a log.
fn asking(answers: &[&str]) -> (GitClient, PathBuf) {
    let mut client = client();
    client.unset("ENTIRE_TOKEN");
    let (helper, log) = (client.home().join("helper"), client.home().join("helper.log"));
    let mut text =
        format!("echo \"$1\" >> '{0}'; cat >/dev/null\n[ \"$1\" = get ] || exit 0\n", log.display());
    text.push_str(&format!("n=$(grep -c get '{}')\n", log.display()));
    for (number, answer) in answers.iter().enumerate() {
        text.push_str(&format!("[ $n = {} ] && printf '{answer}'\n", number + 1));
    }
    text.push_str("exit 0");
    script(&helper, &text);
    let config = format!("[credential]\n\thelper = {}\n", helper.display());
    std::fs::write(client.home().join(".gitconfig"), config).unwrap();
    (client, log)
}

fn log_of(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Serves who shows `value`, and answers 401 to everybody else.
fn protect(server: &GitServer, value: &'static str) {
    server.script(move |head| {
        if head.header("authorization") == Some(value) {
            return Step::git();
        }
        Step::reply(Reply::text(401, "who are you?").header("WWW-Authenticate", "Basic realm=\"git\""))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn g163_nobody_is_asked_about_a_public_repository() {
    let (server, ..) = served(1, true, 1).await;
    let (client, log) = asking(&["username=u\\npassword=p\\n"]);
    client.good(client.home(), &["clone", "-q", &server.url(REPO), "w"]).await;
    assert!(log_of(&log).is_empty());
    assert!(server.nodes.seen().all().iter().all(|seen| seen.head.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn g164_a_private_repository_is_asked_about_once_and_the_answer_approved_once() {
    for version in ["0", "2"] {
        let (server, ..) = served(1, true, 1).await;
        protect(&server, "Basic dTpw");
        let (client, log) = asking(&["username=u\\npassword=p\\n"]);
        let set = format!("protocol.version={version}");
        client.good(client.home(), &["-c", &set, "clone", "-q", &server.url(REPO), "w"]).await;
        assert_eq!(log_of(&log), ["get", "store"], "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g166_an_answer_that_is_refused_is_rejected_and_asked_for_once_more() {
    let (server, ..) = served(1, true, 1).await;
    protect(&server, "Basic nobody");
    let (client, log) = asking(&["username=u\\npassword=1\\n", "username=u\\npassword=2\\n"]);
    let ran = client.run(client.home(), &["clone", "-q", &server.url(REPO), "w"]).await;
    assert!(!ran.success);
    assert_eq!(ran.code, Some(128));
    assert!(ran.stderr.contains("fatal: authentication failed"), "{}", ran.stderr);
    let log = log_of(&log);
    assert_eq!(log.iter().filter(|line| *line == "get").count(), 2, "{log:?}");
    assert_eq!(log.get(..3), Some(["get", "erase", "get"].map(str::to_owned).as_slice()), "{log:?}");
    // The second answer may be good.
    protect(&server, "Basic dToy");
    let (client, log) = asking(&["username=u\\npassword=1\\n", "username=u\\npassword=2\\n"]);
    client.good(client.home(), &["clone", "-q", &server.url(REPO), "w"]).await;
    assert_eq!(log_of(&log), ["get", "erase", "get", "store"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s187_sv_w15_a_token_for_another_host_is_not_sent_and_nothing_is_asked() {
    let (server, ..) = served(1, true, 1).await;
    let mut client = client();
    client.set("ENTIRE_TOKEN_HOST", "cluster.example");
    let ran = client.run(client.home(), &["clone", "-q", &server.url(REPO), "w"]).await;
    assert!(!ran.success);
    let host = server.nodes.addr(0).to_string();
    assert!(ran.stderr.contains("cluster.example") && ran.stderr.contains(&host), "{}", ran.stderr);
    assert!(!ran.stderr.contains("tok\n"));
    assert_eq!(server.nodes.seen().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn g003_what_git_does_not_pass_is_answered_with_128_and_an_empty_stdout() {
    let client = client();
    for (row, arguments, phrase) in [
        ("G-003", vec!["--nope"], "usage: git-remote-entire <remote-name> <url>"),
        ("G-004", vec![""], "usage:"),
        ("G-005", vec!["entire://host/p/r"], "usage:"),
        ("G-144", vec!["o", "entire://gh/o/r"], "fatal: the cluster host is missing"),
        ("G-146", vec!["o", "https://h/et/o/r"], "fatal: unsupported URL scheme"),
        ("G-146", vec!["o", "entire://h h/x"], "fatal: invalid URL"),
        ("SV-W01", vec!["o", "entire://h/a%0ahost=evil"], "fatal: invalid URL"),
        ("SV-W02", vec!["o", "entire://-oProxyCommand=x/a"], "fatal: invalid URL"),
    ] {
        let output =
            client.command(env!("CARGO_BIN_EXE_git-remote-entire")).args(&arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(128), "{row}");
        assert!(output.stdout.is_empty(), "{row}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with(phrase), "{row}");
    }
    for value in ["", " ", "\t", "\n"] {
        let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
        let output = command.args(["o", "entire://h/a"]).env("ENTIRE_TOKEN", value).output().await.unwrap();
        assert_eq!(output.status.code(), Some(128), "G-124 to G-128");
        assert_eq!(output.stderr, b"fatal: ENTIRE_TOKEN is set but blank\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g147_g148_path_and_userinfo_on_the_wire() {
    let (server, ..) = served(1, true, 0).await;
    let client = client();
    let url = format!("entire://alice:pw@{}/et/o/a%3Fb%20c", server.nodes.addr(0));
    let ran = client.run(client.home(), &["ls-remote", &url]).await;
    assert!(ran.stderr.contains("warning: the password in the URL is ignored"), "{}", ran.stderr);
    let seen = server.nodes.seen().all();
    assert!(!seen.is_empty());
    for seen in seen {
        assert!(seen.head.target.starts_with("/et/o/a%3Fb%20c/info/refs?"), "{}", seen.head.target);
        assert!(!format!("{:?}", seen.head).contains("pw"), "{:?}", seen.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s250_the_version_shows_the_environment_as_it_was_read() {
    let (mut client, token) = (client(), Canary::new());
    client.set("ENTIRE_TOKEN", token.secret()).set("ENTIRE_CONNECT_TIMEOUT_SECONDS", "7");
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    let output = command.args(["--version", "--verbose"]).output().await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "  ENTIRE_TOKEN: (set, not shown)",
        "  ENTIRE_CONNECT_TIMEOUT_SECONDS: 7",
        "  ENTIRE_LOOPBACK_HTTP: true",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
    }
    assert!(text.starts_with("git-remote-entire "), "{text}");
    token.assert_absent("--version --verbose", &text);
}
