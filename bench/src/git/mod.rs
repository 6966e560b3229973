//! `git`: what the helper costs beside stock Git, and what the transport below it costs.
//!
//! The servers run in this process: `git http-backend` behind the kit's nodes, the same for both sides, which
//! take turns. Everything in a table row is measured in this run.

mod beside;
mod helper;
mod transport;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::BoxError;
use crate::machine::Machine;

pub(crate) const MIB: u64 = 1 << 20;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Of the repository that is cloned and pushed.
    repository: u64,
    /// Of the pack that is pushed while the helper's memory is watched.
    pack: u64,
    /// Of what the transport alone streams.
    stream: u64,
    /// How often each side clones and pushes.
    rounds: usize,
    /// How often replicas that drop packets are met.
    black_holes: usize,
}

impl Plan {
    /// # Errors
    ///
    /// Any argument but `--quick`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, BoxError> {
        let full =
            Self { repository: 200 * MIB, pack: 1024 * MIB, stream: 1024 * MIB, rounds: 5, black_holes: 100 };
        let quick =
            Self { repository: 48 * MIB, pack: 96 * MIB, stream: 256 * MIB, rounds: 1, black_holes: 20 };
        match args {
            [] => Ok(full),
            [arg] if arg == "--quick" => Ok(quick),
            _ => Err(crate::USAGE.into()),
        }
    }
}

/// Prints the table, a line as soon as it is measured.
pub(crate) fn run(args: &[String]) -> Result<(), BoxError> {
    let plan = Plan::parse(args)?;
    let helper = build_helper()?;
    let Machine { cpu, cores, kernel, commit } = Machine::here();
    println!("{cpu}, {cores} cores, Linux {kernel}, commit {commit}, {}", git_version()?);
    if !args.is_empty() {
        println!("quick: smaller and fewer than the targets ask for");
    }
    let mut table = Table::default();
    // First, while this process is small: its growth is a figure.
    transport::run(&plan, &mut table)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        helper::run(&plan, &helper, &mut table).await?;
        beside::run(&plan, &helper, &mut table).await
    })?;
    println!("{} of {} targets met", table.met, table.judged);
    Ok(())
}

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Table {
    judged: usize,
    met: usize,
}

impl Table {
    /// One figure beside its target, and the conformance row that names it.
    fn row(&mut self, row: &str, what: &str, measured: impl Display, target: &str, met: bool) {
        self.head();
        self.judged += 1;
        self.met += usize::from(met);
        let met = if met { "yes" } else { "NO" };
        println!("{row:<8}{what:<54}{:>36}{target:>13}  {met}", measured.to_string());
    }

    fn head(&self) {
        if self.judged == 0 {
            println!("\n{:<8}{:<54}{:>36}{:>13}  met", "row", "", "measured", "target");
        }
    }
}

/// The helper, built as this program is.
fn build_helper() -> Result<PathBuf, BoxError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "peerage-git-remote-entire"])
        .status()?;
    let program = std::env::current_exe()?.with_file_name("git-remote-entire");
    if !built.success() || !program.exists() {
        return Err("the helper could not be built beside this program".into());
    }
    Ok(program)
}

fn git_version() -> Result<String, BoxError> {
    let output = Command::new("git").arg("--version").output();
    let output =
        output.map_err(|error| format!("git is what this measures beside, and cannot run: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The middle one, or the next.
fn median(times: &mut [Duration]) -> Duration {
    percentile(times, 50)
}

fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((times.len() * of_hundred / 100).min(last)).copied().unwrap_or_default()
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

/// Bytes that no compression makes smaller, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A work tree with `size` of such bytes in one commit on `main`, packed without compression.
async fn large(client: &peerage_tests::GitClient, name: &str, size: u64) -> Result<PathBuf, BoxError> {
    const FILE: u64 = 8 * MIB;
    let work = client.home().join(name);
    client.good(client.home(), &["init", "-q", "-b", "main", name]).await;
    client.good(&work, &["config", "core.compression", "0"]).await;
    let piece = noise(usize::try_from(FILE)?);
    for number in 0..size.div_ceil(FILE) {
        std::fs::write(work.join(format!("f{number}")), [number.to_string().as_bytes(), &piece].concat())?;
    }
    client.good(&work, &["add", "."]).await;
    client.good(&work, &["commit", "-qm", "large"]).await;
    client.good(&work, &["repack", "-qad"]).await;
    Ok(work)
}

/// A client that finds the helper, and speaks plain HTTP with this machine.
fn client(helper: &Path) -> Result<peerage_tests::GitClient, BoxError> {
    let directory = helper.parent().ok_or("the helper lies in a directory")?;
    let mut client = peerage_tests::GitClient::new(&[directory]);
    client.set("ENTIRE_LOOPBACK_HTTP", "true").set("ENTIRE_TOKEN", "bench");
    Ok(client)
}
