//! `tollgate routes`: the access matrix. It shows what the rules say, entry by entry; `explain` judges one request.

use clap::{Args, ValueEnum};
use http::Method;
use serde::Serialize;

use super::{ConfigArgument, Outcome, print};
use crate::gateway::plan::{Origins, Plan, RoutePlan};
use crate::policy::{Condition, Entry, Requirements};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only what can be called without a token
    #[arg(long)]
    public: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Columns for a terminal
    Table,
    /// For a wiki or a merge request
    Markdown,
    /// One array of {route, listeners, hosts, path, upstream, method, public, who, ip_allow, ip_deny, rate_limit, origins}
    Json,
}

/// One method of one route.
#[derive(Debug, Serialize)]
struct Row {
    route: String,
    listeners: Vec<String>,
    /// Empty: any host.
    hosts: Vec<String>,
    path: String,
    upstream: String,
    /// `*`: every method that has no row of its own.
    method: String,
    /// Whether no token is needed.
    public: bool,
    /// Alternatives.
    who: Vec<String>,
    /// Empty: any address.
    ip_allow: Vec<String>,
    ip_deny: Vec<String>,
    rate_limit: Option<String>,
    /// Whose scripts may call it (CORS).
    origins: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let Some(config) = arguments.config.load() else { return Ok(Outcome::Failed) };
    let rows = matrix(&config.plan, arguments.public);
    let text = match arguments.format {
        Format::Table => columns(&rows, &["", "  ", ""]),
        Format::Markdown => columns(&rows, &["| ", " | ", " |"]),
        Format::Json => serde_json::to_string_pretty(&rows)? + "\n",
    };
    print(&text)?;
    Ok(Outcome::Fine)
}

fn matrix(plan: &Plan, only_public: bool) -> Vec<Row> {
    let rows =
        plan.routes.iter().flat_map(|route| methods(route).into_iter().map(|method| row(plan, route, method.as_ref())));
    rows.filter(|row| row.public || !only_public).collect()
}

/// The methods that entries name, in the order of the file, then none for all others where an entry names none.
fn methods(route: &RoutePlan) -> Vec<Option<Method>> {
    let mut methods: Vec<Option<Method>> = Vec::new();
    for method in route.access.entries.iter().flat_map(|entry| &entry.methods) {
        if !methods.iter().any(|known| known.as_ref() == Some(method)) {
            methods.push(Some(method.clone()));
        }
    }
    if route.access.entries.iter().any(|entry| entry.methods.is_empty()) {
        methods.push(None);
    }
    methods
}

fn row(plan: &Plan, route: &RoutePlan, method: Option<&Method>) -> Row {
    let admits = |entry: &&Entry| method.map_or(entry.methods.is_empty(), |method| entry.admits(method));
    let entries: Vec<&Entry> = route.access.entries.iter().filter(admits).collect();
    Row {
        route: route.name.to_string(),
        listeners: route.listeners.iter().map(|index| plan.listeners[*index].to_string()).collect(),
        hosts: route.hosts.iter().map(ToString::to_string).collect(),
        path: route.path_text.clone(),
        upstream: plan.upstreams[route.upstream].name.to_string(),
        public: entries.iter().any(|entry| matches!(entry.condition, Condition::Public)),
        who: entries.iter().map(|entry| who(&entry.condition)).collect(),
        ip_allow: route.addresses.allow.iter().map(ToString::to_string).collect(),
        ip_deny: route.addresses.deny.iter().map(ToString::to_string).collect(),
        rate_limit: route.rate_limit.map(|limit| limit.to_string()),
        origins: match route.cors.as_ref().map(|cors| &cors.origins) {
            None => Vec::new(),
            Some(Origins::Any) => vec!["*".to_owned()],
            Some(Origins::These(origins)) => origins.clone(),
        },
        method: method.map_or("*", Method::as_str).to_owned(),
    }
}

fn who(condition: &Condition) -> String {
    let Requirements { scopes, any_scope, roles, users, clients, issuers, claims } = match condition {
        Condition::Public => return "everybody".to_owned(),
        Condition::Token(requirements) => requirements,
    };
    let one_of = |words: &[Box<str>]| words.join(" or ");
    let mut parts = Vec::new();
    if !scopes.is_empty() {
        parts.push(format!("scope {}", scopes.join(" ")));
    }
    if !any_scope.is_empty() {
        parts.push(format!("scope {}", one_of(any_scope)));
    }
    for (list, word) in [(roles, "role"), (users, "user"), (clients, "client")] {
        if !list.is_empty() {
            parts.push(format!("{word} {}", one_of(list)));
        }
    }
    for (claim, values) in claims {
        parts.push(format!("claim {} {}", claim.0, one_of(values)));
    }
    if !issuers.is_empty() {
        parts.push(format!("issuer {}", issuers.join(" or ")));
    }
    if parts.is_empty() { "any valid token".to_owned() } else { parts.join(", ") }
}

/// Lines of equally wide columns, between the three delimiters: left, between, right.
fn columns(rows: &[Row], [left, between, right]: &[&str; 3]) -> String {
    const HEAD: [&str; 5] = ["route", "host", "path", "method", "who may"];
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let host = if row.hosts.is_empty() { "any".to_owned() } else { row.hosts.join(", ") };
        let mut who = row.who.join("; or ");
        if !row.ip_allow.is_empty() {
            who += &format!("; only from {}", row.ip_allow.join(" or "));
        }
        if !row.ip_deny.is_empty() {
            who += &format!("; not from {}", row.ip_deny.join(" or "));
        }
        [row.route.clone(), host, row.path.clone(), row.method.clone(), who]
    }));
    let markdown = !left.is_empty();
    if markdown {
        lines.iter_mut().flatten().for_each(|cell| *cell = cell.replace('|', "\\|"));
        lines.insert(1, std::array::from_fn(|_| "---".to_owned()));
    }
    let widths: [usize; 5] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    lines
        .iter()
        .map(|line| {
            let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{left}{}{right}", cells.join(between)).trim_end().to_owned() + "\n"
        })
        .collect()
}
