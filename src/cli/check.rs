//! `tollgate check`.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};

use super::{ConfigArgument, Outcome, print, rendered, summary};
use crate::config::{self, Diagnostic, Diagnostics};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// How the problems are printed; json is one array of {severity, code, message, file, line, column, help}
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let path = arguments.config.path();
    let (outcome, found) = match config::load(&path) {
        Ok((_, warnings)) => (Outcome::Fine, warnings),
        Err(Diagnostics(problems)) => (Outcome::Failed, problems),
    };
    match arguments.format {
        Format::Json => print(&json(&found)?)?,
        Format::Text => {
            print(&rendered(&found, io::stdout().is_terminal()))?;
            print(&format!("{}: {}\n", path.display(), summary(&found)))?;
        }
    }
    Ok(outcome)
}

fn json(found: &[Diagnostic]) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(found)? + "\n")
}
