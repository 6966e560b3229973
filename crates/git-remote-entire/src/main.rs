//! The command `git-remote-entire`, which Git calls for `entire://` URLs.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    git_remote_entire::run(&arguments, |name| std::env::var_os(name))
}
