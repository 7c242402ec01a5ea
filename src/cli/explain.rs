//! `tollgate explain`.

use clap::Args;

use super::{ConfigArgument, Outcome};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// GET, POST, ...
    method: String,
    /// The whole URL, as a client would call it: https://api.example.com/orders/7
    url: String,
    /// A token as it would stand in `Authorization: Bearer`
    #[arg(long, conflicts_with = "claims")]
    token: Option<String>,
    /// Claims of a token, instead of a signed one: {"sub": "alice", "scope": "orders:read"}
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// A request header
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
}

pub(super) fn run(_arguments: Arguments) -> anyhow::Result<Outcome> {
    anyhow::bail!("`explain` is not part of this build")
}
