//! The usual scene: a gateway with one cleartext listener, one issuer with a key file, and one recording upstream.

use super::browser::Browser;
use super::gateway::{Builder, Gateway};
use super::http::{Conn, Req, Response, send};
use super::mint::{AUDIENCE, ISSUER, Mint};
use super::upstream::RecordingUpstream;

/// Lines of a configuration, by the table they belong to.
pub struct SiteBuilder {
    files: Builder,
    upstream: RecordingUpstream,
    mint: Mint,
    jwks: Option<String>,
    server: String,
    limits: String,
    listener: String,
    issuer: String,
    upstream_lines: String,
    more: String,
    store: &'static str,
}

pub struct Site {
    pub gateway: Gateway,
    pub upstream: RecordingUpstream,
    pub mint: Mint,
}

impl Site {
    pub fn builder() -> SiteBuilder {
        SiteBuilder {
            files: Builder::new(),
            upstream: RecordingUpstream::start(),
            mint: Mint::new(),
            jwks: None,
            server: String::new(),
            limits: String::new(),
            listener: String::new(),
            issuer: String::new(),
            upstream_lines: String::new(),
            more: String::new(),
            store: "[store.memory]",
        }
    }

    /// With these `[[routes]]`; the upstream is named `app`.
    pub fn with(routes: &str) -> Self {
        Self::builder().more(routes).start()
    }

    /// Everything under `/` for any valid token, `/public/**` for all.
    pub fn open() -> Self {
        Self::with(OPEN)
    }

    pub fn send(&self, request: &Req) -> Response {
        send(self.gateway.address("main"), request)
    }

    pub fn get(&self, target: &str, token: Option<&str>) -> Response {
        self.send(&Req::get(target).maybe_bearer(token))
    }

    pub fn connect(&self) -> Conn {
        Conn::open(self.gateway.address("main"))
    }

    /// A browser that has never been here.
    pub fn browser(&self) -> Browser {
        Browser::new(self.gateway.address("main"))
    }
}

pub const OPEN: &str = r#"
[[routes]]
name = "all"
path = "/**"
upstream = "app"
allow = [{ authenticated = true }]
[routes.forward]
host = "preserve"

[[routes]]
name = "public"
path = "/public/**"
upstream = "app"
allow = [{ public = true }]
[routes.forward]
host = "preserve"
"#;

impl SiteBuilder {
    /// Lines of `[server]`.
    pub fn server(mut self, lines: &str) -> Self {
        self.server += &format!("{lines}\n");
        self
    }

    /// Lines of `[server.limits]`.
    pub fn limits(mut self, lines: &str) -> Self {
        self.limits += &format!("{lines}\n");
        self
    }

    /// Lines of `[listeners.main]` and tables below it.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener += &format!("{lines}\n");
        self
    }

    /// Lines of `[issuers.corp.jwt]`.
    pub fn issuer(mut self, lines: &str) -> Self {
        self.issuer += &format!("{lines}\n");
        self
    }

    /// Lines of `[upstreams.app]` and tables below it.
    pub fn upstream_lines(mut self, lines: &str) -> Self {
        self.upstream_lines += &format!("{lines}\n");
        self
    }

    /// Whole tables: routes, listeners, upstreams.
    pub fn more(mut self, tables: &str) -> Self {
        self.more += &format!("{tables}\n");
        self
    }

    pub fn upstream(mut self, upstream: RecordingUpstream) -> Self {
        self.upstream = upstream;
        self
    }

    pub fn mint(mut self, mint: Mint) -> Self {
        self.mint = mint;
        self
    }

    /// A key set other than the mint's own.
    pub fn jwks(mut self, jwks: String) -> Self {
        self.jwks = Some(jwks);
        self
    }

    pub fn file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.files = self.files.file(name, content);
        self
    }

    /// Keeps what must survive in a file.
    pub fn embedded(mut self) -> Self {
        self.store = "[store.embedded]\npath = \"data\"";
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.files = self.files.env(name, value);
        self
    }

    pub fn config(&self) -> String {
        let Self { server, limits, listener, issuer, upstream_lines, more, upstream, store, .. } = self;
        let servers = match upstream_lines.contains("servers =") {
            true => String::new(),
            false => format!("servers = [\"{}\"]", upstream.url()),
        };
        let public_url = if server.contains("public_url") { "" } else { "public_url = \"http://127.0.0.1\"" };
        let audience = match issuer.contains("audience =") {
            true => String::new(),
            false => format!("audience = [\"{AUDIENCE}\"]"),
        };
        let drain = if limits.contains("drain_timeout") { "" } else { "drain_timeout = \"2s\"" };
        format!(
            r#"
[server]
{public_url}
workers = 2
{server}
[server.limits]
{drain}
{limits}
{store}
[admin]
address = "127.0.0.1:0"
[listeners.main]
address = "127.0.0.1:0"
{listener}
[issuers.corp.jwt]
issuer = "{ISSUER}"
jwks_file = "jwks.json"
{audience}
{issuer}
[upstreams.app]
{servers}
{upstream_lines}
{more}
"#
        )
    }

    pub fn start(self) -> Site {
        self.start_with(|config| config)
    }

    /// With a last change to the configuration.
    pub fn start_with(self, change: impl FnOnce(String) -> String) -> Site {
        let config = change(self.config());
        let jwks = self.jwks.unwrap_or_else(|| self.mint.jwks());
        let gateway = self.files.file("jwks.json", jwks).start(&config);
        Site { gateway, upstream: self.upstream, mint: self.mint }
    }
}
