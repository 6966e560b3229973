//! The helper alone, spoken with as Git does: how soon it answers, what it takes of memory, what it sends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use peerage_tests::{GitClient, GitServer, Reply, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::{MIB, Plan, Table, client, large, median, mib, noise};
use crate::BoxError;

const REPO: &str = "et/bench/repo";
const REFS: usize = 500_000;

pub(super) async fn run(plan: &Plan, helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    capabilities(helper, table).await?;
    one_line(helper, table).await?;
    refs(helper, table).await?;
    large_answer(plan, helper, table).await?;
    large_push(plan, helper, table).await
}

/// GB-H10: from the start of the process to the blank line behind the list.
async fn capabilities(helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    let client = client(helper)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let mut command = client.command(helper);
        command.args(["o", "entire://h/a"]).stdin(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn()?;
        let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        stdin.write_all(b"capabilities\n").await?;
        let mut said = Vec::new();
        while !said.ends_with(b"\n\n") {
            if stdout.read_buf(&mut said).await? == 0 {
                return Err("the helper ended before its capabilities did".into());
            }
        }
        times.push(began.elapsed());
        drop(stdin);
        child.wait().await?;
    }
    let half = median(&mut times);
    table.row(
        "GB-H10",
        "capabilities from process start, median of 50",
        format!("{half:.2?}"),
        "< 10 ms",
        half < Duration::from_millis(10),
    );
    Ok(())
}

/// GB-H1: one line of a text of 2.6 MB.
async fn one_line(helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    let client = client(helper)?;
    let server = GitServer::start(1, None, true).await;
    server.create(REPO, "sha1").await;
    let work = client.home().join("work");
    client.good(client.home(), &["init", "-q", "-b", "main", "work"]).await;
    let mut lines: Vec<String> = (0..65_000_u64)
        .map(|n| format!("line {n} {:020}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .collect();
    for message in ["all", "one"] {
        if let (Some(line), "one") = (lines.get_mut(32_000), message) {
            *line = "another line\n".to_owned();
        }
        let text = lines.concat();
        std::fs::write(work.join("text"), &text)?;
        client.good(&work, &["add", "text"]).await;
        client.good(&work, &["commit", "-qm", message]).await;
        client.good(&work, &["push", "-q", &server.url(REPO), "main"]).await;
    }
    let sent = server
        .nodes
        .seen()
        .look(|seen| seen.iter().rfind(|seen| seen.head.is_push()).map_or(0, |seen| seen.body_len));
    table.row(
        "GB-H1",
        "push of one changed line in a text of 2.6 MB, body",
        format!("{sent} bytes"),
        "≤ 4096",
        (1..=4096).contains(&sent),
    );
    Ok(())
}

/// G-173, GB-H7.
async fn refs(helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    let body = advertisement();
    let server = GitServer::start(1, None, true).await;
    server.script(move |_| {
        let reply = Reply { status: 200, headers: Vec::new(), body: body.clone() };
        Step::reply(reply.header("Content-Type", "application/x-git-upload-pack-advertisement"))
    });
    let client = client(helper)?;
    let mut times = Vec::new();
    let mut peak = 0;
    for _ in 0..5 {
        let ran = watched(&client, helper, client.home(), &server.url(REPO), "list\n").await?;
        let lines = ran.stdout.iter().filter(|byte| **byte == b'\n').count();
        if lines < REFS {
            return Err(format!("only {lines} lines for {REFS} refs").into());
        }
        times.push(ran.took);
        peak = peak.max(ran.peak);
    }
    let half = median(&mut times);
    let met = half < Duration::from_millis(700);
    table.row("GB-H7", "list of 500,000 refs, median of 5", format!("{half:.2?}"), "< 0.7 s", met);
    table.row("G-173", "the same, helper's peak memory", mib(peak), "< 160 MiB", peak < 160 * MIB);
    Ok(())
}

/// Of protocol v0, as `info/refs` answers it.
fn advertisement() -> Vec<u8> {
    let oid = "a".repeat(40);
    let mut body = b"001e# service=git-upload-pack\n0000".to_vec();
    let mut put = |line: &str| body.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
    put(&format!("{oid} HEAD\0symref=HEAD:refs/heads/main object-format=sha1\n"));
    for number in 0..REFS {
        put(&format!("{oid} refs/heads/branch-number-{number:06}\n"));
    }
    body.extend_from_slice(b"0000");
    body
}

/// GB-H9: what a server sends goes to Git as it comes.
async fn large_answer(plan: &Plan, helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    let mut packet = b"fff0".to_vec();
    packet.extend_from_slice(&noise(0xfff0 - 4));
    let count = usize::try_from(plan.stream)? / packet.len();
    let mut answer = packet.repeat(count);
    answer.extend_from_slice(b"0000");
    let server = GitServer::start(1, None, true).await;
    server.script(move |head| {
        let advertisement = b"000eversion 2\n0012fetch=shallow\n0000".to_vec();
        let body = if head.method == "GET" { advertisement } else { answer.clone() };
        Step::reply(Reply { status: 200, headers: Vec::new(), body })
    });
    let client = client(helper)?;
    let request = "stateless-connect git-upload-pack\n0012command=fetch\n0000";
    let ran = watched(&client, helper, client.home(), &server.url(REPO), request).await?;
    if ran.stdout.len() < count * packet.len() {
        return Err(format!("only {} bytes came through", ran.stdout.len()).into());
    }
    let what = format!("{} MiB answer through the helper, its peak memory", plan.stream / MIB);
    table.row("GB-H9", &what, mib(ran.peak), "< 64 MiB", ran.peak < 64 * MIB);
    Ok(())
}

/// G-168, GB-H4: the pack goes through a file, not through memory.
async fn large_push(plan: &Plan, helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    let client = client(helper)?;
    let server = GitServer::start(1, None, true).await;
    let bare = server.create(REPO, "sha1").await;
    client.good(&bare, &["config", "transfer.unpackLimit", "1"]).await;
    let work = large(&client, "work", plan.pack).await?;
    let lines = "push refs/heads/main:refs/heads/main\n\n";
    let ran = watched(&client, helper, &work, &server.url(REPO), lines).await?;
    let there = client.good(&bare, &["rev-parse", "main"]).await;
    if ran.stdout != b"ok refs/heads/main\n\n" || there != client.good(&work, &["rev-parse", "main"]).await {
        return Err(format!("the push failed: {}", String::from_utf8_lossy(&ran.stdout)).into());
    }
    let what = format!("push of {} MiB, helper's peak memory", plan.pack / MIB);
    table.row("G-168", &what, mib(ran.peak), "< 64 MiB", ran.peak < 64 * MIB);
    Ok(())
}

struct Ran {
    stdout: Vec<u8>,
    /// The most resident memory that was seen, in bytes.
    peak: u64,
    took: Duration,
}

/// Runs the helper with `lines` on stdin, and looks at its memory every 5 ms.
async fn watched(
    client: &GitClient,
    helper: &Path,
    work: &Path,
    url: &str,
    lines: &str,
) -> Result<Ran, BoxError> {
    let mut command = client.command(helper);
    command.args(["origin", url]).current_dir(work).env("GIT_DIR", work.join(".git")).stdin(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn()?;
    let status = format!("/proc/{}/status", child.id().ok_or("it ended at once")?);
    let mut stdin = child.stdin.take().ok_or("no pipe")?;
    stdin.write_all(lines.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output();
    tokio::pin!(output);
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let mut peak = 0;
    let output = loop {
        tokio::select! {
            output = &mut output => break output?,
            _ = tick.tick() => peak = peak.max(high_water(&status)),
        }
    };
    let took = began.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(Ran { stdout: output.stdout, peak, took })
}

/// `VmHWM` of a process, in bytes; 0 when it has gone.
fn high_water(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
