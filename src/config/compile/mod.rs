//! From the model to the [`Config`]: defaults, bounds, names resolved, files read. Whatever is wrong is reported and
//! replaced by something harmless, so that the rest is judged too; the result counts only where nothing was reported.

mod access;
mod authorization_server;
mod clients;
mod controls;
mod files;
mod forward;
mod issuers;
mod not_built;
mod routes;
mod secrets;
mod server;
mod telemetry;
mod tests;
mod upstreams;
mod users;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::Config;
use super::diagnostic::{Report, Span, suggestion};
use super::model::{self, File};
use super::reader::{At, Field, List, Map};
use super::value::Interval;
use crate::clock::UnixSeconds;
use crate::gateway::plan::{Plan, RoutePlan, UpstreamAuthorization};
use crate::net::{BaseUrl, EndpointUrl, UrlError};
use crate::scope::{self, ScopeSet};

/// What all parts of the compilation share.
#[derive(Debug)]
struct Compiler<'r> {
    report: &'r mut Report,
    /// Every file that was read, in the order of reading.
    files: Vec<PathBuf>,
    /// The start of the configuration file, for what is missing as a whole.
    start: Span,
    now: UnixSeconds,
}

/// Names that other parts of the file refer to, in the order of the file: also those whose values were wrong.
#[derive(Debug)]
struct Names {
    listeners: Vec<ListenerName>,
    issuers: Vec<Arc<str>>,
    /// By issuer, where it is introspected: how its opaque tokens begin.
    token_prefixes: Vec<Option<String>>,
    upstreams: Vec<Arc<str>>,
    /// Of the embedded server.
    clients: Vec<String>,
    roles: Vec<String>,
    /// Those that its clients may have.
    scopes: Vec<String>,
}

#[derive(Debug)]
struct ListenerName {
    name: Arc<str>,
    redirects: bool,
}

/// Compiles `file`, which starts at `start`; `now` tells what has expired. The configuration counts only if `report` has no errors afterwards.
pub(super) fn compile(file: File, start: Span, report: &mut Report, now: UnixSeconds) -> Option<Config> {
    let File {
        server,
        listeners,
        admin,
        log,
        telemetry,
        store,
        issuers,
        authorization_server,
        upstreams,
        routes,
        tests,
    } = file;
    let mut compiler = Compiler { report, files: Vec::new(), start, now };

    let no_listener = listeners.is_absent() || listeners.as_ref().is_some_and(|at| at.value.0.is_empty());
    let listeners = listeners.or_default();
    let issuers = issuers.or_default();
    let upstreams = upstreams.or_default();
    let names = Names::collect(&listeners, &issuers, &authorization_server, &upstreams);

    let public_url_needed = if authorization_server.key().is_some() {
        Some("the authorization server's issuer and endpoints are made from it")
    } else if names.listeners.iter().any(|listener| listener.redirects) {
        Some("the redirecting listener sends callers there")
    } else {
        None
    };
    let server = compiler.server(server, public_url_needed);
    if no_listener && !compiler.report.is_misspelled(start, "listeners") {
        compiler.report.error(
            start,
            "there is no listener",
            "add one: `[listeners.public]` with `address = \"127.0.0.1:8080\"`",
        );
    }
    let listeners = compiler.listeners(listeners, &server);
    let admin_is_explicit = !admin.is_absent();
    let admin = compiler.admin(admin);
    compiler.distinct_addresses(&listeners, &admin);
    let log = compiler.log(log);
    let otlp = compiler.telemetry(telemetry);
    let store = compiler.store(store);
    let mut authorization_server =
        authorization_server.given().map(|at| compiler.authorization_server(at, &server, &listeners, &names));
    let issuers = compiler.issuers(issuers, authorization_server.as_ref().map(|plan| &plan.settings));
    let upstream_names: Vec<At<String>> = upstreams.0.iter().map(|named| named.name.clone()).collect();
    let upstreams = compiler.upstreams(upstreams);
    let reserved = authorization_server.as_ref().map(routes::Reserved::of);
    let routes = compiler.routes(routes.or_default(), &names, &server, reserved.as_ref());
    let tests = compiler.tests(tests.or_default(), &names);

    if compiler.report.has_errors() {
        return None;
    }
    if let Some(server) = &mut authorization_server {
        server.settings.upstream_keys = upstream_keys(&routes);
    }
    compiler.unused_upstreams(&upstream_names, &routes);
    let Compiler { files, .. } = compiler;
    let server = server.finish(listeners);
    let plan = Plan {
        public_url: server.public_url.clone(),
        trusted_proxies: server.trusted_proxies.clone(),
        listeners: names.listeners.into_iter().map(|listener| listener.name).collect(),
        store,
        issuers,
        authorization_server,
        upstreams,
        routes,
        body_bytes: server.limits.body_bytes,
        otlp,
    };
    Some(Config { server, admin: admin.settings, admin_is_explicit, log, plan, tests, files })
}

/// The public halves of the keys that routes sign with for upstreams, each once.
fn upstream_keys(routes: &[RoutePlan]) -> Vec<serde_json::Value> {
    let mut keys: Vec<serde_json::Value> = Vec::new();
    for route in routes {
        if let UpstreamAuthorization::SignedJwt(jwt) = &route.forward.authorization {
            let key = jwt.key.public_jwk();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

impl Names {
    fn collect(
        listeners: &Map<model::Listener>,
        issuers: &Map<model::Issuer>,
        authorization_server: &Field<model::AuthorizationServer>,
        upstreams: &Map<model::Upstream>,
    ) -> Self {
        let redirects =
            |listener: &model::Listener| listener.redirect_to_https.as_ref().is_some_and(|redirects| redirects.value);
        let embedded = authorization_server.as_ref().map(|at| &at.value);
        let own = authorization_server.key().map(|_| Arc::from(issuers::EMBEDDED));
        let others = issuers.0.iter().filter(|named| named.name.value != issuers::EMBEDDED);
        let prefix = |issuer: &model::Issuer| {
            let introspection = issuer.introspection.as_ref()?;
            Some(introspection.value.token_prefix.as_ref().map(|at| at.value.clone()).unwrap_or_default())
        };
        let prefixes = others.clone().map(|named| named.value.as_ref().and_then(|at| prefix(&at.value)));
        Self {
            listeners: listeners
                .0
                .iter()
                .map(|named| ListenerName {
                    name: named.name.value.as_str().into(),
                    redirects: named.value.as_ref().is_some_and(|at| redirects(&at.value)),
                })
                .collect(),
            token_prefixes: own.iter().map(|_| None).chain(prefixes).collect(),
            issuers: own.into_iter().chain(others.map(|named| named.name.value.as_str().into())).collect(),
            upstreams: upstreams.names().map(Arc::from).collect(),
            clients: embedded
                .and_then(|server| server.clients.as_ref())
                .map(|clients| clients.value.names().map(str::to_owned).collect())
                .unwrap_or_default(),
            roles: embedded
                .and_then(|server| server.roles.as_ref())
                .map(|roles| roles.value.names().map(str::to_owned).collect())
                .unwrap_or_default(),
            scopes: embedded
                .and_then(|server| server.clients.as_ref())
                .map(|at| client_scopes(&at.value))
                .unwrap_or_default(),
        }
    }

    /// Indices of the listeners that serve routes.
    fn serving_listeners(&self) -> Vec<usize> {
        (0..self.listeners.len()).filter(|index| !self.listeners[*index].redirects).collect()
    }
}

impl Compiler<'_> {
    /// The value of a duration that must not be zero.
    fn interval(&mut self, field: Field<Interval>, key: &str, default: Duration) -> Duration {
        let Some(at) = field.given() else { return default };
        if at.value.0.is_zero() {
            self.report.error(
                at.span,
                format!("`{key}` must be longer than nothing"),
                format!("the default is {}", interval_text(default)),
            );
        }
        at.value.0
    }

    /// The value of a number within bounds.
    fn count(&mut self, field: Field<u64>, key: &str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let Some(at) = field.given() else { return default };
        self.within(&at, key, &default.to_string(), bounds).unwrap_or(default)
    }

    fn within(&mut self, at: &At<u64>, key: &str, default: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
        if bounds.contains(&at.value) {
            return Some(at.value);
        }
        let (least, most) = (bounds.start(), bounds.end());
        self.report.error(
            at.span,
            format!("`{key}` is {}, but must be between {least} and {most}", at.value),
            format!("the default is `{default}`"),
        );
        None
    }

    /// Reports a name that would not do as a metric label.
    fn name(&mut self, name: &At<String>, of: &str) {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.value.is_empty() || name.value.len() > 64 || !name.value.bytes().all(allowed) {
            self.report.error(
                name.span,
                format!("`{}` cannot be the name of {of}", name.value),
                "use 1 to 64 letters, digits, `.`, `_` and `-`: names become labels of metrics",
            );
        }
    }

    /// The place of `name` among `known`.
    fn lookup(&mut self, name: &At<String>, known: &[Arc<str>], what: &str, none: &str) -> Option<usize> {
        let found = known.iter().position(|known| **known == *name.value);
        if found.is_none() {
            self.unknown_name(name, known.iter().map(|known| &**known), what, none);
        }
        found
    }

    fn unknown_name<'a>(
        &mut self,
        name: &At<String>,
        known: impl Iterator<Item = &'a str> + Clone,
        what: &str,
        none: &str,
    ) {
        let help = suggestion(&name.value, known, none);
        self.report.error(name.span, format!("there is no {what} `{}`", name.value), help);
    }

    /// Reports a list with nothing in it.
    fn not_empty<T>(&mut self, list: &At<List<T>>, key: &str, help: &str) -> bool {
        let empty = list.value.is_empty();
        if empty {
            self.report.error(list.span, format!("`{key}` is empty"), help);
        }
        !empty
    }

    /// The scopes of a list, each a token.
    fn scopes(&mut self, list: &List<String>) -> ScopeSet {
        let mut set = ScopeSet::default();
        for at in &list.items {
            if self.is_scope(at) {
                // It was found to be a token, which is all that `insert` asks.
                let _ = set.insert(&at.value);
            }
        }
        set
    }

    fn is_scope(&mut self, at: &At<String>) -> bool {
        let valid = scope::is_token(&at.value);
        if !valid {
            let help = if at.value.contains(' ') {
                let words: Vec<String> = at.value.split_whitespace().map(|word| format!("\"{word}\"")).collect();
                format!("write one scope in each pair of quotes: `[{}]`", words.join(", "))
            } else {
                "a scope is made of printable ASCII without space, `\"` and `\\`".to_owned()
            };
            self.report.error(at.span, format!("`{}` is not a scope", at.value), help);
        }
        valid
    }

    /// An absolute URL that is https, or http on loopback.
    fn secure_url(&mut self, at: &At<String>, key: &str) -> Option<BaseUrl> {
        let url = self.url(at, key)?;
        self.is_secure(at, key, url.is_https() || url.is_loopback()).then_some(url)
    }

    /// The URL of a document or an endpoint elsewhere, which may have a query.
    fn endpoint_url(&mut self, at: &At<String>, key: &str) -> Option<EndpointUrl> {
        let url = EndpointUrl::parse(&at.value).map_err(|error| self.not_a_url(at, key, error)).ok()?;
        self.is_secure(at, key, url.is_https() || url.is_loopback()).then_some(url)
    }

    fn is_secure(&mut self, at: &At<String>, key: &str, secure: bool) -> bool {
        if !secure {
            self.report.error(
                at.span,
                format!("`{key}` uses http, which is for loopback only"),
                format!("write `https://{}`", at.value.trim_start_matches("http://")),
            );
        }
        secure
    }

    fn url(&mut self, at: &At<String>, key: &str) -> Option<BaseUrl> {
        BaseUrl::parse(&at.value).map_err(|error| self.not_a_url(at, key, error)).ok()
    }

    fn not_a_url(&mut self, at: &At<String>, key: &str, error: UrlError) {
        let help = match error {
            UrlError::Extra => "leave out what follows `?` or `#`, and what stands before `@`".to_owned(),
            _ if at.value.contains("://") => "write it like `https://api.example.com`".to_owned(),
            _ => format!("write it with a scheme: `https://{}`", at.value),
        };
        self.report.error(at.span, format!("`{key}`: {error}"), help);
    }

    fn address(&mut self, at: &At<String>, key: &str) -> Option<SocketAddr> {
        let parsed = at.value.parse().ok();
        if parsed.is_none() {
            let help = match at.value.strip_prefix("localhost:").or_else(|| at.value.strip_prefix(':')) {
                Some(port) if at.value.starts_with(':') => format!("write `0.0.0.0:{port}` for every address"),
                Some(port) => format!("write `127.0.0.1:{port}`"),
                None => "write it like `127.0.0.1:8080`, `0.0.0.0:8443` or `[::]:8443`".to_owned(),
            };
            self.report.error(at.span, format!("`{key}`: `{}` is not an IP address and a port", at.value), help);
        }
        parsed
    }

    /// An address with the length of a prefix, or alone.
    fn network(&mut self, at: &At<String>) -> Option<IpNet> {
        let parsed = at.value.parse::<IpNet>().or_else(|_| at.value.parse::<IpAddr>().map(IpNet::from)).ok();
        let Some(network) = parsed else {
            self.report.error(
                at.span,
                format!("`{}` is not a network", at.value),
                "write an address with the length of its prefix: `\"10.0.0.0/8\"`, `\"2001:db8::/32\"`",
            );
            return None;
        };
        if network.addr().to_canonical() != network.addr() {
            self.report.error(
                at.span,
                format!("`{}` is an IPv4 network in the form of IPv6, which no address has here", at.value),
                format!(
                    "write it as IPv4: `\"{}/{}\"`",
                    network.addr().to_canonical(),
                    network.prefix_len().saturating_sub(96)
                ),
            );
            return None;
        }
        Some(network)
    }

    /// Reports repeated values of a list.
    fn distinct<T>(&mut self, items: &[At<T>], text: impl Fn(&T) -> String, what: &str) {
        let mut seen: BTreeMap<String, Span> = BTreeMap::new();
        for item in items {
            if let Some(first) = seen.insert(text(&item.value), item.span) {
                self.report.error(
                    item.span,
                    format!("{what} `{}` stands here twice", text(&item.value)),
                    "remove one of the two",
                );
                self.report.relate(first, "first here");
            }
        }
    }
}

impl<T: Default> Field<T> {
    fn or_default(self) -> T {
        self.or(T::default())
    }
}

/// The value of a duration that may be zero.
fn duration(field: Field<Interval>, default: Duration) -> Duration {
    field.given().map_or(default, |at| at.value.0)
}

fn client_scopes(clients: &Map<model::Client>) -> Vec<String> {
    let clients = clients.0.iter().filter_map(|named| named.value.as_ref());
    let lists = clients.filter_map(|client| client.value.scopes.as_ref());
    lists.flat_map(|list| list.value.items.iter().map(|scope| scope.value.clone())).collect()
}

/// How the operator would have written it.
fn interval_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("`\"{}ms\"`", duration.as_millis()),
        _ if seconds.is_multiple_of(86_400) => format!("`\"{}d\"`", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("`\"{}h\"`", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("`\"{}m\"`", seconds / 60),
        _ => format!("`\"{seconds}s\"`"),
    }
}
