//! `peerage completions` and `peerage man`, from the same source as `--help`.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::output::Failure;

pub(crate) fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "peerage", &mut script);
    io::stdout().write_all(&script).map_err(Failure::stdout)
}

pub(crate) fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .and_then(|()| io::stdout().write_all(&page))
        .map_err(Failure::stdout)
}
