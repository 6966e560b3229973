//! The gate in front of the credential.

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use url::Url;

use crate::error::{PolicyError, ProxyError};
use crate::proxy::Inner;
use crate::trust::{self, Host};

impl Inner {
    /// The scheme rule, as it stands now.
    pub(crate) fn check_scheme(&self, url: &Url) -> Result<(), PolicyError> {
        if trust::scheme_allowed(url, self.loopback_http, self.https_seen()) {
            Ok(())
        } else {
            Err(PolicyError::HttpsRequired { target: trust::shown(url) })
        }
    }

    /// Whether `url` is in the cluster; everything is, where there is none.
    pub(crate) fn is_in_cluster(&self, url: &Url) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| Host::of(url).is_some_and(|host| host.is_in(cluster)))
    }

    /// Both filters: whether `url` may become a replica of ours.
    pub(crate) fn is_usable(&self, url: &Url) -> bool {
        self.is_in_cluster(url) && self.check_scheme(url).is_ok()
    }

    /// Lets a request through to `url`, with its credential, or does not. `head.uri` is `url`.
    ///
    /// Returns the names of the headers that the hook set or changed since they were `before`: what a
    /// redirect out of the cluster must not carry (S-021).
    pub(crate) async fn authorise(
        &self,
        url: &Url,
        head: &mut Parts,
        before: &HeaderMap,
    ) -> Result<Vec<HeaderName>, ProxyError> {
        self.check_scheme(url).map_err(ProxyError::Policy)?;
        let Some(hook) = &self.set_auth else { return Ok(Vec::new()) };
        if !self.is_in_cluster(url) {
            return Err(ProxyError::Policy(PolicyError::OutOfCluster {
                host: url.host_str().unwrap_or_default().to_owned(),
                cluster: self.cluster_text.clone().unwrap_or_default(),
            }));
        }
        let target = head.uri.clone();
        hook.set_auth(head).await.map_err(|source| ProxyError::Auth {
            host: url.host_str().unwrap_or_default().to_owned(),
            source,
        })?;
        // What was judged is what is asked (S-007): a hook adds headers and cannot turn the request elsewhere.
        head.uri = target;
        let changed = changed(before, &head.headers);
        for name in changed.iter().chain([&AUTHORIZATION]) {
            if let http::header::Entry::Occupied(mut values) = head.headers.entry(name) {
                values.iter_mut().for_each(|value| value.set_sensitive(true));
            }
        }
        Ok(changed)
    }
}

/// The names whose values differ.
fn changed(before: &HeaderMap, after: &HeaderMap) -> Vec<HeaderName> {
    after
        .keys()
        .filter(|name| !before.get_all(*name).iter().eq(after.get_all(*name).iter()))
        .cloned()
        .collect()
}
