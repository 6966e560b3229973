//! Real pushes through real Git, to servers that do something wrong at the worst moment.

use std::path::{Path, PathBuf};

use peerage_tests::{Answer, Fault, GitClient, GitServer, Ran, Reply, Step, script};

use crate::fake::LONG;
use crate::real::{REPO, client, served, tip};

/// A client with the repository cloned, and a commit to push on `main`.
struct Scene {
    server: GitServer,
    bare: PathBuf,
    client: GitClient,
    work: PathBuf,
}

async fn scene(nodes: usize, version: &str) -> Scene {
    let (server, bare, _) = served(nodes, true, 0).await;
    let mut client = client();
    client.set("GIT_PROTOCOL", &format!("version={version}")).set("ENTIRE_DEBUG", "1");
    let work = client.home().join("work");
    client.good(client.home(), &["init", "-q", "-b", "main", "work"]).await;
    client.good(&work, &["config", "protocol.version", version]).await;
    client.good(&work, &["remote", "add", "origin", &server.url(REPO)]).await;
    client.commits(&work, "main", "one", 1).await;
    Scene { server, bare, client, work }
}

impl Scene {
    async fn push(&self, refs: &[&str]) -> Ran {
        let arguments: Vec<&str> = ["push", "--porcelain", "origin"].iter().chain(refs).copied().collect();
        self.client.run(&self.work, &arguments).await
    }

    async fn here(&self, name: &str) -> String {
        tip(&self.client, &self.work, name).await
    }

    async fn there(&self, name: &str) -> String {
        tip(&self.client, &self.bare, name).await
    }
}

fn said(ran: &Ran) -> String {
    format!("{}{}", ran.stdout, ran.stderr)
}

const BOTH: [&str; 2] = ["1", "2"];

#[tokio::test(flavor = "multi_thread")]
async fn g132_g133_a_push_is_one_post() {
    for version in BOTH {
        let scene = scene(1, version).await;
        let ran = scene.push(&["main"]).await;
        assert!(ran.success, "{}", said(&ran));
        let command =
            if version == "1" { "command: \"connect git-receive-pack\"" } else { "command: \"push " };
        assert!(ran.stderr.contains(command), "{version}: {}", ran.stderr);
        assert_eq!(scene.there("main").await, scene.here("main").await);
        assert_eq!(scene.server.nodes.push_count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g134_g135_a_push_that_is_applied_and_not_answered_is_unknown_and_not_sent_again() {
    for version in BOTH {
        let scene = scene(3, version).await;
        scene.server.script(
            |head| {
                if head.is_push() { Step::git_but(Fault::ResetAnswer) } else { Step::git() }
            },
        );
        let ran = scene.push(&["main"]).await;
        assert!(!ran.success);
        let text = said(&ran);
        assert!(text.contains("push outcome unknown") && text.contains("lags"), "{version}: {text}");
        assert_eq!(scene.server.nodes.push_count(), 1, "{version}");
        assert_eq!(scene.there("main").await, scene.here("main").await);
        assert_eq!(scene.here("refs/remotes/origin/main").await, "", "{version}: no tracking ref");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g136_g137_a_marker_that_says_indeterminate_is_believed() {
    for version in BOTH {
        let scene = scene(3, version).await;
        assert!(scene.push(&["main"]).await.success);
        let first = scene.here("main").await;
        scene.client.commits(&scene.work, "main", "two", 1).await;
        scene.server.script(|head| {
            let reply =
                Reply::text(502, "the primary went away").header("X-Entire-Push-Outcome", "indeterminate");
            if head.is_push() {
                Step { answer: Answer::GitThen(reply), fault: Fault::None }
            } else {
                Step::git()
            }
        });
        let ran = scene.push(&["main"]).await;
        assert!(!ran.success);
        let text = said(&ran);
        assert!(text.contains("push outcome unknown") && text.contains("the primary went away"), "{text}");
        assert_eq!(scene.server.nodes.push_count(), 2, "{version}");
        assert_eq!(scene.there("main").await, scene.here("main").await);
        assert_eq!(scene.here("refs/remotes/origin/main").await, first, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g138_g139_a_report_that_is_cut_is_no_report() {
    for version in BOTH {
        let scene = scene(2, version).await;
        scene.client.commits(&scene.work, "second", "second", 1).await;
        scene.server.script(|head| {
            if head.is_push() { Step::git_but(Fault::ResetBehind("unpack ok", 8)) } else { Step::git() }
        });
        let ran = scene.push(&["main", "second"]).await;
        assert!(!ran.success);
        let text = said(&ran);
        assert!(text.contains("push outcome unknown"), "{version}: {text}");
        assert!(!ran.stdout.contains("*\trefs/heads/main"), "{version}: {}", ran.stdout);
        assert_eq!(scene.server.nodes.push_count(), 1, "{version}");
        assert_eq!(scene.there("main").await, scene.here("main").await);
        assert_eq!(scene.here("refs/remotes/origin/main").await, "", "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g140_g141_a_ref_that_a_hook_refuses_is_refused_alone() {
    for version in BOTH {
        let scene = scene(2, version).await;
        let hook = scene.bare.join("hooks/update");
        script(&hook, "[ \"$1\" != refs/heads/blocked ]");
        scene.client.commits(&scene.work, "blocked", "blocked", 1).await;
        let ran = scene.push(&["main", "blocked"]).await;
        assert!(!ran.success);
        assert!(ran.stdout.contains("*\trefs/heads/main:refs/heads/main\t[new branch]"), "{}", ran.stdout);
        let refused = "!\trefs/heads/blocked:refs/heads/blocked\t[remote rejected] (hook declined)";
        assert!(ran.stdout.contains(refused), "{version}: {}", ran.stdout);
        assert!(!said(&ran).contains("push outcome unknown"), "{version}: {}", said(&ran));
        assert_eq!(scene.server.nodes.push_count(), 1);
        assert_eq!(scene.there("main").await, scene.here("main").await);
        assert_eq!(scene.there("blocked").await, "");
        assert_eq!(scene.here("refs/remotes/origin/main").await, scene.here("main").await, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g142_g143_a_push_that_was_not_applied_goes_to_another_node() {
    for version in BOTH {
        let scene = scene(2, version).await;
        assert!(scene.push(&["main"]).await.success);
        scene.client.commits(&scene.work, "main", "two", 1).await;
        scene.server.script(|head| {
            let reply = Reply::text(503, "busy")
                .header("X-Entire-Push-Outcome", "not-applied")
                .header("Retry-After", "5");
            if head.is_push() && head.earlier == 1 { Step::reply(reply) } else { Step::git() }
        });
        let ran = scene.push(&["main"]).await;
        assert!(ran.success, "{version}: {}", said(&ran));
        assert_eq!(scene.server.nodes.push_count(), 3, "{version}");
        assert_eq!(scene.there("main").await, scene.here("main").await);
        assert_eq!(scene.here("refs/remotes/origin/main").await, scene.here("main").await);
    }
}

/// A generator that is good enough to choose places to cut, and the same in every run with one seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g138_pushes_cut_anywhere_are_applied_once_at_most_and_reported_rightly() {
    let rounds: u64 =
        std::env::var("PEERAGE_CUT_PUSHES").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let seed: u64 =
        std::env::var("PEERAGE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed}, {rounds} pushes (PEERAGE_CUT_PUSHES, PEERAGE_SEED)");
    let mut dice = Dice(seed);
    let scene = scene(2, "2").await;
    scene.client.good(&scene.bare, &["config", "core.logAllRefUpdates", "always"]).await;
    assert!(scene.push(&["main"]).await.success);
    let mut counts = [0_u32; 3];
    for round in 0..rounds {
        let version = if dice.below(2) == 0 { "1" } else { "2" };
        let branch = format!("b{round}");
        scene.client.commits(&scene.work, &branch, &branch, 1).await;
        let at = dice.below(450);
        let refusal = Reply::text(503, "busy").header("X-Entire-Push-Outcome", "not-applied");
        let (step, everywhere) = match dice.below(6) {
            0 => (Step::git_but(Fault::ResetRequest(at)), dice.below(2) == 0),
            1 => (Step::git_but(Fault::ResetAnswer), false),
            2 => (Step::git_but(Fault::ResetAfter(at / 4)), false),
            3 => (Step::git_but(Fault::CutAfter(at / 4)), false),
            4 => (Step::reply(refusal), dice.below(2) == 0),
            _ => (Step::git(), false),
        };
        let shown = format!("round {round}, version {version}, everywhere {everywhere}, {:?}", step.fault);
        let earlier = scene.server.nodes.push_count();
        scene.server.script(move |head| {
            let is_meant = head.is_push() && (everywhere || head.earlier == earlier);
            if is_meant { step.clone() } else { Step::git() }
        });
        let set = format!("protocol.version={version}");
        let mut command = scene.client.command("git");
        command.env_remove("GIT_PROTOCOL").current_dir(&scene.work);
        command.args(["-c", &set, "push", "--porcelain", "origin", &branch]);
        let output = tokio::time::timeout(LONG, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{shown}: hangs")).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_unknown = text.contains("push outcome unknown");
        let log = scene.bare.join("logs/refs/heads").join(&branch);
        let applied = std::fs::read_to_string(&log).map_or(0, |log| log.lines().count());
        assert!(applied <= 1, "{shown}: applied {applied} times");
        match (output.status.success(), is_unknown) {
            (true, _) => assert_eq!(applied, 1, "{shown}: reported as pushed"),
            (false, true) => {}
            (false, false) => assert_eq!(applied, 0, "{shown}: reported as not pushed: {text}"),
        }
        let at = match (output.status.success(), is_unknown) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        counts[at] += 1;
    }
    println!("{} pushed, {} unknown, {} not pushed", counts[0], counts[1], counts[2]);
    scene.server.script(|_| Step::git());
    scene.client.commits(&scene.work, "after", "after", 1).await;
    let ran = scene.push(&["after"]).await;
    assert!(ran.success, "after healing the next push succeeds: {}", said(&ran));
    assert_eq!(scene.there("after").await, scene.here("after").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn g067_a_push_that_is_too_large_is_refused_by_what_it_declares() {
    let scene = scene(1, "2").await;
    std::fs::write(scene.work.join("blob"), noise(256 << 10)).unwrap();
    scene.client.good(&scene.work, &["reset", "-q"]).await;
    scene.client.good(&scene.work, &["add", "blob"]).await;
    scene.client.good(&scene.work, &["commit", "-qm", "blob"]).await;
    scene.server.script(|head| {
        let declared: u64 = head.header("x-entire-push-size").map_or(0, |size| size.parse().unwrap());
        if head.is_push() && declared > 32_768 {
            let text = format!("declared size {declared} exceeds limit 32768");
            return Step { answer: Answer::Early(Reply::text(413, &text)), fault: Fault::None };
        }
        Step::git()
    });
    let ran = scene.push(&["main"]).await;
    let text = said(&ran);
    let declared = scene.server.nodes.seen().look(|seen| {
        let push = seen.iter().find(|seen| seen.head.is_push()).unwrap();
        push.head.header("x-entire-push-size").unwrap().to_owned()
    });
    let expected = format!("entire: push too large: size {declared} exceeds limit 32768");
    assert!(text.contains(&expected), "{text}");
    assert!(!ran.success && !ran.stdout.contains("[new branch]"));
    // G-066: with room for it.
    scene.server.script(|_| Step::git());
    let ran = scene.push(&["main"]).await;
    assert!(ran.success, "{}", said(&ran));
    scene.server.nodes.seen().look(|seen| {
        let push = seen.iter().rfind(|seen| seen.head.is_push()).unwrap();
        let size = push.body_len.to_string();
        assert!(push.body_len > 256 << 10);
        assert_eq!(push.head.header("x-entire-push-size"), Some(size.as_str()), "G-066");
        assert_eq!(push.head.header("content-length"), Some(size.as_str()), "G-066");
    });
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut dice = Dice(7);
    (0..len).map(|_| u8::try_from(dice.below(256)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn g167_one_changed_line_is_a_small_push() {
    let scene = scene(1, "2").await;
    let mut lines: Vec<String> =
        (0..65_000).map(|n| format!("line {n} with {}\n", n * 7919 % 100_003)).collect();
    lines.iter_mut().for_each(|line| line.insert_str(0, "some more text of it "));
    let file: PathBuf = Path::new(&scene.work).join("file");
    std::fs::write(&file, lines.concat()).unwrap();
    assert!(lines.concat().len() > 2_600_000);
    for arguments in [["reset", "-q"].as_slice(), &["add", "file"], &["commit", "-qm", "file"]] {
        scene.client.good(&scene.work, arguments).await;
    }
    assert!(scene.push(&["main"]).await.success);
    lines[30_000] = "another line\n".to_owned();
    std::fs::write(&file, lines.concat()).unwrap();
    scene.client.good(&scene.work, &["commit", "-qam", "one line"]).await;
    let ran = scene.push(&["main"]).await;
    assert!(ran.success, "{}", said(&ran));
    let len = scene
        .server
        .nodes
        .seen()
        .look(|seen| seen.iter().rfind(|seen| seen.head.is_push()).unwrap().body_len);
    println!("the body of the push has {len} bytes");
    assert!(len <= 4096, "GB-H1: {len}");
}
