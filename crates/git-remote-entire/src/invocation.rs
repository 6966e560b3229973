//! The arguments that the program was started with (helper spec §1).

use std::env;
use std::ffi::OsString;

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invocation {
    /// `--version` as the only argument.
    Version,
    /// `--version --verbose`: the version, and the environment as the program reads it (S-250).
    VersionVerbose,
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
            // No call of Git's either: that is no URL.
            [flag, more] if flag == "--version" && more == "--verbose" => Self::VersionVerbose,
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
            ("S-250", &["--version", "--verbose"], Invocation::VersionVerbose),
            ("two", &["--version", "x"], Invocation::Run { url: "x".to_owned() }),
        ] {
            assert_eq!(of(arguments), expected, "{row}");
        }
    }
}
