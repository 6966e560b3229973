//! What the program was started with (helper spec §1, §14).

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::address::Address;

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invocation {
    /// `--version` as the only argument.
    Version,
    /// `--help` as the only argument.
    Help,
    /// Git's call: the name of the remote, which for a bare URL is that URL, and the URL.
    Run {
        /// The URL.
        url: String,
    },
    /// Anything else.
    Usage,
}

/// What stands on stderr for [`Invocation::Usage`].
pub const USAGE: &str = "usage: git-remote-entire <remote-name> <url>";

impl Invocation {
    /// Reads the arguments behind the program's name. A flag counts only where it stands alone, so that it
    /// cannot collide with a call of Git's.
    pub fn of(arguments: &[OsString]) -> Self {
        match arguments {
            [flag] if flag == "--version" => Self::Version,
            [flag] if flag == "--help" => Self::Help,
            // Git passes two. A URL that is no UTF-8 is refused later, as one with a broken character.
            [_, url, ..] => Self::Run { url: url.to_string_lossy().into_owned() },
            _ => Self::Usage,
        }
    }
}

/// The text of `--version`.
pub fn version_text(version: &str) -> String {
    let (os, arch) = (env::consts::OS, env::consts::ARCH);
    format!("git-remote-entire {version}\nToolchain: {}\nOS/Arch: {os}/{arch}\n", env!("PEERAGE_TOOLCHAIN"))
}

/// The text of `--help`.
pub fn help_text(version: &str) -> String {
    format!(
        "git-remote-entire {version}\n\n\
         Git calls this helper for entire:// URLs; there is no need to call it yourself:\n\n    \
         git clone entire://<cluster-host>/<forge>/<owner>/<repo>\n\n{}\n",
        env!("CARGO_PKG_REPOSITORY")
    )
}

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
        }
    }

    /// Where requests begin: `https`, or plain HTTP to this machine if a test asked for that.
    pub fn entry_url(&self, address: &Address) -> String {
        let scheme = if self.loopback_http && address.is_loopback() { "http" } else { "https" };
        format!("{scheme}://{}", address.cluster_host)
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
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Invocation {
        Invocation::of(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn g001_the_version_names_the_toolchain_and_the_platform() {
        assert_eq!(of(&["--version"]), Invocation::Version);
        let text = version_text("1.2.3");
        assert!(text.starts_with("git-remote-entire 1.2.3\n"), "{text}");
        assert!(text.contains("\nToolchain: rustc "), "{text}");
        assert!(text.contains("\nOS/Arch: "), "{text}");
    }

    #[test]
    fn g002_the_help_names_the_scheme_and_the_project() {
        assert_eq!(of(&["--help"]), Invocation::Help);
        let text = help_text("1.2.3");
        for part in ["git-remote-entire 1.2.3", "entire://", "https://github.com/"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn flags_count_alone_and_git_passes_two_arguments() {
        for (row, arguments, expected) in [
            ("G-003", &["--nope"] as &[&str], Invocation::Usage),
            ("G-004", &[""], Invocation::Usage),
            ("G-005", &["entire://host/p/r"], Invocation::Usage),
            ("none", &[], Invocation::Usage),
            ("two", &["--version", "x"], Invocation::Run { url: "x".to_owned() }),
        ] {
            assert_eq!(of(arguments), expected, "{row}");
        }
    }

    #[test]
    fn only_true_is_true_and_debug_output_holds_no_token() {
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
