//! What a configuration compiles to: everything the gateway is assembled from, with names resolved and values checked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::jose::SigningKey;
use crate::limits::Rate;
use crate::net::{BaseUrl, TrustedProxies};
use crate::policy::{Access, Addresses};
use crate::routing::{HostPattern, PathPattern};
use crate::token::ClaimPath;
use crate::{authorization_server, otlp, store, token, upstream};

#[derive(Debug)]
pub struct Plan {
    pub public_url: BaseUrl,
    pub trusted_proxies: TrustedProxies,
    /// Names of the listeners; a listener's place here is its index. Those that redirect are here too.
    pub listeners: Vec<Arc<str>>,
    pub store: store::Settings,
    /// The embedded server, when configured, is among them as `self`.
    pub issuers: Vec<token::IssuerSettings>,
    pub authorization_server: Option<AuthorizationServerPlan>,
    pub upstreams: Vec<upstream::Settings>,
    pub routes: Vec<RoutePlan>,
    /// Default limit of a request's body.
    pub body_bytes: u64,
    /// Where spans go; absent: there are none.
    pub otlp: Option<otlp::Settings>,
}

#[derive(Debug)]
pub struct AuthorizationServerPlan {
    pub settings: authorization_server::Settings,
    /// Indices into `Plan::listeners`.
    pub listeners: Vec<usize>,
}

/// The paths that are the authorization server's on the issuer's host.
#[derive(Clone, Debug)]
pub struct ReservedPaths {
    /// Everything below it, without a slash at its end.
    below: String,
    /// The issuer's path, without a slash at its end.
    issuer: String,
}

impl ReservedPaths {
    pub fn of(settings: &authorization_server::Settings) -> Self {
        Self { below: settings.path.clone(), issuer: settings.issuer.path().trim_end_matches('/').to_owned() }
    }

    /// Whether a canonical path is the server's own: an endpoint, or one of the well-known documents (RFC 8414 section 3.1,
    /// and where OpenID Connect looks for them).
    pub fn contains(&self, path: &str) -> bool {
        let documents = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];
        path.strip_prefix(self.below.as_str()).is_some_and(|rest| rest.starts_with('/'))
            || documents.iter().any(|document| path.strip_prefix(document) == Some(&self.issuer))
            || path.strip_suffix(documents[1]) == Some(&self.issuer)
    }
}

#[derive(Clone, Debug)]
pub struct RoutePlan {
    pub name: Arc<str>,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// Indices into `Plan::listeners`; never empty.
    pub listeners: Vec<usize>,
    pub path: PathPattern,
    /// The pattern as written, for people.
    pub path_text: String,
    /// Index into `Plan::upstreams`.
    pub upstream: usize,
    /// Indices into `Plan::issuers`; tokens of others are refused. Empty only when there are none or all entries are public.
    pub issuers: Vec<usize>,
    pub addresses: Addresses,
    pub access: Access,
    /// Whether answers of introspection endpoints may be used again.
    pub introspection: token::Reuse,
    /// Narrower than the issuer's; empty: the issuer's alone.
    pub audience: Vec<String>,
    pub body_bytes: u64,
    /// To the response head; absent: the upstream's `response_timeout`.
    pub timeout: Option<Duration>,
    pub path_allowances: PathAllowances,
    pub underscore_headers: UnderscoreHeaders,
    /// Streams and tunnels end when the token does.
    pub end_with_token: bool,
    pub rate_limit: Option<RateLimit>,
    pub cors: Option<Cors>,
    pub forward: Forward,
}

pub use crate::routing::path::Allowances as PathAllowances;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    #[default]
    Drop,
    Pass,
}

/// `[routes.rate_limit]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub per: Per,
    pub rate: Rate,
}

/// Whom a rate is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// The token's user; without one, its client.
    Subject,
    Client,
    Address,
    /// All together.
    Route,
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { requests, window, burst } = self.rate;
        write!(f, "{requests} requests in {window:?} per {}, {burst} at once", self.per.name())
    }
}

impl Per {
    pub fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Address => "address",
            Self::Route => "route",
        }
    }
}

/// `[routes.cors]`, with header values as they are sent.
#[derive(Clone, Debug)]
pub struct Cors {
    pub origins: Origins,
    /// May go with cookies and client certificates. Never for any origin.
    pub credentials: bool,
    /// Absent: whatever a preflight asks for.
    pub headers: Option<HeaderValue>,
    pub expose_headers: HeaderValue,
    /// Seconds.
    pub max_age: HeaderValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Compared byte for byte with `Origin`.
    These(Vec<String>),
}

/// `[routes.forward]`.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Starts with `/`, does not end with one; a literal prefix of the route's path.
    pub strip_prefix: Option<Box<str>>,
    pub host: HostHeader,
    pub authorization: UpstreamAuthorization,
    /// Identity headers: removed from what the caller sent, then set from the token.
    pub headers: Vec<(HeaderName, Template)>,
    pub remove_headers: Vec<HeaderName>,
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
}

impl Forward {
    /// Whether two requests that are alike in all but their ids and their time get different fields.
    pub fn differs(&self) -> bool {
        let mut parts = self.headers.iter().flat_map(|(_, template)| &template.0);
        matches!(self.authorization, UpstreamAuthorization::SignedJwt(_))
            || parts.any(|part| matches!(part, TemplatePart::RequestId))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The authority of the server the request goes to.
    #[default]
    Upstream,
    /// What the caller sent.
    Preserve,
    Literal(HeaderValue),
}

/// What stands in `Authorization` of the forwarded request.
#[derive(Clone, Debug, Default)]
pub enum UpstreamAuthorization {
    /// Nothing.
    #[default]
    Strip,
    /// What the caller sent.
    Pass,
    /// `Basic …` with configured credentials, ready to send and marked sensitive.
    Basic(HeaderValue),
    /// `Bearer …` with a configured token, likewise.
    Bearer(HeaderValue),
    /// `Bearer …` with a JWT that is made for the caller; nothing for a caller without a token.
    SignedJwt(Arc<SignedJwt>),
}

/// `typ` of the JWTs that upstreams are sent. No issuer's access tokens may have it.
pub const UPSTREAM_JWT_TYP: &str = "upstream+jwt";

/// `signed_jwt` of a route.
#[derive(Debug, PartialEq, Eq)]
pub struct SignedJwt {
    pub key: SigningKey,
    pub issuer: String,
    pub audience: String,
    /// Never beyond the caller's token.
    pub lifetime: Duration,
    /// Beside `iss`, `aud`, `iat`, `exp`, `sub`, `client_id` and `scope`.
    pub claims: Vec<(Box<str>, Template)>,
}

/// A header value with placeholders: `"user {sub}"` is `[Text("user "), Sub]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePart>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    Text(Box<str>),
    Sub,
    Scope,
    ClientId,
    Issuer,
    Roles,
    RequestId,
    /// `{claims.a.b}`.
    Claim(ClaimPath),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(
        "`{{{0}}}` is no placeholder; there are {{sub}}, {{scope}}, {{client_id}}, {{issuer}}, {{roles}}, {{request_id}} and {{claims.NAME}}"
    )]
    Unknown(Box<str>),
    #[error("a `{{` without its `}}`")]
    Open,
    #[error("a `}}` without its `{{`")]
    Close,
    #[error("a header value holds printable ASCII only")]
    Text,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if !text.bytes().all(|b| matches!(b, 0x20..=0x7E)) {
            return Err(TemplateError::Text);
        }
        let mut parts = Vec::new();
        let mut left = text;
        while let Some(open) = left.find('{') {
            let (before, after) = (&left[..open], &left[open + 1..]);
            let (name, rest) = after.split_once('}').ok_or(TemplateError::Open)?;
            push_text(&mut parts, before)?;
            parts.push(match name {
                "sub" => TemplatePart::Sub,
                "scope" => TemplatePart::Scope,
                "client_id" => TemplatePart::ClientId,
                "issuer" => TemplatePart::Issuer,
                "roles" => TemplatePart::Roles,
                "request_id" => TemplatePart::RequestId,
                _ => match name.strip_prefix("claims.").filter(|claim| !claim.is_empty()) {
                    Some(claim) => TemplatePart::Claim(ClaimPath(claim.into())),
                    None => return Err(TemplateError::Unknown(name.into())),
                },
            });
            left = rest;
        }
        push_text(&mut parts, left)?;
        Ok(Self(parts))
    }
}

fn push_text(parts: &mut Vec<TemplatePart>, text: &str) -> Result<(), TemplateError> {
    if text.contains('}') {
        return Err(TemplateError::Close);
    }
    if !text.is_empty() {
        parts.push(TemplatePart::Text(text.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let parts = Template::parse("u={sub} {claims.a.b}").expect("valid").0;
        assert_eq!(
            parts,
            [
                TemplatePart::Text("u=".into()),
                TemplatePart::Sub,
                TemplatePart::Text(" ".into()),
                TemplatePart::Claim(ClaimPath("a.b".into())),
            ]
        );
        assert_eq!(Template::parse("{subject}"), Err(TemplateError::Unknown("subject".into())));
        assert_eq!(Template::parse("{sub"), Err(TemplateError::Open));
        assert_eq!(Template::parse("sub}"), Err(TemplateError::Close));
        assert_eq!(Template::parse("a\r\nb"), Err(TemplateError::Text));
    }
}
