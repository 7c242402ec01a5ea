//! `tollgate client-secret`.

use clap::Args;

use super::{Outcome, print};
use crate::authorization_server::generate_secret;

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> anyhow::Result<Outcome> {
    let (secret, hash) = generate_secret();
    print(&format!(
        "client secret, for the application (it cannot be shown again):\n  {}\n\nin the configuration:\n  \
         secret = {{ hash = \"{hash}\" }}\n",
        secret.expose()
    ))?;
    Ok(Outcome::Fine)
}
