//! `[routes.forward]`: what the request looks like when it leaves.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::super::diagnostic::Span;
use super::super::model;
use super::super::reader::{At, Field, List, Map};
use super::Compiler;
use crate::gateway::plan::{Forward, HostHeader, SignedJwt, Template, TemplatePart, UpstreamAuthorization};
use crate::jose::{Algorithm, SigningKey};
use crate::routing::{PathPattern, Segment};

/// Headers that frame messages or belong to one hop (RFC 9110 section 7.6.1, RFC 9112 section 6).
pub(super) const FRAMING: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that the gateway writes itself.
const OWN: [&str; 7] = [
    "authorization",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];
const PREFIX_HELP: &str =
    "write literal segments with which the route's `path` starts: `\"/orders\"` for `\"/orders/**\"`";

impl Compiler<'_> {
    /// `path` is the route's, where it could be read; `public_url` is the server's.
    pub(super) fn forward(
        &mut self,
        field: Field<model::Forward>,
        path: Option<&PathPattern>,
        public_url: &str,
    ) -> Forward {
        let model::Forward { strip_prefix, host, authorization, headers, remove_headers, response_headers } =
            field.or_default();
        Forward {
            strip_prefix: strip_prefix.given().and_then(|at| self.strip_prefix(&at, path)),
            host: self.host(host),
            authorization: self.authorization(authorization, public_url),
            headers: self.headers(headers),
            remove_headers: self.remove_headers(remove_headers),
            response_headers: self.response_headers(response_headers),
        }
    }

    fn strip_prefix(&mut self, at: &At<String>, path: Option<&PathPattern>) -> Option<Box<str>> {
        let prefix = match PathPattern::parse(&at.value) {
            Ok(prefix) => prefix,
            Err(error) => {
                self.report.error(at.span, format!("`{}`: {error}", at.value), PREFIX_HELP);
                return None;
            }
        };
        let literal = prefix.0.iter().all(|segment| matches!(segment, Segment::Literal(text) if !text.is_empty()));
        if !literal {
            self.report.error(
                at.span,
                format!("`{}` is not a literal prefix, without a slash at its end", at.value),
                PREFIX_HELP,
            );
            return None;
        }
        if path.is_some_and(|path| !path.0.starts_with(&prefix.0)) {
            self.report.error(at.span, format!("the route's `path` does not start with `{}`", at.value), PREFIX_HELP);
            return None;
        }
        Some(prefix.literal_prefix().into())
    }

    fn host(&mut self, field: Field<String>) -> HostHeader {
        let Some(at) = field.given() else { return HostHeader::default() };
        match at.value.as_str() {
            "upstream" => HostHeader::Upstream,
            "preserve" => HostHeader::Preserve,
            literal => {
                let authority = literal.parse::<Authority>().ok().filter(|_| !literal.contains('@'));
                let value = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
                if value.is_none() {
                    self.report.error(
                        at.span,
                        format!("`{literal}` cannot stand in `Host`"),
                        "write `\"upstream\"`, `\"preserve\"` or a host, with a port if need be: `\"orders.internal:8080\"`",
                    );
                }
                value.map_or(HostHeader::default(), HostHeader::Literal)
            }
        }
    }

    fn authorization(&mut self, field: Field<model::UpstreamAuthorization>, public_url: &str) -> UpstreamAuthorization {
        let Some(at) = field.given() else { return UpstreamAuthorization::default() };
        let table = match at.value {
            model::UpstreamAuthorization::Word(model::AuthorizationWord::Strip) => return UpstreamAuthorization::Strip,
            model::UpstreamAuthorization::Word(model::AuthorizationWord::Pass) => return UpstreamAuthorization::Pass,
            model::UpstreamAuthorization::Table(table) => *table,
        };
        let model::AuthorizationTable { basic, bearer, signed_jwt } = table;
        const HELP: &str = "write one of `{ basic = { username = \"...\", password = { file = \"...\" } } }`, \
                            `{ bearer = { file = \"...\" } }` and `{ signed_jwt = { key = \"...\", audience = \"...\" } }`";
        let given = [basic.key(), bearer.key(), signed_jwt.key()].into_iter().flatten().count();
        if given != 1 {
            let message =
                if given == 0 { "this does not say what to send upstream" } else { "only one of these can be sent" };
            self.report.error(at.span, message, HELP);
        }
        let basic = basic.given().and_then(|at| self.basic(at)).map(UpstreamAuthorization::Basic);
        let bearer = bearer.given().and_then(|at| self.bearer(at)).map(UpstreamAuthorization::Bearer);
        let signed = signed_jwt.given().and_then(|at| self.signed_jwt(at, public_url));
        let signed = signed.map(|jwt| UpstreamAuthorization::SignedJwt(Arc::new(jwt)));
        basic.or(bearer).or(signed).unwrap_or_default()
    }

    fn bearer(&mut self, at: At<model::Secret>) -> Option<HeaderValue> {
        let span = at.span;
        let token = self.secret(at)?;
        let text = Zeroizing::new(format!("Bearer {}", token.expose()));
        // RFC 6750 section 2.1.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.expose().is_empty() || !token.expose().bytes().all(fits) {
            self.report.error(span, "this cannot be sent as a bearer token", "letters, digits and `-._~+/=` can");
            return None;
        }
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn signed_jwt(&mut self, at: At<model::SignedJwt>, public_url: &str) -> Option<SignedJwt> {
        let model::SignedJwt { key, algorithm, issuer, audience, lifetime, claims } = at.value;
        const KEY_HELP: &str = "make one: `tollgate keygen > keys/upstream.pem`, and `key = \"keys/upstream.pem\"`";
        let key = key.required(self.report, at.span, "key", KEY_HELP);
        let audience =
            audience.required(self.report, at.span, "audience", "say whom it is for: `audience = \"orders\"`");
        let algorithm = match algorithm.given() {
            None => Some(Algorithm::Es256),
            Some(at) => {
                let algorithm = Algorithm::parse(&at.value);
                if algorithm.is_none() {
                    let known = Algorithm::ALL.map(Algorithm::name).join(", ");
                    let message = format!("`{}` is not an algorithm to sign with", at.value);
                    self.report.error(at.span, message, format!("write one of {known}"));
                }
                algorithm
            }
        };
        let signing_key = key.as_ref().zip(algorithm).and_then(|(at, algorithm)| {
            let pem = Zeroizing::new(self.read(at, "the key for upstreams")?);
            match SigningKey::from_pem(algorithm, &pem) {
                Ok(key) => Some(key),
                Err(error) => {
                    self.report.error(at.span, format!("`{}`: {error}", at.value), KEY_HELP);
                    None
                }
            }
        });
        let lifetime = self.interval(lifetime, "lifetime", Duration::from_secs(300));
        let claims = self.jwt_claims(claims);
        let issuer = issuer.given().map_or_else(|| public_url.to_owned(), |at| at.value);
        Some(SignedJwt { key: signing_key?, issuer, audience: audience?.value, lifetime, claims })
    }

    fn jwt_claims(&mut self, field: Field<Map<String>>) -> Vec<(Box<str>, Template)> {
        let mut claims = Vec::new();
        for named in field.or_default().0 {
            if ["iss", "aud", "iat", "exp", "nbf", "jti"].contains(&named.name.value.as_str()) {
                let message = format!("the gateway says `{}` itself", named.name.value);
                self.report.error(named.name.span, message, "leave it out");
            }
            let Some(at) = named.value else { continue };
            let Some(template) = self.template(&at) else { continue };
            if template.0.contains(&TemplatePart::RequestId) {
                self.report.error(
                    at.span,
                    "one JWT is sent with many requests",
                    "the request id is in the header `X-Request-Id`",
                );
            }
            claims.push((named.name.value.into(), template));
        }
        claims
    }

    fn basic(&mut self, at: At<model::BasicCredentials>) -> Option<HeaderValue> {
        let model::BasicCredentials { username, password } = at.value;
        let username =
            username.required(self.report, at.span, "username", "write who the gateway is: `username = \"gateway\"`");
        let password = password.required(
            self.report,
            at.span,
            "password",
            "say where it is: `password = { file = \"secrets/upstream\" }`",
        );
        if let Some(colon) = username.as_ref().filter(|username| username.value.contains(':')) {
            self.report.error(
                colon.span,
                "HTTP Basic has no user names with `:`",
                "what follows the first `:` would be read as the password",
            );
        }
        let password = password.and_then(|at| self.secret(at));
        let credentials = Zeroizing::new(format!("{}:{}", username?.value, password?.expose()));
        let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes())));
        let mut value = HeaderValue::from_str(&encoded).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn headers(&mut self, field: Field<Map<String>>) -> Vec<(HeaderName, Template)> {
        let mut headers: Vec<(HeaderName, Template)> = Vec::new();
        for named in field.or_default().0 {
            let name = self.request_header(&named.name);
            let template = named.value.and_then(|at| self.template(&at));
            if name.as_ref().is_some_and(|name| headers.iter().any(|(other, _)| other == name)) {
                self.twice(&named.name);
            }
            headers.extend(name.zip(template));
        }
        headers
    }

    fn template(&mut self, at: &At<String>) -> Option<Template> {
        match Template::parse(&at.value) {
            Ok(template) => Some(template),
            Err(error) => {
                self.report.error(
                    at.span,
                    error.to_string(),
                    "write text and placeholders: `\"{sub}\"`, `\"user {sub} of {claims.tenant}\"`",
                );
                None
            }
        }
    }

    fn remove_headers(&mut self, field: Field<List<String>>) -> Vec<HeaderName> {
        let items = field.or_default().items;
        items.iter().filter_map(|at| self.request_header(at)).collect()
    }

    fn response_headers(&mut self, field: Field<Map<String>>) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for named in field.or_default().0 {
            let name = self.header_name(&named.name);
            if let Some(name) = &name {
                if FRAMING.contains(&name.as_str()) || name == "x-request-id" {
                    self.managed(named.name.span, name);
                }
                if headers.iter().any(|(other, _)| other == name) {
                    self.twice(&named.name);
                }
            }
            let Some(at) = named.value else { continue };
            let value = HeaderValue::from_str(&at.value).ok().filter(|_| at.value.is_ascii());
            if value.is_none() {
                self.report.error(
                    at.span,
                    "a header value holds printable ASCII only",
                    "remove line breaks, controls and letters with accents",
                );
            }
            headers.extend(name.zip(value));
        }
        headers
    }

    /// A header of the request that the operator may set or remove.
    fn request_header(&mut self, at: &At<String>) -> Option<HeaderName> {
        let name = self.header_name(at)?;
        if FRAMING.contains(&name.as_str()) || OWN.contains(&name.as_str()) {
            self.managed(at.span, &name);
            return None;
        }
        Some(name)
    }

    pub(super) fn managed(&mut self, at: Span, name: &HeaderName) {
        let help = match name.as_str() {
            "authorization" => "say what is sent with `forward.authorization`",
            "host" => "say what is sent with `forward.host`",
            _ => "remove it: setting it by hand would break what the gateway says with it",
        };
        self.report.error(at, format!("the header `{name}` is the gateway's own"), help);
    }

    pub(super) fn header_name(&mut self, at: &At<String>) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(at.value.as_bytes()).ok();
        if name.is_none() {
            self.report.error(
                at.span,
                format!("`{}` is not the name of a header", at.value),
                "use letters, digits and `-`: `\"X-User\"`",
            );
        }
        name
    }

    pub(super) fn twice(&mut self, name: &At<String>) {
        self.report.error(
            name.span,
            format!("the header `{}` stands here twice", name.value),
            "header names are the same in upper and lower case; keep one",
        );
    }
}
