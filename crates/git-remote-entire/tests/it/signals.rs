//! SIGINT and SIGTERM (helper spec §15).

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use peerage_tests::{Fault, GitClient, GitServer, Step};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::time::Instant;

use crate::fake::LONG;
use crate::real::{REPO, served};
use crate::rows::work;

/// The helper in a repository, and its input.
async fn helper(client: &GitClient, server: &GitServer, work: &Path, lines: &[u8]) -> (Child, ChildStdin) {
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    command.args(["origin", &server.url(REPO)]).current_dir(work).env("GIT_DIR", work.join(".git"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines).await.unwrap();
    (child, stdin)
}

async fn send(client: &GitClient, signal: &str, child: &Child) {
    let id = child.id().unwrap().to_string();
    client.command("kill").args([signal, &id]).status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g169_a_signal_ends_a_push_that_hangs_and_says_what_is_known() {
    for (fault, unknown) in [(Fault::HangUnread, false), (Fault::Hang, true)] {
        let (server, _, client) = served(1, true, 0).await;
        let work = work(&client, &server).await;
        // Larger than what the system takes in between, so that it is not handed out before it is read.
        if !unknown {
            std::fs::write(work.join("blob"), crate::outcome::noise(24 << 20)).unwrap();
            for arguments in [["reset", "-q"].as_slice(), &["add", "blob"], &["commit", "-qm", "blob"]] {
                client.good(&work, arguments).await;
            }
        }
        let step = fault.clone();
        server.script(move |head| if head.is_push() { Step::git_but(step.clone()) } else { Step::git() });
        for (round, signal) in ["-INT", "-TERM"].into_iter().enumerate() {
            if unknown {
                // The last one was applied before it hung.
                client.commits(&work, "main", signal, 1).await;
            }
            let lines = b"push refs/heads/main:refs/heads/main\n\n";
            let (child, stdin) = helper(&client, &server, &work, lines).await;
            let is_push = |seen: &&peerage_tests::Seen| seen.head.is_push();
            server
                .nodes
                .seen()
                .eventually(LONG, "the push", |seen| seen.iter().filter(is_push).count() > round)
                .await;
            let known = cache(&client).await;
            send(&client, signal, &child).await;
            // The server hangs for ever, so it is the signal that ends this; the row's second is a matter of
            // the machine, and what it is about is that nobody waits for an answer.
            let output = tokio::time::timeout(LONG, child.wait_with_output()).await;
            let output = output.unwrap().unwrap();
            assert_eq!(output.status.code(), Some(128), "{signal}");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(text.contains("push outcome unknown"), unknown, "{signal} {fault:?}: {text}");
            assert!(output.stdout.is_empty(), "{signal}");
            assert_eq!(cache(&client).await, known, "{signal}: cancelling is no event of a replica");
            drop(stdin);
        }
    }
}

/// What the cache holds, once it was written; but not until when, which each advertisement puts off.
async fn cache(client: &GitClient) -> String {
    let read = async {
        loop {
            match std::fs::read_to_string(client.home().join("cache/entire/nodes.json")) {
                Ok(text) => return text,
                // The helper writes it beside its requests.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let text = tokio::time::timeout(LONG, read).await.unwrap();
    assert!(text.contains("http://127.0.0.1:"), "{text}");
    text.lines().filter(|line| !line.contains("expires_at")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_2_s_the_end_is_said_to_be_under_way_and_a_second_signal_is_the_end() {
    let (server, _, client) = served(1, true, 0).await;
    for (signal, number) in [("-INT", 2), ("-TERM", 15)] {
        // Nothing is in flight: it waits for Git to end its input, which Git does not.
        let (mut child, stdin) = helper(&client, &server, client.home(), b"capabilities\n").await;
        let mut reply = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        reply.read_line(&mut line).await.unwrap();
        assert_eq!(line, "stateless-connect\n");
        let signalled = Instant::now();
        send(&client, signal, &child).await;
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let read = tokio::time::timeout(LONG, stderr.read_line(&mut said)).await;
        read.expect("it says something").unwrap();
        let took = signalled.elapsed();
        assert_eq!(said, "warning: still ending; a second signal ends it at once\n");
        assert!(took > Duration::from_millis(1900), "{took:?}");
        send(&client, signal, &child).await;
        let status = tokio::time::timeout(LONG, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(number), "by the default action");
        drop(stdin);
    }
}
