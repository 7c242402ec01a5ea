//! `tollgate keygen`.

use clap::Args;

use super::Outcome;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// RS256, ES256 or EdDSA
    #[arg(long, default_value = "ES256")]
    alg: String,
    /// Print the public key as a JWK
    #[arg(long)]
    jwk: bool,
}

pub(super) fn run(_arguments: Arguments) -> anyhow::Result<Outcome> {
    anyhow::bail!("`keygen` is not part of this build")
}
