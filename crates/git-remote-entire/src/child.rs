//! The `git` commands that do the part of a dialogue which Git does not do itself.

use std::process::Stdio;

use tokio::io::BufReader;
use tokio::process::{ChildStdin, ChildStdout, Command};

use crate::copy::BUFFER;
use crate::error::HelperError;
use crate::helper::Settings;
use crate::stdio;

/// A running `git`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
    program: &'static str,
}

impl Child {
    /// Starts `git <arguments>` with pipes for input and output, and our stderr.
    pub(crate) fn start(
        settings: &Settings,
        program: &'static str,
        arguments: &[String],
    ) -> Result<Self, HelperError> {
        // With our environment and the token in it: in a partial clone it may have to fetch, which is another run
        // of this helper (S-206).
        let mut process = Command::new(&settings.git)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| HelperError::Start { program, source })?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().expect("stdout was asked to be a pipe");
        stdio::enlarge(&stdout);
        Ok(Self { process, stdin, stdout: BufReader::with_capacity(BUFFER, stdout), program })
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        let _ = self.process.kill().await;
    }

    /// Waits for its end; whether that was a success, else the error to report.
    pub(crate) async fn wait(&mut self) -> Result<(), HelperError> {
        let program = self.program;
        match self.process.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(HelperError::Exit { program, status, source: None }),
            Err(source) => Err(HelperError::Start { program, source }),
        }
    }
}
