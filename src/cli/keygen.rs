//! `tollgate keygen`.

use anyhow::bail;
use clap::Args;

use super::{Outcome, print};
use crate::jose::{Algorithm, SigningKey};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// RS256, ES256 or EdDSA
    #[arg(long, default_value = "ES256")]
    alg: String,
    /// Also print the public key, as a JWK
    #[arg(long)]
    jwk: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let Some(algorithm) = Algorithm::parse(&arguments.alg) else {
        let names = Algorithm::ALL.map(Algorithm::name).join(", ");
        bail!("`{}` is not an algorithm that keys are made for; choose from {names}", arguments.alg);
    };
    let key = SigningKey::generate(algorithm)?;
    print(key.to_pem()?.expose())?;
    if arguments.jwk {
        // Readers of PEM skip what stands outside its blocks.
        print(&format!("{:#}\n", key.public_jwk()))?;
    }
    Ok(Outcome::Fine)
}
