//! `ENTIRE_TOKEN`, and the hosts that it is for.

use async_trait::async_trait;

use super::{CredentialRequest, CredentialSource, Secret};
use crate::remote::BoxError;

/// Why the token of the environment cannot be used. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is there, and empty. No other source is tried: who set it meant it.
    #[error("ENTIRE_TOKEN is set but blank")]
    Blank,
    /// It is for other hosts than the remote's (S-187).
    #[error("ENTIRE_TOKEN is for {wanted} (ENTIRE_TOKEN_HOST) and not for {host}: it is not sent there")]
    OtherHost {
        /// `ENTIRE_TOKEN_HOST`, fit to be shown.
        wanted: String,
        /// The cluster host of the remote, fit to be shown.
        host: String,
    },
}

/// The token of the environment as a source for one cluster. `hosts` is `ENTIRE_TOKEN_HOST`.
///
/// # Errors
///
/// [`TokenError`].
pub fn token_for(
    token: &str,
    hosts: Option<&str>,
    cluster_host: &str,
) -> Result<Box<dyn CredentialSource>, TokenError> {
    let token = token.trim();
    if token.is_empty() {
        return Err(TokenError::Blank);
    }
    if let Some(hosts) = hosts {
        let is_named = hosts.split(',').any(|host| host.trim().eq_ignore_ascii_case(cluster_host));
        if !is_named {
            return Err(TokenError::OtherHost {
                wanted: crate::diagnostics::escaped(hosts.as_bytes()),
                host: crate::diagnostics::escaped(cluster_host.as_bytes()),
            });
        }
    }
    Ok(Box::new(Token(Secret::new(format!("Bearer {token}")))))
}

struct Token(Secret);

#[async_trait]
impl CredentialSource for Token {
    async fn get(&self, _: &CredentialRequest) -> Result<Option<Secret>, BoxError> {
        Ok(Some(self.0.clone()))
    }

    /// There is no other: the same is tried once more, and then the refusal is final.
    fn rejected(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Action;

    #[test]
    fn a_blank_token_is_an_error_and_no_token() {
        for (row, value) in
            [("G-124", ""), ("G-125", " "), ("G-126", "\t"), ("G-127", "\n"), ("G-128", "  \t\n ")]
        {
            let error = token_for(value, None, "h").err().unwrap();
            assert_eq!(error, TokenError::Blank, "{row}");
            assert!(error.to_string().contains("blank"), "{row}");
        }
    }

    #[tokio::test]
    async fn a_token_is_trimmed_and_stays_the_same() {
        let source = token_for(" tok\n", None, "h").unwrap();
        let request = CredentialRequest::new(Action::Pull, "h");
        for _ in 0..2 {
            assert_eq!(source.get(&request).await.unwrap().unwrap().expose(), "Bearer tok");
            source.rejected();
        }
        assert!(!source.may_have_another());
    }

    #[test]
    fn sv_w15_a_token_goes_only_to_the_hosts_it_is_for() {
        for (hosts, host, allowed) in [
            (None, "evil.example", true),
            (Some("cluster.example"), "cluster.example", true),
            (Some("a.example, Cluster.Example"), "cluster.example", true),
            (Some("cluster.example"), "evil.example", false),
            (Some("cluster.example"), "sub.cluster.example", false),
            (Some("cluster.example"), "cluster.example:8443", false),
            (Some("cluster.example:8443"), "cluster.example:8443", true),
            (Some(""), "cluster.example", false),
        ] {
            assert_eq!(token_for("t", hosts, host).is_ok(), allowed, "{hosts:?} {host}");
        }
        let text = token_for("s3cret", Some("cluster.example"), "evil.example").err().unwrap().to_string();
        assert!(text.contains("cluster.example") && text.contains("evil.example"), "S-187: {text}");
        assert!(!text.contains("s3cret"));
    }
}
