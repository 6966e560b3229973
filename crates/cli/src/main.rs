//! The command `peerage`: services find each other and call each other.
//!
//! `args.rs` is the command line, `cmd/` holds a file a subcommand, `output.rs` what is printed and the exit
//! codes, `page/` the status page, `serve.rs` what answers HTTP, `upstream.rs` what `expose` forwards to, `stop.rs` Ctrl-C. Called by the name `git-remote-entire`, the same
//! program is Git's helper of that name.

mod args;
mod cmd;
mod explain;
mod load;
mod output;
mod page;
mod serve;
mod setup;
mod stop;
mod upstream;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::output::{Failure, Output};

/// The name by which Git calls its helper for `entire://` URLs.
pub(crate) const GIT_HELPER: &str = "git-remote-entire";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    if name.as_deref().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == GIT_HELPER) {
        return git_remote_entire::run(&arguments.collect::<Vec<_>>(), |name| std::env::var_os(name));
    }
    // clap itself ends the process with 2 on bad usage and with 0 on --help.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    setup::logging(&global)?;
    let output = Output::new(&global);
    match command {
        Command::Completions(args) => return cmd::completions::completions(&args),
        Command::Man => return cmd::completions::man(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::chain("cannot start the runtime", &error))?;
    runtime.block_on(async {
        match command {
            Command::Expose(args) => cmd::expose::run(&global, output, args).await,
            Command::Proxy(args) => cmd::proxy::run(&global, output, args).await,
            Command::Call(args) => cmd::call::run(&global, output, args).await,
            Command::Peers(args) => cmd::peers::run(&global, output, args).await,
            Command::Register(args) => cmd::register::run(&global, output, args).await,
            Command::Gateway(args) => cmd::gateway::run(&global, output, args).await,
            Command::Status(args) => cmd::status::run(&global, output, args).await,
            Command::Doctor(args) => cmd::doctor::run(&global, output, args).await,
            Command::Demo(args) => cmd::demo::run(output, args).await,
            Command::DemoPeer => cmd::demo::peer::run().await,
            Command::Completions(_) | Command::Man => Ok(()),
        }
    })
}
