//! Git's own credential helpers, by way of `git credential`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{CredentialRequest, CredentialSource, Secret};
use crate::address::Address;
use crate::remote::BoxError;

/// The longest answer of a credential helper.
const MAX_ANSWER: u64 = 64 << 10;

/// The most challenges of a server that are handed on, and the longest in bytes.
const MAX_CHALLENGES: usize = 16;
const MAX_CHALLENGE: usize = 4 << 10;

/// How often `git credential fill` is run: once, and once more after a refusal.
const MAX_FILLS: u32 = 2;

/// Asks `git credential`, but not before the server has asked for a credential.
#[derive(Debug)]
pub struct GitCredentials {
    git: PathBuf,
    host: String,
    path: String,
    user: Option<String>,
    state: Mutex<State>,
    /// Held while `git credential` runs, so that it runs once at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    challenged: bool,
    /// What the last 401 asked for.
    challenges: Vec<String>,
    fills: u32,
    current: Option<Credential>,
    is_bad: bool,
    is_approved: bool,
}

/// What `fill` answered.
#[derive(Clone, Debug)]
struct Credential {
    /// Its lines as they came, which `approve` and `reject` want back.
    lines: Secret,
    authorization: Secret,
}

impl GitCredentials {
    /// A source for the repository at `address`. `git` is the program to run.
    pub fn new(git: impl Into<PathBuf>, address: &Address) -> Self {
        Self {
            git: git.into(),
            host: address.cluster_host.clone(),
            path: address.path.trim_start_matches('/').to_owned(),
            user: address.user.clone(),
            state: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    fn state<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn description(&self) -> Result<String, BoxError> {
        let mut lines = String::from("capability[]=authtype\nprotocol=https\n");
        for (key, value) in
            [("host", Some(&self.host)), ("path", Some(&self.path)), ("username", self.user.as_ref())]
        {
            let Some(value) = value else { continue };
            // A line break would be another field (S-186).
            if value.contains(['\n', '\r', '\0']) {
                return Err("the URL holds a line break, which no credential helper may be given".into());
            }
            lines.push_str(&format!("{key}={value}\n"));
        }
        // For Git from 2.41 on; an older one leaves out what it does not know.
        self.state(|state| {
            for challenge in &state.challenges {
                lines.push_str(&format!("wwwauth[]={challenge}\n"));
            }
        });
        lines.push('\n');
        Ok(lines)
    }

    async fn fill(&self) -> Result<Option<Credential>, BoxError> {
        let Some(answer) = run(&self.git, "fill", &self.description()?).await? else { return Ok(None) };
        Credential::read(&answer, &self.host).map(Some)
    }
}

impl Credential {
    fn read(answer: &Secret, host: &str) -> Result<Self, BoxError> {
        let mut fields = std::collections::HashMap::new();
        for line in answer.expose().lines().take_while(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=').ok_or("git credential gave a line without a value")?;
            if value.contains(['\r', '\0']) {
                return Err("git credential gave a value with a control character".into());
            }
            fields.insert(key, value);
        }
        // Git is told which host it is asked for; an answer for another is somebody's injection.
        if fields.get("protocol") != Some(&"https") || fields.get("host") != Some(&host) {
            return Err("git credential answered for another host than it was asked about".into());
        }
        let value = match (fields.get("authtype"), fields.get("credential")) {
            (Some(kind), Some(credential)) => format!("{kind} {credential}"),
            _ => match (fields.get("username"), fields.get("password")) {
                (Some(user), Some(password)) => {
                    let pair = Secret::new(format!("{user}:{password}"));
                    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.expose()))
                }
                _ => return Err("git credential gave no credential".into()),
            },
        };
        Ok(Self { lines: answer.clone(), authorization: Secret::new(value) })
    }
}

/// Runs `git credential <operation>`; its output, or `None` if it failed. Nothing secret is an argument.
async fn run(git: &Path, operation: &str, input: &str) -> Result<Option<Secret>, BoxError> {
    let mut process = Command::new(git)
        .args(["credential", operation])
        .env_remove("ENTIRE_TOKEN")
        .env_remove("ENTIRE_TOKEN_COMMAND")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = process.stdin.take() {
        // A program that does not read what it is told says so with its exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = process.stdout.take() {
        stdout.take(MAX_ANSWER + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > MAX_ANSWER {
        let _ = process.kill().await;
        return Err(format!("git credential gave more than {MAX_ANSWER} bytes").into());
    }
    let is_good = process.wait().await?.success();
    let text = String::from_utf8(output).map_err(|_| "git credential gave something that is no UTF-8")?;
    let text = Secret::new(text);
    Ok(is_good.then_some(text))
}

#[async_trait]
impl CredentialSource for GitCredentials {
    async fn get(&self, _: &CredentialRequest) -> Result<Option<Secret>, BoxError> {
        let _asking = self.asking.lock().await;
        let (is_wanted, current, is_bad) =
            self.state(|state| (state.challenged, state.current.clone(), state.is_bad));
        if !is_wanted {
            // A public repository is served to everybody: nobody is asked for anything.
            return Ok(None);
        }
        match current {
            Some(current) if !is_bad => return Ok(Some(current.authorization.clone())),
            Some(current) => {
                let _ = run(&self.git, "reject", &format!("{}\n", current.lines.expose())).await;
                self.state(|state| state.current = None);
            }
            None => {}
        }
        if self.state(|state| state.fills >= MAX_FILLS) {
            return Ok(None);
        }
        self.state(|state| state.fills += 1);
        let filled = self.fill().await?;
        // Where it failed the note stays, and the next call tries again.
        self.state(|state| {
            state.is_bad &= filled.is_none();
            state.current.clone_from(&filled);
        });
        Ok(filled.map(|credential| credential.authorization.clone()))
    }

    fn challenged(&self, challenges: &[&str]) {
        let is_harmless = |text: &&&str| text.len() <= MAX_CHALLENGE && !text.contains(['\n', '\r', '\0']);
        let kept = challenges.iter().filter(is_harmless).take(MAX_CHALLENGES);
        let kept = kept.map(|&text| text.to_owned()).collect();
        self.state(|state| state.challenges = kept);
    }

    fn rejected(&self) {
        self.state(|state| {
            state.challenged = true;
            state.is_bad = state.current.is_some();
        });
    }

    async fn accepted(&self) {
        let current = self.state(|state| {
            if state.is_approved || state.is_bad {
                return None;
            }
            state.is_approved = state.current.is_some();
            state.current.clone()
        });
        if let Some(current) = current {
            let _ = run(&self.git, "approve", &format!("{}\n", current.lines.expose())).await;
        }
    }

    fn may_have_another(&self) -> bool {
        self.state(|state| state.challenged && state.fills < MAX_FILLS && state.fills > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Result<String, String> {
        Credential::read(&Secret::new(answer), "h")
            .map(|credential| credential.authorization.expose().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn g165_an_answer_is_a_scheme_or_a_name_and_a_password() {
        assert_eq!(read("protocol=https\nhost=h\nauthtype=Bearer\ncredential=tok\n").unwrap(), "Bearer tok");
        assert_eq!(
            read("protocol=https\nhost=h\nusername=alice\npassword=a=b\n\nignored").unwrap(),
            "Basic YWxpY2U6YT1i"
        );
    }

    #[test]
    fn sv_w14_an_answer_for_another_host_or_with_control_characters_is_no_answer() {
        for (answer, phrase) in [
            ("protocol=https\nhost=evil\nusername=a\npassword=b\n", "another host"),
            ("protocol=http\nhost=h\nusername=a\npassword=b\n", "another host"),
            ("username=a\npassword=b\n", "another host"),
            ("protocol=https\nhost=h\nusername=a\npassword=b\rc=d\n", "control character"),
            ("protocol=https\nhost=h\nusername=a\n", "no credential"),
            ("protocol=https\nhost=h\nnonsense\n", "without a value"),
        ] {
            let error = read(answer).unwrap_err();
            assert!(error.contains(phrase), "{answer:?}: {error}");
        }
    }

    #[test]
    fn s186_a_line_break_never_reaches_a_helper() {
        let mut address = Address::parse("entire://u@h/a").unwrap();
        address.user = Some("u\nhost=evil".to_owned());
        assert!(GitCredentials::new("git", &address).description().is_err());
        address.user = Some("u".to_owned());
        assert_eq!(
            GitCredentials::new("git", &address).description().unwrap(),
            "capability[]=authtype\nprotocol=https\nhost=h\npath=a\nusername=u\n\n"
        );
    }

    #[test]
    fn s186_what_the_server_wants_is_handed_on_and_nothing_smuggled_in_with_it() {
        let source = GitCredentials::new("git", &Address::parse("entire://h/a").unwrap());
        let long = "x".repeat(MAX_CHALLENGE + 1);
        source.challenged(&["Basic realm=\"r\"", "Bearer x\nhost=evil", "Bearer\r", &long, "Negotiate"]);
        assert_eq!(
            source.description().unwrap(),
            "capability[]=authtype\nprotocol=https\nhost=h\npath=a\n\
             wwwauth[]=Basic realm=\"r\"\nwwwauth[]=Negotiate\n\n"
        );
        source.challenged(&vec!["Basic"; 100]);
        assert_eq!(source.description().unwrap().matches("wwwauth[]=").count(), 16);
        source.challenged(&[]);
        assert!(!source.description().unwrap().contains("wwwauth"), "the last 401 counts");
    }
}
