//! `tollgate keygen`.

use clap::Args;

use super::{Outcome, print};
use crate::jose::{Algorithm, SigningKey};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// RS256, ES256 or EdDSA
    #[arg(long, default_value = "ES256", value_parser = algorithm)]
    alg: Algorithm,
    /// Also print the public key, as a JWK
    #[arg(long)]
    jwk: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let key = SigningKey::generate(arguments.alg)?;
    print(key.to_pem()?.expose())?;
    if arguments.jwk {
        // Readers of PEM skip what stands outside its blocks.
        print(&format!("{:#}\n", key.public_jwk()))?;
    }
    Ok(Outcome::Fine)
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    let names = Algorithm::ALL.map(Algorithm::name).join(", ");
    Algorithm::parse(name).ok_or_else(|| format!("keys are made for {names}"))
}
