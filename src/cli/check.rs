//! `tollgate check`.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};

use super::explain::{assumed, split_url};
use super::{ConfigArgument, Outcome, print, rendered, summary};
use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic, Diagnostics, RuleTest};
use crate::gateway::explain::{AssumedToken, Explanation, Question, Rules};

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
            let failures = rule_test_failures(&config)?;
            let outcome = if failures.is_empty() { Outcome::Fine } else { Outcome::Failed };
            found.splice(0..0, failures);
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

/// Runs the `[[tests]]`; those that come out otherwise than expected are errors.
pub(super) fn rule_test_failures(config: &Config) -> anyhow::Result<Vec<Diagnostic>> {
    let tests = &config.tests;
    let questions: Vec<_> = tests.iter().map(|test| question(test, config)).collect();
    let rules = Rules::new(&config.plan).map_err(|(one, other)| anyhow::anyhow!("routes {one} and {other} tie"))?;
    let asked = tests.iter().zip(questions);
    Ok(asked
        .filter_map(|(test, question)| match question {
            Ok(question) => failure(test, &rules.explain(&question)),
            Err(error) => Some(test.failure(format!("{error}"), "look at `request` and `token`".to_owned())),
        })
        .collect())
}

fn question(test: &RuleTest, config: &Config) -> anyhow::Result<Question> {
    let token = match &test.token {
        None => AssumedToken::None,
        Some(claims) => assumed(claims.clone(), config)?,
    };
    let (host, target) = split_url(&test.target, &config.plan.public_url.authority())?;
    let listener = config.server.listeners.iter().position(|listener| !listener.redirect_to_https).unwrap_or(0);
    let (method, headers, now) = (test.method.clone(), http::HeaderMap::new(), Clock::system().now());
    Ok(Question { listener, method, host, target, headers, peer: test.peer, token, now })
}

fn failure(test: &RuleTest, came: &Explanation) -> Option<Diagnostic> {
    let named = |status: u16| match status {
        200 => "200 (forwarded)".to_owned(),
        status => status.to_string(),
    };
    if came.status == test.expect {
        return None;
    }
    let (came_status, expected) = (named(came.status), named(test.expect));
    let message = format!("`{} {}` came to {came_status}, and {expected} was expected", test.method, test.target);
    let telling = |line: &&String| {
        ["route:", "address:", "entry", "  no:", "status:"].iter().any(|start| line.starts_with(start))
    };
    let why: Vec<&str> = came.lines.iter().filter(telling).map(|line| line.trim()).collect();
    Some(test.failure(message, why.join("; ")))
}
