//! `tollgate keys`: the signing keys of a running gateway, through its admin listener.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ConfigArgument, Outcome, print};
use crate::admin;
use crate::tls::ClientSettings;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[command(subcommand)]
    action: Action,
    /// The admin listener, where it is not the one of the configuration (its port was 0, say)
    #[arg(long, value_name = "HOST:PORT", global = true)]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The signing keys: id, algorithm, age, and which one signs
    List,
    /// Make a new key; it is published first and signs later, so that verifiers have it in time
    Rotate {
        /// Sign with it at once
        #[arg(long)]
        now: bool,
        /// Stop accepting what the old keys signed: every token issued so far ends
        #[arg(long, requires = "now")]
        revoke_old: bool,
    },
}

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let Some(config) = arguments.config.load() else { return Ok(Outcome::Failed) };
    let address = arguments.admin.unwrap_or(config.admin.address);
    let (method, target) = match arguments.action {
        Action::List => ("GET", "/keys".to_owned()),
        Action::Rotate { now, revoke_old } => ("POST", format!("/keys/rotate?now={now}&revoke_old={revoke_old}")),
    };
    let (status, body) = ask(&config.admin, address, method, &target)
        .with_context(|| format!("the admin listener at {address} cannot be asked; does the gateway run"))?;
    if status != 200 {
        bail!("the gateway answered {status}: {}", body.trim());
    }
    let keys: Vec<Value> = serde_json::from_str(&body).context("the gateway's answer is not a list of keys")?;
    let mut table = format!("{:<44} {:<6} {:<8} {}\n", "kid", "alg", "state", "created");
    for key in keys {
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
        let created = std::time::UNIX_EPOCH + Duration::from_secs(key["created"].as_u64().unwrap_or_default());
        let created = httpdate::fmt_http_date(created);
        table += &format!("{:<44} {:<6} {:<8} {created}\n", text("kid"), text("algorithm"), text("state"));
    }
    print(&table)?;
    Ok(Outcome::Fine)
}

/// One request by hand: status and body.
fn ask(admin: &admin::Settings, address: SocketAddr, method: &str, target: &str) -> anyhow::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let authorization = match &admin.token {
        Some(token) => format!("Authorization: Bearer {}\r\n", token.expose()),
        None => String::new(),
    };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\n{authorization}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = match &admin.tls {
        None => exchange(stream, &head)?,
        Some(tls) => {
            // The certificate is known: it is the one that the configuration names.
            let settings = ClientSettings { ca: Some(tls.certificates[0].cert.clone()), ..ClientSettings::default() };
            let host = address.ip().to_string();
            let client = rustls::ClientConnection::new(Arc::clone(&settings.build(&[])?), settings.name(&host)?)?;
            exchange(rustls::StreamOwned::new(client, stream), &head)?
        }
    };
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is cut off")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer is not HTTP")?;
    Ok((status, body.to_owned()))
}

fn exchange(mut stream: impl std::io::Read + std::io::Write, head: &str) -> anyhow::Result<String> {
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    (&mut stream).take(1 << 20).read_to_end(&mut answer)?;
    Ok(String::from_utf8(answer)?)
}
