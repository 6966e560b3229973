//! What may cross which connection (S-054, S-055, S-056). Pure.

use http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
    uri::Scheme,
};

use crate::{Security, error::Insecure};

/// What the rules look at.
pub(crate) struct Crossing<'a> {
    pub(crate) uri: &'a Uri,
    /// The headers as they would be sent, after credentials were attached.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) security: Security,
    /// All addresses of the peer are on this host.
    pub(crate) is_local: bool,
    /// Anybody could have announced the peer, or some of its addresses.
    pub(crate) announced_by_anybody: bool,
    /// The opt-out.
    pub(crate) allow_plaintext: bool,
}

impl Crossing<'_> {
    /// Whether the request may be sent; `Ok(true)` if only because of the opt-out.
    pub(crate) fn judge(&self) -> Result<bool, Insecure> {
        if self.security == Security::Plaintext && self.uri.scheme() == Some(&Scheme::HTTPS) {
            return Err(Insecure::HttpsOverPlaintext);
        }
        let insecure = match self.security {
            Security::Plaintext => Insecure::CredentialOverPlaintext,
            Security::Encrypted if self.announced_by_anybody => Insecure::CredentialToUnverified,
            _ => return Ok(false),
        };
        if self.is_local || !carries_credential(self.headers) {
            return Ok(false);
        }
        if self.allow_plaintext { Ok(true) } else { Err(insecure) }
    }
}

fn carries_credential(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION)
        || headers.contains_key(COOKIE)
        || headers.contains_key(PROXY_AUTHORIZATION)
        || headers.values().any(http::HeaderValue::is_sensitive)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn s056_s055_truth_table() {
        use Insecure::{CredentialOverPlaintext, CredentialToUnverified, HttpsOverPlaintext};
        let none = HeaderMap::new();
        let of = |name: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("x"))])
        };
        let (bearer, cookie, proxy, plain) =
            (of("authorization"), of("cookie"), of("proxy-authorization"), of("x-trace"));
        let mut secret = HeaderValue::from_static("k");
        secret.set_sensitive(true);
        let secret = HeaderMap::from_iter([("x-api-key".parse().unwrap(), secret)]);
        let verified = Security::Verified { client_identity: false };
        let (mdns, fixed) = (true, false);

        // uri, headers, security, local, source, opt-out -> verdict
        for (row, (uri, headers, security, is_local, announced_by_anybody, allow_plaintext, verdict)) in [
            ("/", &none, Security::Plaintext, false, mdns, false, Ok(false)),
            ("/", &plain, Security::Plaintext, false, mdns, false, Ok(false)),
            ("/", &bearer, Security::Plaintext, false, fixed, false, Err(CredentialOverPlaintext)),
            ("/", &cookie, Security::Plaintext, false, fixed, false, Err(CredentialOverPlaintext)),
            ("/", &proxy, Security::Plaintext, false, fixed, false, Err(CredentialOverPlaintext)),
            ("/", &secret, Security::Plaintext, false, fixed, false, Err(CredentialOverPlaintext)),
            ("/", &bearer, Security::Plaintext, false, mdns, false, Err(CredentialOverPlaintext)),
            ("/", &bearer, Security::Plaintext, true, mdns, false, Ok(false)),
            ("/", &bearer, Security::Plaintext, false, mdns, true, Ok(true)),
            ("/", &plain, Security::Plaintext, false, mdns, true, Ok(false)),
            ("/", &bearer, Security::Encrypted, false, fixed, false, Ok(false)),
            ("/", &bearer, Security::Encrypted, false, mdns, false, Err(CredentialToUnverified)),
            ("/", &bearer, Security::Encrypted, true, mdns, false, Ok(false)),
            ("/", &bearer, Security::Encrypted, false, mdns, true, Ok(true)),
            ("/", &bearer, verified, false, mdns, false, Ok(false)),
            ("/", &bearer, Security::InProcess, false, mdns, false, Ok(false)),
            ("https://a/", &none, Security::Plaintext, true, fixed, true, Err(HttpsOverPlaintext)),
            ("https://a/", &none, verified, false, fixed, false, Ok(false)),
            ("http://a/", &none, Security::Plaintext, false, fixed, false, Ok(false)),
        ]
        .into_iter()
        .enumerate()
        {
            let uri = &uri.parse().unwrap();
            let crossing =
                Crossing { uri, headers, security, is_local, announced_by_anybody, allow_plaintext };
            assert_eq!(crossing.judge(), verdict, "row {row}");
        }
    }
}
