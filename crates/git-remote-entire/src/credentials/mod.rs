//! Whose request it is, and to whom that may be shown (helper spec §13).

mod command;
mod git;
mod token;

use std::fmt;

use async_trait::async_trait;
use http::Method;
use http::request::Parts;
use http::{HeaderValue, Uri};
use zeroize::Zeroizing;

pub use command::CommandSource;
pub use git::GitCredentials;
pub use token::{TokenError, token_for};

use crate::remote::BoxError;

/// A text that nobody shall see: `Debug` prints a placeholder, there is no `Display`, and it is wiped in the end.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text, for the one place that it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text as the value of a header, marked so that nobody logs it.
    ///
    /// # Errors
    ///
    /// It holds a character that no header may have. The error does not show it.
    pub fn to_header(&self) -> Result<HeaderValue, BoxError> {
        let mut value = HeaderValue::from_str(&self.0)
            .map_err(|_| "the credential holds a character that no HTTP header may have")?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// What a credential is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "Git reads or writes")]
pub enum Action {
    /// `git fetch` and everything else that reads.
    Pull,
    /// `git push`.
    Push,
}

/// A request that a credential is wanted for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CredentialRequest {
    /// What it does.
    pub action: Action,
    /// The cluster host as the user typed it, with its port if that was typed.
    pub cluster_host: String,
}

impl CredentialRequest {
    /// A request to a cluster.
    pub fn new(action: Action, cluster_host: impl Into<String>) -> Self {
        Self { action, cluster_host: cluster_host.into() }
    }

    /// What somebody who is asked for a credential is told, e.g. `git push to us.example`.
    pub fn prompt(&self) -> String {
        let host = crate::diagnostics::escaped(self.cluster_host.as_bytes());
        match self.action {
            Action::Pull => format!("git fetch from {host}"),
            Action::Push => format!("git push to {host}"),
        }
    }
}

/// Where credentials come from.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// The value of `Authorization` for a request, or `None` to send it without. May ask the user.
    ///
    /// # Errors
    ///
    /// Any; it ends the operation, and nothing is sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends whatever was asked.
    async fn get(&self, request: &CredentialRequest) -> Result<Option<Secret>, BoxError>;

    /// What the server wants, each value of `WWW-Authenticate` in its order; told right before
    /// [`rejected`](Self::rejected). The values hold no control characters but tabs. Does not wait.
    fn challenged(&self, challenges: &[&str]) {
        let _ = challenges;
    }

    /// The server answered 401. Does not wait and does no I/O: it notes that the value handed out last is bad,
    /// and the next [`get`](Self::get) is for a new one.
    fn rejected(&self);

    /// The server accepted what was handed out last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the credential unremembered.
    async fn accepted(&self) {}

    /// Whether, after a final 401, another try could have another credential.
    fn may_have_another(&self) -> bool {
        false
    }
}

const _: fn(&dyn CredentialSource) = |_| {};

/// The four requests that a credential may go with, and what each of them does. Everything else is none of the
/// helper's.
pub fn action_of(method: &Method, uri: &Uri) -> Option<Action> {
    let path = uri.path();
    if *method == Method::POST {
        return if path.ends_with("/git-receive-pack") {
            Some(Action::Push)
        } else if path.ends_with("/git-upload-pack") {
            Some(Action::Pull)
        } else {
            None
        };
    }
    if *method == Method::GET && path.ends_with("/info/refs") {
        let service = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("service="))?;
        return match service {
            "git-receive-pack" => Some(Action::Push),
            "git-upload-pack" => Some(Action::Pull),
            _ => None,
        };
    }
    None
}

/// The gate in front of every source: attaches a credential to a request that may have one.
///
/// # Errors
///
/// The request may have none, or the source failed. It is not sent then.
///
/// # Cancel safety
///
/// As [`CredentialSource::get`].
pub async fn attach(
    source: &dyn CredentialSource,
    cluster_host: &str,
    head: &mut Parts,
) -> Result<(), BoxError> {
    let action = action_of(&head.method, &head.uri)
        .ok_or("a request that is none of Git's smart HTTP gets no credential and is not sent")?;
    let request = CredentialRequest::new(action, cluster_host);
    if let Some(secret) = source.get(&request).await? {
        head.headers.insert(http::header::AUTHORIZATION, secret.to_header()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_goes_with_four_requests_and_no_other() {
        use Action::{Pull, Push};
        for (row, method, uri, action) in [
            ("G-117", Method::POST, "/et/p/r/git-upload-pack", Some(Pull)),
            ("G-118", Method::POST, "/et/p/r/git-receive-pack", Some(Push)),
            ("G-119", Method::GET, "/et/p/r/info/refs?service=git-upload-pack", Some(Pull)),
            ("G-120", Method::GET, "/et/p/r/info/refs?service=git-receive-pack", Some(Push)),
            ("G-121", Method::GET, "/et/p/r/info/refs", None),
            ("G-122", Method::GET, "/et/p/r/objects/info/packs", None),
            ("G-123", Method::POST, "/et/p/r/whatever", None),
            ("wrong method", Method::GET, "/et/p/r/git-upload-pack", None),
            ("wrong method", Method::POST, "/et/p/r/info/refs?service=git-upload-pack", None),
            ("wrong service", Method::GET, "/r/info/refs?service=git-upload-archive", None),
            ("wrong service", Method::GET, "/r/info/refs?xservice=git-upload-pack", None),
        ] {
            let uri: Uri = format!("https://h{uri}").parse().unwrap();
            assert_eq!(action_of(&method, &uri), action, "{row}");
        }
    }

    #[test]
    fn g129_a_prompt_names_the_push_and_the_host() {
        assert_eq!(CredentialRequest::new(Action::Push, "us.example").prompt(), "git push to us.example");
    }

    #[test]
    fn g130_a_prompt_names_the_fetch_and_the_host() {
        assert_eq!(CredentialRequest::new(Action::Pull, "us.example").prompt(), "git fetch from us.example");
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let secret = Secret::new("Bearer s3cret");
        assert_eq!(format!("{secret:?}"), "<redacted>", "S-200");
        assert_eq!(format!("{:?}", secret.to_header().unwrap()), "Sensitive", "S-201");
        let error = Secret::new("s3cret\n").to_header().unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"), "S-202");
    }
}
