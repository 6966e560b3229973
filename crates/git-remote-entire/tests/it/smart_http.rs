//! Cases of Git's own smart-HTTP tests, in our words, against the same server with several nodes.
//!
//! Each is named after the script and the title of the case that it goes back to (`lib-httpd` is what several
//! scripts share), or `ours` where Git has none like it. Each runs with protocol v0, where Git talks through
//! `connect`, and with v2, where it talks through `stateless-connect` and `push`.

use std::path::PathBuf;

use peerage_tests::{Answer, Fault, GitClient, GitServer, Ran, Reply, RequestHead, Step, script};

use crate::real::{REPO, client, served, tip};

/// A server, a repository cloned from it, and the version that they speak.
struct Stage {
    server: GitServer,
    bare: PathBuf,
    client: GitClient,
    work: PathBuf,
    set: String,
}

const VERSIONS: [&str; 2] = ["0", "2"];

impl Stage {
    async fn new(version: &str) -> Self {
        let (server, bare, client) = served(2, true, 3).await;
        let set = format!("protocol.version={version}");
        client.good(client.home(), &["-c", &set, "clone", "-q", &server.url(REPO), "work"]).await;
        let work = client.home().join("work");
        Self { server, bare, client, work, set }
    }

    async fn try_git(&self, arguments: &[&str]) -> Ran {
        let arguments: Vec<&str> = ["-c", &self.set].iter().chain(arguments).copied().collect();
        self.client.run(&self.work, &arguments).await
    }

    /// What has to succeed, for the case `title`.
    async fn git(&self, title: &str, arguments: &[&str]) -> String {
        let ran = self.try_git(arguments).await;
        assert!(ran.success, "{title} ({}): {arguments:?}: {}", self.set, ran.stderr);
        format!("{}{}", ran.stdout, ran.stderr)
    }

    /// What has to fail, cleanly.
    async fn refused(&self, title: &str, arguments: &[&str]) -> String {
        let ran = self.try_git(arguments).await;
        assert!(!ran.success, "{title} ({}): {arguments:?} succeeds", self.set);
        assert!(!ran.stderr.contains("panicked"), "{title}: {}", ran.stderr);
        // Git and the helper share one stderr: the helper's last line may come in the middle of one of Git's.
        let ours = exit_line(&ran.stderr);
        format!("{}{}", ran.stdout, ran.stderr.replacen(ours, "", 1))
    }

    async fn commit(&self, branch: &str, label: &str) {
        self.client.commits(&self.work, branch, label, 1).await;
    }

    async fn there(&self, name: &str) -> String {
        tip(&self.client, &self.bare, name).await
    }

    async fn here(&self, name: &str) -> String {
        tip(&self.client, &self.work, name).await
    }

    /// The branch is on the server what it is here.
    async fn same(&self, title: &str, name: &str) {
        let here = self.here(name).await;
        assert!(!here.is_empty(), "{title}: {name}");
        assert_eq!(self.there(name).await, here, "{title} ({}): {name}", self.set);
    }

    async fn clone(&self, title: &str, name: &str) -> PathBuf {
        let place = self.client.home().join(name);
        self.git(title, &["clone", "-q", &self.server.url(REPO), &place.to_string_lossy()]).await;
        assert_eq!(tip(&self.client, &place, "HEAD").await, self.there("main").await, "{title}");
        place
    }

    async fn hook(&self, name: &str, text: &str) {
        script(&self.bare.join("hooks").join(name), text);
    }
}

/// What the helper says when `git send-pack` ended without success; empty if it did not.
fn exit_line(text: &str) -> &str {
    let from = text.find("fatal: send-pack exited").unwrap_or(text.len());
    let line = &text[from..];
    &line[..line.find('\n').map_or(line.len(), |end| end + 1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_as_t5541_has_them() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let title = "t5541: no empty path components";
        let place = stage.client.home().join("slash");
        let url = format!("{}/", stage.server.url(REPO));
        stage.git(title, &["clone", "-q", &url, &place.to_string_lossy()]).await;
        let doubled =
            stage.server.nodes.seen().look(|seen| seen.iter().any(|seen| seen.head.target.contains("//")));
        assert!(!doubled || version == "never", "{title}");

        stage.clone("t5541: clone remote repository", "clone").await;

        let title = "t5541: push to remote repository (standard)";
        stage.commit("main", "path2").await;
        stage.git(title, &["push", "-q", "origin", "main"]).await;
        stage.same(title, "main").await;

        let title = "t5541: push already up-to-date";
        let pushes = stage.server.nodes.push_count();
        assert!(
            stage.git(title, &["push", "origin", "main"]).await.contains("Everything up-to-date"),
            "{title}"
        );
        assert_eq!(stage.server.nodes.push_count(), pushes, "{title}: no POST");

        let title = "t5541: create and delete remote branch";
        stage.commit("dev", "path3").await;
        stage.git(title, &["push", "-q", "origin", "dev"]).await;
        stage.git(title, &["push", "-q", "origin", ":dev"]).await;
        assert_eq!(stage.there("dev").await + &stage.here("refs/remotes/origin/dev").await, "", "{title}");

        let title = "t5541: rejected update prints status";
        stage.hook("update", "exit 1").await;
        stage.commit("dev2", "path4").await;
        let text = stage.refused(title, &["push", "origin", "dev2"]).await;
        assert!(
            text.contains("hook declined") && text.contains("! [remote rejected] dev2 -> dev2"),
            "{title}: {text}"
        );
        stage.hook("update", "exit 0").await;

        let title = "t5541: used receive-pack service";
        let asked = stage.server.nodes.seen().look(|seen| {
            seen.iter().any(|seen| seen.head.target.ends_with("/info/refs?service=git-receive-pack"))
        });
        assert!(asked && stage.server.nodes.push_count() > 0, "{title}");

        let title = "lib-httpd: non-fast-forward push fails";
        stage.git(title, &["push", "-q", "origin", "main:niam"]).await;
        stage.client.good(&stage.work, &["update-ref", "refs/heads/old", "main~1"]).await;
        stage.commit("old", "other").await;
        let text = stage.refused(title, &["push", "origin", "old:main"]).await;
        assert!(text.contains("non-fast-forward"), "{title}: {text}");

        let title = "lib-httpd: non-fast-forward push show ref status";
        assert!(text.contains("! [rejected]        old -> main (non-fast-forward)"), "{title}: {text}");

        let title = "lib-httpd: non-fast-forward push shows help message";
        assert!(text.contains("Updates were rejected because"), "{title}: {text}");

        let title = "lib-httpd: force with lease aka cas";
        stage.refused(title, &["push", "--force-with-lease=main:main~1", "origin", "old:main"]).await;
        stage.git(title, &["push", "-q", "--force-with-lease=main:main", "origin", "old:main"]).await;
        assert_eq!(stage.there("main").await, stage.here("old").await, "{title}");

        let title = "t5541: push fails for non-fast-forward refs unmatched by remote helper";
        let text = stage.refused(title, &["push", "-v", "origin", "+main", "old:niam"]).await;
        assert!(text.contains("(forced update)"), "{title}: remote output: {text}");
        assert!(text.contains("old -> niam (non-fast-forward)"), "{title}: our output: {text}");

        let title = "t5541: push (chunked)";
        std::fs::write(stage.work.join("blob"), crate::outcome::noise(3 << 20)).unwrap();
        stage.git(title, &["reset", "-q"]).await;
        stage.git(title, &["add", "blob"]).await;
        stage.git(title, &["commit", "-qm", "blob"]).await;
        stage.git(title, &["push", "-q", "-f", "origin", "main"]).await;
        stage.same(title, "main").await;
        let unchunked = stage.server.nodes.seen().look(|seen| {
            let push = seen.iter().rfind(|seen| seen.head.is_push()).unwrap();
            push.head.header("transfer-encoding").is_none() && push.body_len > 3 << 20
        });
        assert!(unchunked, "{title}: ours always has a length");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refs_at_once_as_t5541_has_them() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let title = "t5541: push --atomic also prevents branch creation, reports collateral";
        stage.git(title, &["branch", "collateral"]).await;
        stage.git(title, &["push", "-q", "origin", "collateral"]).await;
        let before = stage.there("main").await;
        stage.commit("collateral", "collateral").await;
        stage.git(title, &["branch", "atomic"]).await;
        stage.client.good(&stage.work, &["update-ref", "refs/heads/main", "main~1"]).await;
        let text =
            stage.refused(title, &["push", "--atomic", "origin", "main", "atomic", "collateral"]).await;
        assert_eq!(
            (stage.there("atomic").await, stage.there("main").await),
            (String::new(), before),
            "{title}"
        );
        assert!(text.contains("atomic -> atomic (atomic push failed)"), "{title}: {text}");
        assert!(text.contains("collateral -> collateral (atomic push failed)"), "{title}: {text}");

        let title = "t5541: push --atomic fails on server-side errors";
        std::fs::create_dir_all(stage.bare.join("refs/heads/collateral.lock")).unwrap();
        let text = stage.refused(title, &["push", "--atomic", "origin", "atomic", "collateral"]).await;
        assert!(text.contains("[remote rejected]"), "{title}: {text}");
        assert_eq!(stage.there("atomic").await, "", "{title}");
        std::fs::remove_dir(stage.bare.join("refs/heads/collateral.lock")).unwrap();
        stage.git(title, &["push", "-q", "--atomic", "origin", "atomic", "collateral"]).await;

        for (title, option) in [
            ("t5541: push --all can push to empty repo", "--all"),
            ("t5541: push --mirror can push to empty repo", "--mirror"),
        ] {
            let name = format!("et/p/empty{option}");
            let bare = stage.server.create(&name, "sha1").await;
            stage.git(title, &["push", "-q", option, &stage.server.url(&name)]).await;
            assert_eq!(tip(&stage.client, &bare, "atomic").await, stage.here("atomic").await, "{title}");
        }
        for (title, option) in [
            ("t5541: push --all to repo with alternates", "--all"),
            ("t5541: push --mirror to repo with alternates", "--mirror"),
        ] {
            let name = format!("et/p/alternates{option}");
            let bare = stage.server.create(&name, "sha1").await;
            let objects = format!("{}\n", stage.bare.join("objects").display());
            std::fs::write(bare.join("objects/info/alternates"), objects).unwrap();
            stage.git(title, &["push", "-q", option, &stage.server.url(&name)]).await;
            assert_eq!(tip(&stage.client, &bare, "atomic").await, stage.here("atomic").await, "{title}");
        }

        let title = "t5541: Non-ASCII branch name can be used with --force-with-lease";
        let oid = stage.here("main").await;
        stage.git(title, &["push", "-q", "origin", "main:refs/heads/höhe"]).await;
        let lease = format!("--force-with-lease=refs/heads/höhe:{oid}");
        stage.git(title, &["push", "-q", &lease, "origin", "atomic:refs/heads/höhe"]).await;
        assert_eq!(stage.there("refs/heads/höhe").await, stage.here("atomic").await, "{title}");

        let title = "ours: each ref of a batch has its own status";
        stage.hook("update", "[ \"$1\" != refs/heads/no ]").await;
        let text = stage.refused(title, &["push", "origin", "main:yes", "main:no"]).await;
        assert!(
            text.contains("main -> yes") && text.contains("[remote rejected] main -> no"),
            "{title}: {text}"
        );
    }
}

/// Apart from the others, and once: what 2,000 refs cost is files, whatever the version.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_tags_as_t5541_and_t5551_have_them() {
    let stage = Stage::new("2").await;
    let title = "t5541: push 2000 tags over http";
    let oid = stage.here("main").await;
    let refs: String =
        (0..2000).map(|n| format!("create refs/tags/really-long-tag-name-{n} {oid}\n")).collect();
    let file = stage.client.home().join("refs");
    std::fs::write(&file, refs).unwrap();
    let mut command = stage.client.command("git");
    command.args(["update-ref", "--stdin"]).current_dir(&stage.work);
    let made = command.stdin(std::fs::File::open(&file).unwrap()).output().await.unwrap();
    assert!(made.status.success(), "{title}");
    let pushes = stage.server.nodes.push_count();
    stage.git(title, &["push", "-q", "origin", "--tags"]).await;
    assert_eq!(stage.server.nodes.push_count(), pushes + 1, "{title}: one POST");
    let tags = stage.client.good(&stage.bare, &["tag"]).await.lines().count();
    assert_eq!(tags, 2000, "{title}");

    let title = "t5551: clone the 2,000 tag repo to check OS command line overflow";
    let place = stage.clone(title, "too-many").await;
    assert_eq!(stage.client.good(&place, &["tag"]).await.lines().count(), 2000, "{title}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_as_t5541_has_it() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let title = "t5541: push --progress shows progress to non-tty";
        stage.commit("main", "progress").await;
        let text = stage.git(title, &["push", "--progress", "origin", "main"]).await;
        assert!(text.contains("To entire://") && text.contains("Writing objects"), "{title}: {text}");

        let title = "t5541: push --no-progress silences progress but not status";
        stage.commit("main", "no-progress").await;
        let text = stage.git(title, &["push", "--no-progress", "origin", "main"]).await;
        assert!(text.contains("To entire://") && !text.contains("Writing objects"), "{title}: {text}");

        let title = "t5541: push --quiet silences status and progress";
        stage.commit("main", "quiet").await;
        assert_eq!(stage.git(title, &["push", "--quiet", "origin", "main"]).await, "", "{title}");

        let title = "t5541: push status output scrubs password";
        let url = stage.server.url(REPO).replace("entire://", "entire://user:s3cret@");
        let text = stage.git(title, &["push", "--porcelain", &url, "+HEAD:scrub"]).await;
        assert!(!text.contains("s3cret"), "{title}: {text}");

        let title = "t5541: clone/fetch scrubs password from reflogs";
        stage.git(title, &["fetch", "-q", &url, "+main:scrubbed"]).await;
        let log = stage.client.good(&stage.work, &["log", "-g", "--format=%gs", "scrubbed"]).await;
        assert!(!log.contains("s3cret"), "{title}: {log}");

        let title = "t5541: http push gives sane defaults to reflog";
        stage.git(title, &["push", "-q", "origin", "main:logged"]).await;
        stage.same(title, "main").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_as_t5551_has_them() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        stage.clone("t5551: clone http repository", "clone").await;

        let title = "t5702: clone with http:// using protocol v2";
        let versions = |service: &'static str| {
            stage.server.nodes.seen().look(|seen| {
                let of_service = seen.iter().filter(|seen| seen.head.target.contains(service));
                of_service
                    .filter_map(|seen| seen.head.header("git-protocol").map(str::to_owned))
                    .collect::<Vec<_>>()
            })
        };
        let all_v2 =
            |values: Vec<String>| !values.is_empty() && values.iter().all(|value| value == "version=2");
        assert_eq!(all_v2(versions("upload-pack")), version == "2", "{title}");

        let title = "t5702: push with http:// and a config of v2 does not request v2";
        stage.commit("topic", "topic").await;
        stage.git(title, &["push", "-q", "origin", "topic"]).await;
        assert!(versions("receive-pack").is_empty(), "{title}");

        let title = "t5551: fetch changes via http";
        stage.client.commits(&stage.bare, "main", "two", 1).await;
        stage.git(title, &["pull", "-q", "--ff-only"]).await;
        stage.same(title, "main").await;

        let title = "t5551: used upload-pack service";
        let paths = stage.server.nodes.seen().look(|seen| {
            seen.iter().map(|seen| format!("{} {}", seen.head.method, seen.head.target)).collect::<Vec<_>>()
        });
        for expected in ["GET /et/p/r/info/refs?service=git-upload-pack", "POST /et/p/r/git-upload-pack"] {
            assert!(paths.iter().any(|path| path == expected), "{title}: {paths:?}");
        }

        let title = "t5551: transfer.hiderefs works over smart-http";
        stage.client.good(&stage.bare, &["branch", "a", "main"]).await;
        stage.client.good(&stage.bare, &["branch", "b", "main"]).await;
        stage.client.good(&stage.bare, &["config", "transfer.hiderefs", "refs/heads/a"]).await;
        let place = stage.clone(title, "hidden").await;
        assert_eq!(tip(&stage.client, &place, "origin/a").await, "", "{title}");
        assert_ne!(tip(&stage.client, &place, "origin/b").await, "", "{title}");

        let title = "t5551: test allowreachablesha1inwant";
        stage.client.good(&stage.bare, &["config", "uploadpack.allowReachableSHA1InWant", "true"]).await;
        let oid = stage.client.good(&stage.bare, &["rev-parse", "main~2"]).await;
        stage.git(title, &["fetch", "-q", "origin", &oid]).await;

        let title = "t5551: test allowreachablesha1inwant with unreachable";
        let lost = stage.client.good(&stage.bare, &["commit-tree", "main^{tree}", "-m", "lost"]).await;
        if version == "0" {
            stage.refused(title, &["fetch", "-q", "origin", &lost]).await;
        }

        let title = "t5551: test allowanysha1inwant with unreachable";
        stage.client.good(&stage.bare, &["config", "uploadpack.allowAnySHA1InWant", "true"]).await;
        stage.git(title, &["fetch", "-q", "origin", &lost]).await;

        let title = "t5551: using fetch command in remote-curl updates refs";
        stage.client.commits(&stage.bare, "another", "another", 2).await;
        stage.git(title, &["-c", "protocol.version=0", "fetch", "-q"]).await;
        assert_eq!(stage.here("origin/another").await, stage.there("another").await, "{title}");

        let title = "t5551: fetch by SHA-1 without tag following";
        stage.client.commits(&stage.bare, "another", "more", 1).await;
        let oid = stage.there("another").await;
        stage.git(title, &["fetch", "-q", "--no-tags", "origin", &oid]).await;
        assert_eq!(stage.here("FETCH_HEAD").await, oid, "{title}");

        let title = "t5551: large fetch-pack requests can be sent using chunked encoding";
        stage.client.commits(&stage.work, "far", "far", 2000).await;
        stage.client.commits(&stage.bare, "another", "other", 1).await;
        stage.git(title, &["fetch", "-q", "origin"]).await;
        assert_eq!(stage.here("origin/another").await, stage.there("another").await, "{title}");

        let title = "t5551: client falls back from v2 to v0 to match server";
        let (old, bare, client) = served(1, false, 2).await;
        client.good(client.home(), &["-c", &stage.set, "clone", "-q", &old.url(REPO), "old"]).await;
        let place = client.home().join("old");
        assert_eq!(tip(&client, &place, "HEAD").await, tip(&client, &bare, "main").await, "{title}");

        let title = "ours: ls-remote of a pattern";
        let text = stage.git(title, &["ls-remote", "origin", "refs/heads/an*"]).await;
        assert!(text.contains("refs/heads/another") && !text.contains("refs/heads/main"), "{title}: {text}");

        let title = "ours: partial clone";
        let place = stage.client.home().join("partial");
        let url = stage.server.url(REPO);
        stage
            .git(
                title,
                &["clone", "-q", "--filter=blob:none", "--no-checkout", &url, &place.to_string_lossy()],
            )
            .await;
        let missing = stage.client.good(&place, &["rev-list", "--objects", "--missing=print", "HEAD"]).await;
        assert!(missing.lines().any(|line| line.starts_with('?')), "{title}: {missing}");

        let title = "ours: an object that a partial clone lacks is fetched when needed";
        let ran = stage.client.run(&place, &["-c", &stage.set, "checkout", "-q"]).await;
        assert!(ran.success, "{title}: {}", ran.stderr);

        let title = "ours: an empty repository can be cloned";
        stage.server.create("et/p/empty", "sha1").await;
        let place = stage.client.home().join("empty");
        let url = stage.server.url("et/p/empty");
        stage.git(title, &["clone", "-q", &url, &place.to_string_lossy()]).await;

        let title = match version {
            "0" => "t5551: clone empty SHA-256 repository with protocol v0",
            _ => "t5551: clone empty SHA-256 repository with protocol v2",
        };
        stage.server.create("et/p/sha256", "sha256").await;
        let place = stage.client.home().join("sha256");
        let url = stage.server.url("et/p/sha256");
        stage.git(title, &["clone", "-q", &url, &place.to_string_lossy()]).await;
        let format = stage.client.good(&place, &["rev-parse", "--show-object-format"]).await;
        let stock = stage.client.home().join("stock256");
        stage
            .git(title, &["clone", "-q", &stage.server.http_url("et/p/sha256"), &stock.to_string_lossy()])
            .await;
        let expected = stage.client.good(&stock, &["rev-parse", "--show-object-format"]).await;
        assert_eq!(format, expected, "{title}: an old Git takes SHA-1 here");

        let title = "ours: push to and clone of a SHA-256 repository";
        let place = stage.client.home().join("from256");
        let arguments = ["init", "-q", "-b", "main", "--object-format=sha256", "from256"];
        stage.client.good(stage.client.home(), &arguments).await;
        stage.client.commits(&place, "main", "sha256", 2).await;
        stage.client.good(&place, &["-c", &stage.set, "push", "-q", &url, "main"]).await;
        let copy = stage.client.home().join("copy256");
        stage.git(title, &["clone", "-q", &url, &copy.to_string_lossy()]).await;
        assert_eq!(
            tip(&stage.client, &copy, "HEAD").await,
            tip(&stage.client, &place, "main").await,
            "{title}"
        );
    }
}

/// Sends what `step` says for requests that `which` names, and Git's answer for others.
fn when(
    stage: &Stage,
    which: impl Fn(&RequestHead) -> bool + Send + Sync + 'static,
    step: impl Fn(&RequestHead) -> Step + Send + Sync + 'static,
) {
    stage.server.script(move |head| if which(head) { step(head) } else { Step::git() });
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_and_credentials_as_t5551_has_them() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        for (title, status) in
            [("t5551: follow redirects (301)", 301), ("t5551: follow redirects (302)", 302)]
        {
            let other = stage.server.nodes.urls().remove(1);
            when(
                &stage,
                |head| head.node == 0 && head.method == "GET",
                move |head| Step::reply(Reply::redirect(status, &format!("{other}{}", head.target))),
            );
            for _ in 0..4 {
                let text = stage.git(title, &["ls-remote", &stage.server.url(REPO)]).await;
                assert!(text.contains("refs/heads/main"), "{title}: {text}");
            }
        }

        let title = "t5551: re-rooting dies on insane schemes";
        when(
            &stage,
            |head| head.target.starts_with("/insane/"),
            |_| Step::reply(Reply::redirect(302, "ftp://127.0.0.1:1/x/info/refs")),
        );
        let url = format!("entire://{}/insane/{REPO}", stage.server.nodes.addr(0));
        let text = stage.refused(title, &["ls-remote", &url]).await;
        assert!(text.contains("fatal:"), "{title}: {text}");

        let title = "t5551: redirects re-root further requests";
        let other = stage.server.nodes.urls().remove(1);
        when(
            &stage,
            |head| head.node == 0,
            move |head| {
                Step::reply(match head.method.as_str() {
                    "GET" => Reply::redirect(302, &format!("{other}{}", head.target)),
                    _ => Reply::text(404, "not here"),
                })
            },
        );
        for _ in 0..4 {
            let text = stage.git(title, &["ls-remote", &stage.server.url(REPO)]).await;
            assert!(text.contains("refs/heads/main"), "{title}: {text}");
        }

        let title = "t5551: GIT_SMART_HTTP can disable smart http";
        when(&stage, RequestHead::is_info_refs, |_| Step::reply(Reply::text(200, "no announcement\n")));
        stage.client.commits(&stage.bare, "main", "dumb", 1).await;
        stage.refused(title, &["fetch", "-q"]).await;

        let title = "t5551: invalid Content-Type rejected";
        when(&stage, RequestHead::is_info_refs, |_| Step::reply(Reply::html(200)));
        let text = stage.refused(title, &["fetch", "-q"]).await;
        assert!(text.contains("fatal:"), "{title}: {text}");

        for (title, status, phrase) in [
            ("ours: 403 is told", 403, "HTTP 403"),
            ("ours: the text of a 404 is shown", 404, "gone away"),
            ("t5551: server-side error detected", 500, "HTTP 500"),
            ("ours: 429 is told", 429, "HTTP 429"),
        ] {
            when(&stage, |_| true, move |_| Step::reply(Reply::text(status, "gone away")));
            let text = stage.refused(title, &["fetch", "-q"]).await;
            assert!(text.contains(phrase), "{title}: {text}");
        }

        let title = "ours: control characters of a server are escaped";
        when(&stage, |_| true, |_| Step::reply(Reply::text(403, "this is\nthe error \u{1b}[31mmessage")));
        let text = stage.refused(title, &["fetch", "-q"]).await;
        assert!(text.contains("the error \\u{1b}[31mmessage"), "{title}: {text}");

        let title = "t5551: cookies stored in http.cookiefile when http.savecookies set: never here";
        when(&stage, |_| true, |_| Step::git());
        stage.git(title, &["fetch", "-q"]).await;
        let cookies = stage
            .server
            .nodes
            .seen()
            .look(|seen| seen.iter().any(|seen| seen.head.header("cookie").is_some()));
        assert!(!cookies, "{title}");

        let title = "t5541: push to auth-only-for-push repo";
        when(
            &stage,
            |head| head.target.contains("receive-pack") && head.header("authorization") != Some("Bearer tok"),
            |_| Step::reply(Reply::text(401, "no")),
        );
        stage.commit("main", "half").await;
        stage.git(title, &["push", "-q", "-f", "origin", "main"]).await;
        stage.same(title, "main").await;

        let title = "ours: a credential that is refused twice is final";
        when(&stage, |_| true, |_| Step::reply(Reply::text(401, "no")));
        stage.commit("main", "refused").await;
        let text = stage.refused(title, &["push", "-q", "origin", "main"]).await;
        assert!(text.contains("authentication failed") && !text.contains("tok"), "{title}: {text}");

        let title = "t5551: GIT_TRACE_CURL redacts auth details: in our debug output";
        let mut command = stage.client.command("git");
        command.args(["-c", &stage.set, "fetch"]).env("ENTIRE_DEBUG", "1").current_dir(&stage.work);
        let output = command.output().await.unwrap();
        assert!(!String::from_utf8_lossy(&output.stderr).contains("Bearer tok"), "{title}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_are_failures_and_leave_nothing_half_done() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let is_fetch = |head: &RequestHead| head.target.ends_with("/git-upload-pack");
        for (title, fault) in [
            ("ours: cut inside a length", Fault::CutAfter(2)),
            ("ours: cut inside a payload", Fault::CutAfter(7)),
            ("ours: cut later", Fault::CutAfter(60)),
            ("ours: reset", Fault::ResetAfter(60)),
            ("ours: shorter than its Content-Length", Fault::LengthTooLong(10)),
        ] {
            stage.client.commits(&stage.bare, "main", "cut", 1).await;
            when(&stage, is_fetch, move |_| Step::git_but(fault.clone()));
            let before = stage.here("origin/main").await;
            let text = stage.refused(title, &["fetch"]).await;
            assert!(text.contains("fatal:") || text.contains("error:"), "{title}: {text}");
            assert_eq!(stage.here("origin/main").await, before, "{title}: nothing is half done");
            when(&stage, |_| false, |_| Step::git());
            stage.git(title, &["fetch", "-q"]).await;
            assert_eq!(stage.here("origin/main").await, stage.there("main").await, "{title}: healed");
        }
        for (title, body) in [
            ("ours: incomplete length", b"00".as_slice()),
            ("ours: incomplete payload", b"0079packfile"),
            ("ours: HTML with status 200", b"<html>oops</html>"),
            ("ours: an ERR packet", b"0010ERR go away\n"),
        ] {
            stage.client.commits(&stage.bare, "main", "odd", 1).await;
            when(&stage, is_fetch, move |_| {
                Step::reply(Reply { status: 200, headers: Vec::new(), body: body.to_vec() })
            });
            let text = stage.refused(title, &["fetch"]).await;
            assert!(text.contains("fatal:") || text.contains("error:"), "{title}: {text}");
        }
        for (title, answer) in [
            ("ours: a report without an unpack status", b"0010not-unpacked0000".as_slice()),
            ("ours: an empty report", b""),
            ("ours: HTML for a report", b"<html></html>"),
        ] {
            stage.commit("topic", "report").await;
            let reply = Reply { status: 200, headers: Vec::new(), body: answer.to_vec() };
            when(&stage, RequestHead::is_push, move |_| Step {
                answer: Answer::Fixed(reply.clone()),
                fault: Fault::None,
            });
            let text = stage.refused(title, &["push", "origin", "topic"]).await;
            assert!(!text.contains("[new branch]"), "{title}: {text}");
            assert_eq!(stage.here("refs/remotes/origin/topic").await, "", "{title}");
        }
    }
    let lone = client();
    assert!(!lone.run(lone.home(), &["ls-remote", "entire://127.0.0.1:1/a"]).await.success, "nobody listens");
}

/// A stage whose client has no token, but Git's own credential store, and who is asked is written down.
async fn with_store(version: &str) -> (Stage, PathBuf) {
    let mut stage = Stage::new(version).await;
    stage.client.unset("ENTIRE_TOKEN");
    stage.client.good(stage.client.home(), &["config", "--global", "credential.helper", "store"]).await;
    let (askpass, asked) = (stage.client.home().join("askpass"), stage.client.home().join("asked"));
    let text = format!(
        "echo \"$1\" >> '{}'\ncase \"$1\" in Username*) echo user@host;; *) echo pass@host;; esac",
        asked.display()
    );
    script(&askpass, &text);
    let askpass = askpass.to_string_lossy().into_owned();
    stage.client.set("GIT_ASKPASS", &askpass);
    (stage, asked)
}

/// Requests that `which` names need the password.
fn protect(stage: &Stage, which: impl Fn(&RequestHead) -> bool + Send + Sync + 'static) {
    // `user@host:pass@host` in base64.
    let needed = "Basic dXNlckBob3N0OnBhc3NAaG9zdA==";
    when(
        stage,
        move |head| which(head) && head.header("authorization") != Some(needed),
        |_| Step::reply(Reply::text(401, "who?").header("WWW-Authenticate", "Basic realm=\"x\"")),
    );
}

/// How often somebody was asked since the last call.
fn questions(asked: &PathBuf) -> usize {
    let count = std::fs::read_to_string(asked).map_or(0, |text| text.lines().count());
    let _ = std::fs::remove_file(asked);
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_as_t5551_has_them() {
    for version in VERSIONS {
        let (stage, asked) = with_store(version).await;
        let url = stage.server.url(REPO);

        let title = "t5551: clone from auth-only-for-push repository";
        protect(&stage, |head| head.target.contains("receive-pack"));
        stage.git(title, &["clone", "-q", &url, "../auth-push"]).await;
        assert_eq!(questions(&asked), 0, "{title}");

        let title = "t5541: clone via half-auth-complete does not need password";
        stage.git(title, &["ls-remote", &url]).await;
        assert_eq!(questions(&asked), 0, "{title}");

        let title = "t5541: push into half-auth-complete requires password";
        stage.commit("main", "half").await;
        stage.git(title, &["push", "-q", "origin", "main"]).await;
        assert_eq!(questions(&asked), 2, "{title}: a name and a password");
        stage.same(title, "main").await;

        let title = "t5551: http auth remembers successful credentials";
        protect(&stage, |_| true);
        stage.git(title, &["ls-remote", &url]).await;
        assert_eq!(questions(&asked), 0, "{title}");

        let title = "t5541: push over smart http with auth";
        stage.commit("main", "stored").await;
        stage.git(title, &["push", "-q", "origin", "main"]).await;
        assert_eq!(questions(&asked), 0, "{title}");

        let title = "t5551: http auth forgets bogus credentials";
        let store = stage.client.home().join(".git-credentials");
        std::fs::write(&store, format!("https://bogus:bogus@{}\n", stage.server.nodes.addr(0))).unwrap();
        let _ = stage.try_git(&["ls-remote", &url]).await;
        assert!(!std::fs::read_to_string(&store).unwrap().contains("bogus"), "{title}");
        let _ = questions(&asked);

        let title = "t5551: clone from password-protected repository";
        std::fs::write(&store, "").unwrap();
        stage.git(title, &["clone", "-q", "--bare", &url, "../auth"]).await;
        assert_eq!(questions(&asked), 2, "{title}");

        let title = "t5551: clone from auth-only-for-objects repository";
        std::fs::write(&store, "").unwrap();
        protect(&stage, |head| head.method == "POST");
        stage.git(title, &["clone", "-q", "--bare", &url, "../auth-fetch"]).await;
        assert_eq!(questions(&asked), 2, "{title}");

        let title = "t5551: no-op half-auth fetch does not require a password";
        std::fs::write(&store, "").unwrap();
        stage.git(title, &["-c", "protocol.version=0", "--git-dir=../auth-fetch", "fetch", "-q"]).await;
        assert_eq!(questions(&asked), 0, "{title}");
    }
}
