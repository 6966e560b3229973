//! Forward proxies: which one, for which target.

use std::fmt;

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Url;

use crate::trust;

/// The forward proxies of the environment, given rather than read: a library reads no environment.
///
/// `Debug` shows none of the values, for they may hold a password.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// `HTTPS_PROXY` or `https_proxy`: the proxy for `https` targets.
    pub https: String,
    /// `HTTP_PROXY` or `http_proxy`: the proxy for `http` targets. Those are always on this machine
    /// (transport §3.2), which bypasses proxies, so this has no effect but is part of the setting.
    pub http: String,
    /// `NO_PROXY` or `no_proxy`: hosts, domains and networks that are asked directly, with commas in
    /// between; `*` is all of them.
    pub no_proxy: String,
}

impl ProxySettings {
    /// Takes the settings out of an environment: `variable` looks one up.
    ///
    /// Upper case is looked at first. `HTTP_PROXY` in upper case is ignored when `REQUEST_METHOD` is set:
    /// then it is a request header of whoever calls a CGI program (S-252).
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty())).unwrap_or_default()
        };
        let is_cgi = variable("REQUEST_METHOD").is_some();
        Self {
            https: first(&["HTTPS_PROXY", "https_proxy"]),
            http: first(if is_cgi { &["http_proxy"] } else { &["HTTP_PROXY", "http_proxy"] }),
            no_proxy: first(&["NO_PROXY", "no_proxy"]),
        }
    }

    /// The proxy for `target`: `scheme://host:port`, without userinfo.
    pub fn proxy_for(&self, target: &Url) -> Option<String> {
        let proxy = Proxies::new(self).of(target)?;
        let uri = proxy.uri();
        Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?.as_str().rsplit('@').next()?))
    }
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { https, http, no_proxy } = self;
        let set = |value: &String| if value.is_empty() { "unset" } else { "<redacted>" };
        f.debug_struct("ProxySettings")
            .field("https", &set(https))
            .field("http", &set(http))
            .field("no_proxy", &set(no_proxy))
            .finish()
    }
}

/// [`ProxySettings`], read once.
pub(crate) struct Proxies(Matcher);

impl Proxies {
    pub(crate) fn new(settings: &ProxySettings) -> Self {
        let ProxySettings { https, http, no_proxy } = settings;
        Self(Matcher::builder().https(https.as_str()).http(http.as_str()).no(no_proxy.as_str()).build())
    }

    /// The proxy for `target`. This machine is always asked directly.
    pub(crate) fn of(&self, target: &Url) -> Option<Intercept> {
        if trust::is_loopback(target) {
            return None;
        }
        self.0.intercept(&target.as_str().parse().ok()?)
    }
}
