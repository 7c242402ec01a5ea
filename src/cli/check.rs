//! `tollgate check`.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use clap::{Args, ValueEnum};

use super::{ConfigArgument, Outcome, print, rendered, summary};
use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic, Diagnostics};
use crate::gateway::explain::{AssumedToken, Question, Rules};

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
        Ok((config, mut found)) => {
            let failed = failed_tests(config, &path)?;
            let outcome = if failed.is_empty() { Outcome::Fine } else { Outcome::Failed };
            found.extend(failed);
            (outcome, found)
        }
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

/// What `[[tests]]` expected in vain.
fn failed_tests(mut config: Config, path: &Path) -> anyhow::Result<Vec<Diagnostic>> {
    let mut tests = Vec::new();
    for test in std::mem::take(&mut config.tests) {
        let token = match test.token {
            None => AssumedToken::None,
            Some(claims) => super::explain::assumed(claims.into(), &config)?,
        };
        let usual = config.plan.public_url.authority();
        let (host, target) = super::explain::split_url(&test.target, &usual)?;
        let listener = config.server.listeners.iter().position(|listener| !listener.redirect_to_https).unwrap_or(0);
        let headers = http::HeaderMap::new();
        let now = Clock::system().now();
        let question = Question { listener, method: test.method, host, target, headers, token, now };
        tests.push((question, test.expect, test.line));
    }
    let rules = Rules::new(&mut config.plan).map_err(|(one, other)| anyhow::anyhow!("routes {one} and {other} tie"))?;
    let mut failed = Vec::new();
    for (question, expect, line) in tests {
        let explanation = rules.explain(&question);
        if explanation.status != expect {
            failed.push(Diagnostic::failed_test(path, line, expect, explanation.status, &explanation.lines));
        }
    }
    Ok(failed)
}
