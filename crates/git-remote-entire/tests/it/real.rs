//! Real Git on both sides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use peerage_tests::{GitClient, GitServer, TestCa, Watchdog};

/// The directory of the helper that was built for this test.
fn helper() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_git-remote-entire")).parent().unwrap().to_path_buf()
}

/// A client whose requests go over plain HTTP to loopback, with a token. It waits longer for a connection than
/// users do: no test is about that, and a busy machine is no dead replica.
pub(crate) fn client() -> GitClient {
    let mut client = GitClient::new(&[&helper()]);
    client.set("ENTIRE_LOOPBACK_HTTP", "true").set("ENTIRE_TOKEN", "tok");
    client.set("ENTIRE_CONNECT_TIMEOUT_SECONDS", "60");
    client
}

pub(crate) const REPO: &str = "et/p/r";

/// A server with a repository of `count` commits, and a client.
pub(crate) async fn served(
    nodes: usize,
    tells_version: bool,
    count: usize,
) -> (GitServer, PathBuf, GitClient) {
    let server = GitServer::start(nodes, None, tells_version).await;
    let bare = server.create(REPO, "sha1").await;
    let client = client();
    if count > 0 {
        client.commits(&bare, "main", "base", count).await;
    }
    (server, bare, client)
}

pub(crate) async fn tip(client: &GitClient, directory: &Path, name: &str) -> String {
    client.run(directory, &["rev-parse", "-q", "--verify", name]).await.stdout.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn g131_the_harness_serves_a_receive_pack_advertisement() {
    let (server, ..) = served(1, true, 1).await;
    let client = client();
    let ran = client.run(client.home(), &["ls-remote", &server.http_url(REPO)]).await;
    assert!(ran.success, "{}", ran.stderr);
    assert!(ran.stdout.contains("refs/heads/main"));
    let identity = TestCa::new().server(&["127.0.0.1"]);
    let tls = GitServer::start(2, Some(&identity), true).await;
    tls.create(REPO, "sha1").await;
    let mut client = client;
    client.unset("ENTIRE_LOOPBACK_HTTP").set("ENTIRE_TLS_SKIP_VERIFY", "true");
    let work = commit_here(&client, "tls").await;
    client.good(&work, &["push", "-q", &tls.url(REPO), "main"]).await;
    let seen = tls.nodes.seen().all();
    assert!(seen.iter().any(|seen| seen.head.target.ends_with("info/refs?service=git-receive-pack")));
    assert!(seen.iter().all(|seen| seen.head.header("authorization") == Some("Bearer tok")));
}

/// A new repository with one commit.
async fn commit_here(client: &GitClient, name: &str) -> PathBuf {
    let work = client.home().join(name);
    client.good(client.home(), &["init", "-q", "-b", "main", name]).await;
    client.commits(&work, "main", name, 1).await;
    work
}

#[tokio::test(flavor = "multi_thread")]
async fn g174_every_command_works_with_every_version_on_every_server() {
    let _dog = Watchdog::new("GB-H3", Duration::from_secs(600));
    let mut count = 0;
    for tells_version in [false, true] {
        let (server, bare, client) = served(2, tells_version, 12).await;
        for version in ["0", "1", "2"] {
            let set = format!("protocol.version={version}");
            let name = |what: &str| format!("{what}-{version}-{tells_version}");
            let url = server.url(REPO);
            let home = client.home().to_path_buf();
            let git = async |directory: &Path, arguments: &[&str]| {
                let arguments: Vec<&str> = ["-c", &set].iter().chain(arguments).copied().collect();
                client.good(directory, &arguments).await
            };
            // clone
            git(&home, &["clone", "-q", &url, &name("full")]).await;
            let full = home.join(name("full"));
            assert_eq!(tip(&client, &full, "HEAD").await, tip(&client, &bare, "main").await);
            // fetch
            client.commits(&bare, "main", &name("more"), 3).await;
            git(&full, &["fetch", "-q"]).await;
            assert_eq!(
                tip(&client, &full, "origin/main").await,
                tip(&client, &bare, "main").await,
                "G-149 GB-H8"
            );
            // shallow clone
            git(&home, &["clone", "-q", "--depth=2", &url, &name("shallow")]).await;
            let shallow = home.join(name("shallow"));
            assert_eq!(git(&shallow, &["rev-list", "--count", "HEAD"]).await, "2");
            // deepen
            git(&shallow, &["fetch", "-q", "--deepen=3"]).await;
            assert_eq!(git(&shallow, &["rev-list", "--count", "HEAD"]).await, "5");
            // unshallow
            git(&shallow, &["fetch", "-q", "--unshallow"]).await;
            let all = git(&bare, &["rev-list", "--count", "main"]).await;
            assert_eq!(git(&shallow, &["rev-list", "--count", "HEAD"]).await, all);
            // push
            client.commits(&full, "topic", &name("topic"), 2).await;
            git(&full, &["push", "-q", "origin", &format!("topic:{}", name("topic"))]).await;
            assert_eq!(tip(&client, &bare, &name("topic")).await, tip(&client, &full, "topic").await);
            client.good(&full, &["fsck", "--strict", "--no-dangling"]).await;
            count += 6;
        }
    }
    assert_eq!(count, 36, "GB-H3");
}
