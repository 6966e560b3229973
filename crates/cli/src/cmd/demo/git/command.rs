//! The `git` that is installed, with a home of its own and nobody's settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Nothing that the demo asks of Git takes longer.
const LIMIT: Duration = Duration::from_secs(8).saturating_mul(crate::cmd::demo::SLOWER);

/// Git, and the environment that it runs in.
pub(super) struct Git {
    environment: Vec<(&'static str, OsString)>,
    /// `git http-backend` itself: behind the `git` command it would outlive a kill.
    backend: PathBuf,
}

impl Git {
    /// With `home` as the home directory, and `path` as `PATH`.
    ///
    /// # Errors
    ///
    /// What is not installed.
    pub(super) async fn find(home: &Path, path: OsString) -> Result<Self, String> {
        let environment = vec![
            ("PATH", path),
            ("HOME", home.into()),
            ("XDG_CACHE_HOME", home.join("cache").into()),
            ("XDG_CONFIG_HOME", home.join("config").into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_AUTHOR_NAME", "Peerage demo".into()),
            ("GIT_AUTHOR_EMAIL", "demo@localhost".into()),
            ("GIT_COMMITTER_NAME", "Peerage demo".into()),
            ("GIT_COMMITTER_EMAIL", "demo@localhost".into()),
            ("LC_ALL", "C".into()),
            // Plain HTTP, which the helper speaks to this host alone, and only if told to.
            ("ENTIRE_LOOPBACK_HTTP", "true".into()),
            ("ENTIRE_TOKEN", super::replica::TOKEN.into()),
        ];
        let mut git = Self { environment, backend: PathBuf::new() };
        let place = git.run(home, &["--exec-path"]).await.map_err(|_| "git is not installed".to_owned())?;
        git.backend = Path::new(&place).join("git-http-backend");
        if !git.backend.exists() {
            return Err(format!("git is installed without its HTTP server ({})", git.backend.display()));
        }
        Ok(git)
    }

    /// `git http-backend`, which reads its request from the environment.
    pub(super) fn backend(&self) -> Command {
        self.command(&self.backend)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
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

    /// Runs `git <arguments>` in `directory` and gives what it printed, trimmed.
    ///
    /// # Errors
    ///
    /// What it complained, on one line.
    pub(super) async fn run(&self, directory: &Path, arguments: &[&str]) -> Result<String, String> {
        self.feed(directory, arguments, b"").await
    }

    /// The same, with an input.
    ///
    /// # Errors
    ///
    /// As [`Git::run`].
    pub(super) async fn feed(
        &self,
        directory: &Path,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<String, String> {
        let shown = format!("git {}", arguments.join(" "));
        let run = async {
            let mut child =
                self.command("git").args(arguments).current_dir(directory).stdin(Stdio::piped()).spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // Who does not read what is not there is not at fault; who does not read the rest will say so.
                let _unread = stdin.write_all(input).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(LIMIT, run)
            .await
            .map_err(|_| format!("{shown}: not done after {LIMIT:?}"))?
            .map_err(|error| format!("{shown}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            return Err(format!("{shown}: {}: {}", output.status, said.join("; ")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_git_is_told_and_nothing_breaks() {
        let empty = tempfile::tempdir().unwrap();
        let missing = Git::find(empty.path(), empty.path().into()).await.err();
        assert_eq!(missing.as_deref(), Some("git is not installed"));
    }
}
