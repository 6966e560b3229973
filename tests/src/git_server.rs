//! Real Git on both sides: `git http-backend` behind [`FakeReplicas`], and a `git` with nobody's settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::fake_replicas::Cgi;
use crate::{FakeReplicas, RequestHead, Step, TestIdentity};

/// Nothing that a test asks of Git takes longer.
const DEADLINE: Duration = Duration::from_secs(100);

/// Bare repositories in a directory of their own, served by several nodes.
#[derive(Debug)]
pub struct GitServer {
    /// The nodes.
    pub nodes: FakeReplicas,
    root: TempDir,
    admin: GitClient,
}

impl GitServer {
    /// Starts `count` nodes; with an identity over TLS. `tells_version` false makes servers of protocol v0.
    ///
    /// # Panics
    ///
    /// If there is no loopback, no room, or no Git.
    pub async fn start(count: usize, identity: Option<&TestIdentity>, tells_version: bool) -> Self {
        let root = TempDir::new().expect("there is room for a directory");
        let admin = GitClient::new(&[]);
        let mut environment = admin.environment.clone();
        environment.push(("GIT_PROJECT_ROOT".to_owned(), root.path().to_string_lossy().into_owned()));
        environment.push(("GIT_HTTP_EXPORT_ALL".to_owned(), "1".to_owned()));
        let place = admin.good(root.path(), &["--exec-path"]).await;
        let program = Path::new(&place).join("git-http-backend");
        let cgi = Cgi { program, environment, tells_version };
        let nodes = FakeReplicas::with_cgi(count, identity, Some(cgi), |_| Step::git()).await;
        Self { nodes, root, admin }
    }

    /// Makes the bare repository `<path>`, e.g. `et/p/r`, and gives its directory. `format` is `sha1` or
    /// `sha256`.
    ///
    /// # Panics
    ///
    /// If Git refuses.
    pub async fn create(&self, path: &str, format: &str) -> PathBuf {
        let directory = self.root.path().join(path);
        let format = format!("--object-format={format}");
        let place = directory.to_string_lossy().into_owned();
        self.admin.good(self.root.path(), &["init", "-q", "--bare", "-b", "main", &format, &place]).await;
        for (name, value) in [
            ("http.receivepack", "true"),
            ("uploadpack.allowFilter", "true"),
            ("receive.advertisePushOptions", "true"),
            ("receive.advertiseAtomic", "true"),
            ("gc.auto", "0"),
        ] {
            self.admin.good(&directory, &["config", name, value]).await;
        }
        directory
    }

    /// The `entire://` URL of a repository at the first node.
    pub fn url(&self, path: &str) -> String {
        format!("entire://{}/{path}", self.nodes.addr(0))
    }

    /// The URL of a repository at the first node for stock Git, over plain HTTP.
    pub fn http_url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.nodes.addr(0))
    }

    /// Another script for the requests to come.
    pub fn script(&self, script: impl Fn(&RequestHead) -> Step + Send + Sync + 'static) {
        self.nodes.script(script);
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Whether with success.
    pub success: bool,
    /// The exit status, if there is one.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

/// A `git` with a home of its own and nobody's settings.
#[derive(Debug)]
pub struct GitClient {
    home: TempDir,
    environment: Vec<(String, String)>,
    /// Each commit is a minute younger than the last, whichever repository it is made in.
    clock: AtomicU64,
}

impl GitClient {
    /// With these directories before `PATH`, for helpers and for other programs named `git`.
    ///
    /// # Panics
    ///
    /// If there is no room for a directory.
    pub fn new(before_path: &[&Path]) -> Self {
        let home = TempDir::new().expect("there is room for a directory");
        let path: OsString = std::env::var_os("PATH").unwrap_or_default();
        let path = before_path.iter().map(|path| path.to_path_buf()).chain(std::env::split_paths(&path));
        let path = std::env::join_paths(path).expect("no directory has a colon in its name");
        let home_path = home.path().to_string_lossy().into_owned();
        let environment = [
            ("PATH", path.to_string_lossy().into_owned()),
            ("HOME", home_path.clone()),
            ("XDG_CACHE_HOME", format!("{home_path}/cache")),
            ("XDG_CONFIG_HOME", format!("{home_path}/config")),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
            ("GIT_AUTHOR_NAME", "A".to_owned()),
            ("GIT_AUTHOR_EMAIL", "a@example.org".to_owned()),
            ("GIT_COMMITTER_NAME", "C".to_owned()),
            ("GIT_COMMITTER_EMAIL", "c@example.org".to_owned()),
            ("GIT_AUTHOR_DATE", "1700000000 +0000".to_owned()),
            ("GIT_COMMITTER_DATE", "1700000000 +0000".to_owned()),
            ("LC_ALL", "C".to_owned()),
            // No repository of a test outlives it: thousands of waits for the disk are for nothing.
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            ("GIT_CONFIG_KEY_0", "core.fsync".to_owned()),
            ("GIT_CONFIG_VALUE_0", "none".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { home, environment, clock: AtomicU64::new(1_700_000_000) }
    }

    /// Sets a variable for all commands to come.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Unsets one.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// A directory that goes with the client.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A program with this client's environment, for a test that talks with it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs `git <arguments>` in `directory`.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub async fn run(&self, directory: &Path, arguments: &[&str]) -> Ran {
        let mut command = self.command("git");
        command.args(arguments).current_dir(directory);
        let output = tokio::time::timeout(DEADLINE, command.output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("git {arguments:?} takes longer than {DEADLINE:?}"))
            .expect("git is installed");
        Ran {
            success: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, for what has to succeed; gives what it printed, trimmed.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    pub async fn good(&self, directory: &Path, arguments: &[&str]) -> String {
        let ran = self.run(directory, arguments).await;
        assert!(ran.success, "git {arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout.trim().to_owned()
    }

    /// `count` commits on `branch` of `directory`, each behind the last, without a work tree; in a file named
    /// after `label`. Fast: one `git fast-import`, and a tree that does not grow.
    ///
    /// # Panics
    ///
    /// If Git refuses.
    pub async fn commits(&self, directory: &Path, branch: &str, label: &str, count: usize) {
        use tokio::io::AsyncWriteExt as _;
        let tip =
            self.run(directory, &["rev-parse", "-q", "--verify", &format!("refs/heads/{branch}")]).await;
        let mut stream = String::new();
        for number in 0..count {
            let message = format!("{label} {number}");
            let now = self.clock.fetch_add(60, Ordering::Relaxed);
            stream.push_str(&format!(
                "commit refs/heads/{branch}\ncommitter C <c@example.org> {now} +0000\ndata {}\n{message}\n",
                message.len()
            ));
            if number == 0 && tip.success {
                stream.push_str(&format!("from {}\n", tip.stdout.trim()));
            }
            stream.push_str(&format!("M 100644 inline {label}\ndata {}\n{message}\n\n", message.len()));
        }
        let mut child = self
            .command("git")
            .args(["fast-import", "--quiet", "--force"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .spawn()
            .expect("git is installed");
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        stdin.write_all(stream.as_bytes()).await.expect("fast-import reads");
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let output = output.expect("fast-import ends in time").expect("it was started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
