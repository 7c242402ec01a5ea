//! `tollgate explain`.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use clap::Args;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{ConfigArgument, Outcome, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateway::explain::{AssumedToken, Question, Rules};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// GET, POST, ...
    method: String,
    /// The whole URL, as a client would call it: https://api.example.com/orders/7
    url: String,
    /// A token as it would stand in `Authorization: Bearer`; `-` reads it from standard input, where nobody else on the
    /// machine sees it
    #[arg(long, conflicts_with = "claims")]
    token: Option<String>,
    /// Claims of a token, instead of a signed one: {"sub": "alice", "scope": "orders:read"}
    #[arg(long, value_name = "JSON", value_parser = object)]
    claims: Option<Claims>,
    /// A request header
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The address that the connection comes from; without it, address rules are not judged
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// The listener that the request comes in by; default: the first that forwards
    #[arg(long)]
    listener: Option<String>,
}

#[derive(Clone, Debug)]
struct Claims(Map<String, Value>);

fn object(json: &str) -> Result<Claims, String> {
    serde_json::from_str(json).map(Claims).map_err(|error| format!("not a JSON object: {error}"))
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let Some(config) = arguments.config.load() else { return Ok(Outcome::Failed) };
    let question = question(arguments, &config)?;
    let rules = Rules::new(&config.plan).map_err(|(one, other)| anyhow::anyhow!("routes {one} and {other} tie"))?;
    print(&(rules.explain(&question).lines.join("\n") + "\n"))?;
    Ok(Outcome::Fine)
}

fn question(arguments: &Arguments, config: &Config) -> anyhow::Result<Question> {
    let (host, target) = split_url(&arguments.url, &config.plan.public_url.authority())?;
    let mut headers = HeaderMap::new();
    for line in &arguments.headers {
        let (name, value) = line.split_once(':').with_context(|| format!("-H {line:?} is not NAME: VALUE"))?;
        let name: HeaderName = name.trim().parse().with_context(|| format!("{name:?} is not a header name"))?;
        headers.append(name, HeaderValue::from_str(value.trim()).with_context(|| format!("the value of {line:?}"))?);
    }
    let in_header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_header = in_header.and_then(|value| value.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
    let token = match (&arguments.token, &arguments.claims) {
        (Some(token), _) if token == "-" => {
            AssumedToken::Text(std::io::read_to_string(std::io::stdin())?.trim().to_owned())
        }
        (Some(token), _) => AssumedToken::Text(token.trim().to_owned()),
        (None, Some(claims)) => assumed(claims.0.clone(), config)?,
        (None, None) => match in_header {
            Some((_, token)) => AssumedToken::Text(token.trim().to_owned()),
            None => AssumedToken::None,
        },
    };
    let listener = match &arguments.listener {
        Some(name) => listener_named(config, name)?,
        None => config.server.listeners.iter().position(|listener| !listener.redirect_to_https).unwrap_or(0),
    };
    let method = http::Method::from_bytes(arguments.method.as_bytes()).context("not a method")?;
    let peer = arguments.peer;
    Ok(Question { listener, method, host, target, headers, peer, token, now: Clock::system().now() })
}

fn listener_named(config: &Config, name: &str) -> anyhow::Result<usize> {
    let found = config.server.listeners.iter().position(|listener| *listener.name == *name);
    found.with_context(|| format!("there is no listener {name:?}"))
}

/// Claims as a token of the issuer that their `iss` or `issuer` names (its URL, or its name in the configuration); of
/// `self`, or else the first one, where they name none.
pub(super) fn assumed(mut claims: Map<String, Value>, config: &Config) -> anyhow::Result<AssumedToken> {
    let issuers = &config.plan.issuers;
    let named = claims.remove("issuer").or_else(|| claims.get("iss").cloned());
    let issuer = match named.as_ref().and_then(Value::as_str) {
        Some(named) => issuers.iter().position(|issuer| *issuer.name == *named || issuer.issuer() == Some(named)),
        None => issuers.iter().position(|issuer| &*issuer.name == "self").or((!issuers.is_empty()).then_some(0)),
    };
    let issuer = issuer.with_context(|| match named {
        Some(named) => format!("there is no issuer {named}"),
        None => "there is no issuer whose token this could be".to_owned(),
    })?;
    Ok(AssumedToken::Claims { issuer, claims })
}

/// Host and target of a URL; of a path alone, the host is `usual`.
pub(super) fn split_url(url: &str, usual: &str) -> anyhow::Result<(String, String)> {
    if url.starts_with('/') {
        return Ok((usual.to_owned(), url.to_owned()));
    }
    let Some((_, rest)) = url.split_once("://") else {
        bail!("{url:?} is neither a URL (https://host/path) nor a path (/path)")
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(end);
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((host.to_owned(), target))
}
