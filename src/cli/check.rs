//! `tollgate check`.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{ConfigArgument, Outcome, print, rendered, summary};
use crate::clock::{Clock, UnixSeconds};
use crate::config::{self, Config, Diagnostic, Diagnostics, RuleTest};
use crate::gateway::explain::{self, Offline, Question, Verdict};
use crate::routing::canonical_host;

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
            let failures = rule_test_failures(config, Clock::system().now())?;
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

/// Runs the `[[tests]]`; those that come out otherwise than expected are errors.
pub(super) fn rule_test_failures(config: Config, now: UnixSeconds) -> anyhow::Result<Vec<Diagnostic>> {
    let Config { plan, tests, .. } = config;
    let authority = plan.public_url.authority();
    let host = canonical_host(&authority).context("the public URL has no host")?.into_owned();
    let offline = Offline::new(plan, now)
        .map_err(|(one, other)| anyhow::anyhow!("the routes {one} and {other} cannot be told apart"))?;
    Ok(tests.iter().filter_map(|test| failure(&offline, &host, test)).collect())
}

fn failure(offline: &Offline, host: &str, test: &RuleTest) -> Option<Diagnostic> {
    let Ok(target) = test.target.parse() else {
        let message = format!("`{}` cannot be the target of a request", test.target);
        return Some(test.failure(message, "write a path as it is sent: escape what no URL has".to_owned()));
    };
    let question = Question { host, method: &test.method, target: &target, claims: test.token.as_ref() };
    let Verdict { route, outcome } = offline.ask(&question);
    let status = outcome.status().map(|status| status.as_u16());
    if status == Some(test.expect) {
        return None;
    }
    let route = route.map_or_else(String::new, |route| format!("the route `{}`: ", route.plan.name));
    let (came, help) = match outcome {
        explain::Outcome::Forwarded(_) => ("is forwarded".to_owned(), format!("{route}an entry of `allow` lets it in")),
        explain::Outcome::AuthorizationServer => {
            ("is answered by the authorization server".to_owned(), "tests are about routes; remove this one".to_owned())
        }
        explain::Outcome::Refused(reject) => {
            (format!("is refused with {}", reject.status().as_u16()), format!("{route}{reject}"))
        }
    };
    let message = format!("`{} {}` {came}, and {} was expected", test.method, test.target, expected(test.expect));
    Some(test.failure(message, help))
}

fn expected(status: u16) -> String {
    if status == 200 { "200 (forwarded)".to_owned() } else { status.to_string() }
}

fn json(found: &[Diagnostic]) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(found)? + "\n")
}
