//! `tollgate schema`.

use super::{Outcome, print};
use crate::config;

pub(super) fn run() -> anyhow::Result<Outcome> {
    print(&(serde_json::to_string_pretty(&config::schema())? + "\n"))?;
    Ok(Outcome::Fine)
}
