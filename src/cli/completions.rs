//! `tollgate completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Outcome, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Load them with `source <(tollgate completions bash)`, or save them where the shell looks for completions
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "tollgate", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(Outcome::Fine)
}
