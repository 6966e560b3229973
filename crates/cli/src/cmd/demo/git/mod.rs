//! Step 6: a repository on three replicas, one dead and one black-holed; cloned, compared, pushed to.

mod command;
mod replica;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tempfile::TempDir;
use tokio::time::Instant;

use self::command::Git;
use self::replica::Replica;
use super::{Stage, step_failed};
use crate::output::Failure;

const STEP: &str = "6 git";
/// Of the repository, at each replica.
const PATH: &str = "et/demo/repo";
/// A checkout that takes longer to copy, or has more in it, is left for a repository that the demo makes.
const COPY_LIMIT: Duration = Duration::from_secs(3);
const MOST_KIB: u64 = 32 * 1024;
/// Commits of a repository that the demo makes.
const COMMITS: usize = 200;

/// Shows the step; without the parts it needs, says which are missing.
pub(super) async fn show(stage: &Stage) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| step_failed(STEP, &error.to_string());
    let place = TempDir::new().map_err(|error| failed(&error))?;
    let path = path_with_helper(place.path()).map_err(|error| failed(&error))?;
    match Git::find(place.path(), path).await {
        Ok(git) => Scene { stage, place, git: Arc::new(git) }.play().await.map_err(|error| failed(&error)),
        Err(missing) => stage.skipped(STEP, &missing),
    }
}

/// `PATH` with a directory before it where Git finds its helper: this very program, by the name that makes it one.
fn path_with_helper(place: &Path) -> Result<OsString, Box<dyn std::error::Error>> {
    let directory = place.join("bin");
    std::fs::create_dir(&directory)?;
    std::os::unix::fs::symlink(std::env::current_exe()?, directory.join(crate::GIT_HELPER))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(directory).chain(std::env::split_paths(&path)))?)
}

/// What the whole step shares.
struct Scene<'s> {
    stage: &'s Stage,
    place: TempDir,
    git: Arc<Git>,
}

/// What is compared.
#[derive(PartialEq, Eq)]
struct History {
    /// Every commit, youngest first.
    commits: String,
    tree: String,
}

impl History {
    fn count(&self) -> usize {
        self.commits.lines().count()
    }
}

impl Scene<'_> {
    async fn play(&self) -> Result<(), String> {
        let (mut replicas, whose) = self.replicas().await?;
        let original = self.history(&first(&replicas)?.repository(PATH), "main").await?;
        let addresses: Vec<String> = replicas.iter().map(|replica| replica.address.to_string()).collect();
        self.done(&format!(
            "{whose} ({} commits) on {} replicas, each with its own copy: {}",
            original.count(),
            replicas.len(),
            addresses.join(", ")
        ))?;
        let url = format!("entire://{}/{PATH}", first(&replicas)?.address);
        let took = self.clone(&url, "before", &original).await?;
        self.done(&format!("git clone {url} in {took:.2?}, with all of them up"))?;

        let [dead, hole, last] = replicas.as_mut_slice() else { return Err("a replica is missing".into()) };
        dead.kill().await.map_err(|error| error.to_string())?;
        hole.black_hole().await.map_err(|error| error.to_string())?;
        self.done(&format!(
            "{}, which the URL names, is dead now; {} is black-holed: a connect to it never ends",
            dead.address, hole.address
        ))?;
        let before = last.requests().len();
        let took = self.clone(&url, "after", &original).await?;
        if last.requests().len() == before {
            return Err("the clone came from a replica that is gone".into());
        }
        self.done(&format!(
            "git clone of the same URL in {took:.2?}, from {}: {} commits, tree {}, all as in the original; \
             git fsck finds nothing",
            last.address,
            original.count(),
            original.tree.get(..12).unwrap_or_default()
        ))?;
        let (commit, took) = self.push("after").await?;
        self.check_push(&replicas, &original, &commit).await?;
        let last = replicas.last().ok_or("a replica is missing")?;
        self.done(&format!(
            "git push of commit {} in {took:.2?}: {} took it, once",
            commit.get(..12).unwrap_or_default(),
            last.address
        ))
    }

    fn done(&self, text: &str) -> Result<(), String> {
        self.stage.done(STEP, text).map_err(Failure::text)
    }

    /// Three replicas that serve copies of one repository, and whose it is.
    async fn replicas(&self) -> Result<(Vec<Replica>, &'static str), String> {
        let (mut replicas, mut listeners) = (Vec::new(), Vec::new());
        for name in ["replica-1", "replica-2", "replica-3"] {
            let bound = Replica::bind(self.place.path().join(name)).await;
            let (replica, listener) = bound.map_err(|error| format!("cannot listen: {error}"))?;
            std::fs::create_dir(replica.root()).map_err(|error| error.to_string())?;
            replicas.push(replica);
            listeners.push(listener);
        }
        let original = first(&replicas)?.repository(PATH);
        let whose = self.original(&original).await?;
        for replica in replicas.iter().skip(1) {
            self.git
                .run(
                    self.place.path(),
                    &["clone", "-q", "--bare", &text(&original)?, &text(&replica.repository(PATH))?],
                )
                .await?;
        }
        for replica in &replicas {
            for (name, value) in [("http.receivepack", "true"), ("core.logAllRefUpdates", "always")] {
                self.git.run(&replica.repository(PATH), &["config", name, value]).await?;
            }
        }
        let header: Vec<String> =
            replicas.iter().map(|replica| format!("http://{}", replica.address)).collect();
        let header = HeaderValue::from_str(&header.join(", ")).map_err(|error| error.to_string())?;
        for (replica, listener) in replicas.iter_mut().zip(listeners) {
            replica.serve(listener, self.git.clone(), header.clone());
        }
        Ok((replicas, whose))
    }

    /// A bare repository at `place` with the history of this checkout as `main`, or with one made here.
    async fn original(&self, place: &Path) -> Result<&'static str, String> {
        // Apart: what a copy that took too long has started may still write there.
        let copy = self.place.path().join("checkout");
        match tokio::time::timeout(COPY_LIMIT, self.copy_of_checkout(&copy)).await {
            Ok(Ok(())) => {
                let moved = place.parent().map_or(Ok(()), std::fs::create_dir_all);
                moved.and_then(|()| std::fs::rename(copy, place)).map_err(|error| error.to_string())?;
                return Ok("this checkout");
            }
            Ok(Err(why)) => tracing::info!(%why, "the demo makes a repository of its own"),
            Err(_) => tracing::info!("the demo makes a repository of its own: this checkout is too large"),
        }
        self.init(place).await?;
        let mut history = String::new();
        for number in 1..=COMMITS {
            let message = format!("commit {number}");
            let len = message.len();
            history.push_str(&format!(
                "commit refs/heads/main\ncommitter Peerage demo <demo@localhost> {} +0000\ndata {len}\n{message}\n\
                 M 100644 inline file-{}\ndata {len}\n{message}\n\n",
                1_700_000_000 + number * 60,
                number % 20
            ));
        }
        self.git.feed(place, &["fast-import", "--quiet"], history.as_bytes()).await?;
        Ok("a repository made for this")
    }

    async fn init(&self, place: &Path) -> Result<(), String> {
        let root = self.place.path();
        self.git.run(root, &["init", "-q", "--bare", "-b", "main", &text(place)?]).await?;
        Ok(())
    }

    /// # Errors
    ///
    /// Why this checkout, if it is one, is not fit for a demo.
    async fn copy_of_checkout(&self, place: &Path) -> Result<(), String> {
        let here = std::env::current_dir().map_err(|error| error.to_string())?;
        let top = self.git.run(&here, &["rev-parse", "--show-toplevel"]).await?;
        if self.git.run(&here, &["rev-parse", "--is-shallow-repository"]).await? != "false" {
            return Err("it is shallow".into());
        }
        let counts = self.git.run(&here, &["count-objects", "-v"]).await?;
        let size = |name| counts.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let kib = size("size:").unwrap_or(MOST_KIB) + size("size-pack:").unwrap_or(MOST_KIB);
        if kib > MOST_KIB {
            return Err(format!("it has {} MiB of objects", kib / 1024));
        }
        self.init(place).await?;
        self.git.run(place, &["fetch", "-q", "--no-tags", &top, "HEAD:refs/heads/main"]).await?;
        // A history with old faults would not pass the comparison later on.
        self.git.run(place, &["fsck", "--no-dangling"]).await?;
        Ok(())
    }

    /// What `name` stands for in the repository at `place`.
    async fn history(&self, place: &Path, name: &str) -> Result<History, String> {
        Ok(History {
            commits: self.git.run(place, &["rev-list", name]).await?,
            tree: self.git.run(place, &["rev-parse", &format!("{name}^{{tree}}")]).await?,
        })
    }

    /// Clones into a directory of that name, compares with the original, and gives how long the clone took.
    async fn clone(&self, url: &str, name: &str, original: &History) -> Result<Duration, String> {
        let began = Instant::now();
        self.git.run(self.place.path(), &["clone", "-q", url, name]).await?;
        let took = began.elapsed();
        let clone = self.place.path().join(name);
        if self.history(&clone, "HEAD").await? != *original {
            return Err(format!("{name}: the clone is not the original"));
        }
        self.git.run(&clone, &["fsck", "--no-dangling"]).await?;
        Ok(took)
    }

    /// Makes a commit in the clone of that name and pushes it; gives its id, and how long the push took.
    async fn push(&self, name: &str) -> Result<(String, Duration), String> {
        let clone = self.place.path().join(name);
        let file = "pushed-by-the-peerage-demo.txt";
        std::fs::write(clone.join(file), "Pushed through what is left of three replicas.\n")
            .map_err(|error| error.to_string())?;
        self.git.run(&clone, &["add", "-f", file]).await?;
        self.git.run(&clone, &["commit", "-q", "-m", "a commit of the demo"]).await?;
        let began = Instant::now();
        self.git.run(&clone, &["push", "-q", "origin", "HEAD:main"]).await?;
        let took = began.elapsed();
        Ok((self.git.run(&clone, &["rev-parse", "HEAD"]).await?, took))
    }

    /// The last replica has the commit, took it once, and the others know nothing of it.
    async fn check_push(&self, replicas: &[Replica], original: &History, commit: &str) -> Result<(), String> {
        let (last, others) = replicas.split_last().ok_or("a replica is missing")?;
        let place = last.repository(PATH);
        let expected = format!("{commit}\n{}", original.commits);
        if self.history(&place, "main").await?.commits != expected {
            return Err(format!("{} does not have the commit on top", last.address));
        }
        let posts = last.requests().iter().filter(|line| *line == "POST git-receive-pack").count();
        let updates = self.git.run(&place, &["reflog", "show", "main"]).await?.lines().count();
        if (posts, updates) != (1, 1) {
            return Err(format!("the push was sent {posts} times and applied {updates} times"));
        }
        for other in others {
            if self.git.run(&other.repository(PATH), &["rev-parse", "main"]).await? == commit {
                return Err(format!("{} has the commit, but is gone", other.address));
            }
        }
        Ok(())
    }
}

fn first(replicas: &[Replica]) -> Result<&Replica, String> {
    replicas.first().ok_or_else(|| "a replica is missing".into())
}

/// A path as an argument of Git.
fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{}: not a path in UTF-8", path.display()))
}
