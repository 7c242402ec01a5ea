//! `tollgate client-secret`.

use clap::Args;

use super::Outcome;

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> anyhow::Result<Outcome> {
    anyhow::bail!("`client-secret` is not part of this build")
}
