//! Clone and push, ours and stock in turns.

use std::path::Path;
use std::time::Duration;

use peerage_tests::{GitClient, GitServer};
use tokio::time::Instant;

use super::{MIB, Plan, Table, client, large, median};
use crate::BoxError;

const SOURCE: &str = "et/bench/source";

/// Which program speaks with the server.
#[derive(Clone, Copy)]
enum Side {
    /// `git-remote-http`.
    Stock,
    /// `git-remote-entire`.
    Ours,
}

impl Side {
    fn url(self, server: &GitServer, path: &str) -> String {
        match self {
            Self::Stock => server.http_url(path),
            Self::Ours => server.url(path),
        }
    }
}

pub(super) async fn run(plan: &Plan, helper: &Path, table: &mut Table) -> Result<(), BoxError> {
    let client = client(helper)?;
    let server = GitServer::start(1, None, true).await;
    let work = large(&client, "work", plan.repository).await?;
    let mut bench = Bench { client, server, rounds: plan.rounds, count: 0 };
    let size = plan.repository / MIB;

    let bare = bench.empty(SOURCE).await;
    bench.client.good(&work, &["push", "-q", &bare.to_string_lossy(), "main"]).await;
    let (stock, ours) = bench.turns(What::Clone, &work).await?;
    let ratio = stock.as_secs_f64() / ours.as_secs_f64();
    let shown = |ratio: f64| format!("{ratio:.2} ({ours:.2?}, stock {stock:.2?})");
    table.row(
        "GB-H9",
        &format!("clone of {size} MiB, speed beside stock"),
        shown(ratio),
        "≥ 0.95",
        ratio >= 0.95,
    );

    let (stock, ours) = bench.turns(What::Push, &work).await?;
    let ratio = ours.as_secs_f64() / stock.as_secs_f64();
    let shown = format!("{ratio:.2} ({ours:.2?}, stock {stock:.2?})");
    table.row("GB-H4", &format!("push of {size} MiB, time beside stock"), shown, "≤ 1.10", ratio <= 1.10);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Clone,
    Push,
}

struct Bench {
    client: GitClient,
    server: GitServer,
    rounds: usize,
    count: usize,
}

impl Bench {
    /// A new bare repository that keeps packs as they come.
    async fn empty(&self, path: &str) -> std::path::PathBuf {
        let bare = self.server.create(path, "sha1").await;
        self.client.good(&bare, &["config", "transfer.unpackLimit", "1"]).await;
        bare
    }

    /// The medians of stock and of ours. One round of each goes before and is not counted.
    async fn turns(&mut self, what: What, work: &Path) -> Result<(Duration, Duration), BoxError> {
        let (mut stock, mut ours) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            for (side, times) in [(Side::Stock, &mut stock), (Side::Ours, &mut ours)] {
                let took = self.once(what, side, work).await?;
                if round > 0 {
                    times.push(took);
                }
            }
        }
        Ok((median(&mut stock), median(&mut ours)))
    }

    async fn once(&mut self, what: What, side: Side, work: &Path) -> Result<Duration, BoxError> {
        self.count += 1;
        let name = format!("round-{}", self.count);
        let (made, arguments) = match what {
            What::Clone => {
                let target = self.client.home().join(&name);
                let shown = target.to_string_lossy().into_owned();
                (
                    target,
                    vec!["clone".into(), "-q".into(), "--bare".into(), side.url(&self.server, SOURCE), shown],
                )
            }
            What::Push => {
                let path = format!("et/bench/{name}");
                let bare = self.empty(&path).await;
                (bare, vec!["push".into(), "-q".into(), side.url(&self.server, &path), "main".into()])
            }
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let began = Instant::now();
        self.client.good(work, &arguments).await;
        let took = began.elapsed();
        let (there, here) = (self.tip(&made).await, self.tip(work).await);
        if there != here {
            return Err(format!("{arguments:?} brought {there}, not {here}").into());
        }
        std::fs::remove_dir_all(made)?;
        Ok(took)
    }

    async fn tip(&self, directory: &Path) -> String {
        self.client.good(directory, &["rev-parse", "main"]).await
    }
}
