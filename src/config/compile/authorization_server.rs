//! `[authorization_server]` without its clients and users.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::model;
use super::super::reader::{At, Field, List, Map};
use super::server::{Listener, Server};
use super::{Compiler, Names};
use crate::authorization_server::{AccessTokenFormat, ExcessUserScope, Lockout, Settings};
use crate::gateway::plan::AuthorizationServerPlan;
use crate::jose::Algorithm;
use crate::scope::ScopeSet;

/// RFC 6749 section 4.1.2.
const MAX_CODE_LIFETIME: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const DEFAULT_PATH: &str = "/oauth2";

impl Compiler<'_> {
    pub(super) fn authorization_server(
        &mut self,
        at: At<model::AuthorizationServer>,
        server: &Server,
        all_listeners: &[Listener],
        names: &Names,
    ) -> AuthorizationServerPlan {
        let model::AuthorizationServer {
            issuer,
            path,
            access_token_format,
            access_token_lifetime,
            refresh_token_lifetime,
            refresh_token_idle,
            audience,
            code_lifetime,
            session_idle,
            session_lifetime,
            listeners,
            templates,
            signing_algorithm,
            key_rotation,
            excess_user_scope,
            clients,
            roles,
            users,
            lockout,
        } = at.value;

        let issuer = issuer.given().and_then(|at| self.secure_url(&at, "issuer"));
        let access_token_lifetime = self.access_token_lifetime(access_token_lifetime);
        let idle = self.shorter(
            (refresh_token_idle, "refresh_token_idle", DAY * 14),
            (refresh_token_lifetime, "refresh_token_lifetime", DAY * 90),
        );
        let session =
            self.shorter((session_idle, "session_idle", HOUR / 2), (session_lifetime, "session_lifetime", HOUR * 12));
        let roles = self.roles(roles);
        let users_key = users.key();
        let users = self.users(users, &roles);
        let clients = self.clients(clients, access_token_lifetime, users_key.is_some());
        let settings = Settings {
            issuer: issuer.unwrap_or_else(|| server.public_url.clone()),
            path: self.endpoint_path(path),
            access_token_format: match access_token_format.or(model::TokenFormat::Jwt) {
                model::TokenFormat::Jwt => AccessTokenFormat::Jwt,
                model::TokenFormat::Opaque => AccessTokenFormat::Opaque,
            },
            access_token_lifetime,
            refresh_token_lifetime: idle.1,
            refresh_token_idle: idle.0,
            code_lifetime: self.code_lifetime(code_lifetime),
            session_idle: session.0,
            session_lifetime: session.1,
            audience: if audience.is_absent() {
                vec![server.public_url.as_str().to_owned()]
            } else {
                self.audience(audience)
            },
            signing_algorithm: match signing_algorithm.or(model::SigningAlgorithm::Rs256) {
                model::SigningAlgorithm::Rs256 => Algorithm::Rs256,
                model::SigningAlgorithm::Es256 => Algorithm::Es256,
                model::SigningAlgorithm::EdDsa => Algorithm::EdDsa,
            },
            key_rotation: self.interval(key_rotation, "key_rotation", DAY * 90),
            excess_user_scope: match excess_user_scope.or(model::ExcessUserScope::Narrow) {
                model::ExcessUserScope::Narrow => ExcessUserScope::Narrow,
                model::ExcessUserScope::Reject => ExcessUserScope::Reject,
            },
            clients,
            roles,
            users,
            lockout: self.lockout(lockout.or_default()),
            templates: templates.given().and_then(|at| self.templates(&at)),
        };
        let listeners = self.serving(listeners, names, "the authorization server");
        self.reachable_over_https(&at.span, &settings, server, &listeners, all_listeners);
        AuthorizationServerPlan { settings, listeners }
    }

    /// The listeners that a list names, each of which serves; without a list, all of those.
    pub(super) fn serving(&mut self, field: Field<List<String>>, names: &Names, whose: &str) -> Vec<usize> {
        let Some(list) = field.given() else { return names.serving_listeners() };
        self.not_empty(&list, "listeners", "leave it out for every listener that does not redirect");
        self.distinct(&list.value.items, Clone::clone, "the listener");
        let mut indices = Vec::new();
        for at in list.value.items {
            let all = names.listeners.iter().map(|listener| &*listener.name);
            match all.clone().position(|name| name == at.value) {
                None => self.unknown_name(&at, all, "listener", "configure one under `[listeners]` first"),
                Some(index) if names.listeners[index].redirects => {
                    self.report.error(
                        at.span,
                        format!("the listener `{}` only redirects, {whose} cannot be served there", at.value),
                        "name a listener without `redirect_to_https`",
                    );
                }
                Some(index) => indices.push(index),
            }
        }
        indices
    }

    fn access_token_lifetime(&mut self, field: Field<super::Interval>) -> Duration {
        let span = field.as_ref().map(|at| at.span);
        let lifetime = self.interval(field, "access_token_lifetime", HOUR);
        if let (true, Some(span)) = (lifetime > DAY, span) {
            self.report.warning(
                span,
                "access tokens live for more than a day: a stolen one works as long",
                "issue short ones and refresh them: `access_token_lifetime = \"1h\"`",
            );
        }
        lifetime
    }

    fn code_lifetime(&mut self, field: Field<super::Interval>) -> Duration {
        let span = field.as_ref().map(|at| at.span);
        let lifetime = self.interval(field, "code_lifetime", Duration::from_secs(60));
        if let (true, Some(span)) = (lifetime > MAX_CODE_LIFETIME, span) {
            self.report.error(
                span,
                "`code_lifetime` is longer than ten minutes, the most that RFC 6749 allows",
                "a code is exchanged at once: keep the default of `\"60s\"`",
            );
        }
        lifetime
    }

    /// An idle time and the lifetime that bounds it.
    fn shorter(
        &mut self,
        (idle, idle_key, idle_default): (Field<super::Interval>, &str, Duration),
        (lifetime, lifetime_key, lifetime_default): (Field<super::Interval>, &str, Duration),
    ) -> (Duration, Duration) {
        let written = idle.as_ref().map(|at| at.span);
        let idle = self.interval(idle, idle_key, idle_default);
        let lifetime = self.interval(lifetime, lifetime_key, lifetime_default);
        if let (true, Some(span)) = (idle > lifetime, written) {
            self.report.warning(
                span,
                format!("`{idle_key}` is longer than `{lifetime_key}` and never takes effect"),
                format!("make it shorter than {}", super::interval_text(lifetime)),
            );
        }
        (idle, lifetime)
    }

    fn endpoint_path(&mut self, field: Field<String>) -> String {
        let Some(at) = field.given() else { return DEFAULT_PATH.to_owned() };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        let segment_is_fine =
            |segment: &str| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain);
        let valid = at.value.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment_is_fine));
        if !valid {
            self.report.error(
                at.span,
                format!("`{}` is not a path for the endpoints", at.value),
                "write literal segments that start with `/` and do not end with one: `\"/oauth2\"`, `\"/oauth2/v1\"`",
            );
            return DEFAULT_PATH.to_owned();
        }
        at.value
    }

    fn templates(&mut self, at: &At<String>) -> Option<std::path::PathBuf> {
        let path = self.path(at);
        if !path.is_dir() {
            self.report.error(
                at.span,
                format!("`{}` is not a folder", at.value),
                format!(
                    "`{}` was looked for; make it, or leave `templates` out for the built-in pages",
                    path.display()
                ),
            );
            return None;
        }
        Some(path)
    }

    fn roles(&mut self, field: Field<Map<model::Role>>) -> BTreeMap<String, ScopeSet> {
        let mut roles = BTreeMap::new();
        for named in field.or_default().0 {
            if named.name.value.is_empty() {
                self.report.error(
                    named.name.span,
                    "a role has no name",
                    "name it: `[authorization_server.roles.clerk]`",
                );
            }
            let scopes = named.value.and_then(|at| {
                let model::Role { scopes } = at.value;
                scopes.required(
                    self.report,
                    at.span,
                    "scopes",
                    "list what the role gives: `scopes = [\"orders:read\"]`",
                )
            });
            let scopes = scopes.map(|list| self.scopes(&list.value)).unwrap_or_default();
            roles.insert(named.name.value, scopes);
        }
        roles
    }

    fn lockout(&mut self, lockout: model::Lockout) -> Lockout {
        let model::Lockout { failures, window, delay, address_failures } = lockout;
        let mut failures_within = |field, key, default: u32| {
            let count = self.count(field, key, default.into(), 1..=1_000_000);
            u32::try_from(count).unwrap_or(default)
        };
        Lockout {
            failures: failures_within(failures, "failures", 5),
            address_failures: failures_within(address_failures, "address_failures", 50),
            window: self.interval(window, "window", Duration::from_secs(600)),
            delay: super::duration(delay, Duration::from_secs(60)),
        }
    }

    /// Warns where every request for a token would be refused because none of them comes over https.
    fn reachable_over_https(
        &mut self,
        at: &super::Span,
        settings: &Settings,
        server: &Server,
        own: &[usize],
        all: &[Listener],
    ) {
        let cleartext = |listener: &&Listener| listener.settings.tls.is_none();
        let own: Vec<&Listener> = own.iter().filter_map(|index| all.get(*index)).collect();
        let all_cleartext = !own.is_empty() && own.iter().all(cleartext);
        // With the PROXY protocol the peer is who is announced, and its word of https does not count.
        let announced = own.iter().all(|listener| listener.settings.proxy_protocol);
        let told = !announced && !server.trusted_proxies.0.is_empty();
        if all_cleartext && !told && !server.public_url.is_loopback() {
            self.report.warning(
                *at,
                format!(
                    "the authorization server answers https only, and `{}/token` is served in clear text",
                    settings.path
                ),
                if announced {
                    "add a `tls` table to its listener: the PROXY protocol does not tell that TLS ended before"
                } else {
                    "add a `tls` table to its listener, or name the proxy that ends TLS in `server.trusted_proxies`"
                },
            );
        }
    }
}
