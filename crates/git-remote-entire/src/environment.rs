//! The environment that the program was started with (helper spec §14).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use peerage_transport::ProxySettings;

use crate::address::Address;
use crate::diagnostics::escaped;

/// The environment, read once at start.
///
/// `Debug` shows no token.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Environment {
    /// `GIT_PROTOCOL`.
    pub git_protocol: Option<String>,
    /// `ENTIRE_TOKEN`.
    pub token: Option<String>,
    /// `ENTIRE_TOKEN_COMMAND`: a program and its arguments, split at blanks.
    pub token_command: Option<String>,
    /// `ENTIRE_TOKEN_HOST`: a comma list of cluster hosts.
    pub token_host: Option<String>,
    /// `ENTIRE_TLS_SKIP_VERIFY` is exactly `true`.
    pub skip_tls: bool,
    /// `ENTIRE_LOOPBACK_HTTP` is exactly `true`.
    pub loopback_http: bool,
    /// `ENTIRE_DEBUG` is set to anything but nothing.
    pub debug: bool,
    /// `ENTIRE_CONNECT_TIMEOUT_SECONDS`, as it stands there.
    pub connect_timeout: Option<String>,
    /// `GIT_DIR`.
    pub git_dir: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` and their lower-case forms.
    pub proxies: ProxySettings,
}

impl Environment {
    /// Reads the variables through `lookup`.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name| lookup(name).map(|value| value.to_string_lossy().into_owned());
        let is_true = |name| lookup(name).is_some_and(|value| value == "true");
        Self {
            git_protocol: text("GIT_PROTOCOL"),
            token: text("ENTIRE_TOKEN"),
            token_command: text("ENTIRE_TOKEN_COMMAND"),
            token_host: text("ENTIRE_TOKEN_HOST"),
            skip_tls: is_true("ENTIRE_TLS_SKIP_VERIFY"),
            loopback_http: is_true("ENTIRE_LOOPBACK_HTTP"),
            debug: lookup("ENTIRE_DEBUG").is_some_and(|value| !value.is_empty()),
            connect_timeout: text("ENTIRE_CONNECT_TIMEOUT_SECONDS").filter(|value| !value.is_empty()),
            git_dir: lookup("GIT_DIR").map(PathBuf::from),
            xdg_cache_home: lookup("XDG_CACHE_HOME").map(PathBuf::from),
            home: lookup("HOME").map(PathBuf::from),
            // One that is no UTF-8 names no proxy.
            proxies: ProxySettings::from_variables(|name| lookup(name)?.into_string().ok()),
        }
    }

    /// Where requests begin: `https`, or plain HTTP to this machine if a test asked for that.
    pub fn entry_url(&self, address: &Address) -> String {
        let scheme = if self.loopback_http && address.is_loopback() { "http" } else { "https" };
        format!("{scheme}://{}", address.cluster_host)
    }

    /// What was read, a variable a line: the value, or for what may hold a secret only whether it is set
    /// (S-250).
    pub fn shown(&self) -> String {
        // Every field by name, so that a new variable cannot be forgotten.
        let Self {
            git_protocol,
            token,
            token_command,
            token_host,
            skip_tls,
            loopback_http,
            debug,
            connect_timeout,
            git_dir,
            xdg_cache_home,
            home,
            proxies,
        } = self;
        let ProxySettings { https, http, no_proxy } = proxies;
        let text = |value: &Option<String>| value.as_ref().map(|value| escaped(value.as_bytes()));
        let path =
            |value: &Option<PathBuf>| value.as_ref().map(|path| escaped(path.as_os_str().as_encoded_bytes()));
        let secret = |is_set: bool| is_set.then(|| "(set, not shown)".to_owned());
        let mut lines = String::new();
        for (name, value) in [
            ("GIT_PROTOCOL", text(git_protocol)),
            ("GIT_DIR", path(git_dir)),
            ("ENTIRE_TOKEN", secret(token.is_some())),
            ("ENTIRE_TOKEN_COMMAND", secret(token_command.is_some())),
            ("ENTIRE_TOKEN_HOST", text(token_host)),
            ("ENTIRE_TLS_SKIP_VERIFY", skip_tls.then(|| "true".to_owned())),
            ("ENTIRE_LOOPBACK_HTTP", loopback_http.then(|| "true".to_owned())),
            ("ENTIRE_DEBUG", debug.then(|| "on".to_owned())),
            ("ENTIRE_CONNECT_TIMEOUT_SECONDS", text(connect_timeout)),
            ("XDG_CACHE_HOME", path(xdg_cache_home)),
            ("HOME", path(home)),
            ("HTTPS_PROXY", secret(!https.is_empty())),
            ("HTTP_PROXY", secret(!http.is_empty())),
            ("NO_PROXY", secret(!no_proxy.is_empty())),
        ] {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "  {name}: {}", value.as_deref().unwrap_or("-"));
        }
        lines
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Every field by name, so that a new secret cannot be forgotten.
        let Self {
            git_protocol,
            token,
            token_command,
            token_host,
            skip_tls,
            loopback_http,
            debug,
            connect_timeout,
            git_dir,
            xdg_cache_home,
            home,
            proxies,
        } = self;
        f.debug_struct("Environment")
            .field("git_protocol", git_protocol)
            .field("token", &token.as_ref().map(|_| "<redacted>"))
            .field("token_command", &token_command.as_ref().map(|_| "<redacted>"))
            .field("token_host", token_host)
            .field("skip_tls", skip_tls)
            .field("loopback_http", loopback_http)
            .field("debug", debug)
            .field("connect_timeout", connect_timeout)
            .field("git_dir", git_dir)
            .field("xdg_cache_home", xdg_cache_home)
            .field("home", home)
            .field("proxies", proxies)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s253_s200_only_true_is_true_and_debug_output_holds_no_token() {
        let read = |value: &'static str| {
            Environment::read(|name| (name != "GIT_DIR").then(|| OsString::from(value)))
        };
        assert!(read("true").skip_tls && read("true").loopback_http && read("true").debug);
        for value in ["1", "TRUE", "yes", " true", ""] {
            let environment = read(value);
            assert!(!environment.skip_tls && !environment.loopback_http, "S-253: {value:?}");
            assert_eq!(environment.debug, !value.is_empty(), "{value:?}");
        }
        let environment = Environment { token: Some("s3cret".to_owned()), ..Environment::default() };
        assert!(!format!("{environment:?}").contains("s3cret"), "S-200");
    }

    #[test]
    fn s250_what_was_read_is_shown_and_no_secret_of_it() {
        let asked = std::cell::RefCell::new(Vec::new());
        let environment = Environment::read(|name| {
            asked.borrow_mut().push(name.to_owned());
            Some(OsString::from(if name.starts_with("ENTIRE_TOKEN") || name.ends_with("PROXY") {
                "http://user:s3cret@h"
            } else {
                "a\x1b[2Jb"
            }))
        });
        let shown = environment.shown();
        assert!(!shown.contains('\x1b') && shown.contains("GIT_PROTOCOL: a\\u{1b}[2Jb\n"), "{shown}");
        let hosts = "ENTIRE_TOKEN_HOST: http://user:s3cret@h";
        assert!(!shown.replace(hosts, "").contains("s3cret"), "{shown}");
        for name in asked.borrow().iter().filter(|name| *name != "REQUEST_METHOD") {
            assert!(shown.contains(&format!("  {}: ", name.to_uppercase())), "{name} is read and not shown");
        }
        let nothing = Environment::read(|_| None).shown();
        assert!(nothing.lines().all(|line| line.ends_with(": -")), "{nothing}");
    }

    #[test]
    fn plain_http_is_for_this_machine_and_by_request() {
        let entry = |loopback_http, url| {
            let environment = Environment { loopback_http, ..Environment::default() };
            environment.entry_url(&Address::parse(url).unwrap())
        };
        assert_eq!(entry(true, "entire://127.0.0.1:8080/a"), "http://127.0.0.1:8080");
        assert_eq!(entry(false, "entire://127.0.0.1:8080/a"), "https://127.0.0.1:8080");
        assert_eq!(entry(true, "entire://cluster.example/a"), "https://cluster.example");
    }
}
