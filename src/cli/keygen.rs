//! `tollgate keygen`.

use anyhow::bail;
use clap::Args;

use super::{Outcome, complain, print};
use crate::jose::{Algorithm, SigningKey};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// RS256, ES256 or EdDSA
    #[arg(long, default_value = "ES256")]
    alg: String,
    /// Also print the public key as a JWK, on standard error
    #[arg(long)]
    jwk: bool,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let Some(algorithm) = Algorithm::parse(&arguments.alg) else {
        let names = Algorithm::ALL.map(Algorithm::name).join(", ");
        bail!("`{}` is not an algorithm that keys are made for; choose from {names}", arguments.alg);
    };
    let key = SigningKey::generate(algorithm)?;
    // The public half goes to standard error, so that `keygen --jwk > key.pem` gives both, each to its place.
    print(key.to_pem()?.expose())?;
    if arguments.jwk {
        complain(&format!("{:#}\n", key.public_jwk()));
    }
    Ok(Outcome::Fine)
}
