//! What is too large for every run: `cargo test --release -p peerage-git-remote-entire -- --ignored --nocapture`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use peerage_tests::{GitServer, Reply, Step, script};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::Instant;

use crate::fake::{adv, packets};
use crate::outcome::noise;
use crate::real::{REPO, client, served, tip};

/// Runs the helper under `/usr/bin/env time`-like watch: its output, its peak of resident memory in KiB and how
/// long it took.
async fn watched(work: &Path, url: &str, lines: &str) -> (Vec<u8>, u64, Duration) {
    let client = client();
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    command.args(["origin", url]).current_dir(work).env("GIT_DIR", work.join(".git"));
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let peak = tokio::spawn(async move {
        let mut peak = 0;
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            tick.tick().await;
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let value = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
            peak = value.unwrap_or(0).max(peak);
        }
        peak
    });
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let took = started.elapsed();
    let _ = stop.send(());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.stdout, peak.await.unwrap(), took)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "500,000 refs: for a release build"]
async fn g173_half_a_million_refs_are_listed_fast_and_small() {
    let oid = "a".repeat(40);
    let names: Vec<String> =
        (0..500_000).map(|n| format!("{oid} refs/heads/branch-number-{n:06}\n")).collect();
    let mut lines: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = format!("{oid} HEAD\0symref=HEAD:refs/heads/main object-format=sha1\n");
    lines.insert(0, &first);
    let body = adv("git-upload-pack", &lines);
    let server = GitServer::start(1, None, true).await;
    server.script(move |_| {
        let reply = Reply { status: 200, headers: Vec::new(), body: body.clone() };
        Step::reply(reply.header("Content-Type", "application/x-git-upload-pack-advertisement"))
    });
    let directory = client();
    for row in ["G-173", "GB-H7"] {
        let (output, peak, took) = watched(directory.home(), &server.url(REPO), "list\n").await;
        println!("{row}: list of 500,000 refs: {took:?}, peak {peak} KiB, {} bytes", output.len());
        assert!(output.len() > 500_000 * 60);
        assert!(took < Duration::from_millis(700), "{took:?}");
        assert!(peak < 160 << 10, "{peak} KiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a pack of 1 GiB: for a release build"]
async fn g168_a_pack_of_1_gib_is_pushed_in_little_memory() {
    let (server, bare, client) = served(1, true, 0).await;
    let work = client.home().join("work");
    client.good(client.home(), &["init", "-q", "-b", "main", "work"]).await;
    client.good(&work, &["config", "core.compression", "0"]).await;
    let piece = noise(16 << 20);
    for number in 0..64_u8 {
        std::fs::write(work.join(format!("f{number}")), [&[number], piece.as_slice()].concat()).unwrap();
    }
    client.good(&work, &["add", "."]).await;
    client.good(&work, &["commit", "-qm", "large"]).await;
    let lines = "push refs/heads/main:refs/heads/main\n\n";
    let (output, peak, took) = watched(&work, &server.url(REPO), lines).await;
    println!("GB-H4: push of 1 GiB: {took:?}, peak {peak} KiB");
    assert_eq!(output, b"ok refs/heads/main\n\n");
    assert_eq!(tip(&client, &bare, "main").await, tip(&client, &work, "main").await);
    server.nodes.seen().look(|seen| {
        let push = seen.iter().rfind(|seen| seen.head.is_push()).unwrap();
        let len = push.body_len.to_string();
        assert_eq!(push.head.header("content-length"), Some(len.as_str()));
        assert_eq!(push.head.header("x-entire-push-size"), Some(len.as_str()));
    });
    for row in ["G-168", "GB-H4"] {
        assert!(peak < 64 << 10, "{row}: {peak} KiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures the start of a process: for a release build on a quiet machine"]
async fn capabilities_come_at_once() {
    let client = client();
    let mut times = Vec::new();
    for _ in 0..50 {
        let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
        command.args(["o", "entire://h/a"]).stdin(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"capabilities\n\n").await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        times.push(started.elapsed());
        assert!(output.stdout.starts_with(b"stateless-connect\n"));
    }
    times.sort();
    println!("GB-H10: capabilities, process start to end: median {:?}, slowest {:?}", times[25], times[49]);
    assert!(times[25] < Duration::from_millis(10), "{}: {:?}", "GB-H10", times[25]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_first_needs_no_other_program_and_no_more_threads() {
    let mut client = client();
    let home = client.home().to_path_buf();
    script(&home.join("git"), &format!("echo \"$@\" >> '{}'", home.join("calls").display()));
    client.set("PATH", &home.display().to_string()).set("GIT_PROTOCOL", "version=2");
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    let mut child = command.args(["o", "entire://h/a"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"capabilities\n").await.unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).await.unwrap();
    assert_eq!(line, "stateless-connect\n");
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id().unwrap())).unwrap().count();
    assert!(threads <= 3, "{}: itself, one that reads and one that wrote: {threads}", "GB-H10");
    drop(stdin);
    assert!(child.wait().await.unwrap().success());
    assert!(!home.join("calls").exists(), "{}: Git was not asked for a setting", "GB-H10");
    assert!(!home.join("cache").exists(), "{}: nor anything written", "GB-H10");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_copied_as_it_comes() {
    // Held back by nothing, held whole nowhere.
    copied("GB-H9", 512, 48 << 10).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "copies 1 GiB: for a release build"]
async fn a_large_answer_is_copied_fast() {
    let (took, peak) = copied("GB-H9", 16_384, 64 << 10).await;
    println!("GB-H9: 1 GiB through the helper: {took:?}, peak {peak} KiB");
}

/// An answer of so many packets of 64 KiB through the helper, which stays below `limit` KiB meanwhile.
async fn copied(row: &str, packets_of_64_kib: usize, limit: u64) -> (Duration, u64) {
    let mut answer = Vec::new();
    let payload = noise(65_516);
    for _ in 0..packets_of_64_kib {
        git_remote_entire::pktline::put(&mut answer, &payload).unwrap();
    }
    answer.extend_from_slice(b"0000");
    let advertisement = packets(&["version 2\n", "fetch=shallow\n", "0000"]);
    let server = GitServer::start(1, None, true).await;
    server.script(move |head| {
        let body = if head.method == "GET" { advertisement.clone() } else { answer.clone() };
        Step::reply(Reply { status: 200, headers: Vec::new(), body })
    });
    let request = "stateless-connect git-upload-pack\n0012command=fetch\n0000";
    let directory = client();
    let (output, peak, took) = watched(directory.home(), &server.url(REPO), request).await;
    assert!(output.len() > packets_of_64_kib * 65_520, "{row}");
    assert!(peak < limit, "{row}: {peak} KiB");
    (took, peak)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "clones and pushes 200 MiB beside stock Git: for a release build on a quiet machine"]
async fn clone_and_push_beside_stock() {
    let (server, bare, client) = served(1, true, 0).await;
    client.good(&bare, &["config", "core.bigFileThreshold", "1m"]).await;
    let work = client.home().join("work");
    client.good(client.home(), &["init", "-q", "-b", "main", "work"]).await;
    client.good(&work, &["config", "core.compression", "0"]).await;
    let piece = noise(8 << 20);
    for number in 0..25_u8 {
        std::fs::write(work.join(format!("f{number}")), [&[number], piece.as_slice()].concat()).unwrap();
    }
    client.good(&work, &["add", "."]).await;
    client.good(&work, &["commit", "-qm", "large"]).await;
    client.good(&work, &["repack", "-qad"]).await;
    let mut medians = Vec::new();
    for what in ["push", "clone"] {
        for (name, url) in [("stock", server.http_url(REPO)), ("ours", server.url(REPO))] {
            let mut times = Vec::new();
            for round in 0..5 {
                let place = client.home().join(format!("{name}-{round}"));
                let target = place.to_string_lossy().into_owned();
                let arguments = match what {
                    "push" => vec!["push", "-q", &url, "main"],
                    _ => vec!["clone", "-q", "--bare", &url, &target],
                };
                let started = Instant::now();
                client.good(&work, &arguments).await;
                times.push(started.elapsed());
                if what == "push" && !(name == "ours" && round == 4) {
                    client.good(&bare, &["update-ref", "-d", "refs/heads/main"]).await;
                    client.good(&bare, &["prune", "--expire=now"]).await;
                    client.good(&bare, &["gc", "-q", "--prune=now"]).await;
                }
                let _ = std::fs::remove_dir_all(&place);
            }
            times.sort();
            println!("{what} of 200 MiB, {name}: {times:?}");
            medians.push(times[2]);
        }
    }
    for (what, pair) in ["push", "clone"].iter().zip(medians.chunks(2)) {
        println!("{what}, ours / stock: {:.2}", pair[1].as_secs_f64() / pair[0].as_secs_f64());
    }
}
