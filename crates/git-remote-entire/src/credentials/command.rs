//! A command that prints a token, for who has an account store of their own.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{CredentialRequest, CredentialSource, Secret};
use crate::remote::BoxError;

const MAX_OUTPUT: u64 = 64 << 10;

/// Runs a program for a bearer token: `<program> <arguments…> <pull or push> <cluster host>`. What it prints,
/// trimmed, is the token. It is asked again after each refusal, and inherits stderr and the terminal.
#[derive(Debug)]
pub struct CommandSource {
    program: PathBuf,
    arguments: Vec<String>,
    current: Mutex<Option<Secret>>,
}

impl CommandSource {
    /// A source that runs `program` with `arguments` before its own two. There is no shell in between.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = String>) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().collect(),
            current: Mutex::default(),
        }
    }

    /// A command line, split at blanks; `None` if it is blank.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some(Self::new(words.next()?, words))
    }
}

#[async_trait]
impl CredentialSource for CommandSource {
    async fn get(&self, request: &CredentialRequest) -> Result<Option<Secret>, BoxError> {
        let known = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() {
            return Ok(known);
        }
        let action = match request.action {
            super::Action::Pull => "pull",
            super::Action::Push => "push",
        };
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .args([action, &request.cluster_host])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                format!("cannot run the credential command for {}: {error}", request.prompt())
            })?;
        let mut output = Vec::new();
        if let Some(stdout) = process.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
        }
        let status = process.wait().await?;
        if !status.success() {
            return Err(format!("the credential command for {} ended with {status}", request.prompt()).into());
        }
        let text = Secret::new(String::from_utf8(output).map_err(|_| "the credential is no UTF-8")?);
        let token = text.expose().trim();
        if token.is_empty() {
            return Err(format!("the credential command for {} printed nothing", request.prompt()).into());
        }
        let secret = Secret::new(format!("Bearer {token}"));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret.clone());
        Ok(Some(secret))
    }

    fn rejected(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Action;

    #[tokio::test]
    async fn a_command_is_told_what_for_and_asked_again_after_a_refusal() {
        let source = CommandSource::parse("echo -n tok").unwrap();
        let request = CredentialRequest::new(Action::Push, "h:1");
        assert_eq!(source.get(&request).await.unwrap().unwrap().expose(), "Bearer tok push h:1");
        let pull = CredentialRequest::new(Action::Pull, "h:1");
        assert_eq!(source.get(&pull).await.unwrap().unwrap().expose(), "Bearer tok push h:1", "kept");
        source.rejected();
        assert_eq!(source.get(&pull).await.unwrap().unwrap().expose(), "Bearer tok pull h:1");
        assert!(CommandSource::parse("  ").is_none());
    }

    #[tokio::test]
    async fn a_command_that_fails_or_says_nothing_is_an_error() {
        let request = CredentialRequest::new(Action::Push, "us.example");
        for line in ["false", "true", "/nonexistent/program"] {
            let error = CommandSource::parse(line).unwrap().get(&request).await.unwrap_err().to_string();
            assert!(error.contains("git push to us.example"), "{line}: {error}");
        }
    }
}
