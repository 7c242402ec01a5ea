//! `[upstreams]`.

use std::time::Duration;

use super::super::model;
use super::super::reader::{At, Field, List, Map};
use super::Compiler;
use crate::gateway::plan::RoutePlan;
use crate::tls::ClientSettings;
use crate::upstream::{Balance, Dialect, Health, ServerUrl, Settings};

const SERVERS_HELP: &str = "name at least one: `servers = [\"http://10.0.0.5:8080\"]`";

impl Compiler<'_> {
    /// Warns of upstreams that no route names.
    pub(super) fn unused_upstreams(&mut self, upstreams: &[At<String>], routes: &[RoutePlan]) {
        for (index, name) in upstreams.iter().enumerate() {
            if !routes.iter().any(|route| route.upstream == index) {
                self.report.warning(
                    name.span,
                    format!("no route leads to the upstream `{}`", name.value),
                    format!("write `upstream = \"{}\"` in a route, or remove it", name.value),
                );
            }
        }
    }

    pub(super) fn upstreams(&mut self, upstreams: Map<model::Upstream>) -> Vec<Settings> {
        let mut compiled = Vec::new();
        for named in upstreams.0 {
            self.name(&named.name, "an upstream");
            if let Some(at) = named.value {
                compiled.push(self.upstream(&named.name.value, at));
            }
        }
        compiled
    }

    fn upstream(&mut self, name: &str, at: At<model::Upstream>) -> Settings {
        let model::Upstream {
            servers,
            connections,
            balance,
            connect_timeout,
            response_timeout,
            idle_connections,
            http2,
            retries,
            dialect,
            health,
            tls,
        } = at.value;
        let servers = servers.required(self.report, at.span, "servers", SERVERS_HELP);
        let in_clear = |at: &At<String>| at.value.starts_with("http:") || at.value.starts_with("unix:");
        let all_clear = servers.as_ref().is_some_and(|list| list.value.items.iter().all(in_clear));
        let servers = servers.map(|list| self.servers(list)).unwrap_or_default();
        if let (Some(key), true) = (tls.key(), all_clear) {
            self.report.warning(
                key,
                format!("`tls` means nothing for `{name}`: none of its servers is https"),
                "remove it, or write `https://` in `servers`",
            );
        }
        Settings {
            name: name.into(),
            servers,
            balance: match balance.or(model::Balance::RoundRobin) {
                model::Balance::RoundRobin => Balance::RoundRobin,
                model::Balance::LeastRequests => Balance::LeastRequests,
                model::Balance::Hash => Balance::Hash,
            },
            connections: self.size_of_queue(connections, "connections", 1024, 1_000_000),
            connect_timeout: self.interval(connect_timeout, "connect_timeout", Duration::from_secs(2)),
            response_timeout: self.interval(response_timeout, "response_timeout", Duration::from_secs(30)),
            idle_connections: usize::try_from(self.count(idle_connections, "idle_connections", 64, 0..=100_000))
                .unwrap_or(64),
            http2: http2.or(false),
            retries: u32::try_from(self.count(retries, "retries", 1, 0..=10)).unwrap_or(1),
            dialect: match dialect.or(model::Dialect::Generic) {
                model::Dialect::Generic => Dialect::Generic,
                model::Dialect::Tomcat => Dialect::Tomcat,
                model::Dialect::Iis => Dialect::Iis,
                model::Dialect::Php => Dialect::Php,
            },
            health: health.given().and_then(|at| self.health(at)),
            tls: tls.given().map(|at| self.client_tls(at.value)).unwrap_or_default(),
        }
    }

    fn health(&mut self, at: At<model::Health>) -> Option<Health> {
        let model::Health { path, interval } = at.value;
        let interval = self.interval(interval, "interval", Duration::from_secs(5));
        let path = path.required(self.report, at.span, "path", "write what to ask: `path = \"/health\"`")?;
        let parsed = path.value.parse().ok().filter(|_| path.value.starts_with('/') && !path.value.contains('#'));
        if parsed.is_none() {
            self.report.error(
                path.span,
                format!("`{}` is not a path to ask for", path.value.escape_debug()),
                "begin it with `/`, without a host: `path = \"/health\"`",
            );
        }
        Some(Health { path: parsed?, interval })
    }

    fn servers(&mut self, list: At<List<String>>) -> Vec<ServerUrl> {
        self.not_empty(&list, "servers", SERVERS_HELP);
        self.distinct(&list.value.items, Clone::clone, "the server");
        let mut servers = Vec::new();
        for at in list.value.items {
            if at.value.starts_with("unix:") {
                servers.extend(self.socket(&at));
                continue;
            }
            if !at.value.contains("://") {
                let help = format!("write it with a scheme: `http://{}`", at.value);
                self.report.error(at.span, format!("the server `{}` is not a URL", at.value), help);
                continue;
            }
            let Some(url) = self.url(&at, "servers") else { continue };
            if !matches!(url.path(), "" | "/") {
                self.report.error(
                    at.span,
                    format!("the server `{}` has a path, but requests keep their own", at.value),
                    format!("write `{}`", url.origin()),
                );
            }
            servers.push(ServerUrl::Http(url));
        }
        servers
    }

    /// `unix:` and the path of a socket, which need not be there yet.
    fn socket(&mut self, at: &At<String>) -> Option<ServerUrl> {
        let path = at.value.strip_prefix("unix:")?;
        if path.is_empty() || path.starts_with("//") || path.contains('\0') {
            self.report.error(
                at.span,
                format!("the server `{}` does not name a socket", at.value.escape_debug()),
                "write the path after one colon: `unix:/run/orders.sock`",
            );
            return None;
        }
        let path = self.report.source(at.span.file).base.join(path);
        // The system's limit (unix(7)), less the NUL at the end.
        if path.as_os_str().len() > 107 {
            self.report.error(
                at.span,
                format!("the path of the socket is longer than 107 bytes: `{}`", path.display()),
                "move the socket to a shorter path, such as `/run/orders.sock`",
            );
            return None;
        }
        Some(ServerUrl::Unix(path))
    }

    fn client_tls(&mut self, tls: model::UpstreamTls) -> ClientSettings {
        let model::UpstreamTls { ca, client, server_name } = tls;
        ClientSettings {
            ca: ca.given().and_then(|at| self.authorities(&at)),
            client: client.given().and_then(|at| self.certificate(at)),
            server_name: self.server_name(server_name),
        }
    }

    fn server_name(&mut self, field: Field<String>) -> Option<String> {
        let at = field.given()?;
        if rustls_pki_types::ServerName::try_from(at.value.as_str()).is_err() {
            self.report.error(
                at.span,
                format!("`{}` cannot be the name in a certificate", at.value),
                "write a host name: `\"orders.internal\"`",
            );
        }
        Some(at.value)
    }
}
