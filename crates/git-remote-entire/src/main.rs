//! The command `git-remote-entire`, which Git calls for `entire://` URLs.

use std::io::Write as _;
use std::process::ExitCode;

use git_remote_entire::{Address, Invocation, USAGE, diagnostics, help_text, version_text};

const FATAL: u8 = 128;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let version = env!("CARGO_PKG_VERSION");
    match Invocation::of(&arguments) {
        Invocation::Version => show(&version_text(version)),
        Invocation::Help => show(&help_text(version)),
        Invocation::Run { url } => match Address::parse(&url) {
            Ok(_) => fatal("this build has no transport"),
            Err(error) => fatal(&diagnostics::chain(&error)),
        },
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(FATAL)
        }
    }
}

fn show(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FATAL),
    }
}

fn fatal(text: &str) -> ExitCode {
    diagnostics::fatal(text);
    ExitCode::from(FATAL)
}
