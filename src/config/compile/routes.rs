//! `[[routes]]`: where a request goes. Who may send it is compiled by `access`, what it must meet besides by
//! `controls`, what is sent by `forward`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::diagnostic::Span;
use super::super::model;
use super::super::reader::{At, Field, List};
use super::server::Server;
use super::{Compiler, Names};
use crate::gateway::plan::{AuthorizationServerPlan, PathAllowances, RoutePlan, UnderscoreHeaders};
use crate::net::{BaseUrl, is_loopback_host};
use crate::routing::{HostPattern, PathPattern, Segment, Table};
use crate::token::Reuse;

const MAX_NAME: usize = 64;
const UPSTREAM_HELP: &str =
    "configure one under `[upstreams]` first: `[upstreams.api]` with `servers = [\"http://127.0.0.1:8080\"]`";
const ALLOW_HELP: &str = "say who may call it: `allow = [{ methods = [\"GET\"], scopes = [\"orders:read\"] }]`, `[{ authenticated = true }]` or `[{ public = true }]`";

/// Paths that the authorization server keeps for itself on the issuer's host.
#[derive(Debug)]
pub(super) struct Reserved {
    paths: [String; 4],
    issuer: BaseUrl,
    listeners: Vec<usize>,
}

/// A compiled route and where its parts are written.
struct Placed {
    plan: RoutePlan,
    path: Span,
}

impl Reserved {
    pub(super) fn of(plan: &AuthorizationServerPlan) -> Self {
        let issuer = &plan.settings.issuer;
        let below = issuer.path().trim_end_matches('/');
        Self {
            paths: [
                plan.settings.path.clone(),
                format!("/.well-known/oauth-authorization-server{below}"),
                format!("/.well-known/openid-configuration{below}"),
                format!("{below}/.well-known/openid-configuration"),
            ],
            issuer: issuer.clone(),
            listeners: plan.listeners.clone(),
        }
    }

    /// The reserved path that `route` lies inside.
    fn holds(&self, route: &RoutePlan) -> Option<&str> {
        let host = self.issuer.host();
        let host_meets = route.hosts.is_empty()
            || route.hosts.iter().any(|pattern| match pattern {
                HostPattern::Exact(name) => **name == *host || (self.issuer.is_loopback() && is_loopback_host(name)),
                HostPattern::Wildcard(name) => host.split_once('.').is_some_and(|(_, rest)| *rest == **name),
            });
        let listener_meets = route.listeners.iter().any(|listener| self.listeners.contains(listener));
        if !host_meets || !listener_meets {
            return None;
        }
        let prefix = route.path.literal_prefix();
        let inside = |path: &&String| {
            prefix.strip_prefix(path.as_str()).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
        };
        self.paths.iter().find(inside).map(String::as_str)
    }
}

impl Compiler<'_> {
    pub(super) fn routes(
        &mut self,
        routes: List<model::Route>,
        names: &Names,
        server: &Server,
        reserved: Option<&Reserved>,
    ) -> Vec<RoutePlan> {
        let mut route_names = self.route_names(&routes);
        if !routes.items.is_empty() && !names.listeners.is_empty() && names.serving_listeners().is_empty() {
            self.report.error(
                routes.items[0].span,
                "every listener redirects, so that no route is ever served",
                "add a listener without `redirect_to_https`",
            );
        }
        let mut placed = Vec::new();
        for at in routes.items {
            placed.extend(self.route(at, &mut route_names, names, server));
        }
        self.ties(&placed, names.listeners.len());
        for Placed { plan, path } in &placed {
            if let Some(inside) = reserved.and_then(|reserved| reserved.holds(plan)) {
                self.report.error(
                    *path,
                    format!("`{}` lies inside `{inside}`, which the authorization server answers", plan.path_text),
                    "choose another path, or move the endpoints with `authorization_server.path`",
                );
            }
        }
        placed.into_iter().map(|placed| placed.plan).collect()
    }

    /// The names that are written, each checked and found only once.
    fn route_names(&mut self, routes: &List<model::Route>) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, Span> = BTreeMap::new();
        for name in routes.items.iter().filter_map(|at| at.value.name.as_ref()).cloned().collect::<Vec<_>>() {
            self.name(&name, "a route");
            if let Some(first) = seen.insert(name.value.clone(), name.span) {
                self.report.error(
                    name.span,
                    format!("there are two routes `{}`", name.value),
                    "give each route a name of its own, or none",
                );
                self.report.relate(first, "the first");
            }
        }
        seen.into_keys().collect()
    }

    fn route(
        &mut self,
        at: At<model::Route>,
        taken: &mut BTreeSet<String>,
        names: &Names,
        server: &Server,
    ) -> Option<Placed> {
        let model::Route {
            name,
            hosts,
            listeners,
            path,
            upstream,
            issuers,
            allow,
            mode,
            body_bytes,
            timeout,
            basic_bridge,
            allow_in_path,
            underscore_headers,
            end_with_token,
            audience,
            cache,
            ip_allow,
            ip_deny,
            forward,
            rate_limit,
            cors,
        } = at.value;
        self.mode(&mode);
        self.not_built(&basic_bridge, "basic_bridge", "let these callers fetch a token from the token endpoint");

        let allowances = self.allowances(allow_in_path);
        let path = path.required(self.report, at.span, "path", "say which paths: `path = \"/orders/**\"`");
        let pattern = path.as_ref().and_then(|path| self.pattern(path, allowances));
        let upstream = upstream
            .required(self.report, at.span, "upstream", "say where its requests go: `upstream = \"orders\"`")
            .and_then(|upstream| self.lookup(&upstream, &names.upstreams, "upstream", UPSTREAM_HELP));
        let issuers = self.route_issuers(issuers, names, at.span);
        let introspection = self.reuse(cache, issuers.as_deref(), names);
        let allow = allow.required(self.report, at.span, "allow", ALLOW_HELP);
        let addresses = self.addresses(ip_allow, ip_deny);
        let access = allow.and_then(|allow| {
            self.not_empty(&allow, "allow", ALLOW_HELP).then(|| self.access(allow, issuers.as_deref(), names))
        });
        let listeners = self.serving(listeners, names, "a route");
        let hosts = self.hosts(hosts);
        let cors = cors.given().and_then(|at| self.cors(at, forward.as_ref().map(|at| &at.value)));
        let forward = self.forward(forward, pattern.as_ref());
        let audience = self.audience(audience);
        let rate_limit = rate_limit.given().and_then(|at| self.rate_limit(at, access.as_ref()));
        let body_bytes = self.body_bytes(body_bytes).unwrap_or(server.limits.body_bytes);
        let timeout =
            if timeout.is_absent() { None } else { Some(self.interval(timeout, "timeout", Duration::from_secs(30))) };
        let (path, pattern) = (path?, pattern?);
        let name = match name.given() {
            Some(name) => name.value,
            None => name_from_path(&pattern, taken),
        };
        taken.insert(name.clone());
        let plan = RoutePlan {
            name: name.into(),
            hosts,
            listeners,
            path: pattern,
            path_text: path.value,
            upstream: upstream?,
            issuers: issuers.unwrap_or_default(),
            addresses,
            access: access?,
            introspection,
            audience,
            body_bytes,
            timeout,
            path_allowances: allowances,
            underscore_headers: match underscore_headers.or(model::Underscore::Drop) {
                model::Underscore::Drop => UnderscoreHeaders::Drop,
                model::Underscore::Pass => UnderscoreHeaders::Pass,
            },
            end_with_token: end_with_token.or(false),
            rate_limit,
            cors,
            forward,
        };
        Some(Placed { plan, path: path.span })
    }

    fn pattern(&mut self, path: &At<String>, allowances: PathAllowances) -> Option<PathPattern> {
        match PathPattern::parse_allowing(&path.value, allowances) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let help = if path.value.starts_with('/') {
                    "write literal segments, `{name}` for one segment, and `**` at the end for the rest: `\"/orders/{id}\"`"
                        .to_owned()
                } else {
                    format!("write `\"/{}\"`", path.value)
                };
                self.report.error(path.span, format!("`{}`: {error}", path.value), help);
                None
            }
        }
    }

    fn allowances(&mut self, field: Field<List<String>>) -> PathAllowances {
        let mut allowances = PathAllowances::default();
        for at in field.or_default().items {
            match PathAllowances::parse(&at.value) {
                Some(opened) => allowances = allowances.union(opened),
                None => {
                    let known: Vec<String> = PathAllowances::spellings().map(|text| format!("`{text}`")).collect();
                    self.report.error(
                        at.span,
                        format!("`{}` cannot be opened", at.value),
                        format!("a route may open {}", known.join(", ")),
                    );
                }
            }
        }
        allowances
    }

    /// None: the key is there and wrong. `owner` is the route.
    fn route_issuers(&mut self, field: Field<List<String>>, names: &Names, owner: Span) -> Option<Vec<usize>> {
        let span = field.key().unwrap_or(owner);
        let indices = if field.is_absent() {
            (0..names.issuers.len()).collect()
        } else {
            let list = field.given()?;
            self.not_empty(&list, "issuers", "leave it out to accept tokens of every issuer");
            self.distinct(&list.value.items, Clone::clone, "the issuer");
            let indices: Vec<Option<usize>> = list.value.items.iter().map(|at| self.issuer(at, names)).collect();
            indices.into_iter().collect::<Option<Vec<usize>>>()?
        };
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for index in &indices {
            let Some(prefix) = &names.token_prefixes[*index] else { continue };
            if let Some(first) = seen.insert(prefix, *index) {
                self.report.error(
                    span,
                    format!(
                        "an opaque token could be of `{}` or of `{}`: both are introspected, and their tokens begin alike",
                        names.issuers[first], names.issuers[*index]
                    ),
                    "name one of them in the route's `issuers`, or give each a `token_prefix` of its own",
                );
            }
        }
        Some(indices)
    }

    fn reuse(&mut self, cache: Field<model::Cache>, issuers: Option<&[usize]>, names: &Names) -> Reuse {
        match cache.given() {
            Some(At { value: model::Cache::Off, span }) => {
                if issuers.is_some_and(|issuers| issuers.iter().all(|index| names.token_prefixes[*index].is_none())) {
                    self.report.warning(
                        span,
                        "`cache = \"off\"` means nothing here: no issuer of this route is introspected",
                        "leave it out, or give an issuer an `introspection` table",
                    );
                }
                Reuse::Never
            }
            _ => Reuse::Kept,
        }
    }

    /// The place of an issuer that is named.
    pub(super) fn issuer(&mut self, at: &At<String>, names: &Names) -> Option<usize> {
        let none = if at.value == super::issuers::EMBEDDED {
            "`self` is the embedded server: add an `[authorization_server]` table"
        } else {
            "configure one under `[issuers]` first"
        };
        self.lookup(at, &names.issuers, "issuer", none)
    }

    fn hosts(&mut self, field: Field<List<String>>) -> Vec<HostPattern> {
        let Some(list) = field.given() else { return Vec::new() };
        self.not_empty(&list, "hosts", "leave it out for any host");
        self.distinct(&list.value.items, |host| host.to_ascii_lowercase(), "the host");
        let mut hosts = Vec::new();
        for at in list.value.items {
            match HostPattern::parse(&at.value) {
                Ok(host) => hosts.push(host),
                Err(error) => {
                    self.report.error(
                        at.span,
                        format!("`{}`: {error}", at.value),
                        "write `\"api.example.com\"`, or `\"*.example.com\"` for one label before it",
                    );
                }
            }
        }
        hosts
    }

    /// Reports routes that nothing tells apart.
    fn ties(&mut self, placed: &[Placed], listeners: usize) {
        let mut table: Table<usize> = Table::new(listeners);
        for (index, Placed { plan, path }) in placed.iter().enumerate() {
            let clash = plan
                .listeners
                .iter()
                .find_map(|listener| table.insert(*listener, &plan.hosts, &plan.path, index).err());
            if let Some(first) = clash.filter(|first| *first != index) {
                let other = &placed[first];
                self.report.error(
                    *path,
                    format!("the routes `{}` and `{}` match the same requests", other.plan.name, plan.name),
                    "make one path or host more specific, or put both `allow` lists into one route",
                );
                self.report.relate(other.path, "the other one");
            }
        }
    }
}

/// A name that no route has yet: `/orders/{id}/items` is `orders-id-items`.
fn name_from_path(pattern: &PathPattern, taken: &BTreeSet<String>) -> String {
    let words: Vec<&str> = pattern
        .0
        .iter()
        .filter_map(|segment| match segment {
            Segment::Literal(text) | Segment::Any(text) => Some(&**text),
            Segment::Rest => None,
        })
        .filter(|word| !word.is_empty())
        .collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let mut name: String = words.join("-").chars().map(plain).take(MAX_NAME - 5).collect();
    if name.is_empty() {
        name = "root".to_owned();
    }
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_name_gets_one_from_its_path() {
        let mut taken = BTreeSet::new();
        for (path, expected) in [
            ("/orders/**", "orders"),
            ("/orders", "orders-2"),
            ("/orders/{id}/items", "orders-id-items"),
            ("/", "root"),
            ("/**", "root-2"),
            ("/a~b", "a-b"),
        ] {
            let name = name_from_path(&PathPattern::parse(path).expect("a pattern"), &taken);
            assert_eq!(name, expected, "{path}");
            taken.insert(name);
        }
    }
}
