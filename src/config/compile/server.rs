//! `[server]`, `[listeners]`, `[admin]`, `[log]` and `[store]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::diagnostic::Span;
use super::super::model;
use super::super::reader::{At, Field, List, Map};
use super::super::value::{Share, Size, Workers};
use super::{Compiler, duration};
use crate::net::{BaseUrl, TrustedProxies};
use crate::telemetry::access_log::Sample;
use crate::{admin, server, store, telemetry};

const MAX_WORKERS: u64 = 1024;
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// `[server]`, to which only the listeners are missing.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) public_url: BaseUrl,
    pub(super) trusted_proxies: TrustedProxies,
    /// Whether there are any, right or wrong.
    names_proxies: bool,
    pub(super) limits: server::Limits,
    workers: usize,
}

impl Server {
    pub(super) fn finish(self, listeners: Vec<Listener>) -> server::Settings {
        let Self { public_url, trusted_proxies, names_proxies: _, limits, workers } = self;
        let listeners = listeners.into_iter().map(|listener| listener.settings).collect();
        server::Settings { public_url, trusted_proxies, workers, limits, listeners }
    }
}

/// A listener and where its address is written.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) settings: server::ListenerSettings,
    pub(super) span: Span,
}

impl Compiler<'_> {
    pub(super) fn server(&mut self, field: Field<model::Server>, public_url_needed: Option<&str>) -> Server {
        let table = field.as_ref().map(|at| at.span);
        let owner = field.key().unwrap_or(self.start);
        let model::Server { public_url, trusted_proxies, workers, mode, limits } = field.or_default();
        let misspelled = table.is_some_and(|table| self.report.is_misspelled(table, "public_url"))
            || self.report.is_misspelled(self.start, "server");
        if let (true, Some(reason)) = (public_url.is_absent() && !misspelled, public_url_needed) {
            self.report.error(
                owner,
                "`server.public_url` is missing",
                format!("add `public_url = \"https://api.example.com\"` to `[server]`: {reason}"),
            );
        }
        let public_url = public_url.given().and_then(|at| {
            let url = self.secure_url(&at, "public_url")?;
            if at.value.ends_with('/') {
                self.report.warning(
                    at.span,
                    "`public_url` ends with `/`, and so will the issuer and the audience made from it",
                    format!("write `{}`", at.value.trim_end_matches('/')),
                );
            }
            Some(url)
        });
        self.mode(&mode);
        Server {
            public_url: public_url
                .unwrap_or_else(|| BaseUrl::parse("https://localhost").expect("a constant that is a URL")),
            names_proxies: match trusted_proxies.as_ref() {
                Some(at) => !at.value.is_empty(),
                None => !trusted_proxies.is_absent(),
            },
            trusted_proxies: self.trusted_proxies(trusted_proxies),
            limits: self.limits(limits.or_default()),
            workers: self.workers(workers),
        }
    }

    /// `server.mode` and a route's `mode`.
    pub(super) fn mode(&mut self, mode: &Field<model::Mode>) {
        if let Some(At { value: model::Mode::Report, span }) = mode.as_ref() {
            self.not_built_at(*span, "`mode = \"report\"`", "leave `mode` out, or write `mode = \"enforce\"`");
        }
    }

    fn trusted_proxies(&mut self, field: Field<List<String>>) -> TrustedProxies {
        let mut networks = Vec::new();
        for at in field.or_default().items {
            match self.network(&at) {
                Some(network) if network.prefix_len() == 0 => {
                    self.report.error(
                        at.span,
                        format!("`{}` would believe the forwarding headers of everybody", at.value),
                        "name the networks of your own proxies: `trusted_proxies = [\"10.0.0.0/8\"]`",
                    );
                }
                Some(network) => networks.push(network.trunc()),
                None => {}
            }
        }
        TrustedProxies(networks)
    }

    fn workers(&mut self, field: Field<Workers>) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match field.given() {
            Some(At { value: Workers(Some(threads)), span }) => {
                let at = At { value: threads, span };
                let bounded = self.within(&at, "workers", "\"auto\"", 1..=MAX_WORKERS).unwrap_or(1);
                usize::try_from(bounded).unwrap_or(1)
            }
            Some(At { value: Workers(None), .. }) | None => cores,
        }
    }

    fn limits(&mut self, limits: model::Limits) -> server::Limits {
        let model::Limits {
            connections,
            connections_per_ip,
            header_bytes,
            header_count,
            body_bytes,
            header_timeout,
            body_timeout,
            stream_idle,
            idle_timeout,
            drain_delay,
            drain_timeout,
        } = limits;
        server::Limits {
            connections: self.size_of_queue(connections, "connections", 10_000, 1_000_000),
            connections_per_ip: self.size_of_queue(connections_per_ip, "connections_per_ip", 1000, 1_000_000),
            header_bytes: match header_bytes.given() {
                Some(at) => {
                    let bytes = At { value: at.value.0, span: at.span };
                    let bounded = self.within(&bytes, "header_bytes", "\"32KiB\"", 1 << 10..=1 << 20);
                    bounded.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(32 << 10)
                }
                None => 32 << 10,
            },
            header_count: self.size_of_queue(header_count, "header_count", 100, 1000),
            body_bytes: self.body_bytes(body_bytes).unwrap_or(10 << 20),
            header_timeout: self.interval(header_timeout, "header_timeout", Duration::from_secs(10)),
            body_timeout: self.interval(body_timeout, "body_timeout", Duration::from_secs(30)),
            stream_idle: self.interval(stream_idle, "stream_idle", Duration::from_secs(600)),
            idle_timeout: self.interval(idle_timeout, "idle_timeout", Duration::from_secs(75)),
            drain_delay: duration(drain_delay, Duration::ZERO),
            drain_timeout: duration(drain_timeout, Duration::from_secs(30)),
        }
    }

    /// `server.limits.body_bytes` and a route's `body_bytes`.
    pub(super) fn body_bytes(&mut self, field: Field<Size>) -> Option<u64> {
        let at = field.given()?;
        if at.value.0 == 0 {
            self.report.error(
                at.span,
                "`body_bytes` of 0 would refuse every request with a body",
                "leave it out for the default, or name a size: `\"1MiB\"`",
            );
        }
        Some(at.value.0)
    }

    pub(super) fn size_of_queue(&mut self, field: Field<u64>, key: &str, default: u64, most: u64) -> usize {
        let count = self.count(field, key, default, 1..=most);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    pub(super) fn listeners(&mut self, listeners: Map<model::Listener>, server: &Server) -> Vec<Listener> {
        let mut compiled = Vec::new();
        for named in listeners.0 {
            self.name(&named.name, "a listener");
            if let Some(at) = named.value {
                compiled.extend(self.listener(&named.name, at, server));
            }
        }
        compiled
    }

    fn listener(&mut self, name: &At<String>, at: At<model::Listener>, server: &Server) -> Option<Listener> {
        let model::Listener { address, proxy_protocol, tls, redirect_to_https } = at.value;
        let address =
            address.required(self.report, at.span, "address", "say where it listens: `address = \"0.0.0.0:8443\"`");
        let span = address.as_ref().map_or(name.span, |address| address.span);
        let address = address.and_then(|address| self.address(&address, "address"));
        let announced = proxy_protocol.as_ref().is_some_and(|at| at.value);
        if let (true, Some(key), false) = (announced, proxy_protocol.key(), server.names_proxies) {
            self.report.error(
                key,
                "no connection would be taken: the PROXY protocol is spoken with trusted proxies alone, and there are none",
                "name them in `[server]`: `trusted_proxies = [\"10.0.0.7\"]`",
            );
        }
        let tls_key = tls.key();
        let tls = tls.given().and_then(|at| self.server_tls(at));
        let redirect = redirect_to_https.as_ref().is_some_and(|at| at.value);
        if let (true, Some(redirects)) = (redirect, redirect_to_https.key()) {
            if !server.public_url.is_https() {
                self.report.error(
                    redirects,
                    "there is no https to redirect to: `server.public_url` is an http URL",
                    "make `public_url` an https URL, or remove `redirect_to_https`",
                );
            } else if tls_key.is_some() {
                self.report.warning(
                    redirects,
                    format!("the listener `{}` has TLS and still redirects: it serves no route", name.value),
                    "remove `redirect_to_https` or the `tls` table",
                );
            }
        }
        let address = address?;
        if tls_key.is_none() && !redirect && !address.ip().is_loopback() {
            self.report.warning(
                span,
                format!("the listener `{}` takes tokens and passwords in clear text off loopback", name.value),
                format!(
                    "add a `[listeners.{0}.tls]` table, listen on 127.0.0.1, or set `redirect_to_https = true`",
                    name.value
                ),
            );
        }
        let name = name.value.as_str().into();
        let settings =
            server::ListenerSettings { name, address, tls, redirect_to_https: redirect, proxy_protocol: announced };
        Some(Listener { settings, span })
    }

    pub(super) fn admin(&mut self, field: Field<model::Admin>) -> Admin {
        let key = field.key();
        let model::Admin { address, token, tls } = field.or_default();
        let span = address.as_ref().map(|at| at.span).or(key).unwrap_or(self.start);
        let address = match address.given() {
            Some(at) => self.address(&at, "address"),
            None => Some(ADMIN_ADDRESS),
        };
        let token_key = token.key();
        let tls_key = tls.key();
        let token = token.given().and_then(|at| self.secret(at));
        let tls = tls.given().and_then(|at| self.server_tls(at));
        let address = address.unwrap_or(ADMIN_ADDRESS);
        if !address.ip().is_loopback() {
            if token_key.is_none() {
                self.report.error(
                    span,
                    "the admin listener is reachable from other machines and has no token",
                    "set `token = { env = \"TOLLGATE_ADMIN_TOKEN\" }` in `[admin]`, or listen on 127.0.0.1",
                );
            } else if tls_key.is_none() {
                self.report.warning(
                    span,
                    "the admin listener takes its token in clear text off loopback",
                    "add an `[admin.tls]` table, or listen on 127.0.0.1",
                );
            }
        }
        Admin { settings: admin::Settings { address, token, tls }, span }
    }

    /// Reports two listeners on one address.
    pub(super) fn distinct_addresses(&mut self, listeners: &[Listener], admin: &Admin) {
        let all = listeners.iter().map(|listener| (listener.settings.address, listener.span));
        let mut all: Vec<_> = all.collect();
        if admin.span != self.start {
            all.push((admin.settings.address, admin.span));
        }
        for (n, (address, span)) in all.iter().enumerate() {
            if let Some((_, first)) = all[..n].iter().find(|(other, _)| other == address && address.port() != 0) {
                self.report.error(*span, format!("`{address}` has a listener already"), "give each its own port");
                self.report.relate(*first, "the other one");
            }
        }
    }

    pub(super) fn log(&mut self, field: Field<model::Log>) -> telemetry::Settings {
        let model::Log { format, level, access, access_sample, audit } = field.or_default();
        telemetry::Settings {
            format: match format.or(model::LogFormat::Json) {
                model::LogFormat::Json => telemetry::Format::Json,
                model::LogFormat::Text => telemetry::Format::Text,
            },
            level: match level.or(model::LogLevel::Info) {
                model::LogLevel::Error => telemetry::Level::Error,
                model::LogLevel::Warn => telemetry::Level::Warn,
                model::LogLevel::Info => telemetry::Level::Info,
                model::LogLevel::Debug => telemetry::Level::Debug,
                model::LogLevel::Trace => telemetry::Level::Trace,
            },
            access: access.or(true),
            access_sample: Sample::of(access_sample.or(Share(1.0)).0).unwrap_or(Sample::ALL),
            audit: audit.given().and_then(|path| self.audit_file(&path)),
        }
    }

    /// Where a file can be written; it need not be there yet.
    fn audit_file(&mut self, path: &At<String>) -> Option<PathBuf> {
        let full = self.path(path);
        let folder = full.parent().filter(|folder| *folder != Path::new(""));
        let problem = if path.value.is_empty() || full.is_dir() {
            "is a folder"
        } else if folder.is_some_and(|folder| !folder.is_dir()) {
            "is in a folder that does not exist"
        } else {
            return Some(full);
        };
        let help = format!("name a file: `{}` was looked at", full.display());
        self.report.error(path.span, format!("`{}` {problem}", path.value), help);
        None
    }

    pub(super) fn store(&mut self, field: Field<model::Store>) -> store::Settings {
        let file = field.as_ref().map_or(self.start, |at| at.span);
        let model::Store { embedded, memory, redis, postgres } = field.or_default();
        const INSTEAD: &str = "use `[store.embedded]` (one process, survives restarts) or `[store.memory]`";
        self.not_built(&redis, "store.redis", INSTEAD);
        self.not_built(&postgres, "store.postgres", INSTEAD);
        let given: Vec<Span> =
            [embedded.key(), memory.key(), redis.key(), postgres.key()].into_iter().flatten().collect();
        if let [first, second, ..] = given[..] {
            self.report.error(second, "there are two stores", "keep one of the tables of `[store]`");
            self.report.relate(first, "the other one");
        }
        if !memory.is_absent() {
            return store::Settings::Memory;
        }
        let model::EmbeddedStore { path } = embedded.or_default();
        let path = path.given().unwrap_or_else(|| At { value: "data".to_owned(), span: file });
        store::Settings::Embedded { path: self.path(&path) }
    }
}

/// `[admin]` and where its address is written; the start of the file when it is not.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) settings: admin::Settings,
    pub(super) span: Span,
}
