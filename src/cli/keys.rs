//! `tollgate keys`.

use clap::{Args, Subcommand};

use super::{ConfigArgument, Outcome};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The signing keys: id, algorithm, age, and which one signs
    List,
    /// Make a new key; it is published first and signs later, so that verifiers have it in time
    Rotate {
        /// Sign with it at once
        #[arg(long)]
        now: bool,
        /// Stop accepting what the old keys signed: every token issued so far ends
        #[arg(long)]
        revoke_old: bool,
    },
}

pub(super) fn run(_arguments: Arguments) -> anyhow::Result<Outcome> {
    anyhow::bail!("`keys` is not part of this build")
}
